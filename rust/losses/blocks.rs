//! The first sweep over a block of a row: maxima and sums of exponentials. Written once over [`Simd`]; all of it is inlined
//! into functions compiled for an instruction set.

use super::simd::{MAX_LANES, Simd};

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
    // Four at a time: one alone would wait for the instruction before.
    let mut largest = [simd.splat(f32::NEG_INFINITY); 4];
    let groups = x.chunks_exact(4 * S::LANES);
    let vectors = groups.remainder().chunks_exact(S::LANES);
    let tail = vectors.remainder();
    for group in groups {
        for (largest, x) in largest.iter_mut().zip(group.chunks_exact(S::LANES)) {
            // In this order x86 keeps `largest` where the new value is NaN.
            *largest = simd.max(simd.load(x), *largest);
        }
    }
    for x in vectors {
        largest[0] = simd.max(simd.load(x), largest[0]);
    }
    let [a, b, c, d] = largest;
    let largest = simd.largest(simd.max(simd.max(a, b), simd.max(c, d)));
    tail.iter().fold(largest, |a, &b| if b > a { b } else { a })
}

/// Sums of exponentials of a block of student and teacher, and the largest values of the blocks after them.
pub struct PairSums {
    /// Of the student at T.
    pub student: f64,
    /// Of the student at 1; 0 without cross-entropy.
    pub unscaled: f64,
    /// Of the teacher at T.
    pub teacher: f64,
    /// Largest values of the student's and the teacher's next block.
    pub next_max: [f32; 2],
}

/// One whole [`BLOCK`] of student and teacher; `next` are the blocks after them, of the same size, which are fetched and
/// compared meanwhile.
#[inline(always)]
pub fn pair_sums<S: Simd, const CE: u8>(
    simd: S,
    blocks: [&[f32]; 2],
    next: [&[f32]; 2],
    exponents: [Exponent; 2],
    unscaled: Exponent,
    ahead: Ahead,
) -> PairSums {
    let zero = simd.splat(0.0);
    let (mut student_sum, mut unscaled_sum, mut teacher_sum) = (zero, zero, zero);
    let (mut student_max, mut teacher_max) = (simd.splat(f32::NEG_INFINITY), simd.splat(f32::NEG_INFINITY));
    let [s, t] = blocks.map(|x| x[..BLOCK].chunks_exact(S::LANES));
    let [next_s, next_t] = next.map(|x| x[..BLOCK].chunks_exact(S::LANES));
    for (index, ((s, t), (next_s, next_t))) in s.zip(t).zip(next_s.zip(next_t)).enumerate() {
        simd.prefetch(ahead.address.wrapping_add(index * S::LANES * ahead.element_size));
        student_max = simd.max(simd.load(next_s), student_max);
        teacher_max = simd.max(simd.load(next_t), teacher_max);
        let s = simd.load(s);
        let e = exponential(simd, s, exponents[0]);
        student_sum = simd.add(student_sum, e);
        if CE != NO_CE && CE != CE_EQUAL {
            unscaled_sum = simd.add(unscaled_sum, unscale::<S, CE>(simd, s, e, unscaled));
        }
        teacher_sum = simd.add(teacher_sum, exponential(simd, simd.load(t), exponents[1]));
    }
    let student = simd.sum(student_sum);
    PairSums {
        student,
        unscaled: if CE == CE_EQUAL { student } else { simd.sum(unscaled_sum) },
        teacher: simd.sum(teacher_sum),
        next_max: [simd.largest(student_max), simd.largest(teacher_max)],
    }
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
    (simd.sum(sum), simd.sum(sum_unscaled))
}

/// `2^(factor * x - offset)`.
#[inline(always)]
pub fn exponential<S: Simd>(simd: S, x: S::V, exponent: Exponent) -> S::V {
    simd.exp2(simd.mul_add(x, simd.splat(exponent.factor), simd.splat(-exponent.offset)))
}

/// The exponential at 1 of `x`, whose exponential at T is `e` but for a factor of the row.
#[inline(always)]
pub fn unscale<S: Simd, const CE: u8>(simd: S, x: S::V, e: S::V, unscaled: Exponent) -> S::V {
    match CE {
        CE_EQUAL => e,
        CE_SQUARE => simd.mul(e, e),
        _ => exponential(simd, x, unscaled),
    }
}

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
