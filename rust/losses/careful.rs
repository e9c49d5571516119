//! Rows of any logits, infinities among them: KL and gradient from p and q, each with an exponential of its own.
//!
//! The KL is `sum q phi(u)`, `u = log p - log q`, `phi(u) = e^u - 1 - u`: no term is negative and none cancels; likewise
//! `p - q = q (u + phi(u))` in the gradient where `u` is small.

use std::f64::consts::LN_2;

use super::blocks::{Exponent, Unscaled, add_differences, add_exponentials, exp_sum, exponential, padded_tail};
use super::formats::{FloatRowMut, write_block};
use super::lanes::{Lanes, MAX_LANES, keep_first};
use super::rows::{LabelLogs, RowPlace, RowScratch, block_end, blocks, pair};

/// KL of one row and, of its label, the logarithms of the probabilities.
#[inline(always)]
pub fn row<S: Lanes>(
    simd: S,
    place: &RowPlace<'_>,
    mut grad: Option<&mut FloatRowMut<'_>>,
    scratch: &mut RowScratch,
) -> (f64, Option<LabelLogs>) {
    let (job, largest) = (place.job, place.largest);
    let student = Exponent::with_reference(job.factor, largest.student);
    let teacher = Exponent::with_reference(job.factor, largest.teacher);
    let unscaled = match job.unscaled {
        Unscaled::Equal => student,
        Unscaled::Square => student.squared(),
        Unscaled::Another => Exponent::with_reference(job.unscaled_factor, largest.student),
    };
    let mut sums = [0.0; 3];
    let rows = [job.student_row(place.index, grad.as_deref()), job.teacher[place.index]];
    for range in blocks(job.columns) {
        let [s, t] = pair(rows, range, &mut scratch.wide);
        sums[0] += exp_sum(simd, s, student);
        sums[1] += exp_sum(simd, t, teacher);
        if place.label.is_some() {
            sums[2] += exp_sum(simd, s, unscaled);
        }
    }
    let logs = place.label.map(|label| LabelLogs {
        p: student.log(rows[0].get(label)) - sums[0].ln(),
        q: teacher.log(rows[1].get(label)) - sums[1].ln(),
        r: unscaled.log(rows[0].get(label)) - sums[2].ln(),
    });
    let constants = RowConstants::new(place, [student, teacher], [sums[0], sums[1]]);
    let ce_weight = (f64::from(job.ce_grad) / sums[2]) as f32;
    let mse_weight = job.mse_grad * place.weight;
    let mut kl = 0.0;
    let mut start = 0;
    while start < job.columns {
        let end = block_end(start, job, grad.as_deref());
        let rows = [job.student_row(place.index, grad.as_deref()), job.teacher[place.index]];
        let [s, t] = pair(rows, start..end, &mut scratch.wide);
        let wide = &mut scratch.grad[..end - start];
        kl += loss_and_grad(simd, [s, t], wide, &constants);
        if place.label.is_some() {
            add_exponentials(simd, s, wide, unscaled, ce_weight);
        }
        if job.mse_grad != 0.0 {
            add_differences(simd, [s, t], wide, mse_weight);
        }
        if let Some(grad) = grad.as_deref_mut() {
            write_block(simd, wide, &mut scratch.narrow, grad, start, job.stream);
        }
        start = end;
    }
    (kl, logs)
}

/// What is known of a row once its exponentials are summed up.
#[derive(Clone, Copy)]
struct RowConstants {
    /// The student's exponential at T.
    student: Exponent,
    /// The teacher's exponential at T.
    teacher: Exponent,
    /// 1 / sum of the student's exponentials at T.
    student_inverse: f32,
    /// 1 / sum of the teacher's exponentials at T.
    teacher_inverse: f32,
    /// Subtracted from the student's logits before the two are compared: 0, or their maximum.
    student_shift: f32,
    /// Likewise for the teacher's.
    teacher_shift: f32,
    /// log p - log q = `log_factor * (shifted difference) - log_offset`.
    log_factor: f32,
    /// See `log_factor`.
    log_offset: f32,
    /// Weight of p - q in the gradient.
    kl_grad: f32,
}

impl RowConstants {
    /// Worked out in double precision from the sums of the exponentials.
    fn new(place: &RowPlace<'_>, [student, teacher]: [Exponent; 2], sums: [f64; 2]) -> Self {
        let factor = f64::from(place.job.factor);
        // Where the two are far apart they are brought together before they are compared: of a difference of large
        // numbers only the rounding would be left.
        let largest = place.largest;
        let far_apart = (largest.student - largest.teacher).abs() > 32.0;
        let (student_shift, teacher_shift) = if far_apart { (largest.student, largest.teacher) } else { (0.0, 0.0) };
        let student_offset = f64::from(student.offset) - factor * f64::from(student_shift);
        let teacher_offset = f64::from(teacher.offset) - factor * f64::from(teacher_shift);
        Self {
            student,
            teacher,
            student_inverse: (1.0 / sums[0]) as f32,
            teacher_inverse: (1.0 / sums[1]) as f32,
            student_shift,
            teacher_shift,
            log_factor: (LN_2 * factor) as f32,
            log_offset: (LN_2 * (student_offset - teacher_offset) + (sums[0] / sums[1]).ln()) as f32,
            kl_grad: place.job.kl_grad * place.weight,
        }
    }
}

/// The KL of a block, whose gradient goes to `grad`.
#[inline(always)]
fn loss_and_grad<S: Lanes>(simd: S, [s, t]: [&[f32]; 2], grad: &mut [f32], row: &RowConstants) -> f64 {
    let whole = s.len() - s.len() % S::LANES;
    let mut kl = 0.0;
    for ((s, t), grad) in s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES)).zip(grad.chunks_exact_mut(S::LANES)) {
        let (g, terms) = column(simd, simd.load(s), simd.load(t), row);
        kl += simd.sum(terms);
        simd.store(g, grad);
    }
    // Behind the end are infinities, of which nothing is kept.
    let [(s, count), (t, _)] = [s, t].map(|x| padded_tail::<S>(x, f32::NEG_INFINITY));
    let (g, terms) = column(simd, simd.load(&s), simd.load(&t), row);
    kl += simd.sum(keep_first(simd, terms, count));
    let mut lanes = [0.0; MAX_LANES];
    simd.store(g, &mut lanes);
    grad[whole..whole + count].copy_from_slice(&lanes[..count]);
    kl
}

/// Gradient and terms of the KL of one vector of columns, whatever they are: where `|u| < 1/2` from a series, else from p
/// and q.
#[inline(always)]
fn column<S: Lanes>(simd: S, s: S::V, t: S::V, row: &RowConstants) -> (S::V, S::V) {
    let p = simd.mul(exponential(simd, s, row.student), simd.splat(row.student_inverse));
    let q = simd.mul(exponential(simd, t, row.teacher), simd.splat(row.teacher_inverse));
    let shifted = simd.sub(simd.sub(s, simd.splat(row.student_shift)), simd.sub(t, simd.splat(row.teacher_shift)));
    let u = simd.mul_add(shifted, simd.splat(row.log_factor), simd.splat(-row.log_offset));
    let mut series = simd.splat(PHI_TAYLOR[6]);
    for k in [5, 4, 3, 2, 1, 0] {
        series = simd.mul_add(series, u, simd.splat(PHI_TAYLOR[k]));
    }
    let phi = simd.mul(simd.mul(u, u), series);
    let half = simd.splat(0.5);
    let p_minus_q = simd.sub(p, q);
    let kl = simd.select_small(u, half, simd.mul(q, phi), simd.sub(p_minus_q, simd.mul_unless_zero(q, u)));
    let step = simd.select_small(u, half, simd.mul(q, simd.add(u, phi)), p_minus_q);
    (simd.mul(step, simd.splat(row.kl_grad)), kl)
}

/// `phi(u) = e^u - 1 - u = u^2 (PHI_TAYLOR[0] + u (PHI_TAYLOR[1] + ...))`: enough terms for 4e-8 where `|u| < 1/2`.
const PHI_TAYLOR: [f32; 7] = [1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0, 1.0 / 40320.0];
