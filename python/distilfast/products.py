"""bfloat16 matrix products of linear layers on the CPU, cut in two where oneDNN would compute them on one thread.

oneDNN 3.12, which torch multiplies bfloat16 with, makes a single piece of work of some products: with two threads one
of them then waits. That is so where the product has 512 to 1,024 columns and about as many rows, as in the narrow
layers of a model of hidden size 768 and a batch of 1,000 tokens. As two products, of half of the columns each, in one
batched call they take two thirds of the time. The rule was found by measuring with two threads; with other numbers of
threads, and for other shapes, products are torch's own.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SERIAL_COLUMNS = (512, 1024)
"""Columns between which products of about as many rows are computed on one thread."""
SERIAL_ROWS = (0.875, 1.6)
"""Rows between which they are, as multiples of the columns."""


def takes_one_thread(rows: int, columns: int) -> bool:
    """Whether oneDNN would leave the second of two threads without work in a product [rows, columns]."""
    least, most = SERIAL_COLUMNS
    near, far = SERIAL_ROWS
    return (
        least <= columns <= most
        and columns % 64 == 0
        and near * columns <= rows <= far * columns
        and torch.get_num_threads() == 2
    )


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left [rows, n] @ right [n, columns] + bias [columns]: [rows, columns], of bfloat16 on the CPU, with no graph."""
    rows, columns = left.shape[0], right.shape[1]
    if not takes_one_thread(rows, columns):
        return torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)
    product = left.new_empty(rows, columns)
    halves = product.view(rows, 2, -1).transpose(0, 1)
    twice, parts = left.expand(2, -1, -1), right.view(-1, 2, columns // 2).transpose(0, 1)
    if bias is None:
        torch.bmm(twice, parts, out=halves)
    else:
        torch.baddbmm(bias.view(2, 1, -1), twice, parts, out=halves)
    return product


def serves(states: Tensor, weight: Tensor) -> bool:
    """Whether `CPULinear` computes with `multiply`: bfloat16 on the CPU, outside any graph that is captured."""
    return (
        states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.bfloat16
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


class CPULinear(nn.Linear):
    """`nn.Linear` with `multiply` where that can be used."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (as `nn.Linear` calls it)
        if not serves(input, self.weight):
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, input.shape[-1])
        if torch.is_grad_enabled() and (rows.requires_grad or self.weight.requires_grad):
            product = cast(Tensor, cast(Any, _Linear).apply(rows, self.weight, self.bias))
        else:
            product = multiply(rows, self.weight.t(), self.bias)
        return product.view(*input.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """states @ weight.T + bias, all gradients with `multiply` or `torch.mm`."""

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
            torch.mm(gradient.t(), states) if of_weight else None,
            gradient.sum(dim=0) if of_bias else None,
        )


def use_cpu_products(model: nn.Module) -> None:
    """Makes `model`'s linear layers compute with `multiply`; their parameters and everything else stay."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = CPULinear
