//! The second sweep over a block of a row: loss and gradient. Written once over [`Simd`], as the first.
//!
//! The KL is `sum q phi(u)`, `u = log p - log q`, `phi(u) = e^u - 1 - u`: no term is negative and none cancels, so that it
//! is accurate however small it is; likewise `p - q = q (e^u - 1)` in the gradient.

use super::blocks::{Ahead, Exponent, NO_CE, exponential, unscale};
use super::simd::{self, MAX_LANES, Simd};

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
    /// Whether the shifts are 0.
    pub is_near: bool,
    /// `kl_grad` divided by the sum of the teacher's exponentials at T.
    pub near_kl_grad: f32,
    /// Weight of r in the gradient, over the power of p times the sum of the teacher's exponentials that it is.
    pub near_ce_grad: f32,
}

/// Adds up `(KL, sum (s - t)^2)` of a block and writes its gradient. Without `MSE` the second is 0.
#[inline(always)]
pub fn loss_and_grad<S: Simd, const CE: u8, const GRAD: bool, const MSE: bool>(
    simd: S,
    s: &[f32],
    t: &[f32],
    grad: &mut [f32],
    row: &RowConstants,
    ahead: Ahead,
) -> (f64, f64) {
    let whole = s.len() - s.len() % S::LANES;
    let (mut kl, mut squares) = near::<S, CE, GRAD, MSE>(simd, [&s[..whole], &t[..whole]], grad, row, ahead);
    // The rest of the row and, where need be, the whole block again.
    let mut start = whole;
    if !kl.is_finite() {
        (kl, squares, start) = (0.0, 0.0, 0);
    }
    let mut lanes = [[f32::NEG_INFINITY; MAX_LANES]; 3];
    while start < s.len() {
        let count = S::LANES.min(s.len() - start);
        let end = start + count;
        // Behind the end are infinities, of which nothing is kept.
        lanes[0][..count].copy_from_slice(&s[start..end]);
        lanes[1][..count].copy_from_slice(&t[start..end]);
        let (s, t) = (simd.load(&lanes[0]), simd.load(&lanes[1]));
        let (g, terms, difference) = column::<S, CE, GRAD, MSE>(simd, s, t, row);
        kl += simd.sum(simd::keep_first(simd, terms, count));
        if MSE {
            let difference = simd::keep_first(simd, difference, count);
            squares += simd.sum(simd.mul(difference, difference));
        }
        if GRAD {
            simd.store(g, &mut lanes[2]);
            grad[start..end].copy_from_slice(&lanes[2][..count]);
        }
        start = end;
    }
    (kl, squares)
}

/// Up to this `u` the relative error of `e^u`, which is that of u's rounding, may be left in p: 1e-7 of `u`.
const NEAR: f32 = 16.0;

/// The block if all its `u` are finite and below [`NEAR`]; else the KL that it gives is not finite.
///
/// With `u = n ln 2 + w`, `phi(w)` comes from a series and `e^u - 1`, `phi(u)` from `2^n` and `phi(w)` without
/// cancellation: p needs no exponential of its own.
#[inline(always)]
fn near<S: Simd, const CE: u8, const GRAD: bool, const MSE: bool>(
    simd: S,
    blocks: [&[f32]; 2],
    grad: &mut [f32],
    row: &RowConstants,
    ahead: Ahead,
) -> (f64, f64) {
    if !row.is_near {
        return (f64::NAN, 0.0);
    }
    let mut kl = simd.splat(0.0);
    let mut squares = simd.splat(0.0);
    let mut largest = simd.splat(f32::NEG_INFINITY);
    let [s, t] = blocks.map(|x| x.chunks_exact(S::LANES));
    let mut grads = grad.chunks_exact_mut(S::LANES);
    for (index, (s, t)) in s.zip(t).enumerate() {
        simd.prefetch(ahead.address.wrapping_add(index * S::LANES * ahead.element_size));
        let (s, t) = (simd.load(s), simd.load(t));
        let difference = simd.sub(s, t);
        let u = simd.mul_add(difference, simd.splat(row.log_factor), simd.splat(-row.log_offset));
        largest = simd.max(u, largest);
        let (n, power) = simd.nearest_power(simd.mul(u, simd.splat(std::f32::consts::LOG2_E)));
        let minus_ln_2 = simd.splat(-std::f32::consts::LN_2);
        let w = simd.mul_add(n, minus_ln_2, u);
        let mut series = simd.splat(NEAR_PHI[4]);
        for k in [3, 2, 1, 0] {
            series = simd.mul_add(series, w, simd.splat(NEAR_PHI[k]));
        }
        let phi_w = simd.mul(simd.mul(w, w), series);
        let power_minus_1 = simd.sub(power, simd.splat(1.0));
        let rest = simd.mul_add(power_minus_1, w, simd.mul_add(n, minus_ln_2, power_minus_1));
        let phi = simd.mul_add(power, phi_w, rest);
        let q = exponential(simd, t, row.teacher);
        kl = simd.mul_add(q, phi, kl);
        if MSE {
            squares = simd.mul_add(difference, difference, squares);
        }
        if GRAD && let Some(grad) = grads.next() {
            let exp_minus_1 = simd.mul_add(power, simd.add(w, phi_w), power_minus_1);
            let mut g = simd.mul(simd.mul(q, simd.splat(row.near_kl_grad)), exp_minus_1);
            if CE != NO_CE {
                let p = simd.mul_add(q, exp_minus_1, q);
                g = simd.mul_add(unscale::<S, CE>(simd, s, p, row.unscaled), simd.splat(row.near_ce_grad), g);
            }
            if MSE {
                g = simd.mul_add(difference, simd.splat(row.mse_grad), g);
            }
            simd.store(g, grad);
        }
    }
    if simd.largest(largest) > NEAR {
        return (f64::NAN, 0.0);
    }
    (simd.sum(kl) * f64::from(row.teacher_inverse), simd.sum(squares))
}

/// `phi(w) = e^w - 1 - w = w^2 (NEAR_PHI[0] + w (NEAR_PHI[1] + ...))` where `|w| <= ln 2 / 2`, relative error 1.3e-7: a
/// minimax fit.
const NEAR_PHI: [f32; 5] = [0.5, 0.166_665_77, 0.041_666_854, 0.008_363_164, 0.001_390_129_5];

/// Gradient, terms of the KL and s - t of one vector of columns, whatever they are: where `|u| < 1/2` from a series, else
/// from p and q.
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
