"""K1 for several teachers: the target is the weighted mean of their tempered probabilities; one launch.

One program a row. It sums the exponentials of each side in turn, then reads all sides together for the gradient. KL has
the same form as with one teacher (rows.kl_terms): no term is negative, and none cancels against another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import (
    check_matrices,
    check_rows,
    current_device,
    device_scalar,
    empty_gradient,
    power_of_two,
    with_unit_stride,
)
from .rows import LN_2, LOG2_E, kl_terms

LOWEST = tl.constexpr(-3.4028234663852886e38)  # not -inf: differences from it are never NaN


@triton.jit
def running_sum(total, maximum, values, scale):
    """`total`, of 2^(scale (x - maximum)) over some x, when `values` join them: one exponential an element."""
    distance = (values - maximum) * scale
    power = tl.exp2(-tl.abs(distance))
    return tl.where(distance > 0.0, tl.fma(total, power, 1.0), total + power)


@triton.jit
def row_sums(row, readable, scale, V: tl.constexpr, BLOCK: tl.constexpr, PLAIN: tl.constexpr):
    """A row's maximum m and its sums of 2^(scale (x - m)) and, if PLAIN, of e^(x - m)."""
    maximum = tl.full([BLOCK], LOWEST, tl.float32)
    tempered = tl.zeros([BLOCK], tl.float32)
    plain = tl.zeros([BLOCK], tl.float32)
    for start in range(0, V, BLOCK):
        values = load_columns(row, start + tl.arange(0, BLOCK), readable, V)
        tempered = running_sum(tempered, maximum, values, scale)
        if PLAIN:
            plain = running_sum(plain, maximum, values, LOG2_E)
        maximum = tl.maximum(maximum, values)
    largest = tl.max(maximum)
    below = maximum - largest
    return largest, tl.sum(tempered * tl.exp2(below * scale)), tl.sum(plain * tl.exp2(below * LOG2_E))


@triton.jit
def load_columns(row, columns, readable, V: tl.constexpr):
    """Elements of a row in float32: -inf beyond its end; from column `readable` on they are not read, and are 0."""
    values = tl.load(row + columns, mask=columns < readable, other=0.0).to(tl.float32)
    return tl.where(columns < V, values, float("-inf"))


@triton.jit
def several_teachers_kernel(
    student,  # [N, V]
    teachers,  # a tuple of [N, V]
    teacher_strides,  # a tuple
    teacher_weights,  # a tuple of floats that sum to 1
    gradient,  # [N, V]
    labels,  # int64 [N]
    weights,  # float32 [N]
    kl_scale,  # float32 []
    mlm_scale,  # float32 []
    kl_out,  # float32 [N]
    ce_out,  # float32 [N]
    mse_out,  # float32 [N]
    student_stride,
    gradient_stride,
    scale,  # log2(e) / temperature
    kl_alpha,  # alpha_ce * temperature
    mlm_alpha,
    mse_alpha,
    ignore_index,
    V: tl.constexpr,
    COUNT: tl.constexpr,  # teachers
    BLOCK: tl.constexpr,
    MSE: tl.constexpr,
    STORE: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + index)
    weight = tl.load(weights + index)
    labelled = label != ignore_index
    counted = weight != 0.0
    student += index * student_stride
    gradient += index * gradient_stride
    if labelled | counted:
        student_maximum, student_sum, plain_sum = row_sums(student, V, scale, V, BLOCK, True)
        ce_factor = tl.where(labelled, mlm_alpha * tl.load(mlm_scale), 0.0)
        kl_factor = weight * kl_alpha * tl.load(kl_scale)
        mse_factor = 2.0 * weight * mse_alpha * tl.load(kl_scale)
        student_factor = tl.div_rn(1.0, student_sum)
        plain_factor = tl.div_rn(1.0, plain_sum)

        # In a row of weight 0 the teachers' logits may be anything, and are not read.
        readable = tl.where(counted, V, 0)
        rows = ()
        maxima = ()
        sums = ()
        furthest = scale * 0.0
        for k in tl.static_range(COUNT):
            row = teachers[k] + index * teacher_strides[k]
            teacher_maximum, teacher_sum, _ = row_sums(row, readable, scale, V, BLOCK, False)
            rows = rows + (row,)  # noqa: RUF005
            maxima = maxima + (teacher_maximum,)  # noqa: RUF005
            sums = sums + (teacher_sum,)  # noqa: RUF005
            furthest = tl.maximum(furthest, tl.abs(student_maximum - teacher_maximum))
        # Sides that lie far apart as a whole are each brought near 0 first: s - t itself would round by their distance.
        # Otherwise the bases are 0, and s - t is exact where s is close to t.
        far = furthest > 16.0
        student_base = tl.where(far, student_maximum, 0.0)

        kl = tl.zeros([BLOCK], tl.float32)
        mse = tl.zeros([BLOCK], tl.float32)
        for start in range(0, V, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            s = load_columns(student, columns, V, V)
            p = tl.exp2((s - student_maximum) * scale) * student_factor
            q = tl.zeros([BLOCK], tl.float32)
            # The teacher that gives a class most: log2(p / q) = log2(p / most) - log2(q / most), and s - t is exact
            # for a student close to it.
            most = tl.full([BLOCK], -1.0, tl.float32)
            log2_ratio = tl.zeros([BLOCK], tl.float32)
            apart_mean = tl.zeros([BLOCK], tl.float32)
            for k in tl.static_range(COUNT):
                t = load_columns(rows[k], columns, readable, V)
                share = tl.exp2((t - maxima[k]) * scale) * tl.div_rn(teacher_weights[k], sums[k])
                teacher_base = tl.where(far, maxima[k], 0.0)
                offset = scale * ((maxima[k] - teacher_base) - (student_maximum - student_base))
                offset -= tl.log2(tl.div_rn(student_sum * teacher_weights[k], sums[k]))
                from_bases = (s - student_base) - (t - teacher_base)
                more = share > most
                log2_ratio = tl.where(more, tl.fma(from_bases, scale, offset), log2_ratio)
                most = tl.where(more, share, most)
                q += share
                if MSE:
                    apart = tl.where(columns < readable, s - t, 0.0)
                    mse += teacher_weights[k] * (apart * apart)
                    apart_mean += teacher_weights[k] * apart
            # A class that no teacher allows gives p, whatever the ratio is.
            log2_ratio = tl.where(q > 0.0, log2_ratio - tl.log2(q / most), 1e30)
            terms, difference = kl_terms(p, q, log2_ratio, True)
            kl += terms
            if STORE:
                values = kl_factor * difference
                if MSE:
                    values = tl.fma(apart_mean, mse_factor, values)
                if labelled:
                    plain = tl.exp2((s - student_maximum) * LOG2_E) * plain_factor
                    values += ce_factor * (plain - (columns == label).to(tl.float32))
                tl.store(gradient + columns, values.to(gradient.dtype.element_ty), mask=columns < V)

        # A label outside of the row gives NaN.
        in_range = labelled & (label >= 0) & (label < V)
        true_s = tl.load(student + label, mask=in_range, other=float("nan")).to(tl.float32)
        ce = tl.fma(tl.log2(plain_sum), LN_2, student_maximum - true_s)
        tl.store(kl_out + index, tl.where(counted, weight * tl.sum(kl), 0.0))
        tl.store(ce_out + index, tl.where(labelled, ce, 0.0))
        tl.store(mse_out + index, weight * tl.sum(mse))
    else:
        tl.store(kl_out + index, 0.0)
        tl.store(ce_out + index, 0.0)
        tl.store(mse_out + index, 0.0)
        if STORE:
            for start in range(0, V, BLOCK):
                columns = start + tl.arange(0, BLOCK)
                tl.store(gradient + columns, tl.zeros([BLOCK], gradient.dtype.element_ty), mask=columns < V)


def configuration(columns: int) -> tuple[int, int]:
    """Elements a program takes in one step, and its warps: four elements a thread."""
    block = min(1024, max(64, power_of_two(columns)))
    return block, max(1, block // 128)


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
    needs_gradient: bool = True,
    ignore_index: int = -100,
    block: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`distillation_loss_forward` with q = sum_k w_k softmax(t_k / T), and the mean of |s - t_k|^2 weighted by w_k.

    Args:
        student_logits: [N, V]; bfloat16, float16 or float32.
        teacher_logits: one [N, V] or more, each of any of these types.
        teacher_weights: a number >= 0 for each teacher; they have to sum to 1.
        labels, row_weight, temperature, alpha_*, *_scale, needs_gradient, ignore_index: as for
            `distillation_loss_forward`.
        block: another step size than the table's.

    Returns:
        KL (never negative), cross-entropy and squared error (0 if alpha_mse is 0) of each row, float32 [N] without
        scales, and the gradient [N, V] of the student's dtype (None without `needs_gradient`).

    Raises:
        TypeError, ValueError: for arguments that do not go together.
    """
    if not teacher_logits or len(teacher_logits) != len(teacher_weights):
        raise ValueError(f"{len(teacher_weights)} teacher weights for {len(teacher_logits)} teachers: one each")
    shares = tuple(float(weight) for weight in teacher_weights)
    if not all(share >= 0 for share in shares) or not math.isclose(sum(shares), 1.0, rel_tol=1e-5):
        raise ValueError(f"teacher weights are {shares}: they have to be at least 0 and sum to 1")
    for each in teacher_logits:
        check_matrices(student_logits, each, "logits")
    labels = check_rows("labels", labels, torch.int64, student_logits)
    row_weight = check_rows("row_weight", row_weight, torch.float32, student_logits)
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}: it has to be a positive number")
    student = with_unit_stride(student_logits)
    teachers = tuple(with_unit_stride(each) for each in teacher_logits)
    rows, columns = student.shape
    kl_rows, ce_rows, mse_rows = (torch.empty(rows, dtype=torch.float32, device=student.device) for _ in range(3))
    gradient = empty_gradient(student) if needs_gradient else student
    usual_block, num_warps = configuration(columns)
    if rows > 0:
        with current_device(student):
            several_teachers_kernel[(rows,)](
                student,
                teachers,
                tuple(each.stride(0) for each in teachers),
                shares,
                gradient,
                labels,
                row_weight,
                device_scalar(kl_scale, student),
                device_scalar(mlm_scale, student),
                kl_rows,
                ce_rows,
                mse_rows,
                student.stride(0),
                gradient.stride(0),
                math.log2(math.e) / temperature,
                float(alpha_ce) * temperature,
                float(alpha_mlm),
                float(alpha_mse),
                ignore_index,
                V=columns,
                COUNT=len(teachers),
                BLOCK=usual_block if block is None else block,
                MSE=alpha_mse != 0,
                STORE=needs_gradient,
                num_warps=num_warps,
                enable_fp_fusion=False,
            )
    return kl_rows, ce_rows, mse_rows, gradient if needs_gradient else None
