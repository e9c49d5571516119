//! The two sweeps over a block of a row: sums of exponentials, then loss and gradient. Written once over [`Simd`]; all of
//! it is inlined into functions compiled for an instruction set.

use super::simd::{self, MAX_LANES, Simd};

/// Columns of a block: student, teacher and gradient together stay in the first-level cache.
pub const BLOCK: usize = 1024;

/// How `exp(s)` follows from `exp(s / T)`, for the cross-entropy.
pub const NO_CE: u8 = 0;
/// T = 1: they are equal.
pub const CE_EQUAL: u8 = 1;
/// T = 2: it is the square.
pub const CE_SQUARE: u8 = 2;
/// Any other T: one more exponential.
pub const CE_GENERAL: u8 = 3;

/// The cheapest form for a temperature.
#[expect(clippy::float_cmp, reason = "the cheaper forms hold for exactly these")]
pub fn ce_form(temperature: f32) -> u8 {
    if temperature == 1.0 {
        CE_EQUAL
    } else if temperature == 2.0 {
        CE_SQUARE
    } else {
        CE_GENERAL
    }
}

/// Where the current row's counterpart in the next row lies, to have it in the cache in time.
#[derive(Clone, Copy)]
pub struct Ahead {
    /// Address of the same column in the next row.
    pub address: *const u8,
    /// Bytes of one number there.
    pub element_size: usize,
}

impl Ahead {
    /// The same, `columns` further on.
    #[inline(always)]
    pub fn skip(self, columns: usize) -> Self {
        Self { address: self.address.wrapping_add(columns * self.element_size), ..self }
    }
}

/// One exponential per column: `2^(factor * x - offset)`.
#[derive(Clone, Copy)]
pub struct Exponent {
    /// `log2(e) / T`.
    pub factor: f32,
    /// `factor` times the reference logit.
    pub offset: f32,
}

/// The largest value of a block; -inf for none, NaNs may be passed over.
#[inline(always)]
pub fn block_max<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let mut largest = simd.splat(f32::NEG_INFINITY);
    let chunks = x.chunks_exact(S::LANES);
    let tail = chunks.remainder();
    for chunk in chunks {
        // In this order x86 keeps `largest` where the new value is NaN.
        largest = simd.max(simd.load(chunk), largest);
    }
    let largest = simd::max(simd, largest);
    tail.iter().fold(largest, |a, &b| if b > a { b } else { a })
}

/// Sum over a block of `2^(factor * x - offset)` and, for the cross-entropy, of `2^(unscaled)`.
#[inline(always)]
pub fn exp_sums<S: Simd, const CE: u8>(simd: S, x: &[f32], scaled: Exponent, unscaled: Exponent) -> (f64, f64) {
    let mut sum = simd.splat(0.0);
    let mut sum_unscaled = simd.splat(0.0);
    let chunks = x.chunks_exact(S::LANES);
    let mut tail = [f32::NEG_INFINITY; MAX_LANES];
    tail[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    for chunk in chunks {
        let x = simd.load(chunk);
        let e = exponential(simd, x, scaled);
        sum = simd.add(sum, e);
        if CE != NO_CE {
            sum_unscaled = simd.add(sum_unscaled, unscale::<S, CE>(simd, x, e, unscaled));
        }
    }
    // Padded with -inf, whose exponential is 0.
    let x = simd.load(&tail);
    let e = exponential(simd, x, scaled);
    sum = simd.add(sum, e);
    if CE != NO_CE {
        sum_unscaled = simd.add(sum_unscaled, unscale::<S, CE>(simd, x, e, unscaled));
    }
    (simd::sum(simd, sum), simd::sum(simd, sum_unscaled))
}

#[inline(always)]
fn exponential<S: Simd>(simd: S, x: S::V, exponent: Exponent) -> S::V {
    simd.exp2(simd.mul_add(x, simd.splat(exponent.factor), simd.splat(-exponent.offset)))
}

#[inline(always)]
fn unscale<S: Simd, const CE: u8>(simd: S, x: S::V, e: S::V, unscaled: Exponent) -> S::V {
    match CE {
        CE_EQUAL => e,
        CE_SQUARE => simd.mul(e, e),
        _ => exponential(simd, x, unscaled),
    }
}

/// What the second sweep knows of a row.
#[derive(Clone, Copy)]
pub struct RowConstants {
    /// The student's exponential at T.
    pub student: Exponent,
    /// The teacher's exponential at T.
    pub teacher: Exponent,
    /// The student's exponential at 1.
    pub unscaled: Exponent,
    /// 1 / sum of the student's exponentials at T.
    pub student_inverse: f32,
    /// 1 / sum of the teacher's exponentials at T.
    pub teacher_inverse: f32,
    /// Subtracted from the student's logits before the two are compared: 0, or their maximum.
    pub student_shift: f32,
    /// Likewise for the teacher's.
    pub teacher_shift: f32,
    /// log p - log q = `log_factor * (shifted difference) - log_offset`.
    pub log_factor: f32,
    /// See `log_factor`.
    pub log_offset: f32,
    /// Weight of p - q in the gradient.
    pub kl_grad: f32,
    /// Weight of r divided by the sum of the student's exponentials at 1.
    pub ce_grad: f32,
    /// Weight of s - t in the gradient.
    pub mse_grad: f32,
}

/// Adds up `(KL, sum (s - t)^2)` of a block and writes its gradient.
///
/// The KL is `sum q phi(u)`, `u = log p - log q`, `phi(u) = e^u - 1 - u`: no term is negative and none cancels, so that it
/// is accurate however small it is; likewise `p - q = q (e^u - 1)` in the gradient. Where `|u| < 1/2` both come from a
/// series, else from p and q.
#[inline(always)]
pub fn loss_and_grad<S: Simd, const CE: u8, const GRAD: bool, const MSE: bool>(
    simd: S,
    s: &[f32],
    t: &[f32],
    grad: &mut [f32],
    row: &RowConstants,
    ahead: [Ahead; 2],
) -> (f64, f64) {
    let mut kl = simd.splat(0.0);
    let mut squares = simd.splat(0.0);
    let s_chunks = s.chunks_exact(S::LANES);
    let t_chunks = t.chunks_exact(S::LANES);
    let count = s_chunks.remainder().len();
    let mut s_tail = [f32::NEG_INFINITY; MAX_LANES];
    let mut t_tail = [f32::NEG_INFINITY; MAX_LANES];
    s_tail[..count].copy_from_slice(s_chunks.remainder());
    t_tail[..count].copy_from_slice(t_chunks.remainder());
    let whole = s.len() - count;
    let (whole_grad, tail_grad) = grad.split_at_mut(if GRAD { whole } else { 0 });
    let mut grads = whole_grad.chunks_exact_mut(S::LANES);
    for (index, (s, t)) in s_chunks.zip(t_chunks).enumerate() {
        for next in ahead {
            simd.prefetch(next.address.wrapping_add(index * S::LANES * next.element_size));
        }
        let (g, kl_terms, difference) = column::<S, CE, GRAD, MSE>(simd, simd.load(s), simd.load(t), row);
        kl = simd.add(kl, kl_terms);
        squares = simd.mul_add(difference, difference, squares);
        if GRAD && let Some(grad) = grads.next() {
            simd.store(g, grad);
        }
    }
    if count > 0 {
        let (g, kl_terms, difference) = column::<S, CE, GRAD, MSE>(simd, simd.load(&s_tail), simd.load(&t_tail), row);
        kl = simd.add(kl, simd::keep_first(simd, kl_terms, count));
        let difference = simd::keep_first(simd, difference, count);
        squares = simd.mul_add(difference, difference, squares);
        if GRAD {
            let mut lanes = [0.0; MAX_LANES];
            simd.store(g, &mut lanes);
            tail_grad[..count].copy_from_slice(&lanes[..count]);
        }
    }
    (simd::sum(simd, kl), simd::sum(simd, squares))
}

/// Gradient, terms of the KL and s - t of one vector of columns.
#[inline(always)]
fn column<S: Simd, const CE: u8, const GRAD: bool, const MSE: bool>(
    simd: S,
    s: S::V,
    t: S::V,
    row: &RowConstants,
) -> (S::V, S::V, S::V) {
    let e = exponential(simd, s, row.student);
    let p = simd.mul(e, simd.splat(row.student_inverse));
    let q = simd.mul(exponential(simd, t, row.teacher), simd.splat(row.teacher_inverse));
    let shifted = simd.sub(simd.sub(s, simd.splat(row.student_shift)), simd.sub(t, simd.splat(row.teacher_shift)));
    let difference = simd.add(shifted, simd.splat(row.student_shift - row.teacher_shift));
    let u = simd.mul_add(shifted, simd.splat(row.log_factor), simd.splat(-row.log_offset));
    let mut series = simd.splat(PHI[6]);
    for k in [5, 4, 3, 2, 1, 0] {
        series = simd.mul_add(series, u, simd.splat(PHI[k]));
    }
    let phi = simd.mul(simd.mul(u, u), series);
    let half = simd.splat(0.5);
    let p_minus_q = simd.sub(p, q);
    let kl = simd.select_small(u, half, simd.mul(q, phi), simd.sub(p_minus_q, simd.mul_unless_zero(q, u)));
    if !GRAD {
        return (kl, kl, difference);
    }
    let step = simd.select_small(u, half, simd.mul(q, simd.add(u, phi)), p_minus_q);
    let mut grad = simd.mul(step, simd.splat(row.kl_grad));
    if CE != NO_CE {
        let r = unscale::<S, CE>(simd, s, e, row.unscaled);
        grad = simd.mul_add(r, simd.splat(row.ce_grad), grad);
    }
    if MSE {
        grad = simd.mul_add(difference, simd.splat(row.mse_grad), grad);
    }
    (grad, kl, difference)
}

/// `phi(u) = e^u - 1 - u = u^2 (PHI[0] + u (PHI[1] + ...))`: enough terms for 4e-8 where `|u| < 1/2`.
const PHI: [f32; 7] = [1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0, 1.0 / 40320.0];

/// Writes `weight * 2^(factor * x - offset)` of a block: the gradient of the cross-entropy alone, but for the label.
#[inline(always)]
pub fn softmax_grad<S: Simd>(simd: S, x: &[f32], grad: &mut [f32], exponent: Exponent, weight: f32, ahead: Ahead) {
    let chunks = x.chunks_exact(S::LANES);
    let mut tail = [f32::NEG_INFINITY; MAX_LANES];
    let count = chunks.remainder().len();
    tail[..count].copy_from_slice(chunks.remainder());
    let (whole, tail_grad) = grad.split_at_mut(x.len() - count);
    for (index, (x, grad)) in chunks.zip(whole.chunks_exact_mut(S::LANES)).enumerate() {
        simd.prefetch(ahead.address.wrapping_add(index * S::LANES * ahead.element_size));
        simd.store(simd.mul(exponential(simd, simd.load(x), exponent), simd.splat(weight)), grad);
    }
    let mut lanes = [0.0; MAX_LANES];
    simd.store(simd.mul(exponential(simd, simd.load(&tail), exponent), simd.splat(weight)), &mut lanes);
    tail_grad[..count].copy_from_slice(&lanes[..count]);
}
