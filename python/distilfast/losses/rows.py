"""The distillation loss of logits on the CPU, row by row, for any number of teachers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import cpu_kernels, definitions
from .terms import LossTerms

MIXED_BYTES = 32 << 20
"""Space for the rows that are mixed at a time, in float32, for each teacher."""


def cpu_row_losses(
    student: Tensor,
    teachers: Sequence[Tensor],
    teacher_weights: Sequence[float],
    terms: LossTerms,
    *,
    reuse_student: bool = False,
    needs_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Row values and gradient as of `cpu_kernels.distillation_loss_forward`, for none, one or several teachers.

    Several become one: T log sum_k w_k softmax(t_k / T) are logits with the teachers' mean tempered probabilities. The
    squared error is that to each teacher, weighted.
    """
    if len(teachers) <= 1:
        teacher = teachers[0] if teachers else None
        return cpu_kernels.distillation_loss_forward(
            student, teacher, terms, reuse_student=reuse_student, needs_gradient=needs_gradient
        )
    row_weights = terms.row_weights
    alpha_ce, alpha_mlm, alpha_mse = terms.alphas
    squares, pull = None, None
    if alpha_mse != 0:
        counted = None if row_weights is None else row_weights != 0
        weights = torch.ones(student.shape[0]) if row_weights is None else row_weights
        squares = weights * definitions.logits_mse_rows(student, teachers, teacher_weights, counted)
        if needs_gradient:
            pull = student.float()
            for each, weight in zip(teachers, teacher_weights, strict=True):
                pull = pull - weight * each.float()
            pull = torch.where((weights != 0)[:, None], (2 * alpha_mse * terms.kl_scale * weights)[:, None] * pull, 0.0)
    kl_rows, ce_rows, mse_rows, gradient = cpu_kernels.distillation_loss_forward(
        student,
        _mixed(teachers, teacher_weights, terms.temperature),
        terms._replace(alphas=[alpha_ce, alpha_mlm, 0.0]),
        reuse_student=reuse_student,
        needs_gradient=needs_gradient,
    )
    if gradient is not None and pull is not None:
        gradient += pull
    return kl_rows, ce_rows, mse_rows if squares is None else squares, gradient


def _mixed(teachers: Sequence[Tensor], weights: Sequence[float], temperature: float) -> Tensor:
    """Float32 logits whose tempered softmax is the weighted mean of the teachers', a block of rows at a time."""
    rows, columns = teachers[0].shape
    mixed = torch.empty((rows, columns), dtype=torch.float32)
    step = max(1, MIXED_BYTES // (4 * columns))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        log_q = definitions.mixed_log_softmax([each[block].float() for each in teachers], weights, temperature)
        torch.mul(log_q, temperature, out=mixed[block])
    return mixed
