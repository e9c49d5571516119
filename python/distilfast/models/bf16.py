"""Copies of float32 weights to compute with, in bfloat16 or rounded to int8, from which gradients go back to the
weights in float32; and where bfloat16 is fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, TrainerCallback

from .quantized import quantized_weight


class WeightCopies:
    """The parameters of a module in another dtype, those of a `table` apart.

    `kept`: the copies are made at the first forward pass after `forget`, which whoever updates the weights calls then;
    otherwise anew for each pass, as they are while a graph is captured. `table`: an embedding of which a batch reads a
    few rows, which are cast when they are read (`casting_rows`): a vocabulary is a third of a small model and more, and
    its gradient adds up in float32 then. `adds_up`: gradients are added to `.grad` by the backward pass itself, in
    memory that is kept from step to step, with the same result; for whoever reads `.grad` alone, so neither for
    `torch.autograd.grad` nor for data-parallel training, which waits for autograd's own additions. `rounded`: names
    of weights that are copied as int8 holds them (`quantized_weight`); one that is tied to another, which is not among
    them, has a copy of its own.
    """

    def __init__(self, dtype: torch.dtype, kept: bool = False, table: nn.Embedding | None = None) -> None:
        self.dtype = dtype
        self.kept = kept
        self.table = table
        self.rounded: frozenset[str] = frozenset()
        self.adds_up = False
        self._sums: dict[str, Tensor] = {}
        self._copies: dict[str, Tensor] = {}
        self._current = False

    def forget(self) -> None:
        """Says that the weights have changed. Their space is used again."""
        self._current = False

    def round(self, names: Iterable[str]) -> None:
        """Says which weights are copied as int8 from now on."""
        if self.rounded != (rounded := frozenset(names)):
            self.rounded = rounded
            self._copies.clear()
            self.forget()

    def of(self, module: nn.Module) -> dict[str, Tensor]:
        """Copies of floating-point parameters by name, as `torch.func.functional_call` takes them; where some are
        `rounded`, tied ones under each of their names, for `tie_weights=False`."""
        apart = self._apart
        parameters = {
            name: value
            for name, value in module.named_parameters(remove_duplicate=not self.rounded)
            if value.is_floating_point()
            and (apart is None or value is not apart.weight)
            and (value.dtype != self.dtype or name in self.rounded)
        }
        copied = self._names_of_copies(parameters) if self.rounded else {name: name for name in parameters}
        once = {name: parameters[name] for name in dict.fromkeys(copied.values())}
        if not self.kept or torch.compiler.is_compiling():
            copies = {name: self._made(name, parameter) for name, parameter in once.items()}
        else:
            if not self._current:
                self._refresh(once)
            copies = {name: self._attached(name, parameter) for name, parameter in once.items()}
        return {name: copies[other] for name, other in copied.items()}

    def _names_of_copies(self, parameters: Mapping[str, Tensor]) -> dict[str, str]:
        """The name whose copy each takes: its own where it is rounded, else the first of the parameter's names."""
        first: dict[int, str] = {}
        return {
            name: name if name in self.rounded else first.setdefault(id(value), name)
            for name, value in parameters.items()
        }

    @contextmanager
    def casting_rows(self) -> Iterator[None]:
        """Within `with`: what is read from the table comes in the dtype of the copies."""
        if self._apart is None:
            yield
            return
        hook = self._apart.register_forward_hook(self._cast_rows)
        try:
            yield
        finally:
            hook.remove()

    def _cast_rows(self, table: nn.Embedding, arguments: tuple[Tensor, ...], rows: Tensor) -> Tensor:
        plain = table.max_norm is None and not (table.scale_grad_by_freq or table.sparse)
        if not (self.adds_up and plain and rows.requires_grad and rows.device.type == "cpu"):
            return rows.to(self.dtype)
        read = rows.detach().to(self.dtype)
        return cast(Tensor, cast(Any, _ReadRows).apply(table.weight, read, arguments[0], table.padding_idx, self._sums))

    @property
    def _apart(self) -> nn.Embedding | None:
        """The table, but for a captured graph, which cannot hold a hook that comes and goes."""
        return None if torch.compiler.is_compiling() else self.table

    def _made(self, name: str, parameter: Tensor) -> Tensor:
        return (quantized_weight(parameter) if name in self.rounded else parameter).to(self.dtype)

    @torch.no_grad()
    def _refresh(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            copy = self._copies.get(name)
            if copy is None or copy.shape != parameter.shape or copy.device != parameter.device:
                copy = self._copies[name] = torch.empty_like(parameter, dtype=self.dtype)
            copy.copy_(quantized_weight(parameter) if name in self.rounded else parameter)
        self._current = True

    def _attached(self, name: str, parameter: nn.Parameter) -> Tensor:
        copy = self._copies[name]
        if not parameter.requires_grad:
            return copy
        sums = self._sums if self.adds_up and parameter.device.type == "cpu" else None
        return cast(Tensor, cast(Any, _Attach).apply(parameter, copy, name, sums))


def untied_embeddings(model: PreTrainedModel) -> nn.Embedding | None:
    """The word embeddings of a model, where nothing else reads their weights, such as a head that is tied to them."""
    table = model.get_input_embeddings()
    if type(table) is not nn.Embedding:
        return None
    readers = sum(value is table.weight for module in model.modules() for value in module.parameters(recurse=False))
    return table if readers == 1 else None


class ForgetCopies(TrainerCallback):
    """Lets weights be copied again when a Trainer has changed them."""

    def __init__(self, copies: WeightCopies) -> None:
        self.copies = copies

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.copies.forget()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.copies.forget()


class _Attach(torch.autograd.Function):
    """The copy, with the parameter as what it was computed from."""

    @staticmethod
    def forward(ctx: Any, parameter: Tensor, copy: Tensor, name: str, sums: dict[str, Tensor] | None) -> Tensor:
        ctx.of = parameter, name, sums
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        parameter, name, sums = ctx.of
        if sums is None or parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return gradients[0].to(parameter.dtype), None, None, None
        _add_up(parameter, gradients[0], name, sums)
        return None, None, None, None


class _ReadRows(torch.autograd.Function):
    """Rows of a table, whose gradients are added to the table's by the row: autograd makes a gradient of the size of
    the table for each pass, of which a batch has a few rows."""

    @staticmethod
    def forward(
        ctx: Any, parameter: Tensor, rows: Tensor, numbers: Tensor, padding: int | None, sums: dict[str, Tensor]
    ) -> Tensor:
        ctx.of = parameter, numbers, padding, sums
        return rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        parameter, numbers, padding, sums = ctx.of
        numbers = numbers.flatten()
        rows = gradients[0].reshape(len(numbers), -1).to(parameter.dtype)
        if padding is not None:  # learns nothing
            rows = rows.masked_fill((numbers == padding)[:, None], 0)
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return torch.zeros_like(parameter).index_add_(0, numbers, rows), None, None, None, None
        if parameter.grad is None:
            parameter.grad = _held(parameter, _TABLE, sums).zero_()
        # Those of a pass are added up first, which rounds as a gradient of the pass does.
        distinct, places = torch.unique(numbers, return_inverse=True)
        parameter.grad.index_add_(0, distinct, rows.new_zeros(len(distinct), rows.shape[1]).index_add_(0, places, rows))
        return None, None, None, None, None


_TABLE = "the table"
"""Its gradient's name among those of weights."""

PIECE = 1 << 18
"""Numbers of a gradient that are cast and added at a time: in float32 they stay in a core's cache."""


@torch.no_grad()
def _add_up(parameter: Tensor, gradient: Tensor, name: str, sums: dict[str, Tensor]) -> None:
    """Adds a gradient to `parameter.grad`, as autograd does after a cast, but without the cast gradient in memory, and
    in the memory of the step before: fresh memory costs as much as the additions."""
    if parameter.grad is not None and not parameter.grad.is_contiguous():
        parameter.grad.add_(gradient)
        return
    if parameter.grad is not None:
        whole, part = parameter.grad.view(-1), gradient.reshape(-1)
        for start in range(0, part.numel(), PIECE):
            whole[start : start + PIECE].add_(part[start : start + PIECE])
        return
    parameter.grad = _held(parameter, name, sums).copy_(gradient)


def _held(parameter: Tensor, name: str, sums: dict[str, Tensor]) -> Tensor:
    """The memory of the gradient of the step before."""
    held = sums.get(name)
    if held is None or held.shape != parameter.shape:
        held = sums[name] = torch.empty_like(parameter, memory_format=torch.contiguous_format)
    return held


def bf16_is_fast(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        native = any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
        return native and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return False
