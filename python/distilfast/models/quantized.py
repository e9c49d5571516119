"""What onnxruntime computes with 8-bit weights (`quantize_dynamic`), in float numbers and with gradients.

Weights of linear layers and convolutions are int8, symmetric about 0, with a scale for each output of a linear layer
and one for all of a convolution. What these layers read, and the rows of embeddings, are uint8 between the least and
the greatest number of the whole tensor, which is found anew for every batch. Products are summed as integers there and
as floats here, the same up to rounding. Gradients pass as if nothing had been rounded: the straight-through estimator
of Bengio et al., "Estimating or propagating gradients through stochastic neurons", 2013; for inference in integers
Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference", 2018.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .pooling import Dense

INT8_MOST = 127
UINT8_MOST = 255


def quantized_weight(weight: Tensor) -> Tensor:
    """`weight` of a linear layer [outputs, inputs] or of a convolution [outputs, inputs, width] as int8 holds it."""
    numbers = weight.float()
    most = numbers.detach().abs()
    scale = _not_0((most.amax(dim=1) if weight.ndim == 2 else most.amax()) / INT8_MOST)
    zero = torch.zeros(scale.shape, dtype=torch.int32, device=weight.device)
    if weight.ndim == 2:
        held = torch.fake_quantize_per_channel_affine(numbers, scale, zero, 0, -INT8_MOST, INT8_MOST)
    else:
        held = torch.fake_quantize_per_tensor_affine(numbers, scale, zero, -INT8_MOST, INT8_MOST)
    return held.to(weight.dtype)


def quantized_values(values: Tensor, of: Tensor | None = None) -> Tensor:
    """`values` as uint8 holds them, in 256 steps over the range of `of` (default: of `values`) and 0."""
    least, greatest = torch.aminmax((values if of is None else of).detach())
    least, greatest = least.float().clamp(max=0.0), greatest.float().clamp(min=0.0)
    scale = _not_0((greatest - least) / UINT8_MOST)
    zero = (-least / scale).round().clamp(0, UINT8_MOST).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values.float(), scale, zero, 0, UINT8_MOST).to(values.dtype)


def _not_0(scale: Tensor) -> Tensor:
    """`scale`, and 1 where all numbers are 0, as onnxruntime has it."""
    return torch.where(scale < torch.finfo(scale.dtype).tiny, 1.0, scale)


def quantized_weights(module: nn.Module, prefixes: tuple[str, ...] = ("",)) -> set[str]:
    """The names of the weights in `module` that become int8; `prefixes`: of the parts that count."""
    return {
        f"{name}.weight"
        for name, part in module.named_modules(remove_duplicate=False)
        if isinstance(part, nn.Linear | nn.Conv1d) and name.startswith(prefixes)
    }


@contextmanager
def quantized_inputs(module: nn.Module, prefixes: tuple[str, ...] = ("",)) -> Iterator[None]:
    """Within the block linear layers and convolutions in `module` read uint8, and embeddings give it; `prefixes`: of
    the parts that count."""
    handles = []
    for name, part in module.named_modules():
        if name.startswith(prefixes):
            if isinstance(part, nn.Linear | nn.Conv1d | Dense):
                handles.append(part.register_forward_pre_hook(_read))
            elif isinstance(part, nn.Embedding):
                handles.append(part.register_forward_hook(_give_rows))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def input_of(module: nn.Module, values: Tensor) -> Tensor:
    """`values` as `module` would read them at this moment, for those who multiply with its weight themselves."""
    return quantized_values(values) if _read in module._forward_pre_hooks.values() else values


def _read(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return (quantized_values(given[0]), *given[1:])


def _give_rows(table: nn.Embedding, _: Any, rows: Tensor) -> Tensor:
    return quantized_values(rows, of=table.weight)
