"""The distillation loss from hidden states and heads, a chunk of rows at a time: all logits are never held at once.

On the CPU the logits of a chunk are overwritten by their gradient, and rows that count in no term are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .definitions import IGNORED
from .row_losses import cpu_row_losses

Head = tuple[Tensor, Tensor, Tensor | None]
"""Hidden states [N, H], weight [V, H], bias [V] or None."""

CHUNK_BYTES = 128 << 20
"""Space for the logits of a chunk, all sides together."""


def linear_distillation_loss_forward(
    student: Head,
    teachers: Sequence[Head],
    teacher_weights: Sequence[float],
    labels: Tensor,
    row_weights: Tensor | None,
    temperature: float,
    alphas: Sequence[float],
    kl_scale: Tensor,
    mlm_scale: Tensor,
    needs_gradients: Sequence[bool],
    chunk_rows: int | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """Values of the counted rows (as of `cpu_row_losses`) and the gradients of the student's hidden states, weight and
    bias.

    Gradients that are not needed are None. Those of weight and bias are summed in float32.
    """
    hidden, weight, bias = student
    needs_hidden, needs_weight, needs_bias = needs_gradients
    counted = _counted_rows(labels, row_weights)
    rows = hidden.shape[0] if counted is None else counted.shape[0]
    if chunk_rows is None:
        bytes_each = sum(each[0].element_size() for each in (student, *teachers))
        chunk_rows = max(64, CHUNK_BYTES // (bytes_each * weight.shape[0]))
    # As equal as can be: a small rest would be a slow product.
    chunk_rows = -(-rows // max(1, -(-rows // chunk_rows)))
    d_hidden = torch.zeros_like(hidden, memory_format=torch.contiguous_format) if needs_hidden else None
    d_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device) if needs_weight else None
    d_bias = torch.zeros(weight.shape[:1], dtype=torch.float32, device=weight.device) if needs_bias else None
    values = []
    workspaces = [torch.empty(0) for _ in range(1 + len(teachers))]
    for start in range(0, rows, max(1, chunk_rows)):
        chunk = slice(start, min(start + chunk_rows, rows))
        picked = chunk if counted is None else counted[chunk]
        x = hidden[picked]
        student_logits = _logits(x, weight, bias, workspaces, 0)
        teacher_logits = [
            _logits(teacher[0][picked], teacher[1], teacher[2], workspaces, index)
            for index, teacher in enumerate(teachers, start=1)
        ]
        kl, ce, mse, gradient = cpu_row_losses(
            student_logits, teacher_logits, teacher_weights, labels[picked],
            None if row_weights is None else row_weights[picked], temperature, alphas, kl_scale, mlm_scale,
            reuse_student=any(needs_gradients), needs_gradient=any(needs_gradients),
        )  # fmt: skip
        values.append((kl, ce, mse))
        if gradient is None:
            continue
        if d_hidden is not None:
            d_hidden[picked] = gradient @ weight
        if d_weight is not None:
            _add_product(d_weight, gradient, x)
        if d_bias is not None:
            d_bias += gradient.sum(dim=0, dtype=torch.float32)
    if values:
        kl, ce, mse = (torch.cat(parts) for parts in zip(*values, strict=True))
    else:
        kl = ce = mse = torch.zeros(0, dtype=torch.float32, device=hidden.device)
    if d_weight is not None:
        d_weight = d_weight.to(weight.dtype)
    if d_bias is not None and bias is not None:
        d_bias = d_bias.to(bias.dtype)
    return (kl, ce, mse), (d_hidden, d_weight, d_bias)


def _counted_rows(labels: Tensor, row_weights: Tensor | None) -> Tensor | None:
    """Numbers of the rows that count in any term; None for all, and on a GPU, which would have to be waited for."""
    if row_weights is None or labels.device.type != "cpu":
        return None
    counts = (row_weights != 0) | (labels != IGNORED)
    return None if bool(counts.all()) else counts.nonzero().squeeze(1)


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, workspaces: list[Tensor], index: int) -> Tensor:
    """x @ weight.T + bias, in the workspace of that number, which is kept from chunk to chunk."""
    shape = (x.shape[0], weight.shape[0])
    if workspaces[index].shape != shape:
        workspaces[index] = torch.empty(shape, dtype=x.dtype, device=x.device)
    if bias is None:
        return torch.mm(x, weight.t(), out=workspaces[index])
    return torch.addmm(bias, x, weight.t(), out=workspaces[index])


def _add_product(total: Tensor, gradient: Tensor, x: Tensor) -> None:
    """total += gradient.T @ x, in float32."""
    if gradient.dtype == torch.float32:
        total.addmm_(gradient.t(), x)
    else:
        total += gradient.t() @ x
