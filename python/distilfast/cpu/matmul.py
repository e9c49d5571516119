"""Matrix products of bfloat16 on CPUs with matrix instructions (AMX), by our own kernel.

torch multiplies with oneDNN. Of the products of a training step, some it computes on one thread of two, and those whose
left factor lies the other way round, as all gradients of weights have, it copies slowly. Ours takes factors as they lie
and shares every product among torch's threads. Sums are kept in float32 and rounded once, and do not depend on the
number of threads. The others, which oneDNN computes faster, are torch's, as on other CPUs, in other formats and where
products are small; faster still where the right factor lies by rows, as weights of a teacher can be put once.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _core

LEAST_TERMS = 1 << 22
"""A product of fewer terms (rows x columns x numbers of a sum) is not worth the way to the kernel."""


MOST_TERMS = 4096
"""Of a sum: of longer ones, such as those over a vocabulary, oneDNN makes less than ours."""

MANY = 1024
"""Rows or columns of a product from which on oneDNN shares it among its threads: these columns, or these rows if they
are twice the columns. Of 1,024 x 768 numbers, for one, it computes on one thread of two."""


def can_multiply(states: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes matrices of these kinds: bfloat16 on the CPU, outside any graph that is captured."""
    return (
        states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.bfloat16
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """left [rows, n] @ right [n, columns] + bias [columns]: [rows, columns], without a graph, in `out` if given.

    By the kernel where `can_multiply` says so, the product is large enough and torch is not faster; otherwise by torch.
    """
    rows, columns = left.shape[0], right.shape[1]
    if (
        rows * columns * left.shape[1] < LEAST_TERMS
        or not (_core.has_matrix_instructions() and can_multiply(left, right))
        or _torch_is_faster(left, columns)
    ):
        return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)
    product = left.new_empty(rows, columns) if out is None else out
    _core.multiply_bfloat16(
        _bits(_with_unit_stride(left)),
        _bits(_with_unit_stride(right)),
        None if bias is None else _bits(bias.contiguous()),
        _bits(product),
        torch.get_num_threads(),
    )
    return product


def _torch_is_faster(left: Tensor, columns: int) -> bool:
    """By measurement on two cores of an Intel Xeon with AMX, torch 2.15: docs/hardware.md. It depends on shapes alone,
    since the two round sums of another order: what a run computes must not depend on what was timed."""
    rows, count = left.shape
    is_shared = columns >= MANY or rows >= max(MANY, 2 * columns)
    return left.stride(1) == 1 and count <= MOST_TERMS and is_shared


def _with_unit_stride(matrix: Tensor) -> Tensor:
    """`matrix`, copied if neither its rows nor its columns lie side by side."""
    return matrix if 1 in matrix.stride() else matrix.contiguous()


def _bits(numbers: Tensor) -> Any:
    """The numbers as a numpy array of their bits, without a copy."""
    return numbers.detach().view(torch.uint16).numpy()


class CPULinear(nn.Linear):
    """`nn.Linear` with `multiply` where that can be used."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as `nn.Linear` calls it)
        if not can_multiply(input, self.weight):
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, input.shape[-1])
        if torch.is_grad_enabled() and (rows.requires_grad or self.weight.requires_grad):
            product = cast(Tensor, cast(Any, _Linear).apply(rows, self.weight, self.bias))
        else:
            product = multiply(rows, self.weight.t(), self.bias)
        return product.view(*input.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """states @ weight.T + bias, it and all gradients with `multiply`."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(states, weight)
        return multiply(states, weight.t(), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, weight = ctx.saved_tensors
        gradient = gradients[0]
        of_states, of_weight, of_bias = ctx.needs_input_grad
        return (
            multiply(gradient, weight) if of_states else None,
            multiply(gradient.t(), states) if of_weight else None,
            gradient.sum(dim=0) if of_bias else None,
        )


def use_cpu_products(model: nn.Module) -> None:
    """Makes `model`'s linear layers compute with `multiply`; their parameters and everything else stay.

    Where there are matrix instructions, bfloat16 weights that are not trained are put into memory column by column, as
    a forward pass reads them; but for those of a large head, which the loss reads by rows, and of embeddings.
    """
    rows_are_read = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = CPULinear
        if isinstance(module, CPULinear) and id(module.weight) not in rows_are_read:
            _lay_by_columns(module.weight)


def _lay_by_columns(weight: Tensor) -> None:
    is_read_alone = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and not weight.requires_grad
    if is_read_alone and max(weight.shape) <= MOST_TERMS and _core.has_matrix_instructions():
        weight.data = weight.data.t().contiguous().t()
