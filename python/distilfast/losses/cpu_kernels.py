"""The CPU kernels (Rust) for tensors, which give what the Triton kernels in `distilfast.fused` give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _core
from .terms import LossTerms

FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}

LARGE = 1 << 20
"""Bytes from which on the memory of a gradient is kept for the next."""


def distillation_loss_forward(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    terms: LossTerms,
    *,
    reuse_student: bool = False,
    needs_gradient: bool = True,
    level: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Row values of the distillation objective and its gradient with respect to the student's logits, in one pass.

    Args:
        student_logits, teacher_logits: [N, V], each float32, bfloat16 or float16; no teacher: cross-entropy alone.
        terms: of the loss. The teacher's logits in a row of weight 0 are not read.
        reuse_student: write the gradient over the student's logits, whose columns must lie side by side.
        needs_gradient: False leaves the gradient out (None is returned).
        level: an instruction set of `_core.instruction_sets()`; None: the fastest.

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
        level=level,
    )
    kl_rows, ce_rows, mse_rows = (torch.from_numpy(rows) for rows in values)
    if alpha_mse == 0:
        mse_rows = torch.zeros_like(mse_rows)
    if row_weight is not None:
        kl_rows, mse_rows = kl_rows * row_weight, mse_rows * row_weight
    return kl_rows, ce_rows, mse_rows, gradient


def hidden_loss_forward(
    student_hidden: Tensor,
    teacher_hidden: Tensor,
    row_weight: Tensor | None,
    scale: Tensor,
    *,
    kind: str,
    needs_gradient: bool = True,
    level: str | None = None,
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
        level=level,
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
