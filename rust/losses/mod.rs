//! The losses of distillation on the CPU: value and gradient of tempered KL, cross-entropy and squared difference of
//! logits in one fused pass, and the cosine loss of hidden states. The formulas are those of `definitions.py`.

#![expect(
    clippy::inline_always,
    reason = "generic code becomes AVX-512 or AVX2 code only inside the functions that are compiled for them"
)]

mod blocks;
mod careful;
mod formats;
mod hidden;
mod lanes;
mod near;
mod rows;
#[cfg(test)]
mod tests;

pub use formats::{FloatRow, FloatRowMut};
pub use hidden::{HiddenInputs, HiddenKind, hidden_loss};

use blocks::Unscaled;
use lanes::{Lanes, Work};

use crate::cpu::threads;
use crate::error::{Error, Result};
use crate::simd::Level;

/// The label of a row that has none.
pub const IGNORED: i64 = -100;

/// A gradient larger than this (bytes) is written past the caches, which could not hold it.
const STREAMED: usize = 8 << 20;

/// What [`distillation_loss`] computes: of N rows of logits with `columns` columns each.
pub struct Job<'a> {
    /// Columns of a row: the size of the vocabulary.
    columns: usize,
    /// The student's rows; none where the gradient is written over them.
    student: Vec<FloatRow<'a>>,
    /// The teacher's rows; none for the cross-entropy alone.
    teacher: Vec<FloatRow<'a>>,
    labels: Option<&'a [i64]>,
    row_weights: Option<&'a [f32]>,
    /// How exp(s) follows from exp(s / T).
    unscaled: Unscaled,
    /// log2(e) / T.
    factor: f32,
    /// log2(e).
    unscaled_factor: f32,
    kl_grad: f32,
    ce_grad: f32,
    mse_grad: f32,
    stream: bool,
}

/// Rows that one thread works on: the first one's number, and where the results go.
pub struct RowChunk<'a> {
    first: usize,
    kl: &'a mut [f32],
    ce: &'a mut [f32],
    mse: &'a mut [f32],
    grad: Option<Vec<FloatRowMut<'a>>>,
}

/// The tensors of [`distillation_loss`].
pub struct Inputs<'a> {
    /// Student logits, N rows; empty if `grad` holds them (and is overwritten).
    pub student: Vec<FloatRow<'a>>,
    /// Teacher logits, N rows, or empty: no KL and no squared difference.
    pub teacher: Vec<FloatRow<'a>>,
    /// A column for each row, or [`IGNORED`]; `None`: no cross-entropy.
    pub labels: Option<&'a [i64]>,
    /// Weights of the rows in KL and squared difference; `None`: 1. Rows of weight 0 are not read.
    pub row_weights: Option<&'a [f32]>,
    /// Gradient with respect to the student's logits, N rows.
    pub grad: Option<Vec<FloatRowMut<'a>>>,
}

/// The numbers of [`distillation_loss`].
#[derive(Clone, Copy, Debug)]
pub struct LossSettings {
    /// T, above 0.
    pub temperature: f32,
    /// What `weight * (p - q)` is multiplied by in the gradient: alpha * T / rows.
    pub kl_grad: f32,
    /// What `r - onehot(label)` is multiplied by in the gradient: alpha / rows.
    pub ce_grad: f32,
    /// What `weight * (s - t)` is multiplied by in the gradient: 2 * alpha / rows.
    pub mse_grad: f32,
    /// Threads to share the rows, at least 1.
    pub threads: usize,
    /// Instruction set.
    pub level: Level,
}

/// Values of each row, none of them weighted or divided.
#[derive(Debug, Default)]
pub struct RowLosses {
    /// KL(q || p) at T, without T^2; 0 where the row's weight is 0.
    pub kl: Vec<f32>,
    /// Cross-entropy at T = 1; 0 where there is no label.
    pub ce: Vec<f32>,
    /// Sum over the columns of (s - t)^2; 0 where the row's weight is 0, and where it is 0 in the gradient.
    pub mse: Vec<f32>,
}

impl Job<'_> {
    /// The student's logits of a row: its own or, in place, still in the gradient's.
    #[inline(always)]
    fn student_row<'b>(&'b self, index: usize, grad: Option<&'b FloatRowMut<'_>>) -> FloatRow<'b> {
        match grad {
            Some(grad) if self.student.is_empty() => grad.as_row(),
            _ => self.student[index],
        }
    }

    /// The row's weight in KL and squared difference: none without a teacher.
    #[inline(always)]
    fn weight(&self, index: usize) -> f32 {
        if self.teacher.is_empty() { 0.0 } else { self.row_weights.map_or(1.0, |weights| weights[index]) }
    }
}

/// Loss of every row and, if `inputs.grad` is there, its gradient.
///
/// # Errors
///
/// A label outside the vocabulary, rows of different lengths, other numbers of rows.
pub fn distillation_loss(inputs: Inputs<'_>, settings: LossSettings) -> Result<RowLosses> {
    let Inputs { student, teacher, labels, row_weights, grad } = inputs;
    let rows = grad.as_ref().map_or(student.len(), Vec::len);
    let columns = match (&grad, student.first()) {
        (_, Some(row)) => row.len(),
        (Some(grad), None) => grad.first().map_or(0, |row| row.as_row().len()),
        (None, None) => 0,
    };
    let lengths = [
        ("student", if student.is_empty() { rows } else { student.len() }),
        ("teacher", if teacher.is_empty() { rows } else { teacher.len() }),
        ("labels", labels.map_or(rows, <[i64]>::len)),
        ("row_weights", row_weights.map_or(rows, <[f32]>::len)),
    ];
    for (name, length) in lengths {
        if length != rows {
            return Err(Error::invalid(format!("{name} has {length} rows where {rows} are expected")));
        }
    }
    let widths = student.iter().chain(&teacher).map(FloatRow::len);
    let grad_widths = grad.iter().flatten().map(|row| row.as_row().len());
    if let Some(width) = widths.chain(grad_widths).find(|&width| width != columns) {
        return Err(Error::invalid(format!("a row has {width} columns where {columns} are expected")));
    }
    check_labels(labels, columns)?;
    let mut losses = RowLosses { kl: vec![0.0; rows], ce: vec![0.0; rows], mse: vec![0.0; rows] };
    if rows == 0 || columns == 0 {
        return Ok(losses);
    }
    let grad_bytes = grad.iter().flatten().map(|row| columns * row.as_row().element_size()).sum::<usize>();
    let log2_e = std::f64::consts::LOG2_E;
    let job = Job {
        columns,
        stream: grad_bytes > STREAMED && !student.is_empty(),
        student,
        teacher,
        labels,
        row_weights,
        unscaled: Unscaled::of(settings.temperature),
        factor: (log2_e / f64::from(settings.temperature)) as f32,
        unscaled_factor: log2_e as f32,
        kl_grad: settings.kl_grad,
        ce_grad: settings.ce_grad,
        mse_grad: settings.mse_grad,
    };
    let mut chunks = chunks(&mut losses, grad, settings.threads);
    threads::for_each(&mut chunks, settings.threads, |chunk| lanes::run(settings.level, (&job, chunk)))?;
    Ok(losses)
}

fn check_labels(labels: Option<&[i64]>, columns: usize) -> Result<()> {
    let labels = labels.unwrap_or_default();
    let is_wrong = |&label: &i64| label != IGNORED && !(0..columns as i64).contains(&label);
    match labels.iter().position(is_wrong) {
        Some(row) => Err(Error::invalid(format!(
            "label {} in row {row} is outside [0, {columns}); rows without a label have {IGNORED}",
            labels[row]
        ))),
        None => Ok(()),
    }
}

/// Several chunks a thread, so that one that is slowed down is helped out.
fn chunks<'a>(losses: &'a mut RowLosses, grad: Option<Vec<FloatRowMut<'a>>>, threads: usize) -> Vec<RowChunk<'a>> {
    let size = losses.kl.len().div_ceil(8 * threads).clamp(1, 64);
    let mut grad = grad.map(Vec::into_iter);
    let values = losses.kl.chunks_mut(size).zip(losses.ce.chunks_mut(size)).zip(losses.mse.chunks_mut(size));
    let mut first = 0;
    values
        .map(|((kl, ce), mse)| {
            let grad = grad.as_mut().map(|rows| rows.by_ref().take(kl.len()).collect());
            first += kl.len();
            RowChunk { first: first - kl.len(), kl, ce, mse, grad }
        })
        .collect()
}

impl Work for (&Job<'_>, &mut RowChunk<'_>) {
    #[inline(always)]
    fn with<S: Lanes>(self, simd: S) {
        rows::run(simd, self.0, self.1);
    }
}
