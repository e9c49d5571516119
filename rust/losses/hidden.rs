//! Cosine loss and squared distance of hidden states, row after row.

use super::formats::{FloatRow, FloatRowMut, write_block};
use super::lanes::{self, Lanes, Work};
use crate::cpu::threads;
use crate::error::{Error, Result};
use crate::simd::Level;

/// Added to each squared norm, as `torch.nn.CosineEmbeddingLoss` does.
const NORM_EPSILON: f64 = 1e-12;

/// Which loss of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenKind {
    /// `1 - <s, t> / sqrt((|s|^2 + 1e-12) (|t|^2 + 1e-12))`.
    Cosine,
    /// `|s - t|^2`.
    SquaredDistance,
}

/// The tensors of [`hidden_loss`].
pub struct HiddenInputs<'a> {
    /// The student's rows.
    pub student: Vec<FloatRow<'a>>,
    /// The teacher's rows.
    pub teacher: Vec<FloatRow<'a>>,
    /// Weights of the rows; `None`: 1. Rows of weight 0 are not read.
    pub row_weights: Option<&'a [f32]>,
    /// Gradient of `scale * sum(weight * value)` with respect to the student's rows.
    pub grad: Option<Vec<FloatRowMut<'a>>>,
}

struct HiddenJob<'a> {
    kind: HiddenKind,
    scale: f32,
    student: Vec<FloatRow<'a>>,
    teacher: Vec<FloatRow<'a>>,
    row_weights: Option<&'a [f32]>,
}

struct HiddenChunk<'a> {
    first: usize,
    values: &'a mut [f32],
    grad: Option<Vec<FloatRowMut<'a>>>,
}

/// The value of every row, neither weighted nor scaled, and the gradient if it is asked for.
///
/// # Errors
///
/// Rows of different lengths, other numbers of rows.
pub fn hidden_loss(
    inputs: HiddenInputs<'_>,
    kind: HiddenKind,
    scale: f32,
    threads: usize,
    level: Level,
) -> Result<Vec<f32>> {
    let HiddenInputs { student, teacher, row_weights, grad } = inputs;
    let rows = student.len();
    let lengths = [teacher.len(), row_weights.map_or(rows, <[f32]>::len), grad.as_ref().map_or(rows, Vec::len)];
    if lengths.iter().any(|&length| length != rows) {
        return Err(Error::invalid(format!("{rows} rows of the student's beside {lengths:?} others")));
    }
    let columns = student.first().map_or(0, FloatRow::len);
    let widths = student.iter().chain(&teacher).map(FloatRow::len);
    if let Some(width) = widths.chain(grad.iter().flatten().map(|row| row.as_row().len())).find(|&w| w != columns) {
        return Err(Error::invalid(format!("a row has {width} columns where {columns} are expected")));
    }
    let mut values = vec![0.0; rows];
    let size = rows.div_ceil(4 * threads).max(32);
    let mut grad = grad.map(Vec::into_iter);
    let mut chunks: Vec<_> = values
        .chunks_mut(size)
        .enumerate()
        .map(|(index, values)| {
            let grad = grad.as_mut().map(|rows| rows.by_ref().take(values.len()).collect());
            HiddenChunk { first: index * size, values, grad }
        })
        .collect();
    let job = HiddenJob { kind, scale, student, teacher, row_weights };
    threads::for_each(&mut chunks, threads, |chunk| lanes::run(level, (&job, chunk)))?;
    Ok(values)
}

impl Work for (&HiddenJob<'_>, &mut HiddenChunk<'_>) {
    #[inline(always)]
    fn with<S: Lanes>(self, simd: S) {
        rows(simd, self.0, self.1);
    }
}

#[inline(always)]
fn rows<S: Lanes>(simd: S, job: &HiddenJob<'_>, chunk: &mut HiddenChunk<'_>) {
    let HiddenJob { kind, scale, student, teacher, row_weights } = job;
    let columns = student.first().map_or(0, FloatRow::len);
    // Padded with zeros to whole vectors: they add nothing to any sum.
    let padded = columns.next_multiple_of(S::LANES);
    let mut s = vec![0.0; padded];
    let mut t = vec![0.0; padded];
    let mut wide = vec![0.0; padded];
    let mut narrow = vec![0; columns];
    for (offset, value) in chunk.values.iter_mut().enumerate() {
        let index = chunk.first + offset;
        let weight = row_weights.map_or(1.0, |weights| weights[index]);
        let grad = chunk.grad.as_mut().map(|rows| &mut rows[offset]);
        if weight == 0.0 {
            if let Some(grad) = grad {
                grad.clear();
            }
            continue;
        }
        student[index].copy_widened(&mut s);
        teacher[index].copy_widened(&mut t);
        let factor = *scale * weight;
        let target = grad.is_some().then_some(&mut wide);
        *value = match *kind {
            HiddenKind::Cosine => cosine(simd, &s, &t, target, f64::from(factor)),
            HiddenKind::SquaredDistance => squared_distance(simd, &s, &t, target, factor),
        };
        if let Some(grad) = grad {
            write_block(simd, &wide[..columns], &mut narrow, grad, 0, false);
        }
    }
}

/// One minus the cosine, as half the squared distance of the normalised rows: no cancellation, however near they are.
#[inline(always)]
fn cosine<S: Lanes>(simd: S, s: &[f32], t: &[f32], grad: Option<&mut Vec<f32>>, factor: f64) -> f32 {
    let (mut student_square, mut teacher_square) = (simd.splat(0.0), simd.splat(0.0));
    for (s, t) in s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES)) {
        let (s, t) = (simd.load(s), simd.load(t));
        student_square = simd.mul_add(s, s, student_square);
        teacher_square = simd.mul_add(t, t, teacher_square);
    }
    let student_square = simd.sum(student_square) + NORM_EPSILON;
    let teacher_square = simd.sum(teacher_square) + NORM_EPSILON;
    let student_inverse = 1.0 / student_square.sqrt();
    let s_factor = simd.splat(student_inverse as f32);
    let t_factor = simd.splat((1.0 / teacher_square.sqrt()) as f32);
    let mut distance = simd.splat(0.0);
    for (s, t) in s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES)) {
        let difference = simd.sub(simd.mul(simd.load(s), s_factor), simd.mul(simd.load(t), t_factor));
        distance = simd.mul_add(difference, difference, distance);
    }
    // |s / norm|^2 is 1 less epsilon / norm^2.
    let rest = NORM_EPSILON / student_square + NORM_EPSILON / teacher_square;
    let value = 0.5 * (simd.sum(distance) + rest);
    if let Some(grad) = grad {
        let outer = simd.splat((factor * student_inverse) as f32);
        let along = simd.splat(-value as f32);
        let pairs = s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES));
        for ((s, t), grad) in pairs.zip(grad.chunks_exact_mut(S::LANES)) {
            let unit = simd.mul(simd.load(s), s_factor);
            let difference = simd.sub(unit, simd.mul(simd.load(t), t_factor));
            simd.store(simd.mul(outer, simd.mul_add(along, unit, difference)), grad);
        }
    }
    value as f32
}

#[inline(always)]
fn squared_distance<S: Lanes>(simd: S, s: &[f32], t: &[f32], grad: Option<&mut Vec<f32>>, factor: f32) -> f32 {
    let mut sum = simd.splat(0.0);
    for (s, t) in s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES)) {
        let difference = simd.sub(simd.load(s), simd.load(t));
        sum = simd.mul_add(difference, difference, sum);
    }
    if let Some(grad) = grad {
        let pairs = s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES));
        for ((s, t), grad) in pairs.zip(grad.chunks_exact_mut(S::LANES)) {
            let difference = simd.sub(simd.load(s), simd.load(t));
            simd.store(simd.mul(difference, simd.splat(2.0 * factor)), grad);
        }
    }
    simd.sum(sum) as f32
}
