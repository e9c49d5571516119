"""K1's kernel: one program a row, two passes over it; distillation.py says what it computes."""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import LN_2, SAFE_SUM, end_lanes, kl_terms, lane_sums, load_lanes, whole_groups


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
    s, t, teacher_end, scale, student_maximum, teacher_maximum, student_base, teacher_base, temperature,
    student_factor, teacher_factor, plain_factor, log2_offset, mse_factor, POWER: tl.constexpr, CE: tl.constexpr,
    MSE: tl.constexpr, KL_GRADIENT: tl.constexpr, PRECISE: tl.constexpr,
):  # fmt: skip
    """Of some elements of a row: the gradient without the true class's -1, weighted KL terms, and s - t."""
    tempered, teacher_tempered, plain = exponentials(
        s, t, scale, scale * student_maximum, scale * teacher_maximum, temperature, POWER, CE
    )
    apart = s - t
    from_bases = apart
    if PRECISE:
        # Rows that lie far apart as a whole are each brought near 0 first: s - t itself would round by their distance.
        # Otherwise the bases are 0, and s - t is exact where s is close to t. (Differences of 16-bit logits are, too.)
        from_bases = (s - student_base) - (t - teacher_base)
    if teacher_end is not None:
        apart = tl.where(teacher_end > 0, apart, 0.0)
        from_bases = tl.where(teacher_end > 0, from_bases, 0.0)
    terms, gradient = kl_terms(
        student_factor * tempered,
        teacher_factor * teacher_tempered,
        tl.fma(from_bases, scale, -log2_offset),
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
def row_maximum(
    row, head, readable_end, full_blocks, V: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr,
    TAIL: tl.constexpr, HEADED: tl.constexpr,
):  # fmt: skip
    """The row's largest element: only short rows, and rows that their first block misjudges, pay for it."""
    first, end = whole_groups(head, V, HEADED)
    maximum = float("-inf")
    # A reduction in each step keeps the compiler from unrolling the loop, for which registers would be spilled.
    for index in range(full_blocks if FULL > 0 else 0):
        lanes = first + index * BLOCK + tl.arange(0, BLOCK)
        maximum = tl.maximum(maximum, tl.max(load_lanes(row, lanes, None, readable_end, True)))
    if TAIL > 0:
        tail = first + FULL * BLOCK + tl.arange(0, TAIL)
        maximum = tl.maximum(maximum, tl.max(load_lanes(row, tail, tail < end, readable_end, True)))
    if HEADED or V % 8 != 0:
        ends, inside = end_lanes(head, V, HEADED)
        maximum = tl.maximum(maximum, tl.max(load_lanes(row, ends, inside, readable_end, True)))
    return maximum


@triton.jit
def some_sums(
    student, teacher, lanes, inside, teacher_end, scale, student_reference,
    teacher_reference, temperature, LANES: tl.constexpr, POWER: tl.constexpr, CE: tl.constexpr,
):  # fmt: skip
    """Some lanes' share of the three sums of `exponentials`."""
    s = load_lanes(student, lanes, inside, None, True)
    t = load_lanes(teacher, lanes, inside, teacher_end, True)
    tempered, teacher_tempered, plain = exponentials(
        s, t, scale, student_reference, teacher_reference, temperature, POWER, CE
    )
    student_sums = lane_sums(tempered, LANES)
    plain_sums = student_sums
    if CE and POWER != 1:
        plain_sums = lane_sums(plain, LANES)
    return student_sums, lane_sums(teacher_tempered, LANES), plain_sums


@triton.jit
def some_gradient(
    student, teacher, gradient, lanes, inside, teacher_end, scale, student_maximum,
    teacher_maximum, student_base, teacher_base, temperature, student_factor, teacher_factor, plain_factor,
    log2_offset, mse_factor, LANES: tl.constexpr, POWER: tl.constexpr, CE: tl.constexpr, MSE: tl.constexpr,
    KL_GRADIENT: tl.constexpr, PRECISE: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """Reads some lanes again and stores their gradient; their weighted KL terms and squared differences, summed."""
    s = load_lanes(student, lanes, inside, None, False)
    t = load_lanes(teacher, lanes, inside, teacher_end, False)
    values, terms, apart = elements(
        s, t, teacher_end, scale, student_maximum, teacher_maximum, student_base, teacher_base, temperature,
        student_factor, teacher_factor, plain_factor, log2_offset, mse_factor, POWER, CE, MSE, KL_GRADIENT, PRECISE,
    )  # fmt: skip
    if STORE:
        values = values.to(gradient.dtype.element_ty)
        if inside is None:
            tl.store(gradient + lanes, values, eviction_policy="evict_first")
        else:
            tl.store(gradient + lanes, values, mask=inside, eviction_policy="evict_first")
    kl = lane_sums(terms, LANES)
    mse = kl
    if MSE:
        if inside is not None:
            apart = tl.where(inside, apart, 0.0)
        mse = lane_sums(apart * apart, LANES)
    return kl, mse


@triton.jit
def loss_row(
    student, teacher, gradient, kl_out, ce_out, mse_out, head, label, weight, scale,
    temperature, kl_factor, ce_factor, mse_factor, full_blocks, V: tl.constexpr, BLOCK: tl.constexpr,
    FULL: tl.constexpr, TAIL: tl.constexpr, LANES: tl.constexpr, HEADED: tl.constexpr, POWER: tl.constexpr,
    CE: tl.constexpr, MSE: tl.constexpr, KL_GRADIENT: tl.constexpr, PRECISE: tl.constexpr, STORE: tl.constexpr,
):  # fmt: skip
    """One row that has a weight or, if CE, a label; the pointers are to its lane 0.

    A labelled row without weight does not read the teacher: its `teacher_end` is 0, otherwise a lane beyond the row's
    last; it is None where every row reads the teacher.
    """
    first, end = whole_groups(head, V, HEADED)
    block = first + tl.arange(0, BLOCK)
    teacher_end = None
    if CE:
        teacher_end = tl.where(weight != 0.0, (V + 15) // 8 * 8, 0)

    # Pass 1. The first block's maximum is the reference of the exponents: it is an element of the row, so no sum is
    # below 1. Should a sum overflow, a second attempt takes the row's own maximum.
    student_maximum = scale * 0.0
    teacher_maximum = scale * 0.0
    if FULL > 0:
        student_maximum = tl.max(load_lanes(student, block, None, None, True))
        teacher_maximum = tl.max(load_lanes(teacher, block, None, teacher_end, True))
    student_sum = scale * 0.0 + SAFE_SUM
    teacher_sum = student_sum
    plain_sum = student_sum
    for attempt in range(1 if FULL == 0 else 0, 2):
        if not ((student_sum < SAFE_SUM) & (teacher_sum < SAFE_SUM) & (plain_sum < SAFE_SUM)):
            if attempt > 0:
                student_maximum = row_maximum(student, head, None, full_blocks, V, BLOCK, FULL, TAIL, HEADED)
                teacher_maximum = row_maximum(teacher, head, teacher_end, full_blocks, V, BLOCK, FULL, TAIL, HEADED)
            student_reference = scale * student_maximum
            teacher_reference = scale * teacher_maximum
            student_lanes = tl.zeros([LANES], tl.float32)
            teacher_lanes = tl.zeros([LANES], tl.float32)
            plain_lanes = tl.zeros([LANES], tl.float32)
            for index in range(full_blocks if FULL > 0 else 0):
                student_some, teacher_some, plain_some = some_sums(
                    student, teacher, block + index * BLOCK, None, teacher_end, scale,
                    student_reference, teacher_reference, temperature, LANES, POWER, CE,
                )  # fmt: skip
                student_lanes += student_some
                teacher_lanes += teacher_some
                plain_lanes += plain_some
            if TAIL > 0:
                tail = first + FULL * BLOCK + tl.arange(0, TAIL)
                student_some, teacher_some, plain_some = some_sums(
                    student, teacher, tail, tail < end, teacher_end, scale,
                    student_reference, teacher_reference, temperature, LANES, POWER, CE,
                )  # fmt: skip
                student_lanes += student_some
                teacher_lanes += teacher_some
                plain_lanes += plain_some
            student_sum = tl.sum(student_lanes)
            teacher_sum = tl.sum(teacher_lanes)
            plain_sum = tl.sum(plain_lanes)
            if HEADED or V % 8 != 0:
                ends, inside = end_lanes(head, V, HEADED)
                student_total, teacher_total, plain_total = some_sums(
                    student, teacher, ends, inside, teacher_end, scale,
                    student_reference, teacher_reference, temperature, 0, POWER, CE,
                )  # fmt: skip
                student_sum += student_total
                teacher_sum += teacher_total
                plain_sum += plain_total

    # The weights go into one multiplier a side, so that p and q below already carry them.
    kl_weight = weight * kl_factor if KL_GRADIENT else weight
    student_factor = tl.div_rn(kl_weight, student_sum)
    teacher_factor = tl.div_rn(kl_weight, teacher_sum)
    log2_offset = tl.log2(tl.div_rn(student_sum, teacher_sum))
    student_base = 0.0
    teacher_base = 0.0
    if PRECISE:
        far = tl.abs(student_maximum - teacher_maximum) > 16.0
        student_base = tl.where(far, student_maximum, 0.0)
        teacher_base = tl.where(far, teacher_maximum, 0.0)
        log2_offset -= tl.fma(student_base, scale, -(scale * student_maximum))
        log2_offset += tl.fma(teacher_base, scale, -(scale * teacher_maximum))
    else:
        log2_offset += scale * student_maximum - scale * teacher_maximum
    mse_weight = 2.0 * weight * mse_factor
    plain_factor = tl.div_rn(ce_factor, plain_sum) if CE else 0.0

    # The true class, while both sides are whole: the gradient may overwrite either.
    true_gradient = 0.0
    true_lane = -1
    if CE:
        in_range = (label >= 0) & (label < V)
        true_lane = tl.where(in_range, label + head, -1).to(tl.int32)
        true_s = tl.load(student + true_lane, mask=in_range, other=float("nan")).to(tl.float32)
        true_t = tl.load(teacher + true_lane, mask=in_range & (weight != 0.0), other=0.0).to(tl.float32)
        # Every warp reads them: none may store its part of the gradient over them before the last has.
        tl.debug_barrier()
        ce = tl.fma(tl.fma(true_s, scale, -scale * student_maximum), -temperature, tl.log2(plain_sum)) * LN_2
        tl.store(ce_out, ce)
        true_gradient, _, _ = elements(
            true_s, true_t, teacher_end, scale, student_maximum, teacher_maximum, student_base, teacher_base,
            temperature, student_factor, teacher_factor, plain_factor, log2_offset, mse_weight, POWER, CE, MSE,
            KL_GRADIENT, PRECISE,
        )  # fmt: skip
        true_gradient -= ce_factor
    else:
        tl.store(ce_out, 0.0)

    # Pass 2, last block first: it is the likeliest to be in the cache still.
    kl_lanes = tl.zeros([LANES], tl.float32)
    mse_lanes = tl.zeros([LANES], tl.float32)
    if TAIL > 0:
        tail = first + FULL * BLOCK + tl.arange(0, TAIL)
        kl_some, mse_some = some_gradient(
            student, teacher, gradient, tail, tail < end, teacher_end, scale,
            student_maximum, teacher_maximum, student_base, teacher_base, temperature, student_factor,
            teacher_factor, plain_factor, log2_offset, mse_weight, LANES, POWER, CE, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
        kl_lanes += kl_some
        mse_lanes += mse_some
    for back in range(full_blocks if FULL > 0 else 0):
        lanes = block + (full_blocks - 1 - back) * BLOCK
        kl_some, mse_some = some_gradient(
            student, teacher, gradient, lanes, None, teacher_end, scale,
            student_maximum, teacher_maximum, student_base, teacher_base, temperature, student_factor,
            teacher_factor, plain_factor, log2_offset, mse_weight, LANES, POWER, CE, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
        kl_lanes += kl_some
        mse_lanes += mse_some
    kl = tl.sum(kl_lanes)
    mse = tl.sum(mse_lanes)
    if HEADED or V % 8 != 0:
        ends, inside = end_lanes(head, V, HEADED)
        kl_total, mse_total = some_gradient(
            student, teacher, gradient, ends, inside, teacher_end, scale,
            student_maximum, teacher_maximum, student_base, teacher_base, temperature, student_factor,
            teacher_factor, plain_factor, log2_offset, mse_weight, 0, POWER, CE, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
        kl += kl_total
        mse += mse_total

    if KL_GRADIENT:
        kl = kl / kl_factor
    if CE:
        kl = tl.where(weight != 0.0, kl, 0.0)
        if STORE:
            # After every other store: so no element pays for a comparison with the label.
            tl.debug_barrier()
            tl.store(gradient + true_lane, true_gradient.to(gradient.dtype.element_ty), mask=true_lane >= 0)
    tl.store(kl_out, kl)
    tl.store(mse_out, weight * mse if MSE else 0.0)


@triton.jit
def zero_row(
    gradient, head, full_blocks, V: tl.constexpr, BLOCK: tl.constexpr, FULL: tl.constexpr, TAIL: tl.constexpr,
    HEADED: tl.constexpr,
):  # fmt: skip
    first, end = whole_groups(head, V, HEADED)
    for index in range(full_blocks if FULL > 0 else 0):
        lanes = first + index * BLOCK + tl.arange(0, BLOCK)
        tl.store(gradient + lanes, tl.zeros([BLOCK], gradient.dtype.element_ty))
    if TAIL > 0:
        tail = first + FULL * BLOCK + tl.arange(0, TAIL)
        tl.store(gradient + tail, tl.zeros([TAIL], gradient.dtype.element_ty), mask=tail < end)
    if HEADED or V % 8 != 0:
        ends, inside = end_lanes(head, V, HEADED)
        tl.store(gradient + ends, (ends * 0).to(gradient.dtype.element_ty), mask=inside)


@triton.jit
def distillation_kernel(
    student,  # [N, V]
    teacher,  # [N, V]
    gradient,  # [N, V]; may be the teacher, or the student
    labels,  # int64 [N]
    weights,  # float32 [N]
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
    full_blocks,  # FULL: loops whose count the compiler knows are unrolled, and spill
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
            student, teacher, gradient, kl_out + index, ce_out + index, mse_out + index,
            head, label, weight, scale, temperature, kl_factor, ce_factor, mse_factor, full_blocks, V, BLOCK, FULL,
            TAIL, LANES, HEADED, POWER, True, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
    elif weight != 0.0:
        loss_row(
            student, teacher, gradient, kl_out + index, ce_out + index, mse_out + index,
            head, label, weight, scale, temperature, kl_factor, ce_factor, mse_factor, full_blocks, V, BLOCK, FULL,
            TAIL, LANES, HEADED, POWER, False, MSE, KL_GRADIENT, PRECISE, STORE,
        )  # fmt: skip
    else:
        tl.store(kl_out + index, 0.0)
        tl.store(ce_out + index, 0.0)
        tl.store(mse_out + index, 0.0)
        if STORE:
            zero_row(gradient, head, full_blocks, V, BLOCK, FULL, TAIL, HEADED)
