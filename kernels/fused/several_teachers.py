"""K1 for several teachers: the target is the weighted mean of their tempered probabilities; one launch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .distillation import distillation_loss_forward
from .launch import (
    GROUP,
    Phase,
    check_matrices,
    check_rows,
    check_temperature,
    current_device,
    device_scalar,
    empty_gradient,
    power_of_two,
    row_biases,
    row_values,
    with_unit_stride,
)
from .several_teachers_kernel import several_teachers_kernel


def configuration(columns: int, headed: bool) -> tuple[int, int, int]:
    """Lanes that a program takes in one step, its steps over a row, and its warps: eight elements a thread.

    `headed` rows start inside a group of eight.
    """
    most = columns - 1 if headed else columns // GROUP * GROUP  # lanes in whole groups
    block = min(2048, max(64, power_of_two(most)))
    return block, -(-most // block), max(1, block // 256)


def registers(count: int) -> int:
    """Registers a thread. ptxas left to itself settles on 64 for some forms, and spills."""
    return 128 if count <= 4 else 255


def multi_teacher_loss_forward(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    teacher_weights: Sequence[float],
    labels: Tensor,
    row_weight: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    kl_scale: Tensor | float,
    mlm_scale: Tensor | float,
    *,
    reuse_student: bool = False,
    needs_gradient: bool = True,
    student_bias: Tensor | None = None,
    teacher_biases: Sequence[Tensor | None] | None = None,
    ignore_index: int = -100,
    block: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`distillation_loss_forward` with q = sum_k w_k softmax(t_k / T), and the mean of |s - t_k|^2 weighted by w_k.

    Args:
        student_logits: [N, V]; bfloat16, float16 or float32.
        teacher_logits: one [N, V] or more, each of any of these types; a single one has the kernel for one.
        teacher_weights: a number >= 0 for each teacher; they have to sum to 1.
        teacher_biases: for each teacher a bias as `student_bias`, or None; None: no teacher has one.
        block: another step size than the table's.
        The others as for `distillation_loss_forward`. 16-byte accesses want the rows of all sides in the same place of
        a group of eight elements.

    Returns:
        KL (never negative), cross-entropy and squared error (0 if alpha_mse is 0) of each row, float32 [N] without
        scales, and the gradient [N, V] of the student's dtype (None without `needs_gradient`).

    Raises:
        TypeError, ValueError: for arguments that do not go together.
    """
    shares = tuple(float(weight) for weight in teacher_weights)
    if not teacher_logits or len(teacher_logits) != len(shares):
        raise ValueError(f"{len(shares)} teacher weights for {len(teacher_logits)} teachers: one each")
    if not all(share >= 0 for share in shares) or not math.isclose(sum(shares), 1.0, rel_tol=1e-5):
        raise ValueError(f"teacher weights are {shares}: they have to be at least 0 and sum to 1")
    given_biases = [None] * len(shares) if teacher_biases is None else list(teacher_biases)
    if len(given_biases) != len(shares):
        raise ValueError(f"{len(given_biases)} teacher biases for {len(shares)} teachers: one each")
    if len(shares) == 1:
        return distillation_loss_forward(
            student_logits, teacher_logits[0], labels, row_weight, temperature, alpha_ce, alpha_mlm, alpha_mse,
            kl_scale, mlm_scale, reuse_student=reuse_student, needs_gradient=needs_gradient, student_bias=student_bias,
            teacher_bias=given_biases[0], ignore_index=ignore_index, block=block,
        )  # fmt: skip
    for each in teacher_logits:
        check_matrices(student_logits, each, "logits")
    labels = check_rows("labels", labels, torch.int64, student_logits)
    row_weight = check_rows("row_weight", row_weight, torch.float32, student_logits)
    check_temperature(temperature)
    student = with_unit_stride(student_logits)
    if reuse_student and student is not student_logits:
        raise ValueError("logits that are to be overwritten need unit column stride")
    teachers = tuple(with_unit_stride(each) for each in teacher_logits)
    rows, columns = student.shape
    kl_rows, ce_rows, mse_rows = row_values(student)
    gradient = student if reuse_student or not needs_gradient else empty_gradient(student)
    if rows == 0:
        return kl_rows, ce_rows, mse_rows, gradient if needs_gradient else None
    phase = Phase.of(student)
    headed = not phase.aligned
    biases = row_biases([student_bias, *given_biases], student, headed)
    biased = any(bias is not None for bias in biases)
    if biased:
        zeros = torch.zeros(columns, dtype=torch.float32, device=student.device)
        biases = [zeros if bias is None else bias for bias in biases]
    lanes, blocks, num_warps = configuration(columns, headed)
    if block is not None:
        blocks, lanes = -(-blocks * lanes // block), block
    with current_device(student):
        several_teachers_kernel[(rows,)](
            student,
            teachers,
            gradient,
            labels,
            row_weight,
            biases[0],
            tuple(biases[1:]) if biased else None,
            device_scalar(kl_scale, student),
            device_scalar(mlm_scale, student),
            kl_rows,
            ce_rows,
            mse_rows,
            student.stride(0),
            tuple(each.stride(0) for each in teachers),
            gradient.stride(0),
            shares,
            phase.base,
            math.log2(math.e) / temperature,
            float(alpha_ce) * temperature,
            float(alpha_mlm),
            float(alpha_mse),
            ignore_index,
            blocks,
            V=columns,
            COUNT=len(teachers),
            BLOCK=lanes,
            LANES=lanes // GROUP,
            HEADED=headed,
            MSE=alpha_mse != 0,
            STORE=needs_gradient,
            BIASED=biased,
            TEACHERS_ALIGNED=sum(1 << k for k, each in enumerate(teachers) if Phase.of(each) == phase),
            GRADIENT_ALIGNED=Phase.of(gradient) == phase,
            num_warps=num_warps,
            maxnreg=registers(len(teachers)),
            enable_fp_fusion=False,
        )
    return kl_rows, ce_rows, mse_rows, gradient if needs_gradient else None
