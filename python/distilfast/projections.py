"""A head's projection onto the vocabulary, laid out for the products of bfloat16 on the CPU.

oneDNN takes twice as long where the numbers that it sums over lie side by side in the weight, as in `nn.Linear`, as
where those of a column of the product's input do; and adding the bias costs another pass over all logits. So weight and
bias are kept as one matrix, turned round, in which the bias is one more number to sum over, its factor 1.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

PADDING = 32
"""Numbers added to each sum: the bias and zeros, a whole step of the processor's matrix instructions."""
LEAST_NUMBERS = 1 << 20
"""A smaller weight is not worth a copy."""


class Projection:
    """The matrix of one head, made at the first call after `forget`; whoever changes the weight calls that."""

    def __init__(self) -> None:
        self._matrix: Tensor | None = None
        self._current = False

    def forget(self) -> None:
        """Says that weight or bias has changed. The space is used again."""
        self._current = False

    def of(self, features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """features [N, width], weight [V, width] and bias [V] or None of the same logits, in whichever form is faster.

        Gradients reach the tensors that were given.
        """
        if not serves(features, weight):
            return features, weight, bias
        matrix = self._made(weight, bias)
        if torch.is_grad_enabled() and (weight.requires_grad or (bias is not None and bias.requires_grad)):
            matrix = cast(Tensor, cast(Any, _Joined).apply(weight, bias, matrix))
        if bias is not None:
            ones = features.new_zeros(features.shape[0], PADDING)
            ones[:, 0] = 1
            features = torch.cat([features, ones], dim=1)
        return features, matrix, None

    @torch.no_grad()
    def _made(self, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[V, width], or [V, width + PADDING] with a bias; numbers of a column lie side by side."""
        rows, width = weight.shape
        columns = width + (0 if bias is None else PADDING)
        if self._matrix is None or self._matrix.shape != (rows, columns):
            with torch.inference_mode(False):
                self._matrix = weight.new_zeros(columns, rows).t()
            self._current = False
        if not self._current:
            self._matrix[:, :width].copy_(weight)
            if bias is not None:
                self._matrix[:, width].copy_(bias)
            self._current = True
        return self._matrix


def serves(features: Tensor, weight: Tensor) -> bool:
    """Whether the other form is the faster one: bfloat16 on the CPU, a large weight, outside any graph."""
    return (
        features.device.type == "cpu"
        and features.dtype == weight.dtype == torch.bfloat16
        and weight.numel() >= LEAST_NUMBERS
        and not torch.compiler.is_compiling()
    )


class _Joined(torch.autograd.Function):
    """The matrix, with weight and bias as what it was made of."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, matrix: Tensor) -> Tensor:
        ctx.width, ctx.has_bias = weight.shape[1], bias is not None
        return matrix.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        gradient = gradients[0]
        return gradient[:, : ctx.width], gradient[:, ctx.width] if ctx.has_bias else None, None
