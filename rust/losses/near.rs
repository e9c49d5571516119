//! Rows whose student is nowhere above `e^16` times the teacher: one exponential and one power a column serve both.
//!
//! With `u = (s - t) / T - c'`, where `c'` is the difference of the two rows' largest logits over T, the sums of
//! `e = exp(t / T)`, of `e (exp(u) - 1)` and of `e phi(u)`, `phi(u) = exp(u) - 1 - u`, tell all: the second over the
//! first is `exp(d) - 1`, where `c' + d` is the logarithm of the normalisers' quotient; the KL is the third over the first
//! less `phi(d)`; and `p - q` is in proportion to `e (exp(u) - 1) - (exp(d) - 1) e`. So the row is read once, for the
//! sums, and the gradient is made of `e` and `e (exp(u) - 1)`, which are kept meanwhile.
//!
//! No term of the third sum is negative and none cancels, so that the KL is accurate however small it is, as long as
//! `phi(d)` is not much larger; where it is, the sums are taken again with `d` added to `c'`.

use std::f64::consts::LN_2;

use super::Job;
use super::blocks::{
    Ahead, Exponent, Unscaled, VECTORS_PER_GROUP, add_differences, add_exponentials, exp_sum, exponential, padded_tail,
    sum_of_squares,
};
use super::formats::{FloatRow, FloatRowMut, write_block};
use super::lanes::{Lanes, MAX_LANES, ROUND};
use super::rows::{LabelLogs, NextRow, RowPlace, RowScratch, block_end, blocks, pair};

/// Up to this `u` the relative error of `e^u`, which is that of u's rounding, may be left in p: 1e-7 of `u`.
const MOST: f64 = 16.0;

/// Down to this `u` `e^u` is no subnormal number.
const LEAST: f64 = -80.0;

/// A logit in place of none, whose exponential is 0 and whose difference to its like is 0.
pub const PADDING_LOGIT: f32 = -1e30;

/// What the columns of a row are compared by.
#[derive(Clone, Copy)]
pub struct Comparison {
    /// The teacher's exponential `e` at T.
    pub teacher: Exponent,
    /// `u = factor * (s - t) - offset`.
    pub factor: f32,
    /// See `factor`.
    pub offset: f32,
}

impl Comparison {
    /// Whether `u` is within bounds where s - t is between `least` and `most`.
    pub fn is_near(&self, least: f32, most: f32) -> bool {
        self.log_quotient(least, 0.0) >= LEAST && self.log_quotient(most, 0.0) <= MOST
    }

    /// Logarithm of `e exp(u)`, a multiple of p.
    pub fn log_student(&self, s: f32, t: f32) -> f64 {
        self.log_teacher(t) + self.log_quotient(s, t)
    }

    /// Logarithm of `e`, a multiple of q.
    pub fn log_teacher(&self, t: f32) -> f64 {
        self.teacher.log(t)
    }

    /// `u`.
    pub fn log_quotient(&self, s: f32, t: f32) -> f64 {
        f64::from(self.factor) * (f64::from(s) - f64::from(t)) - f64::from(self.offset)
    }
}

/// Sums over columns.
#[derive(Clone, Copy, Default)]
pub struct Sums {
    /// Of `e`.
    pub mass: f64,
    /// Of `e (exp(u) - 1)`.
    pub excess: f64,
    /// Of `e phi(u)`.
    pub divergence: f64,
}

impl Sums {
    /// Those of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            mass: self.mass + other.mass,
            excess: self.excess + other.excess,
            divergence: self.divergence + other.divergence,
        }
    }

    /// e^d - 1.
    pub fn relative_excess(self) -> f64 {
        self.excess / self.mass
    }

    /// Whether none is infinite or not a number.
    pub fn is_finite(self) -> bool {
        (self.mass + self.excess + self.divergence).is_finite()
    }
}

/// The sums over whole vectors, whose `e` go to `mass` and `e (exp(u) - 1)` to `excess`.
///
/// With `u = n ln 2 + w`, `phi(w)` comes from a series and `e^u - 1`, `phi(u)` from `2^n` and `phi(w)` without
/// cancellation.
#[inline(always)]
pub fn compare<S: Lanes>(
    simd: S,
    [s, t]: [&[f32]; 2],
    [mass, excess]: [&mut [f32]; 2],
    comparison: &Comparison,
    ahead: [Ahead; 2],
) -> Sums {
    let zero = simd.splat(0.0);
    let mut totals = [zero; 3];
    let groups = s.chunks(VECTORS_PER_GROUP * S::LANES).zip(t.chunks(VECTORS_PER_GROUP * S::LANES));
    let targets = mass.chunks_mut(VECTORS_PER_GROUP * S::LANES).zip(excess.chunks_mut(VECTORS_PER_GROUP * S::LANES));
    for (group, ((s, t), (mass, excess))) in groups.zip(targets).enumerate() {
        let (mut mass_sum, mut excess_sum, mut divergence_sum) = (zero, zero, zero);
        let from = s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES));
        let to = mass.chunks_exact_mut(S::LANES).zip(excess.chunks_exact_mut(S::LANES));
        for (index, ((s, t), (mass, excess))) in from.zip(to).enumerate() {
            for ahead in ahead {
                ahead.fetch(simd, (group * VECTORS_PER_GROUP + index) * S::LANES);
            }
            let (s, t) = (simd.load(s), simd.load(t));
            let difference = simd.sub(s, t);
            let u = simd.mul_add(difference, simd.splat(comparison.factor), simd.splat(-comparison.offset));
            let rounded = simd.mul_add(u, simd.splat(std::f32::consts::LOG2_E), simd.splat(ROUND));
            let n = simd.sub(rounded, simd.splat(ROUND));
            let power = simd.power(n, rounded);
            let minus_ln_2 = simd.splat(-std::f32::consts::LN_2);
            let w = simd.mul_add(n, minus_ln_2, u);
            // In an order in which few of the instructions wait for one another.
            let square = simd.mul(w, w);
            let low = simd.mul_add(w, simd.splat(NEAR_PHI[1]), simd.splat(NEAR_PHI[0]));
            let high = simd.mul_add(w, simd.splat(NEAR_PHI[3]), simd.splat(NEAR_PHI[2]));
            let high = simd.mul_add(square, simd.splat(NEAR_PHI[4]), high);
            let phi_w = simd.mul(square, simd.mul_add(square, high, low));
            let power_minus_1 = simd.sub(power, simd.splat(1.0));
            let rest = simd.mul_add(power_minus_1, w, simd.mul_add(n, minus_ln_2, power_minus_1));
            let phi = simd.mul_add(power, phi_w, rest);
            let exp_minus_1 = simd.mul_add(power, phi_w, simd.mul_add(power, w, power_minus_1));
            let e = exponential(simd, t, comparison.teacher);
            let product = simd.mul(e, exp_minus_1);
            mass_sum = simd.add(mass_sum, e);
            excess_sum = simd.add(excess_sum, product);
            divergence_sum = simd.mul_add(e, phi, divergence_sum);
            simd.store(e, mass);
            simd.store(product, excess);
        }
        for (total, sum) in totals.iter_mut().zip([mass_sum, excess_sum, divergence_sum]) {
            *total = simd.add(*total, sum);
        }
    }
    let [mass, excess, divergence] = totals;
    Sums { mass: simd.sum(mass), excess: simd.sum(excess), divergence: simd.sum(divergence) }
}

/// `phi(w) = e^w - 1 - w = w^2 (NEAR_PHI[0] + w (NEAR_PHI[1] + ...))` where `|w| <= ln 2 / 2`, relative error 1.3e-7: a minimax fit.
const NEAR_PHI: [f32; 5] = [0.5, 0.166_665_77, 0.041_666_854, 0.008_363_164, 0.001_390_129_5];

/// Writes `weight * (excess - relative_excess * mass)`, a multiple of p - q, to `grad`, past the caches if `stream` says so,
/// and with it, if `student` is there, a weight times `e exp(u)` or (true) its square.
#[inline(always)]
pub fn write_gradient<S: Lanes>(
    simd: S,
    terms: [&[f32]; 2],
    grad: &mut [f32],
    stream: bool,
    [relative_excess, weight]: [f32; 2],
    student: Option<(f32, bool)>,
) {
    let (relative_excess, weight) = (simd.splat(-relative_excess), simd.splat(weight));
    let step = |mass, excess| simd.mul(simd.mul_add(mass, relative_excess, excess), weight);
    match student {
        None => put(simd, terms, grad, stream, step),
        Some((factor, squared)) => {
            let factor = simd.splat(factor);
            put(simd, terms, grad, stream, |mass, excess| {
                let student = simd.add(mass, excess);
                let student = if squared { simd.mul(student, student) } else { student };
                simd.mul_add(student, factor, step(mass, excess))
            });
        }
    }
}

/// Writes `of` the terms to `grad`, which may end within the last vector of them.
#[inline(always)]
fn put<S: Lanes>(
    simd: S,
    [mass, excess]: [&[f32]; 2],
    grad: &mut [f32],
    stream: bool,
    of: impl Fn(S::V, S::V) -> S::V,
) {
    let from = mass.chunks_exact(S::LANES).zip(excess.chunks_exact(S::LANES));
    for ((mass, excess), grad) in from.zip(grad.chunks_mut(S::LANES)) {
        let value = of(simd.load(mass), simd.load(excess));
        if grad.len() < S::LANES {
            let mut lanes = [0.0; MAX_LANES];
            simd.store(value, &mut lanes);
            grad.copy_from_slice(&lanes[..grad.len()]);
        } else if stream {
            simd.stream_vector(value, grad);
        } else {
            simd.store(value, grad);
        }
    }
}

/// A row that is summed up.
#[derive(Clone, Copy)]
pub struct NearRow {
    comparison: Comparison,
    sums: Sums,
    /// The student's exponential at T = 1.
    unscaled: Exponent,
    at_one: AtOne,
}

/// What the cross-entropy comes from, where there is a label.
#[derive(Clone, Copy, Default)]
struct AtOne {
    /// Of the student's exponentials at T = 1, or of the powers that they are.
    sum: f64,
    /// The label's exponential at T as it went into the sum.
    label: f64,
}

/// Sums up a row and leaves what its gradient is made of in the scratch; `None` if it is a row of another kind.
#[inline(always)]
pub fn sum_up<S: Lanes>(
    simd: S,
    place: &RowPlace<'_>,
    mut next: Option<&mut NextRow<'_>>,
    grad: Option<&FloatRowMut<'_>>,
    scratch: &mut RowScratch,
) -> Option<NearRow> {
    let (job, largest) = (place.job, place.largest);
    let distance = largest.student - largest.teacher;
    let factor = (LN_2 * f64::from(job.factor)) as f32;
    let teacher = Exponent::with_reference(job.factor, largest.teacher);
    let unscaled = Exponent::with_reference(job.unscaled_factor, largest.student);
    let mut comparison = Comparison { teacher, factor, offset: factor * distance };
    // Of a difference of large numbers that lie far apart only the rounding would be left.
    if !(distance.abs() <= 32.0 && comparison.is_near(-largest.below, largest.above)) {
        return None;
    }
    // The second time around where the first tells that the largest logits are no measure of the rows.
    for is_last in [false, true] {
        let (sums, at_one) = sweep(simd, place, &comparison, unscaled, next.as_deref_mut(), grad, scratch);
        // Infinities, or what is not a number.
        if !(sums.is_finite() && comparison.is_near(-largest.below, largest.above)) {
            return None;
        }
        let row = NearRow { comparison, sums, unscaled, at_one };
        let excess = sums.relative_excess();
        let shift = excess.ln_1p();
        if is_last || (excess >= LEAST_EXCESS && excess - shift <= MOST_SHIFT * row.kl()) {
            return Some(row);
        }
        comparison.offset += shift as f32;
    }
    None
}

/// Above this the label's exponential tells in the sum of all, of which the largest is about 1.
const MUCH: f64 = 1e-3;

/// How much of the sum that the KL comes from may be taken off it again: so much larger is its relative error, of 1e-7.
const MOST_SHIFT: f64 = 8.0;

/// Down to this e^d - 1, e^d has twice its relative error at most.
const LEAST_EXCESS: f64 = -0.5;

/// The sweep over a row: sums, and for the cross-entropy the sum of the student's exponentials at T = 1.
#[inline(always)]
fn sweep<S: Lanes>(
    simd: S,
    place: &RowPlace<'_>,
    comparison: &Comparison,
    unscaled: Exponent,
    mut next: Option<&mut NextRow<'_>>,
    grad: Option<&FloatRowMut<'_>>,
    scratch: &mut RowScratch,
) -> (Sums, AtOne) {
    let job = place.job;
    let rows = [job.student_row(place.index, grad), job.teacher[place.index]];
    let (mut sums, mut at_one) = (Sums::default(), AtOne::default());
    for range in blocks(job.columns) {
        let first = if grad.is_some() { range.start } else { 0 };
        let start = range.start;
        let ahead = next.as_ref().map_or([Ahead::NOTHING; 2], |next| next.ahead(start));
        let [s, t] = pair(rows, range, &mut scratch.wide);
        let [mass, excess] = scratch.terms.each_mut().map(|terms| &mut terms[first..]);
        let whole = s.len() - s.len() % S::LANES;
        let terms = [&mut mass[..whole], &mut excess[..whole]];
        sums = sums.plus(compare(simd, [&s[..whole], &t[..whole]], terms, comparison, ahead));
        let mut padded = whole;
        if whole < s.len() {
            padded += S::LANES;
            let [(s, _), (t, _)] = [s, t].map(|x| padded_tail::<S>(x, PADDING_LOGIT));
            let terms = [&mut mass[whole..padded], &mut excess[whole..padded]];
            let tails = [&s[..S::LANES], &t[..S::LANES]];
            sums = sums.plus(compare(simd, tails, terms, comparison, [Ahead::NOTHING; 2]));
        }
        if let Some(label) = place.label {
            if (start..start + s.len()).contains(&label) {
                at_one.label = f64::from(mass[label - start] + excess[label - start]);
            }
            at_one.sum += match job.unscaled {
                Unscaled::Equal => 0.0,
                Unscaled::Square => sum_of_squares(simd, &mass[..padded], &excess[..padded]),
                Unscaled::Another => exp_sum(simd, s, unscaled),
            };
        }
        if let Some(next) = next.as_deref_mut() {
            // A block later than it was asked for.
            next.compare(simd, start, &mut scratch.wide);
        }
    }
    if job.unscaled == Unscaled::Equal {
        at_one.sum = sums.mass + sums.excess;
    }
    (sums, at_one)
}

impl NearRow {
    /// The KL of the row.
    pub fn kl(&self) -> f64 {
        let excess = self.sums.relative_excess();
        self.sums.divergence / self.sums.mass - (excess - excess.ln_1p())
    }

    /// Those of the label, whose logits are given.
    pub fn label_logs(&self, job: &Job<'_>, [s, t]: [f32; 2]) -> LabelLogs {
        let q = self.comparison.log_teacher(t) - self.sums.mass.ln();
        let p = q + self.comparison.log_quotient(s, t) - self.sums.relative_excess().ln_1p();
        // Where the label makes up much of the sum its rounding there has to be its rounding here.
        let label = self.at_one.label;
        let student = if label > MUCH { label.ln() } else { self.comparison.log_student(s, t) };
        let r = match job.unscaled {
            Unscaled::Equal => student,
            Unscaled::Square => 2.0 * student,
            Unscaled::Another => self.unscaled.log(s),
        } - self.at_one.sum.ln();
        LabelLogs { p, q, r }
    }

    /// Makes the gradient of what is in the scratch.
    #[inline(always)]
    pub fn write_gradient<S: Lanes>(
        &self,
        simd: S,
        place: &RowPlace<'_>,
        grad: &mut FloatRowMut<'_>,
        scratch: &mut RowScratch,
    ) {
        let job = place.job;
        let relative_excess = self.sums.relative_excess();
        let student_sum = self.sums.mass * (1.0 + relative_excess);
        let kl_weight = (f64::from(job.kl_grad) * f64::from(place.weight) / student_sum) as f32;
        let ce_weight = (f64::from(job.ce_grad) / self.at_one.sum) as f32;
        let has_another = place.label.is_some() && job.unscaled == Unscaled::Another;
        let student = place.label.filter(|_| !has_another).map(|_| (ce_weight, job.unscaled == Unscaled::Square));
        let factors = [relative_excess as f32, kl_weight];
        let mut start = 0;
        while start < job.columns {
            let end = block_end(start, job, Some(grad));
            let padded = (end - start).next_multiple_of(S::LANES);
            let terms = scratch.terms.each_ref().map(|terms| &terms[start..start + padded]);
            if let FloatRowMut::F32(row) = grad
                && !has_another
                && job.mse_grad == 0.0
            {
                write_gradient(simd, terms, &mut row[start..end], job.stream, factors, student);
                start = end;
                continue;
            }
            let wide = &mut scratch.grad[..end - start];
            write_gradient(simd, terms, wide, false, factors, student);
            if has_another || job.mse_grad != 0.0 {
                let rows: [FloatRow<'_>; 2] = [job.student_row(place.index, Some(grad)), job.teacher[place.index]];
                let [s, t] = pair(rows, start..end, &mut scratch.wide);
                if has_another {
                    add_exponentials(simd, s, wide, self.unscaled, ce_weight);
                }
                if job.mse_grad != 0.0 {
                    add_differences(simd, [s, t], wide, job.mse_grad * place.weight);
                }
            }
            write_block(simd, wide, &mut scratch.narrow, grad, start, job.stream);
            start = end;
        }
    }
}
