"""K1's kernel for several teachers: one program a row; several_teachers.py says what it computes.

It sums the exponentials of each side in turn, then reads all sides together for the gradient. KL has the same form as
with one teacher (rows.kl_terms): no term is negative, and none cancels against another.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import LN_2, LOG2_E, end_lanes, kl_terms, lane_sums, load_lanes, whole_groups

LOWEST = tl.constexpr(-3.4028234663852886e38)  # not -inf: differences from it are never NaN


@triton.jit
def running_sum(total, maximum, values, scale):
    """`total`, of 2^(scale (x - maximum)) over some x, when `values` join them: one exponential an element."""
    distance = (values - maximum) * scale
    power = tl.exp2(-tl.abs(distance))
    return tl.where(distance > 0.0, tl.fma(total, power, 1.0), total + power)


@triton.jit
def row_sums(
    row, bias, head, readable_end, scale, blocks, V: tl.constexpr, BLOCK: tl.constexpr, HEADED: tl.constexpr,
    PLAIN: tl.constexpr,
):  # fmt: skip
    """A row's maximum m and its sums of 2^(scale (x - m)) and, if PLAIN, of e^(x - m)."""
    first, end = whole_groups(head, V, HEADED)
    maximum = tl.full([BLOCK], LOWEST, tl.float32)
    tempered = tl.zeros([BLOCK], tl.float32)
    plain = tl.zeros([BLOCK], tl.float32)
    for index in range(blocks):
        lanes = first + index * BLOCK + tl.arange(0, BLOCK)
        values = load_lanes(row, bias, lanes, lanes < end, readable_end, True)
        tempered = running_sum(tempered, maximum, values, scale)
        if PLAIN:
            plain = running_sum(plain, maximum, values, LOG2_E)
        maximum = tl.maximum(maximum, values)
    largest = tl.max(maximum)
    if HEADED or V % 8 != 0:
        ends, inside = end_lanes(head, V, HEADED)
        end_values = load_lanes(row, bias, ends, inside, readable_end, True)
        largest = tl.maximum(largest, tl.max(end_values))
    below = maximum - largest
    tempered_sum = tl.sum(tempered * tl.exp2(below * scale))
    plain_sum = tempered_sum
    if PLAIN:
        plain_sum = tl.sum(plain * tl.exp2(below * LOG2_E))
    if HEADED or V % 8 != 0:
        tempered_sum += tl.sum(tl.exp2((end_values - largest) * scale))
        if PLAIN:
            plain_sum += tl.sum(tl.exp2((end_values - largest) * LOG2_E))
    return largest, tempered_sum, plain_sum


@triton.jit
def some_gradient(
    student, teachers, gradient, student_bias, teacher_biases, lanes, inside, teacher_end, true_lane, scale,
    student_maximum, student_base, student_factor, plain_factor, maxima, bases, factors, offsets, shares, kl_factor,
    mse_factor, ce_factor, COUNT: tl.constexpr, LANES: tl.constexpr, CE: tl.constexpr, MSE: tl.constexpr,
    STORE: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Reads some lanes of all sides again and stores their gradient; their KL terms and squared differences, summed."""
    s = load_lanes(student, student_bias, lanes, inside, None, False)
    p = tl.exp2((s - student_maximum) * scale) * student_factor
    q = tl.zeros_like(s)
    # The teacher that gives a class most: log2(p / q) = log2(p / most) - log2(q / most), and s - t is exact for a
    # student close to it.
    most = q - 1.0
    log2_ratio = q
    apart_mean = q
    squares = q
    for k in tl.static_range(COUNT):
        bias = None
        if BIASED:
            bias = teacher_biases[k]
        t = load_lanes(teachers[k], bias, lanes, inside, teacher_end, False)
        share = tl.exp2((t - maxima[k]) * scale) * factors[k]
        more = share > most
        from_bases = (s - student_base) - (t - bases[k])
        log2_ratio = tl.where(more, tl.fma(from_bases, scale, offsets[k]), log2_ratio)
        most = tl.where(more, share, most)
        q += share
        if MSE:
            apart = tl.where(inside, s - t, 0.0)
            if teacher_end is not None:
                apart = tl.where(teacher_end > 0, apart, 0.0)
            squares += shares[k] * (apart * apart)
            apart_mean += shares[k] * apart
    # A class that no teacher allows gives p, whatever the ratio is.
    log2_ratio = tl.where(q > 0.0, log2_ratio - tl.log2(q / most), 1e30)
    terms, difference = kl_terms(p, q, log2_ratio, True)
    if STORE:
        values = kl_factor * difference
        if MSE:
            values = tl.fma(apart_mean, mse_factor, values)
        if CE:
            plain = tl.exp2((s - student_maximum) * LOG2_E) * plain_factor
            values += ce_factor * (plain - (lanes == true_lane).to(tl.float32))
        values = values.to(gradient.dtype.element_ty)
        tl.store(gradient + lanes, values, mask=inside, eviction_policy="evict_first")
    return lane_sums(terms, LANES), lane_sums(squares, LANES)


@triton.jit
def several_row(
    student, teachers, gradient, student_bias, teacher_biases, shares, kl_out, ce_out, mse_out, head, label, weight,
    scale, kl_factor, ce_factor, mse_factor, blocks, V: tl.constexpr, COUNT: tl.constexpr, BLOCK: tl.constexpr,
    LANES: tl.constexpr, HEADED: tl.constexpr, CE: tl.constexpr, MSE: tl.constexpr, STORE: tl.constexpr,
    BIASED: tl.constexpr,
):  # fmt: skip
    """One row that has a weight or, if CE, a label; the pointers are to its lane 0."""
    first, end = whole_groups(head, V, HEADED)
    # The teachers' logits in a labelled row of weight 0 may be anything, and are not read.
    teacher_end = None
    if CE:
        teacher_end = tl.where(weight != 0.0, (V + 15) // 8 * 8, 0)
    student_maximum, student_sum, plain_sum = row_sums(
        student, student_bias, head, None, scale, blocks, V, BLOCK, HEADED, CE
    )
    maxima = ()
    sums = ()
    furthest = scale * 0.0
    for k in tl.static_range(COUNT):
        bias = None
        if BIASED:
            bias = teacher_biases[k]
        teacher_maximum, teacher_sum, _ = row_sums(
            teachers[k], bias, head, teacher_end, scale, blocks, V, BLOCK, HEADED, False
        )
        maxima = maxima + (teacher_maximum,)  # noqa: RUF005
        sums = sums + (teacher_sum,)  # noqa: RUF005
        furthest = tl.maximum(furthest, tl.abs(student_maximum - teacher_maximum))
    # Sides that lie far apart as a whole are each brought near 0 first: s - t itself would round by their distance.
    # Otherwise the bases are 0, and s - t is exact where s is close to t.
    far = furthest > 16.0
    student_base = tl.where(far, student_maximum, 0.0)
    bases = ()
    factors = ()
    offsets = ()
    for k in tl.static_range(COUNT):
        base = tl.where(far, maxima[k], 0.0)
        offset = scale * ((maxima[k] - base) - (student_maximum - student_base))
        offset -= tl.log2(tl.div_rn(student_sum * shares[k], sums[k]))
        bases = bases + (base,)  # noqa: RUF005
        factors = factors + (tl.div_rn(shares[k], sums[k]),)  # noqa: RUF005
        offsets = offsets + (offset,)  # noqa: RUF005
    student_factor = tl.div_rn(1.0, student_sum)

    true_lane = -1
    plain_factor = 0.0
    if CE:
        plain_factor = tl.div_rn(1.0, plain_sum)
        # A label outside of the row gives NaN.
        in_range = (label >= 0) & (label < V)
        true_lane = tl.where(in_range, label + head, -1).to(tl.int32)
        true_s = tl.load(student + true_lane, mask=in_range, other=float("nan")).to(tl.float32)
        if BIASED:
            true_s += tl.load(student_bias + true_lane, mask=in_range, other=0.0)
        tl.store(ce_out, tl.fma(tl.log2(plain_sum), LN_2, student_maximum - true_s))
    else:
        tl.store(ce_out, 0.0)

    kl_lanes = tl.zeros([LANES], tl.float32)
    mse_lanes = tl.zeros([LANES], tl.float32)
    for back in range(blocks):
        lanes = first + (blocks - 1 - back) * BLOCK + tl.arange(0, BLOCK)
        kl_some, mse_some = some_gradient(
            student, teachers, gradient, student_bias, teacher_biases, lanes, lanes < end, teacher_end, true_lane,
            scale, student_maximum, student_base, student_factor, plain_factor, maxima, bases, factors, offsets,
            shares, kl_factor, mse_factor, ce_factor, COUNT, LANES, CE, MSE, STORE, BIASED,
        )  # fmt: skip
        kl_lanes += kl_some
        mse_lanes += mse_some
    kl = tl.sum(kl_lanes)
    mse = tl.sum(mse_lanes)
    if HEADED or V % 8 != 0:
        ends, inside = end_lanes(head, V, HEADED)
        kl_some, mse_some = some_gradient(
            student, teachers, gradient, student_bias, teacher_biases, ends, inside, teacher_end, true_lane, scale,
            student_maximum, student_base, student_factor, plain_factor, maxima, bases, factors, offsets, shares,
            kl_factor, mse_factor, ce_factor, COUNT, 0, CE, MSE, STORE, BIASED,
        )  # fmt: skip
        kl += kl_some
        mse += mse_some
    tl.store(kl_out, tl.where(weight != 0.0, weight * kl, 0.0))
    tl.store(mse_out, weight * mse)


@triton.jit
def several_teachers_kernel(
    student,  # [N, V]
    teachers,  # a tuple of [N, V]
    gradient,  # [N, V]; may be the student
    labels,  # int64 [N]
    weights,  # float32 [N]
    student_bias,  # float32 [V]
    teacher_biases,  # a tuple of float32 [V]
    kl_scale,  # float32 []
    mlm_scale,  # float32 []
    kl_out,  # float32 [N]
    ce_out,  # float32 [N]
    mse_out,  # float32 [N]
    student_stride,
    teacher_strides,  # a tuple
    gradient_stride,
    shares,  # a tuple of floats that sum to 1
    phase,  # elements of the first row's first group that lie before it
    scale,  # log2(e) / temperature
    kl_alpha,  # alpha_ce * temperature
    mlm_alpha,
    mse_alpha,
    ignore_index,
    blocks,
    V: tl.constexpr,
    COUNT: tl.constexpr,  # teachers
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    HEADED: tl.constexpr,
    MSE: tl.constexpr,
    STORE: tl.constexpr,
    BIASED: tl.constexpr,  # otherwise both biases are None
    TEACHERS_ALIGNED: tl.constexpr,  # bit k: rows of teacher k start in the same place of a group as the student's
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
    gradient += index * gradient_stride - head
    if GRADIENT_ALIGNED:
        gradient = tl.multiple_of(gradient, 16)
    rows = ()
    for k in tl.static_range(COUNT):
        row = teachers[k] + (index * teacher_strides[k] - head)
        if (TEACHERS_ALIGNED >> k) % 2 == 1:
            row = tl.multiple_of(row, 16)
        rows = rows + (row,)  # noqa: RUF005
    kl_factor = weight * kl_alpha * tl.load(kl_scale)
    mse_factor = 2.0 * weight * mse_alpha * tl.load(kl_scale)
    if label != ignore_index:
        several_row(
            student, rows, gradient, student_bias, teacher_biases, shares, kl_out + index, ce_out + index,
            mse_out + index, head, label, weight, scale, kl_factor, mlm_alpha * tl.load(mlm_scale), mse_factor, blocks,
            V, COUNT, BLOCK, LANES, HEADED, True, MSE, STORE, BIASED,
        )  # fmt: skip
    elif weight != 0.0:
        several_row(
            student, rows, gradient, student_bias, teacher_biases, shares, kl_out + index, ce_out + index,
            mse_out + index, head, label, weight, scale, kl_factor, 0.0, mse_factor, blocks, V, COUNT, BLOCK, LANES,
            HEADED, False, MSE, STORE, BIASED,
        )  # fmt: skip
    else:
        tl.store(kl_out + index, 0.0)
        tl.store(ce_out + index, 0.0)
        tl.store(mse_out + index, 0.0)
        if STORE:
            first, end = whole_groups(head, V, HEADED)
            for block in range(blocks):
                lanes = first + block * BLOCK + tl.arange(0, BLOCK)
                tl.store(gradient + lanes, tl.zeros([BLOCK], gradient.dtype.element_ty), mask=lanes < end)
            if HEADED or V % 8 != 0:
                ends, inside = end_lanes(head, V, HEADED)
                tl.store(gradient + ends, (ends * 0).to(gradient.dtype.element_ty), mask=inside)
