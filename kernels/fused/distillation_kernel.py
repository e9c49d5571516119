"""K1's kernel: one program a row, two passes over it; distillation.py says what it computes."""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import LN_2, SAFE_SUM, end_lanes, kl_terms, lane_sums, load_ends, load_groups, whole_groups


@triton.jit
def untempered(tempered, arguments, temperature, POWER: tl.constexpr):
    """e^(s - m) from 2^arguments = e^((s - m) / temperature): a power where the temperature is 1, 2, 3 or 4."""
    if POWER == 1:
        return tempered
    if POWER == 2:
        return tempered * tempered
    if POWER == 3:
        return tempered * tempered * tempered
    if POWER == 4:
        square = tempered * tempered
        return square * square
    return tl.exp2(arguments * temperature)


@triton.jit
def exponentials(s, t, scale, student_reference, teacher_reference, temperature, POWER: tl.constexpr, CE: tl.constexpr):
    """2^(scale x - reference) of both sides, and the student's at temperature 1 (0 unless CE)."""
    arguments = tl.fma(s, scale, -student_reference)
    tempered = tl.exp2(arguments)
    plain = tempered
    if CE:
        plain = untempered(tempered, arguments, temperature, POWER)
    return tempered, tl.exp2(tl.fma(t, scale, -teacher_reference)), plain


@triton.jit
def elements(
    s, t, teacher_end, scale, student_reference, teacher_reference, temperature, student_factor, teacher_factor,
    plain_factor, log2_offset, mse_factor, POWER: tl.constexpr, CE: tl.constexpr, MSE: tl.constexpr,
    KL_GRADIENT: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """Of some elements of a row: the gradient without the true class's -1, weighted KL terms, and s - t."""
    tempered, teacher_tempered, plain = exponentials(
        s, t, scale, student_reference, teacher_reference, temperature, POWER, CE
    )
    apart = s - t
    if teacher_end is not None:
        apart = tl.where(teacher_end > 0, apart, 0.0)
    terms, gradient = kl_terms(
        student_factor * tempered,
        teacher_factor * teacher_tempered,
        tl.fma(apart, scale, -log2_offset),
        PRECISE and KL_GRADIENT,
    )
    if not KL_GRADIENT:
        gradient = tl.zeros_like(gradient)
    if MSE:
        gradient = tl.fma(apart, mse_factor, gradient)
    if CE:
        gradient = tl.fma(plain, plain_factor, gradient)
    return gradient, terms, apart


@triton.jit
def groups_maximum(row, bias, first, end, readable_end, BLOCK: tl.constexpr, FULL: tl.constexpr, TAIL: tl.constexpr):
    """The largest element of the row's whole groups."""
    maximum = float("-inf")
    if FULL > 0:
        largest = load_groups(row, bias, first, end, readable_end, BLOCK, False, True)
        for index in range(1, FULL):
            start = first + index * BLOCK
            largest = tl.maximum(largest, load_groups(row, bias, start, end, readable_end, BLOCK, False, True))
        maximum = tl.max(largest)
    if TAIL > 0:
        rest = load_groups(row, bias, first + FULL * BLOCK, end, readable_end, TAIL, True, True)
        maximum = tl.maximum(maximum, tl.max(rest))
    return maximum


@triton.jit
def block_sums(
    student, teacher, student_bias, teacher_bias, start, end, teacher_end, scale, student_reference, teacher_reference,
    temperature, SIZE: tl.constexpr, REST: tl.constexpr, LANES: tl.constexpr, POWER: tl.constexpr, CE: tl.constexpr,
):  # fmt: skip
    """One block's share of the three sums of `exponentials`, each [LANES]."""
    s = load_groups(student, student_bias, start, end, None, SIZE, REST, True)
    t = load_groups(teacher, teacher_bias, start, end, teacher_end, SIZE, REST, True)
    tempered, teacher_tempered, plain = exponentials(
        s, t, scale, student_reference, teacher_reference, temperature, POWER, CE
    )
    student_sums = lane_sums(tempered, LANES)
    plain_sums = student_sums
    if CE and POWER != 1:
        plain_sums = lane_sums(plain, LANES)
    return student_sums, lane_sums(teacher_tempered, LANES), plain_sums


@triton.jit
def block_gradient(
    student, teacher, gradient, student_bias, teacher_bias, start, end, teacher_end, scale, student_reference,
    teacher_reference, temperature, student_factor, teacher_factor, plain_factor, log2_offset, mse_factor,
    SIZE: tl.constexpr, REST: tl.constexpr, LANES: tl.constexpr, POWER: tl.constexpr, CE: tl.constexpr,
    MSE: tl.constexpr, KL_GRADIENT: tl.constexpr, PRECISE: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Reads one block again and stores its gradient; its weighted KL terms and squared differences, each [LANES]."""
    s = load_groups(student, student_bias, start, end, None, SIZE, REST, False)
    t = load_groups(teacher, teacher_bias, start, end, teacher_end, SIZE, REST, False)
    values, terms, apart = elements(
        s, t, teacher_end, scale, student_reference, teacher_reference, temperature, student_factor, teacher_factor,
        plain_factor, log2_offset, mse_factor, POWER, CE, MSE, KL_GRADIENT, PRECISE,
    )  # fmt: skip
    lanes = start + tl.arange(0, SIZE)
    if STORE:
        values = values.to(gradient.dtype.element_ty)
        if REST:
            tl.store(gradient + lanes, values, mask=lanes < end, eviction_policy="evict_first")
        else:
            tl.store(gradient + lanes, values, eviction_policy="evict_first")
    kl = lane_sums(terms, LANES)
    mse = kl
    if MSE:
        if REST:
            apart = tl.where(lanes < end, apart, 0.0)
        mse = lane_sums(apart * apart, LANES)
    return kl, mse


@triton.jit
def loss_row(
    student, teacher, gradient, student_bias, teacher_bias, kl_out, ce_out, mse_out, head, label, weight, scale,
    temperature, kl_factor, ce_factor, mse_factor, V: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
    TAIL: tl.constexpr, LANES: tl.constexpr, HEADED: tl.constexpr, POWER: tl.constexpr, CE: tl.constexpr,
    MSE: tl.constexpr, KL_GRADIENT: tl.constexpr, PRECISE: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """One row that has a weight or, if CE, a label; the pointers are to its lane 0.

    A labelled row without weight does not read the teacher: its `teacher_end` is 0, otherwise a lane beyond the row's
    last; it is None where every row reads the teacher.
    """
    ENDS: tl.constexpr = HEADED or V % 8 != 0
    first, end = whole_groups(head, V, HEADED)
    teacher_end = None
    if CE:
        teacher_end = tl.where(weight != 0.0, (V + 15) // 8 * 8, 0)

    # The ends and the true class are read now: the gradient may overwrite either side.
    if ENDS:
        lanes, inside = end_lanes(head, V, HEADED)
        end_s = load_ends(student, student_bias, lanes, inside, None)
        end_t = load_ends(teacher, teacher_bias, lanes, inside, teacher_end)
    true_s = 0.0
    true_t = 0.0
    in_range = (label >= 0) & (label < V)
    if CE:
        true_s = tl.load(student + head + label, mask=in_range, other=float("nan")).to(tl.float32)
        true_t = tl.load(teacher + head + label, mask=in_range & (weight != 0.0), other=0.0).to(tl.float32)
        if student_bias is not None:
            true_s += tl.load(student_bias + label, mask=in_range, other=0.0)
        if teacher_bias is not None:
            true_t += tl.load(teacher_bias + label, mask=in_range, other=0.0)

    # Pass 1. The first block's maximum is the reference exponent: it is an element of the row, so no sum is below 1.
    # Should a sum overflow, the row's own maximum is, in a second attempt.
    if FULL > 0:
        student_maximum = tl.max(load_groups(student, student_bias, first, end, None, BLOCK, False, True))
        teacher_maximum = tl.max(load_groups(teacher, teacher_bias, first, end, teacher_end, BLOCK, False, True))
    else:
        student_maximum = groups_maximum(student, student_bias, first, end, None, BLOCK, FULL, TAIL)
        teacher_maximum = groups_maximum(teacher, teacher_bias, first, end, teacher_end, BLOCK, FULL, TAIL)
        if ENDS:
            student_maximum = tl.maximum(student_maximum, tl.max(end_s))
            teacher_maximum = tl.maximum(teacher_maximum, tl.max(end_t))
    student_reference = scale * student_maximum
    teacher_reference = scale * teacher_maximum
    student_sum = SAFE_SUM * 1.0
    teacher_sum = SAFE_SUM * 1.0
    plain_sum = SAFE_SUM * 1.0
    for attempt in range(2):
        if not ((student_sum < SAFE_SUM) & (teacher_sum < SAFE_SUM) & (plain_sum < SAFE_SUM)):
            if attempt > 0 and FULL > 0:
                student_maximum = groups_maximum(student, student_bias, first, end, None, BLOCK, FULL, TAIL)
                teacher_maximum = groups_maximum(teacher, teacher_bias, first, end, teacher_end, BLOCK, FULL, TAIL)
                if ENDS:
                    student_maximum = tl.maximum(student_maximum, tl.max(end_s))
                    teacher_maximum = tl.maximum(teacher_maximum, tl.max(end_t))
                student_reference = scale * student_maximum
                teacher_reference = scale * teacher_maximum
            student_lanes = tl.zeros([LANES], tl.float32)
            teacher_lanes = tl.zeros([LANES], tl.float32)
            plain_lanes = tl.zeros([LANES], tl.float32)
            for index in range(FULL):
                student_block, teacher_block, plain_block = block_sums(
                    student, teacher, student_bias, teacher_bias, first + index * BLOCK, end, teacher_end, scale,
                    student_reference, teacher_reference, temperature, BLOCK, False, LANES, POWER, CE,
                )  # fmt: skip
                student_lanes += student_block
                teacher_lanes += teacher_block
                plain_lanes += plain_block
            if TAIL > 0:
                student_block, teacher_block, plain_block = block_sums(
                    student, teacher, student_bias, teacher_bias, first + FULL * BLOCK, end, teacher_end, scale,
                    student_reference, teacher_reference, temperature, TAIL, True, LANES, POWER, CE,
                )  # fmt: skip
                student_lanes += student_block
                teacher_lanes += teacher_block
                plain_lanes += plain_block
            student_sum = tl.sum(student_lanes)
            teacher_sum = tl.sum(teacher_lanes)
            plain_sum = tl.sum(plain_lanes)
            if ENDS:
                tempered, teacher_tempered, plain = exponentials(
                    end_s, end_t, scale, student_reference, teacher_reference, temperature, POWER, CE
                )
                student_sum += tl.sum(tempered)
                teacher_sum += tl.sum(teacher_tempered)
                plain_sum += tl.sum(plain)

    # The weights go into one multiplier a side, so that p and q below already carry them.
    kl_weight = weight * kl_factor if KL_GRADIENT else weight
    student_factor = tl.div_rn(kl_weight, student_sum)
    teacher_factor = tl.div_rn(kl_weight, teacher_sum)
    log2_offset = (student_reference - teacher_reference) + tl.log2(tl.div_rn(student_sum, teacher_sum))
    mse_weight = 2.0 * weight * mse_factor
    plain_factor = tl.div_rn(ce_factor, plain_sum) if CE else 0.0

    # Pass 2, last block first: it is the likeliest to be in the cache still.
    kl_lanes = tl.zeros([LANES], tl.float32)
    mse_lanes = tl.zeros([LANES], tl.float32)
    if TAIL > 0:
        kl_block, mse_block = block_gradient(
            student, teacher, gradient, student_bias, teacher_bias, first + FULL * BLOCK, end, teacher_end,
            scale, student_reference, teacher_reference, temperature, student_factor, teacher_factor, plain_factor,
            log2_offset, mse_weight, TAIL, True, LANES, POWER, CE, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
        kl_lanes += kl_block
        mse_lanes += mse_block
    for back in range(FULL):
        kl_block, mse_block = block_gradient(
            student, teacher, gradient, student_bias, teacher_bias, first + (FULL - 1 - back) * BLOCK, end, teacher_end,
            scale, student_reference, teacher_reference, temperature, student_factor, teacher_factor, plain_factor,
            log2_offset, mse_weight, BLOCK, False, LANES, POWER, CE, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
        kl_lanes += kl_block
        mse_lanes += mse_block
    kl = tl.sum(kl_lanes)
    mse = tl.sum(mse_lanes)
    if ENDS:
        values, terms, apart = elements(
            end_s, end_t, teacher_end, scale, student_reference, teacher_reference, temperature, student_factor,
            teacher_factor, plain_factor, log2_offset, mse_weight, POWER, CE, MSE, KL_GRADIENT, PRECISE,
        )  # fmt: skip
        kl += tl.sum(terms)
        apart = tl.where(inside, apart, 0.0)
        mse += tl.sum(apart * apart)
        if STORE:
            tl.store(gradient + lanes, values.to(gradient.dtype.element_ty), mask=inside)

    if KL_GRADIENT:
        kl = kl / kl_factor
    if CE:
        kl = tl.where(weight != 0.0, kl, 0.0)
        ce = tl.fma(tl.fma(true_s, scale, -student_reference), -temperature, tl.log2(plain_sum)) * LN_2
        tl.store(ce_out, ce)
        if STORE:
            # Once more in full precision, after every other store: no element pays for a comparison with the label.
            value, _, _ = elements(
                true_s, true_t, teacher_end, scale, student_reference, teacher_reference, temperature, student_factor,
                teacher_factor, plain_factor, log2_offset, mse_weight, POWER, CE, MSE, KL_GRADIENT, PRECISE,
            )  # fmt: skip
            tl.debug_barrier()
            tl.store(gradient + head + label, (value - ce_factor).to(gradient.dtype.element_ty), mask=in_range)
    else:
        tl.store(ce_out, 0.0)
    tl.store(kl_out, kl)
    tl.store(mse_out, weight * mse if MSE else 0.0)


@triton.jit
def distillation_kernel(
    student,  # [N, V]
    teacher,  # [N, V]
    gradient,  # [N, V]; may be the teacher, or the student
    labels,  # int64 [N]
    weights,  # float32 [N]
    student_bias,  # float32 [V] or None
    teacher_bias,  # float32 [V] or None
    kl_scale,  # float32 []
    mlm_scale,  # float32 []
    kl_out,  # float32 [N]
    ce_out,  # float32 [N]
    mse_out,  # float32 [N]
    student_stride,
    teacher_stride,
    gradient_stride,
    phase,  # elements of the first row's first group that lie before it
    scale,  # log2(e) / temperature
    temperature,
    kl_alpha,  # alpha_ce * temperature
    mlm_alpha,
    mse_alpha,
    ignore_index,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
    FULL: tl.constexpr,
    TAIL: tl.constexpr,
    LANES: tl.constexpr,
    HEADED: tl.constexpr,
    POWER: tl.constexpr,
    MSE: tl.constexpr,
    KL_GRADIENT: tl.constexpr,
    PRECISE: tl.constexpr,
    STORE: tl.constexpr,
    TEACHER_ALIGNED: tl.constexpr,  # its rows start in the same place of a group as the student's
    GRADIENT_ALIGNED: tl.constexpr,
):
    index = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + index)
    weight = tl.load(weights + index)
    if HEADED:
        head = ((phase + index * student_stride) % 8).to(tl.int32)
    else:
        head: tl.constexpr = 0
    student = tl.multiple_of(student + (index * student_stride - head), 16)
    teacher += index * teacher_stride - head
    gradient += index * gradient_stride - head
    if TEACHER_ALIGNED:
        teacher = tl.multiple_of(teacher, 16)
    if GRADIENT_ALIGNED:
        gradient = tl.multiple_of(gradient, 16)
    kl_factor = kl_alpha * tl.load(kl_scale)
    ce_factor = mlm_alpha * tl.load(mlm_scale)
    mse_factor = mse_alpha * tl.load(kl_scale)
    # Most rows have no label: their body is the leaner one.
    if label != ignore_index:
        loss_row(
            student, teacher, gradient, student_bias, teacher_bias, kl_out + index, ce_out + index, mse_out + index,
            head, label, weight, scale, temperature, kl_factor, ce_factor, mse_factor, V, BLOCK, FULL, TAIL, LANES,
            HEADED, POWER, True, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
    elif weight != 0.0:
        loss_row(
            student, teacher, gradient, student_bias, teacher_bias, kl_out + index, ce_out + index, mse_out + index,
            head, label, weight, scale, temperature, kl_factor, ce_factor, mse_factor, V, BLOCK, FULL, TAIL, LANES,
            HEADED, POWER, False, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
    else:
        tl.store(kl_out + index, 0.0)
        tl.store(ce_out + index, 0.0)
        tl.store(mse_out + index, 0.0)
        if STORE:
            zero_row(gradient, head, V, BLOCK, FULL, TAIL, HEADED)


@triton.jit
def zero_row(
    gradient, head, V: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr, TAIL: tl.constexpr, HEADED: tl.constexpr
):
    first, end = whole_groups(head, V, HEADED)
    for index in range(FULL):
        lanes = first + index * BLOCK + tl.arange(0, BLOCK)
        tl.store(gradient + lanes, tl.zeros([BLOCK], gradient.dtype.element_ty))
    if TAIL > 0:
        lanes = first + FULL * BLOCK + tl.arange(0, TAIL)
        tl.store(gradient + lanes, tl.zeros([TAIL], gradient.dtype.element_ty), mask=lanes < end)
    if HEADED or V % 8 != 0:
        lanes, inside = end_lanes(head, V, HEADED)
        tl.store(gradient + lanes, (lanes * 0).to(gradient.dtype.element_ty), mask=inside)
