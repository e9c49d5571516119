"""What the row kernels share: walking a row in whole 16-byte groups wherever it starts, and the safe KL term.

A row of a [N, V] matrix starts at a 16-byte address only if the row stride is a multiple of eight: rows of 30,522
bfloat16 logits start 4 bytes off, and a kernel that says nothing about it gets 2-byte accesses throughout. Here lane
`o` of a row is its element `o - head`, with `head` in [0, 8) the elements of the row's first group of eight that belong
to the row before. The whole groups between the row's ends are walked in blocks, all of 16-byte accesses; what is left
at the two ends, at most 14 elements, is read and written one by one.
"""

from __future__ import annotations

import triton
import triton.language as tl

MINUS_INFINITY = tl.constexpr(float("-inf"))
LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

# phi(u) / x^2 for u = x ln 2 and |u| < 1/2, phi(u) = e^u - 1 - u: minimax polynomial in x, relative error <= 7.8e-7.
PHI_BOUND = tl.constexpr(0.7213475204444817)  # |x| where |u| = 1/2
PHI_0 = tl.constexpr(0.24022649228572845)
PHI_1 = tl.constexpr(0.05550282076001167)
PHI_2 = tl.constexpr(0.00961831584572792)
PHI_3 = tl.constexpr(0.0013432884588837624)
PHI_4 = tl.constexpr(0.00015432103828061372)

# A sum of exponentials beyond this means that the reference exponent was far below the row's maximum.
SAFE_SUM = tl.constexpr(1152921504606846976.0)  # 2^60


@triton.jit
def whole_groups(head, V: tl.constexpr, HEADED: tl.constexpr):
    """First lane of the whole groups, and the lane after their last."""
    if HEADED:
        first: tl.constexpr = 8
        end = tl.multiple_of((head + V) // 8 * 8, 8)
    else:
        first: tl.constexpr = 0
        end: tl.constexpr = V // 8 * 8
    return first, end


@triton.jit
def end_lanes(head, V: tl.constexpr, HEADED: tl.constexpr):
    """The lanes of the row's first and last group (of the last alone if not HEADED), and which of them count."""
    _, floor = whole_groups(head, V, HEADED)
    if HEADED:
        if V < 8:
            floor = 16 - floor  # 8, or for a row within one group 16: its lanes then count in the first half alone
        index = tl.arange(0, 16)
        lanes = tl.where(index < 8, index, index + (floor - 8))
        inside = (lanes >= head) & (lanes < head + V)
    else:
        lanes = tl.arange(0, 8) + floor
        inside = lanes < V
    return lanes, inside


@triton.jit
def load_lanes(row, lanes, inside, readable_end, KEEP: tl.constexpr):
    """Those lanes of a row in float32, -inf where not `inside` (None: all are).

    `readable_end` is None, or a lane: those from it on are not read and are 0. KEEP: to be read again.
    """
    policy: tl.constexpr = "evict_last" if KEEP else "evict_first"
    readable = inside
    if readable_end is not None:
        readable = lanes < readable_end
        if inside is not None:
            readable = readable & inside
    if readable is None:
        values = tl.load(row + lanes, eviction_policy=policy).to(tl.float32)
    else:
        values = tl.load(row + lanes, mask=readable, other=0.0, eviction_policy=policy).to(tl.float32)
    if inside is not None:
        values = tl.where(inside, values, MINUS_INFINITY)
    return values


@triton.jit
def lane_sums(values, LANES: tl.constexpr):
    """Sums of neighbouring values, [LANES]: neighbours lie in one thread, so no thread waits for another.

    LANES = 0 gives their total.
    """
    if LANES == 0:
        sums = tl.sum(values)
    elif values.shape[0] == LANES:
        sums = values
    else:
        sums = tl.sum(tl.reshape(values, (LANES, values.shape[0] // LANES)), 1)
    return sums


@triton.jit
def kl_terms(p, q, log2_ratio, PRECISE: tl.constexpr):
    """q phi(u) and p - q, for u = ln(p / q) = log2_ratio ln 2; the sum over a row of the first is KL(q || p).

    phi(u) = e^u - 1 - u >= 0, so that no term is negative and none cancels against another. Where |u| < 1/2 it comes
    from a polynomial, otherwise from (p - q) - q u. A class with q = 0 gives p whatever its log-ratio says. With
    PRECISE the difference p - q comes from the polynomial too, which keeps its digits when p is close to q.
    """
    # Not tl.minimum: this form also turns NaN (-inf in both rows) into the bound.
    x = tl.where(log2_ratio < 1e30, log2_ratio, 1e30)
    qx = q * x
    series = tl.fma(x, PHI_4, PHI_3)
    series = tl.fma(x, series, PHI_2)
    series = tl.fma(x, series, PHI_1)
    series = tl.fma(x, series, PHI_0)
    near = (qx * x) * series
    difference = p - q
    small = tl.abs(x) < PHI_BOUND
    terms = tl.where(small, near, tl.fma(qx, -LN_2, difference))
    if PRECISE:
        difference = tl.where(small, tl.fma(qx, LN_2, near), difference)
    return terms, difference
