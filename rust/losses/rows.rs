//! Row after row: one row of student and teacher logits to its values and its gradient, block by block. A pair of rows
//! (2 x 122 kB for 30,522 columns) and what is computed from it stay in the second-level cache from sweep to sweep, while
//! the next pair is fetched, so that memory is read once and not waited for.

use std::ops::{Deref, DerefMut, Range};

use super::blocks::{Ahead, COLUMNS_PER_BLOCK, Exponent, Largest, block_max, exponentials, scale, squares};
use super::formats::{FloatRow, FloatRowMut, write_block};
use super::lanes::{Lanes, MAX_LANES};
use super::{IGNORED, Job, RowChunk, careful, near};

/// Space of a thread, reused from row to row.
pub struct RowScratch {
    /// A block of student and one of teacher, widened.
    pub wide: [Vec<f32>; 2],
    /// What the gradient of a row is made of; of a block alone where none is.
    pub terms: [Aligned; 2],
    /// A block of the gradient, and the same narrowed.
    pub grad: Aligned,
    pub narrow: Vec<u16>,
}

impl RowScratch {
    fn new(job: &Job<'_>, with_grad: bool) -> Self {
        let block = COLUMNS_PER_BLOCK.min(job.columns) + 64 + MAX_LANES;
        let terms = if with_grad { job.columns + MAX_LANES } else { block };
        Self {
            wide: [vec![0.0; block], vec![0.0; block]],
            terms: [Aligned::new(terms), Aligned::new(if job.teacher.is_empty() { 0 } else { terms })],
            grad: Aligned::new(block),
            narrow: vec![0; block],
        }
    }
}

/// Numbers from the beginning of a cache line on: vectors that lie across two lines are slow to write.
pub struct Aligned {
    memory: Vec<f32>,
    start: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let memory = vec![0.0; length + 64 / size_of::<f32>()];
        let start = memory.as_ptr().align_offset(64).min(64 / size_of::<f32>());
        Self { memory, start }
    }
}

impl Deref for Aligned {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        &self.memory[self.start..]
    }
}

impl DerefMut for Aligned {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..]
    }
}

/// A row that counts in the KL.
#[derive(Clone, Copy)]
pub struct RowPlace<'a> {
    pub job: &'a Job<'a>,
    pub index: usize,
    /// Its weight in KL and squared difference.
    pub weight: f32,
    /// The label's column.
    pub label: Option<usize>,
    pub largest: Largest,
}

/// Logarithms of a label's probability: p and q at T, r at 1.
#[derive(Clone, Copy)]
pub struct LabelLogs {
    pub p: f64,
    pub q: f64,
    pub r: f64,
}

/// The row after one, whose logits are fetched and compared meanwhile.
pub struct NextRow<'a> {
    rows: [FloatRow<'a>; 2],
    ahead: [Ahead; 2],
    /// Of the columns before `done`.
    largest: Largest,
    done: usize,
}

impl<'a> NextRow<'a> {
    fn new(rows: [FloatRow<'a>; 2]) -> Self {
        Self { rows, ahead: rows.map(Ahead::of), largest: Largest::NONE, done: 0 }
    }

    /// Where the columns from `start` on are.
    pub fn ahead(&self, start: usize) -> [Ahead; 2] {
        self.ahead.map(|ahead| ahead.skip(start))
    }

    /// Compares the columns up to `end`, block by block.
    #[inline(always)]
    pub fn compare<S: Lanes>(&mut self, simd: S, end: usize, wide: &mut [Vec<f32>; 2]) {
        while self.done < end {
            let block = self.done..end.min(self.done + COLUMNS_PER_BLOCK);
            self.done = block.end;
            self.largest = self.largest.with(simd, pair(self.rows, block, wide));
        }
    }
}

/// The rows of a chunk, in order.
#[inline(always)]
pub fn run<S: Lanes>(simd: S, job: &Job<'_>, chunk: &mut RowChunk<'_>) {
    let mut scratch = RowScratch::new(job, chunk.grad.is_some());
    let mut known = None;
    for offset in 0..chunk.kl.len() {
        let index = chunk.first + offset;
        let weight = job.weight(index);
        let label =
            job.labels.map(|labels| labels[index]).filter(|&label| label != IGNORED).map(|label| label as usize);
        let (grad, later) = match chunk.grad.as_mut().map(|rows| rows[offset..].split_first_mut()) {
            Some(Some((grad, later))) => (Some(grad), later.first()),
            _ => (None, None),
        };
        let (kl, ce, mse) = match (weight != 0.0, label) {
            (true, _) => {
                let largest = known.take();
                let is_followed = offset + 1 < chunk.kl.len() && job.weight(index + 1) != 0.0;
                let mut next =
                    is_followed.then(|| NextRow::new([job.student_row(index + 1, later), job.teacher[index + 1]]));
                let place = RowPlace { job, index, weight, label, largest: largest.unwrap_or(Largest::NONE) };
                let values = kl_row(simd, place, largest.is_some(), next.as_mut(), grad, &mut scratch);
                known = next.map(|next| next.largest);
                values
            }
            (false, Some(label)) => (0.0, ce_row(simd, job, index, label, grad, &mut scratch), 0.0),
            (false, None) => {
                if let Some(grad) = grad {
                    grad.clear();
                }
                (0.0, 0.0, 0.0)
            }
        };
        chunk.kl[offset] = kl;
        chunk.ce[offset] = ce;
        chunk.mse[offset] = mse;
    }
    simd.fence();
}

/// The blocks of a row.
pub fn blocks(columns: usize) -> impl Iterator<Item = Range<usize>> {
    (0..columns).step_by(COLUMNS_PER_BLOCK).map(move |start| start..(start + COLUMNS_PER_BLOCK).min(columns))
}

/// Student and teacher in the columns `range`, in single precision.
#[inline(always)]
pub fn pair<'a>(rows: [FloatRow<'a>; 2], range: Range<usize>, [s, t]: &'a mut [Vec<f32>; 2]) -> [&'a [f32]; 2] {
    [rows[0].block(range.clone(), s), rows[1].block(range, t)]
}

/// KL, cross-entropy (0 without a label) and squared difference of one row.
#[inline(always)]
fn kl_row<S: Lanes>(
    simd: S,
    mut place: RowPlace<'_>,
    is_compared: bool,
    mut next: Option<&mut NextRow<'_>>,
    mut grad: Option<&mut FloatRowMut<'_>>,
    scratch: &mut RowScratch,
) -> (f32, f32, f32) {
    let job = place.job;
    let rows = [job.student_row(place.index, grad.as_deref()), job.teacher[place.index]];
    if !is_compared {
        let mut row = NextRow::new(rows);
        row.compare(simd, job.columns, &mut scratch.wide);
        place.largest = row.largest;
    }
    let mut square_sum = 0.0;
    if job.mse_grad != 0.0 {
        for range in blocks(job.columns) {
            square_sum += squares(simd, pair(rows, range, &mut scratch.wide));
        }
    }
    let logits = place.label.map(|label| [rows[0].get(label), rows[1].get(label)]);
    let near = near::sum_up(simd, &place, next.as_deref_mut(), grad.as_deref(), scratch);
    let (kl, logs) = match &near {
        Some(row) => {
            if let Some(grad) = grad.as_deref_mut() {
                row.write_gradient(simd, &place, grad, scratch);
            }
            (row.kl(), logits.map(|logits| row.label_logs(job, logits)))
        }
        None => careful::row(simd, &place, grad.as_deref_mut(), scratch),
    };
    if let Some(next) = next {
        next.compare(simd, job.columns, &mut scratch.wide);
    }
    if let (Some(grad), Some(label), Some(logits), Some(logs)) = (grad, place.label, logits, logs) {
        grad.set(label, label_gradient(&place, logits, logs) as f32);
    }
    // Where logits of 1e5 leave no digits of their difference, the terms that are formed from p and q may cancel.
    (not_negative(kl), logs.map_or(0.0, |logs| not_negative(-logs.r)), square_sum as f32)
}

/// The entry of the label in the gradient, in double precision: r - 1 in the gradient's own precision would lose what a
/// good student has left.
fn label_gradient(place: &RowPlace<'_>, [s, t]: [f32; 2], logs: LabelLogs) -> f64 {
    let (job, weight) = (place.job, f64::from(place.weight));
    let quotient = logs.p - logs.q;
    // From the difference only where it is small: else 0 * inf would be possible.
    let step = if quotient < 1.0 { logs.q.exp() * quotient.exp_m1() } else { logs.p.exp() - logs.q.exp() };
    let mut value = f64::from(job.kl_grad) * weight * step + f64::from(job.ce_grad) * logs.r.exp_m1();
    if job.mse_grad != 0.0 {
        value += f64::from(job.mse_grad) * weight * (f64::from(s) - f64::from(t));
    }
    value
}

/// Cross-entropy of one row that counts in no other term.
#[inline(always)]
fn ce_row<S: Lanes>(
    simd: S,
    job: &Job<'_>,
    index: usize,
    label: usize,
    mut grad: Option<&mut FloatRowMut<'_>>,
    scratch: &mut RowScratch,
) -> f32 {
    let row = job.student_row(index, grad.as_deref());
    let mut largest = f32::NEG_INFINITY;
    for range in blocks(job.columns) {
        largest = largest.max(block_max(simd, row.block(range, &mut scratch.wide[0])));
    }
    let exponent = Exponent::with_reference(job.unscaled_factor, largest);
    let ahead = job.student.get(index + 1).map_or(Ahead::NOTHING, |&next| Ahead::of(next));
    let mut sum = 0.0;
    for range in blocks(job.columns) {
        let first = if grad.is_some() { range.start } else { 0 };
        let ahead = ahead.skip(range.start);
        let x = row.block(range, &mut scratch.wide[0]);
        sum += exponentials(simd, x, &mut scratch.terms[0][first..], exponent, ahead);
    }
    let log_r = exponent.log(row.get(label)) - sum.ln();
    let Some(grad) = grad.as_mut() else { return not_negative(-log_r) };
    let weight = (f64::from(job.ce_grad) / sum) as f32;
    let mut start = 0;
    while start < job.columns {
        let end = block_end(start, job, Some(grad));
        let padded = (end - start).next_multiple_of(S::LANES);
        scale(simd, &scratch.terms[0][start..start + padded], &mut scratch.grad[..padded], weight);
        write_block(simd, &scratch.grad[..end - start], &mut scratch.narrow, grad, start, job.stream);
        start = end;
    }
    grad.set(label, (f64::from(job.ce_grad) * log_r.exp_m1()) as f32);
    not_negative(-log_r)
}

/// The end of the block at `start`: the first block is longer by what brings the next ones to a cache line of the
/// gradient.
#[inline(always)]
pub fn block_end(start: usize, job: &Job<'_>, grad: Option<&FloatRowMut<'_>>) -> usize {
    let head = match grad {
        Some(grad) if start == 0 && job.stream => grad.as_row().columns_to_line(),
        _ => 0,
    };
    (start + head + COLUMNS_PER_BLOCK).min(job.columns)
}

/// `value` with what rounding leaves below 0 taken off; NaN stays.
fn not_negative(value: f64) -> f32 {
    if value < 0.0 { 0.0 } else { value as f32 }
}
