//! The rows that [`near`] can do, sweep by sweep.

use std::f64::consts::LN_2;

use super::Job;
use super::blocks::{Ahead, Exponent, Unscaled, add_differences, add_exponentials, exp_sum, padded_tail};
use super::formats::{Row, RowMut};
use super::near::{self, Comparison, PADDING, Sums};
use super::rows::{LabelLogs, NextRow, Place, Scratch, block_end, blocks, pair};
use super::simd::Simd;
use super::write::write_block;

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
pub fn sum_up<S: Simd>(
    simd: S,
    place: &Place<'_>,
    mut next: Option<&mut NextRow<'_>>,
    grad: Option<&RowMut<'_>>,
    scratch: &mut Scratch,
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
fn sweep<S: Simd>(
    simd: S,
    place: &Place<'_>,
    comparison: &Comparison,
    unscaled: Exponent,
    mut next: Option<&mut NextRow<'_>>,
    grad: Option<&RowMut<'_>>,
    scratch: &mut Scratch,
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
        sums = sums.plus(near::compare(simd, [&s[..whole], &t[..whole]], terms, comparison, ahead));
        let mut padded = whole;
        if whole < s.len() {
            padded += S::LANES;
            let [(s, _), (t, _)] = [s, t].map(|x| padded_tail::<S>(x, PADDING));
            let terms = [&mut mass[whole..padded], &mut excess[whole..padded]];
            let tails = [&s[..S::LANES], &t[..S::LANES]];
            sums = sums.plus(near::compare(simd, tails, terms, comparison, [Ahead::NOTHING; 2]));
        }
        if let Some(label) = place.label {
            if (start..start + s.len()).contains(&label) {
                at_one.label = f64::from(mass[label - start] + excess[label - start]);
            }
            at_one.sum += match job.unscaled {
                Unscaled::Equal => 0.0,
                Unscaled::Square => near::sum_of_squares(simd, &mass[..padded], &excess[..padded]),
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
    pub fn write_gradient<S: Simd>(&self, simd: S, place: &Place<'_>, grad: &mut RowMut<'_>, scratch: &mut Scratch) {
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
            if let RowMut::F32(row) = grad
                && !has_another
                && job.mse_grad == 0.0
            {
                near::write_gradient(simd, terms, &mut row[start..end], job.stream, factors, student);
                start = end;
                continue;
            }
            let wide = &mut scratch.grad[..end - start];
            near::write_gradient(simd, terms, wide, false, factors, student);
            if has_another || job.mse_grad != 0.0 {
                let rows: [Row<'_>; 2] = [job.student_row(place.index, Some(grad)), job.teacher[place.index]];
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
