"""K1: tempered KL, cross-entropy and squared error of [N, V] logits: row values and the gradient in one launch.

Formulas, numerics and tolerances: kernels/README.md.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .distillation_kernel import distillation_kernel
from .launch import (
    Phase,
    check_matrices,
    check_rows,
    check_temperature,
    current_device,
    device_scalar,
    empty_gradient,
    registers,
    row_configuration,
    row_values,
    temperature_power,
    with_unit_stride,
)


def distillation_loss_forward(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    row_weight: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    kl_scale: Tensor | float,
    mlm_scale: Tensor | float,
    *,
    reuse_teacher: bool = False,
    reuse_student: bool = False,
    needs_gradient: bool = True,
    ignore_index: int = -100,
    block: int | None = None,
    num_warps: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Row values of the distillation objective and its gradient with respect to the student's logits, in one launch.

    With s, t the logits of a row, w its weight, p = softmax(s / T), q = softmax(t / T), the objective is
    `sum(kl_scale (alpha_ce T^2 w KL(q || p) + alpha_mse w |s - t|^2) + mlm_scale alpha_mlm CE(s, label))`.

    Args:
        student_logits, teacher_logits: [N, V], each bfloat16, float16 or float32. Any strides and offsets; 16-byte
            accesses want unit column stride and rows of both in the same place of a group of eight elements (equal
            row strides suffice).
        labels: int64 [N]; `ignore_index` for rows without one. A label outside of [0, V) gives a NaN row value.
        row_weight: float32 [N], >= 0. The KL and squared error of a row of weight 0 are 0 whatever the teacher's row
            holds; with no label either, neither row is read and its gradient is 0.
        kl_scale, mlm_scale: one over the denominators, float32 [] on the device (or floats).
        reuse_teacher: write the gradient over the teacher's logits (same dtype as the student's).
        reuse_student: write it over the student's logits.
        needs_gradient: False leaves the gradient out (None is returned).
        block, num_warps: other sizes than the static table's, to measure them.

    Returns:
        `w KL(q || p)` (never negative, 0 where p = q), the cross-entropy and `w |s - t|^2` (0 if alpha_mse is 0), each
        float32 [N] without scales, and the gradient of the objective: [N, V] of the student's dtype, with the row
        stride of the student's logits.

    Raises:
        TypeError, ValueError: for dtypes, shapes, devices and temperatures that do not go together.
    """
    check_matrices(student_logits, teacher_logits, "logits")
    labels = check_rows("labels", labels, torch.int64, student_logits)
    row_weight = check_rows("row_weight", row_weight, torch.float32, student_logits)
    check_temperature(temperature)
    if reuse_teacher and reuse_student:
        raise ValueError("the gradient goes over the teacher's logits or over the student's, not both")
    student, teacher = with_unit_stride(student_logits), with_unit_stride(teacher_logits)
    if (reuse_teacher and teacher is not teacher_logits) or (reuse_student and student is not student_logits):
        raise ValueError("logits that are to be overwritten need unit column stride")
    if reuse_teacher and teacher.dtype != student.dtype:
        raise TypeError(f"teacher logits are {teacher.dtype}: a {student.dtype} gradient cannot overwrite them")
    rows = student.shape[0]
    kl_rows, ce_rows, mse_rows = row_values(student)
    gradient = teacher if reuse_teacher else student if reuse_student else empty_gradient(student)
    if not needs_gradient:
        gradient = student
    if rows > 0:
        _launch(
            student,
            teacher,
            gradient,
            labels,
            row_weight,
            device_scalar(kl_scale, student),
            device_scalar(mlm_scale, student),
            (kl_rows, ce_rows, mse_rows),
            float(temperature),
            (float(alpha_ce), float(alpha_mlm), float(alpha_mse)),
            ignore_index,
            needs_gradient,
            block,
            num_warps,
        )
    return kl_rows, ce_rows, mse_rows, gradient if needs_gradient else None


def _launch(
    student: Tensor,
    teacher: Tensor,
    gradient: Tensor,
    labels: Tensor,
    row_weight: Tensor,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    values: tuple[Tensor, Tensor, Tensor],
    temperature: float,
    alphas: tuple[float, float, float],
    ignore_index: int,
    store: bool,
    block: int | None,
    num_warps: int | None,
) -> None:
    rows, columns = student.shape
    phase = Phase.of(student)
    headed = not phase.aligned
    configuration = row_configuration(columns, headed, block, num_warps)
    alpha_ce, alpha_mlm, alpha_mse = alphas
    with current_device(student):
        distillation_kernel[(rows,)](
            student,
            teacher,
            gradient,
            labels,
            row_weight,
            kl_scale,
            mlm_scale,
            *values,
            student.stride(0),
            teacher.stride(0),
            gradient.stride(0),
            phase.base,
            math.log2(math.e) / temperature,
            temperature,
            alpha_ce * temperature,
            alpha_mlm,
            alpha_mse,
            ignore_index,
            configuration.full_blocks,
            V=columns,
            BLOCK=configuration.block,
            FULL=configuration.full_blocks,
            TAIL=configuration.tail,
            LANES=configuration.lanes(student, teacher, gradient),
            HEADED=headed,
            POWER=temperature_power(temperature),
            MSE=alpha_mse != 0,
            KL_GRADIENT=alpha_ce != 0,
            PRECISE=gradient.dtype == torch.float32,
            STORE=store,
            TEACHER_ALIGNED=Phase.of(teacher) == phase,
            GRADIENT_ALIGNED=Phase.of(gradient) == phase,
            num_warps=configuration.num_warps,
            maxnreg=registers(student.dtype, teacher.dtype, alpha_mse != 0),
            enable_fp_fusion=False,
        )
