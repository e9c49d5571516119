"""The losses of rows from the kernel of their device: Rust on the CPU (`rust/losses`), Triton on GPUs (`fused`).

A kernel takes one teacher. Several are mixed into one first, a block of rows at a time, on every device alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _core
from . import definitions

FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

LARGE = 1 << 20
"""Bytes from which on the memory of a gradient is kept for the next."""

MIXED_BYTES = 32 << 20
"""Space for the rows that are mixed at a time, in float32, for each teacher."""

RowLosses = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Weighted values of KL, cross-entropy and MSE, float32 [N], and the gradient [N, V] if it was asked for."""


class LossTerms(NamedTuple):
    """Rows that count in the terms of the loss, and the weights of the terms: alike for every way of computing it."""

    labels: Tensor | None
    """int64 [N], in [0, V), or -100 in rows without cross-entropy; None: in no row."""
    row_weights: Tensor | None
    """float32 [N], of KL and MSE; None: 1."""
    kl_scale: Tensor
    """One over the denominator of KL and MSE, 0-dim."""
    mlm_scale: Tensor
    """One over the denominator of the cross-entropy, 0-dim."""
    temperature: float
    alphas: Sequence[float]
    """Weights of KL, cross-entropy and MSE in the total."""

    def of_rows(self, picked: slice | Tensor) -> LossTerms:
        """Those of some of the rows."""
        return self._replace(
            labels=None if self.labels is None else self.labels[picked],
            row_weights=None if self.row_weights is None else self.row_weights[picked],
        )

    def filled(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and weights for each row of `matrix`, as the Triton kernels want them: -100 and 1 where there are
        none."""
        labels, row_weights = self.labels, self.row_weights
        if labels is None:
            labels = torch.full(matrix.shape[:1], definitions.IGNORED, dtype=torch.int64, device=matrix.device)
        if row_weights is None:
            row_weights = torch.ones(matrix.shape[:1], dtype=torch.float32, device=matrix.device)
        return labels, row_weights

    def reduce(self, kl_rows: Tensor, ce_rows: Tensor, mse_rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Total, KL, cross-entropy and MSE from the weighted values of the rows."""
        kl = self.temperature**2 * self.kl_scale * kl_rows.sum()
        mlm = self.mlm_scale * ce_rows.sum()
        mse = self.kl_scale * mse_rows.sum()
        total = torch.zeros_like(kl)
        for alpha, term in zip(self.alphas, (kl, mlm, mse), strict=True):
            # A term whose alpha is 0 is left out: 0 * inf is NaN.
            if alpha != 0:
                total = total + alpha * term
        return total, kl, mlm, mse


def row_losses(
    student: Tensor,
    teachers: Sequence[Tensor],
    mixture: Sequence[float],
    terms: LossTerms,
    *,
    reuse_student: bool = False,
    needs_gradient: bool = True,
    kernel: Callable[..., RowLosses] | None = None,
) -> RowLosses:
    """Row values and gradient as of `cpu_logits_rows`, for none, one or several teachers, by the device's kernel.

    Several become one: T log sum_k m_k softmax(t_k / T), with their shares m_k (`mixture`, which sums to 1), are logits
    with the teachers' mean tempered probabilities. The squared error is that to each teacher, weighted.
    """
    if kernel is None:
        kernel = cpu_logits_rows if student.device.type == "cpu" else gpu_logits_rows
    if len(teachers) <= 1:
        teacher = teachers[0] if teachers else None
        return kernel(student, teacher, terms, reuse_student=reuse_student, needs_gradient=needs_gradient)
    row_weights = terms.row_weights
    alpha_ce, alpha_mlm, alpha_mse = terms.alphas
    squares, pull = None, None
    if alpha_mse != 0:
        counted = None if row_weights is None else row_weights != 0
        weights = student.new_ones(student.shape[0], dtype=torch.float32) if row_weights is None else row_weights
        squares = weights * definitions.logits_mse_rows(student, teachers, mixture, counted)
        if needs_gradient:
            pull = student.float()
            for each, share in zip(teachers, mixture, strict=True):
                pull = pull - share * each.float()
            pull = torch.where((weights != 0)[:, None], (2 * alpha_mse * terms.kl_scale * weights)[:, None] * pull, 0.0)
    kl_rows, ce_rows, mse_rows, gradient = kernel(
        student,
        mix_teachers(teachers, mixture, terms.temperature),
        terms._replace(alphas=[alpha_ce, alpha_mlm, 0.0]),
        reuse_student=reuse_student,
        needs_gradient=needs_gradient,
    )
    if gradient is not None and pull is not None:
        gradient += pull
    return kl_rows, ce_rows, mse_rows if squares is None else squares, gradient


def mix_teachers(teachers: Sequence[Tensor], mixture: Sequence[float], temperature: float) -> Tensor:
    """Float32 logits [N, V] whose tempered softmax is the weighted mean of the teachers', a block of rows at a time."""
    rows, columns = teachers[0].shape
    mixed = torch.empty((rows, columns), dtype=torch.float32, device=teachers[0].device)
    step = max(1, MIXED_BYTES // (4 * max(1, columns)))
    for start in range(0, rows, step):
        block = slice(start, start + step)
        log_q = definitions.mixed_log_softmax([each[block].float() for each in teachers], mixture, temperature)
        torch.mul(log_q, temperature, out=mixed[block])
    return mixed


def gpu_logits_rows(
    student: Tensor,
    teacher: Tensor | None,
    terms: LossTerms,
    *,
    reuse_student: bool = False,
    needs_gradient: bool = True,
) -> RowLosses:
    """`cpu_logits_rows` of GPUs."""
    labels, row_weights = terms.filled(student)
    if teacher is None:
        # A teacher's row of weight 0 is not read, so that any tensor will do.
        teacher, row_weights = student, torch.zeros_like(row_weights)
    rows: RowLosses = triton_kernels().distillation_loss_forward(
        student, teacher, labels, row_weights, terms.temperature, *terms.alphas, terms.kl_scale, terms.mlm_scale,
        reuse_student=reuse_student, needs_gradient=needs_gradient,
    )  # fmt: skip
    return rows


def triton_kernels() -> Any:
    """The Triton kernels; imported where they are used, for macOS has no Triton."""
    from .. import fused

    return fused


def cpu_logits_rows(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    terms: LossTerms,
    *,
    reuse_student: bool = False,
    needs_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Row values of the distillation objective and its gradient with respect to the student's logits, in one pass.

    Args:
        student_logits, teacher_logits: [N, V], each float32, bfloat16 or float16; no teacher: cross-entropy alone.
        terms: of the loss. The teacher's logits in a row of weight 0 are not read.
        reuse_student: write the gradient over the student's logits, whose columns must lie side by side.
        needs_gradient: False leaves the gradient out (None is returned).

    Returns:
        `w KL(q || p)` (never negative, 0 where p = q), the cross-entropy and `w |s - t|^2` (0 if alpha_mse is 0), each
        float32 [N] without scales, and the gradient of `sum(kl_scale (alpha_ce T^2 w KL + alpha_mse w |s - t|^2) +
        mlm_scale alpha_mlm CE)`: [N, V] of the student's dtype.

    Raises `InputError` for a label outside [0, V).
    """
    labels, row_weight, (alpha_ce, alpha_mlm, alpha_mse) = terms.labels, terms.row_weights, terms.alphas
    kl_scale, mlm_scale = float(terms.kl_scale), float(terms.mlm_scale)
    student = student_logits if reuse_student else _with_unit_stride(student_logits)
    gradient = None
    if needs_gradient:
        gradient = student if reuse_student else _empty_gradient(student)
    teacher = None if teacher_logits is None else _array(_with_unit_stride(teacher_logits))
    student_array = _array(student)
    values = _core.distillation_loss_rows(
        student_array,
        teacher,
        None if labels is None else labels.contiguous().numpy(),
        None if row_weight is None else row_weight.contiguous().numpy(),
        student_array if gradient is student else None if gradient is None else _array(gradient),
        formats=(FORMATS[student.dtype], "float32" if teacher_logits is None else FORMATS[teacher_logits.dtype]),
        temperature=terms.temperature,
        kl_grad=alpha_ce * terms.temperature * kl_scale,
        ce_grad=alpha_mlm * mlm_scale,
        mse_grad=2 * alpha_mse * kl_scale,
        threads=torch.get_num_threads(),
    )
    kl_rows, ce_rows, mse_rows = (torch.from_numpy(rows) for rows in values)
    if alpha_mse == 0:
        mse_rows = torch.zeros_like(mse_rows)
    if row_weight is not None:
        kl_rows, mse_rows = kl_rows * row_weight, mse_rows * row_weight
    return kl_rows, ce_rows, mse_rows, gradient


def cpu_hidden_rows(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    row_weight: Tensor | None,
    scale: Tensor,
    *,
    kind: str,
    needs_gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """`w (1 - cos)` (`kind` "cosine") or `w |s - t|^2` ("mse") of each row of two [N, H] matrices, and the gradient.

    Matrices are float32, bfloat16 or float16, `row_weight` is float32 [N] or None. Rows of weight 0 are not read. The
    values are float32 [N] without `scale`; the gradient is that of scale * their sum, [N, H] of the student's dtype.
    """
    student, teacher = _with_unit_stride(student_hidden), _with_unit_stride(teacher_hidden)
    gradient = torch.empty(student.shape, dtype=student.dtype) if needs_gradient else None
    values = _core.hidden_loss_rows(
        _array(student),
        _array(teacher),
        None if row_weight is None else row_weight.contiguous().numpy(),
        None if gradient is None else _array(gradient),
        formats=(FORMATS[student.dtype], FORMATS[teacher.dtype]),
        cosine=kind == "cosine",
        scale=float(scale),
        threads=torch.get_num_threads(),
    )
    rows = torch.from_numpy(values)
    return rows if row_weight is None else rows * row_weight, gradient


def _empty_gradient(student: Tensor) -> Tensor:
    """Memory for the gradient; a large one is what earlier gradients have left, whose pages are there already."""
    length = student.numel() * student.element_size()
    if length < LARGE:
        return torch.empty(student.shape, dtype=student.dtype)
    return torch.from_numpy(_core.gradient_memory(length)).view(student.dtype).view(student.shape)


def _with_unit_stride(matrix: Tensor) -> Tensor:
    """`matrix`, copied if its columns do not lie side by side or its rows overlap."""
    return matrix if matrix.stride(1) == 1 and matrix.stride(0) >= matrix.shape[1] else matrix.contiguous()


def _array(matrix: Tensor) -> Any:
    """The numbers as a numpy array without a copy; 16-bit ones as their bits, numpy having no bfloat16."""
    matrix = matrix.detach()
    return (matrix if matrix.dtype == torch.float32 else matrix.view(torch.uint16)).numpy()
