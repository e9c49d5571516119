//! Row after row: one row of student and teacher logits to its values and its gradient, in two sweeps over blocks. A
//! pair of rows (2 x 122 kB for 30,522 columns) stays in the second-level cache between the sweeps, and the second
//! fetches the next pair, so that memory is read once and never waited for.

use std::f64::consts::LN_2;
use std::ops::Range;

use super::blocks::{
    Ahead, BLOCK, CE_EQUAL, CE_GENERAL, CE_SQUARE, Exponent, NO_CE, block_max, exp_sums, pair_sums, softmax_grad,
};
use super::formats::{Row, RowMut};
use super::gradient::{RowConstants, loss_and_grad};
use super::simd::Simd;
use super::write::write_block;
use super::{Chunk, IGNORED, Job};

/// Space of a thread, reused from row to row.
pub struct Scratch {
    student: Vec<f32>,
    teacher: Vec<f32>,
    grad: Vec<f32>,
    narrow: Vec<u16>,
}

impl Scratch {
    /// For the rows of `job`: single precision needs no widening.
    fn new(job: &Job<'_>) -> Self {
        let block = BLOCK.min(job.columns) + 64;
        let wide = |row: Option<&Row<'_>>| match row {
            Some(Row::F32(_)) => Vec::new(),
            _ => vec![0.0; job.columns],
        };
        Self {
            student: wide(job.student.first()),
            teacher: if job.teacher.is_empty() { Vec::new() } else { wide(job.teacher.first()) },
            grad: vec![0.0; block],
            narrow: vec![0; block],
        }
    }
}

/// Reference logit and sums of exponentials of a row, block by block.
struct Sums {
    max: f32,
    scaled: Exponent,
    unscaled: Exponent,
    sum: f64,
    sum_unscaled: f64,
}

impl Sums {
    fn new(factor: f32, unscaled_factor: f32) -> Self {
        Self {
            max: f32::NEG_INFINITY,
            scaled: Exponent { factor, offset: 0.0 },
            unscaled: Exponent { factor: unscaled_factor, offset: 0.0 },
            sum: 0.0,
            sum_unscaled: 0.0,
        }
    }

    /// The next block's maximum is `max`: puts the reference there if it is larger than any before.
    #[inline(always)]
    fn raise<const CE: u8>(&mut self, max: f32) {
        if max > self.max {
            let offset = max * self.scaled.factor;
            let unscaled_offset = match CE {
                CE_EQUAL => offset,
                CE_SQUARE => 2.0 * offset,
                _ => max * self.unscaled.factor,
            };
            if self.max > f32::NEG_INFINITY {
                self.sum *= f64::from(self.scaled.offset - offset).exp2();
                self.sum_unscaled *= f64::from(self.unscaled.offset - unscaled_offset).exp2();
            }
            self.max = max;
            self.scaled.offset = offset;
            self.unscaled.offset = unscaled_offset;
        }
    }

    #[inline(always)]
    fn add<S: Simd, const CE: u8>(&mut self, simd: S, block: &[f32]) {
        self.raise::<CE>(block_max(simd, block));
        // While everything was -inf the offset is 0: all exponentials are 0, none is NaN.
        let (sum, sum_unscaled) = exp_sums::<S, CE>(simd, block, self.scaled, self.unscaled);
        self.sum += sum;
        self.sum_unscaled += sum_unscaled;
    }

    /// Base-2 logarithm of the probability at T of the logit `x`.
    fn log2_probability(&self, x: f32) -> f64 {
        exact(self.scaled, x) - self.sum.log2()
    }

    /// Base-2 logarithm of the probability at T = 1 of the logit `x`.
    fn log2_unscaled(&self, x: f32) -> f64 {
        exact(self.unscaled, x) - self.sum_unscaled.log2()
    }
}

fn exact(exponent: Exponent, x: f32) -> f64 {
    f64::from(exponent.factor) * f64::from(x) - f64::from(exponent.offset)
}

/// The rows of a chunk, in order.
#[inline(always)]
pub fn run<S: Simd>(simd: S, job: &Job<'_>, chunk: &mut Chunk<'_>) {
    let mut scratch = Scratch::new(job);
    for offset in 0..chunk.kl.len() {
        let index = chunk.first + offset;
        let weight = job.row_weights.map_or(1.0, |weights| weights[index]);
        let label = job.labels.map_or(IGNORED, |labels| labels[index]);
        let with_kl = weight != 0.0 && !job.teacher.is_empty();
        let grad = chunk.grad.as_mut().map(|rows| &mut rows[offset]);
        let (kl, ce, mse) = match (with_kl, label != IGNORED) {
            (false, false) => {
                if let Some(grad) = grad {
                    grad.clear();
                }
                (0.0, 0.0, 0.0)
            }
            (false, true) => (0.0, ce_row(simd, job, index, label as usize, grad, &mut scratch), 0.0),
            (true, false) => kl_row::<S, NO_CE>(simd, job, index, weight, 0, grad, &mut scratch),
            (true, true) => {
                let label = label as usize;
                match job.ce_form {
                    CE_EQUAL => kl_row::<S, CE_EQUAL>(simd, job, index, weight, label, grad, &mut scratch),
                    CE_SQUARE => kl_row::<S, CE_SQUARE>(simd, job, index, weight, label, grad, &mut scratch),
                    _ => kl_row::<S, CE_GENERAL>(simd, job, index, weight, label, grad, &mut scratch),
                }
            }
        };
        chunk.kl[offset] = kl;
        chunk.ce[offset] = ce;
        chunk.mse[offset] = mse;
    }
    simd.fence();
}

/// The first sweep over a row of student and teacher.
#[inline(always)]
fn sum_up<S: Simd, const CE: u8>(
    simd: S,
    [student_row, teacher_row]: [Row<'_>; 2],
    [student, teacher]: [&mut Sums; 2],
    scratch: &mut Scratch,
    ahead: Ahead,
) {
    let columns = student_row.len();
    let whole = columns / BLOCK * BLOCK;
    let s = student_row.widen_range(&mut scratch.student, 0..BLOCK.min(columns));
    let t = teacher_row.widen_range(&mut scratch.teacher, 0..BLOCK.min(columns));
    let mut maxima = [block_max(simd, s), block_max(simd, t)];
    for start in (0..whole).step_by(BLOCK) {
        student.raise::<CE>(maxima[0]);
        teacher.raise::<NO_CE>(maxima[1]);
        let (range, mut next) = (start..start + BLOCK, start + BLOCK..start + 2 * BLOCK);
        if next.end > columns {
            next = range.clone();
        } else {
            student_row.widen_range(&mut scratch.student, next.clone());
            teacher_row.widen_range(&mut scratch.teacher, next.clone());
        }
        let blocks = |range: Range<usize>| {
            [student_row.wide(&scratch.student, range.clone()), teacher_row.wide(&scratch.teacher, range)]
        };
        let exponents = [student.scaled, teacher.scaled];
        let sums =
            pair_sums::<S, CE>(simd, blocks(range), blocks(next), exponents, student.unscaled, ahead.skip(start));
        student.sum += sums.student;
        student.sum_unscaled += sums.unscaled;
        teacher.sum += sums.teacher;
        maxima = sums.next_max;
    }
    if whole < columns {
        student.add::<S, CE>(simd, student_row.widen_range(&mut scratch.student, whole..columns));
        teacher.add::<S, NO_CE>(simd, teacher_row.widen_range(&mut scratch.teacher, whole..columns));
    }
}

/// KL, cross-entropy (0 with `NO_CE`) and squared difference of one row.
#[inline(always)]
fn kl_row<S: Simd, const CE: u8>(
    simd: S,
    job: &Job<'_>,
    index: usize,
    weight: f32,
    label: usize,
    mut grad: Option<&mut RowMut<'_>>,
    scratch: &mut Scratch,
) -> (f32, f32, f32) {
    let mut student = Sums::new(job.factor, job.unscaled_factor);
    let mut teacher = Sums::new(job.factor, job.unscaled_factor);
    let teacher_row = job.teacher[index];
    let student_row = job.student_row(index, grad.as_deref());
    let ahead = [job.ahead(&job.student, index), job.ahead(&job.teacher, index)];
    sum_up::<S, CE>(simd, [student_row, teacher_row], [&mut student, &mut teacher], scratch, ahead[0]);
    let (student_label, teacher_label) = (student_row.get(label), teacher_row.get(label));
    let row = constants::<CE>(job, &student, &teacher, weight);
    let (mut kl, mut mse) = (0.0, 0.0);
    let mut start = 0;
    while start < job.columns {
        let end = block_end(start, job, grad.as_deref());
        let s = job.student_row(index, grad.as_deref()).wide(&scratch.student, start..end);
        let t = teacher_row.wide(&scratch.teacher, start..end);
        let wide = &mut scratch.grad[..end - start];
        let ahead = ahead[1].skip(start);
        let (block_kl, block_mse) = match (grad.is_some(), row.mse_grad != 0.0) {
            (false, _) => loss_and_grad::<S, NO_CE, false, true>(simd, s, t, wide, &row, ahead),
            (true, false) => loss_and_grad::<S, CE, true, false>(simd, s, t, wide, &row, ahead),
            (true, true) => loss_and_grad::<S, CE, true, true>(simd, s, t, wide, &row, ahead),
        };
        kl += block_kl;
        mse += block_mse;
        if let Some(grad) = grad.as_deref_mut() {
            write_block(simd, wide, &mut scratch.narrow, grad, start, job.stream);
        }
        start = end;
    }
    let mut ce = 0.0;
    if CE != NO_CE {
        let log2_r = student.log2_unscaled(student_label);
        ce = -LN_2 * log2_r;
        if let Some(grad) = grad {
            // Once in double precision: r - 1 in the gradient's own precision would lose what a good student has left.
            let log_p = LN_2 * student.log2_probability(student_label);
            let log_q = LN_2 * teacher.log2_probability(teacher_label);
            // From the difference only where it is small: else 0 * inf would be possible.
            let is_near = log_p - log_q < 1.0;
            let step = if is_near { log_q.exp() * (log_p - log_q).exp_m1() } else { log_p.exp() - log_q.exp() };
            let mut value = f64::from(row.kl_grad) * step + f64::from(job.ce_grad) * (LN_2 * log2_r).exp_m1();
            if row.mse_grad != 0.0 {
                value += f64::from(row.mse_grad) * (f64::from(student_label) - f64::from(teacher_label));
            }
            grad.set(label, value as f32);
        }
    }
    // Where logits of 1e5 leave no digits of their difference, the terms that are formed from p and q may cancel.
    (not_negative(kl), not_negative(ce), mse as f32)
}

/// Cross-entropy of one row that counts in no other term.
#[inline(always)]
fn ce_row<S: Simd>(
    simd: S,
    job: &Job<'_>,
    index: usize,
    label: usize,
    mut grad: Option<&mut RowMut<'_>>,
    scratch: &mut Scratch,
) -> f32 {
    let mut student = Sums::new(job.unscaled_factor, job.unscaled_factor);
    let student_row = job.student_row(index, grad.as_deref());
    for start in (0..job.columns).step_by(BLOCK) {
        let range = start..(start + BLOCK).min(job.columns);
        student.add::<S, CE_EQUAL>(simd, student_row.widen_range(&mut scratch.student, range));
    }
    let log2_r = student.log2_unscaled(student_row.get(label));
    let weight = (f64::from(job.ce_grad) / student.sum_unscaled) as f32;
    let ahead = job.ahead(&job.student, index);
    let mut start = if grad.is_some() { 0 } else { job.columns };
    while start < job.columns {
        let end = block_end(start, job, grad.as_deref());
        let s = job.student_row(index, grad.as_deref()).wide(&scratch.student, start..end);
        let wide = &mut scratch.grad[..end - start];
        softmax_grad(simd, s, wide, student.unscaled, weight, ahead.skip(start));
        if let Some(grad) = grad.as_deref_mut() {
            write_block(simd, wide, &mut scratch.narrow, grad, start, job.stream);
        }
        start = end;
    }
    if let Some(grad) = grad {
        grad.set(label, (f64::from(job.ce_grad) * (LN_2 * log2_r).exp_m1()) as f32);
    }
    not_negative(-LN_2 * log2_r)
}

/// What the second sweep needs, worked out in double precision.
fn constants<const CE: u8>(job: &Job<'_>, student: &Sums, teacher: &Sums, weight: f32) -> RowConstants {
    let factor = f64::from(job.factor);
    // Where the two are far apart they are brought together before they are compared: of a difference of large numbers
    // only the rounding would be left.
    let far_apart = (student.max - teacher.max).abs() > 32.0;
    let (student_shift, teacher_shift) = if far_apart { (student.max, teacher.max) } else { (0.0, 0.0) };
    let student_offset = f64::from(student.scaled.offset) - factor * f64::from(student_shift);
    let teacher_offset = f64::from(teacher.scaled.offset) - factor * f64::from(teacher_shift);
    let power = match CE {
        CE_EQUAL => 1,
        CE_SQUARE => 2,
        _ => 0,
    };
    RowConstants {
        student: student.scaled,
        teacher: teacher.scaled,
        unscaled: student.unscaled,
        student_inverse: (1.0 / student.sum) as f32,
        teacher_inverse: (1.0 / teacher.sum) as f32,
        student_shift,
        teacher_shift,
        log_factor: (LN_2 * factor) as f32,
        log_offset: (LN_2 * (student_offset - teacher_offset) + (student.sum / teacher.sum).ln()) as f32,
        kl_grad: job.kl_grad * weight,
        ce_grad: (f64::from(job.ce_grad) / student.sum_unscaled) as f32,
        mse_grad: job.mse_grad * weight,
        is_near: !far_apart,
        near_kl_grad: (f64::from(job.kl_grad) * f64::from(weight) / teacher.sum) as f32,
        near_ce_grad: (f64::from(job.ce_grad) / student.sum_unscaled * (student.sum / teacher.sum).powi(power)) as f32,
    }
}

/// The end of the block at `start`: the first block is longer by what brings the next ones to a cache line of the
/// gradient.
#[inline(always)]
fn block_end(start: usize, job: &Job<'_>, grad: Option<&RowMut<'_>>) -> usize {
    let head = match grad {
        Some(grad) if start == 0 && job.stream => grad.as_row().columns_to_line(),
        _ => 0,
    };
    (start + head + BLOCK).min(job.columns)
}

/// `value` with what rounding leaves below 0 taken off; NaN stays.
fn not_negative(value: f64) -> f32 {
    if value < 0.0 { 0.0 } else { value as f32 }
}
