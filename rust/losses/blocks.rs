//! Sweeps over a block of a row that both ways of computing it share: largest values, sums of exponentials, parts of the
//! gradient. Written once over [`Lanes`]; all of it is inlined into functions compiled for an instruction set.

use super::formats::FloatRow;
use super::lanes::{Lanes, MAX_LANES};

/// Columns of a block: student, teacher and what is computed from them stay in the first-level cache.
pub const COLUMNS_PER_BLOCK: usize = 1024;

/// Vectors that are added up before their sum is added to the others': small numbers are not lost beside a large one.
pub const VECTORS_PER_GROUP: usize = 16;

/// How `exp(s)`, which the cross-entropy is made of, follows from `exp(s / T)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unscaled {
    /// T = 1: they are equal.
    Equal,
    /// T = 2: it is the square.
    Square,
    /// Any other T: one more exponential.
    Another,
}

impl Unscaled {
    /// The cheapest form for a temperature.
    #[expect(clippy::float_cmp, reason = "the cheaper forms hold for exactly these")]
    pub fn of(temperature: f32) -> Self {
        if temperature == 1.0 {
            Self::Equal
        } else if temperature == 2.0 {
            Self::Square
        } else {
            Self::Another
        }
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
    /// Where nothing is worth fetching.
    pub const NOTHING: Self = Self { address: std::ptr::null(), element_size: 0 };

    /// The beginning of a row.
    pub fn of(row: FloatRow<'_>) -> Self {
        Self { address: row.address(), element_size: row.element_size() }
    }

    /// The same, `columns` further on.
    #[inline(always)]
    pub fn skip(self, columns: usize) -> Self {
        Self { address: self.address.wrapping_add(columns * self.element_size), ..self }
    }

    /// Asks for the vector that is `columns` further on.
    #[inline(always)]
    pub fn fetch<S: Lanes>(self, simd: S, columns: usize) {
        simd.prefetch(self.skip(columns).address);
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

impl Exponent {
    /// The one that is 1 at `largest`. Where that is -inf it is 0 for every logit, and not NaN.
    pub fn with_reference(factor: f32, largest: f32) -> Self {
        Self { factor, offset: if largest > f32::NEG_INFINITY { factor * largest } else { 0.0 } }
    }

    /// Its square.
    pub fn squared(self) -> Self {
        Self { factor: 2.0 * self.factor, offset: 2.0 * self.offset }
    }

    /// Logarithm of the exponential of `x`.
    pub fn log(self, x: f32) -> f64 {
        std::f64::consts::LN_2 * (f64::from(self.factor) * f64::from(x) - f64::from(self.offset))
    }
}

/// Largest values of a row; NaNs may be passed over.
#[derive(Clone, Copy)]
pub struct Largest {
    /// s, the student's logits.
    pub student: f32,
    /// t, the teacher's logits.
    pub teacher: f32,
    /// s - t.
    pub above: f32,
    /// t - s.
    pub below: f32,
}

impl Largest {
    /// Of no column.
    pub const NONE: Self = Self::of([f32::NEG_INFINITY; 4]);

    const fn of([student, teacher, above, below]: [f32; 4]) -> Self {
        Self { student, teacher, above, below }
    }

    /// With the columns of a block.
    #[inline(always)]
    pub fn with<S: Lanes>(self, simd: S, [s, t]: [&[f32]; 2]) -> Self {
        let mut largest = [simd.splat(f32::NEG_INFINITY); 3];
        let mut least = simd.splat(f32::INFINITY);
        for (s, t) in s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES)) {
            let (s, t) = (simd.load(s), simd.load(t));
            let difference = simd.sub(s, t);
            // In this order x86 keeps what there is where the new value is NaN.
            largest[0] = simd.max(s, largest[0]);
            largest[1] = simd.max(t, largest[1]);
            largest[2] = simd.max(difference, largest[2]);
            least = simd.min(difference, least);
        }
        let [student, teacher, above] = largest;
        let below = simd.sub(simd.splat(0.0), least);
        let mut all = [self.student, self.teacher, self.above, self.below];
        for (all, largest) in all.iter_mut().zip([student, teacher, above, below]) {
            *all = larger(simd.largest(largest), *all);
        }
        let whole = s.len() - s.len() % S::LANES;
        for (&s, &t) in s[whole..].iter().zip(&t[whole..]) {
            for (all, value) in all.iter_mut().zip([s, t, s - t, t - s]) {
                *all = larger(value, *all);
            }
        }
        Self::of(all)
    }
}

#[inline(always)]
fn larger(new: f32, before: f32) -> f32 {
    if new > before { new } else { before }
}

/// The largest value of a block; -inf for none, NaNs may be passed over.
#[inline(always)]
pub fn block_max<S: Lanes>(simd: S, x: &[f32]) -> f32 {
    // Four at a time: one alone would wait for the instruction before.
    let mut largest = [simd.splat(f32::NEG_INFINITY); 4];
    let groups = x.chunks_exact(4 * S::LANES);
    let vectors = groups.remainder().chunks_exact(S::LANES);
    let tail = vectors.remainder();
    for group in groups {
        for (largest, x) in largest.iter_mut().zip(group.chunks_exact(S::LANES)) {
            *largest = simd.max(simd.load(x), *largest);
        }
    }
    for x in vectors {
        largest[0] = simd.max(simd.load(x), largest[0]);
    }
    let [a, b, c, d] = largest;
    let largest = simd.largest(simd.max(simd.max(a, b), simd.max(c, d)));
    tail.iter().fold(largest, |a, &b| larger(b, a))
}

/// `x` from its last whole vector on, then `padding`: a vector of any unit, or two.
#[inline(always)]
pub fn padded_tail<S: Lanes>(x: &[f32], padding: f32) -> ([f32; MAX_LANES], usize) {
    let tail = &x[x.len() - x.len() % S::LANES..];
    let mut lanes = [padding; MAX_LANES];
    lanes[..tail.len()].copy_from_slice(tail);
    (lanes, tail.len())
}

/// Sum over a block of `2^(factor * x - offset)`.
#[inline(always)]
pub fn exp_sum<S: Lanes>(simd: S, x: &[f32], exponent: Exponent) -> f64 {
    // Padded with -inf, whose exponential is 0.
    let (tail, _) = padded_tail::<S>(x, f32::NEG_INFINITY);
    let mut total = exponential(simd, simd.load(&tail), exponent);
    for group in x.chunks(VECTORS_PER_GROUP * S::LANES) {
        let mut sum = simd.splat(0.0);
        for x in group.chunks_exact(S::LANES) {
            sum = simd.add(sum, exponential(simd, simd.load(x), exponent));
        }
        total = simd.add(total, sum);
    }
    simd.sum(total)
}

/// The same, and the exponentials, which go to `to`: whole vectors, so that it is longer where `x` ends with part of one.
#[inline(always)]
pub fn exponentials<S: Lanes>(simd: S, x: &[f32], to: &mut [f32], exponent: Exponent, ahead: Ahead) -> f64 {
    let mut total = simd.splat(0.0);
    for (group, (x, to)) in
        x.chunks(VECTORS_PER_GROUP * S::LANES).zip(to.chunks_mut(VECTORS_PER_GROUP * S::LANES)).enumerate()
    {
        let mut sum = simd.splat(0.0);
        for (index, (x, to)) in x.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)).enumerate() {
            ahead.fetch(simd, (group * VECTORS_PER_GROUP + index) * S::LANES);
            let e = exponential(simd, simd.load(x), exponent);
            sum = simd.add(sum, e);
            simd.store(e, to);
        }
        total = simd.add(total, sum);
    }
    let (tail, count) = padded_tail::<S>(x, f32::NEG_INFINITY);
    if count > 0 {
        let e = exponential(simd, simd.load(&tail), exponent);
        total = simd.add(total, e);
        simd.store(e, &mut to[x.len() - count..]);
    }
    simd.sum(total)
}

/// `weight * from`, as many whole vectors as hold `grad`, which is as long as they.
#[inline(always)]
pub fn scale<S: Lanes>(simd: S, from: &[f32], grad: &mut [f32], weight: f32) {
    for (from, grad) in from.chunks_exact(S::LANES).zip(grad.chunks_exact_mut(S::LANES)) {
        simd.store(simd.mul(simd.load(from), simd.splat(weight)), grad);
    }
}

/// `2^(factor * x - offset)`.
#[inline(always)]
pub fn exponential<S: Lanes>(simd: S, x: S::V, exponent: Exponent) -> S::V {
    simd.exp2(simd.mul_add(x, simd.splat(exponent.factor), simd.splat(-exponent.offset)))
}

/// Adds `weight * 2^(factor * x - offset)` of a block to its gradient.
#[inline(always)]
pub fn add_exponentials<S: Lanes>(simd: S, x: &[f32], grad: &mut [f32], exponent: Exponent, weight: f32) {
    let weight = simd.splat(weight);
    for (x, grad) in x.chunks_exact(S::LANES).zip(grad.chunks_exact_mut(S::LANES)) {
        simd.store(simd.mul_add(exponential(simd, simd.load(x), exponent), weight, simd.load(grad)), grad);
    }
    let (tail, count) = padded_tail::<S>(x, f32::NEG_INFINITY);
    let mut lanes = [0.0; MAX_LANES];
    simd.store(simd.mul(exponential(simd, simd.load(&tail), exponent), weight), &mut lanes);
    for (grad, value) in grad[x.len() - count..].iter_mut().zip(&lanes[..count]) {
        *grad += value;
    }
}

/// Sum over a block of `(s - t)^2`.
#[inline(always)]
pub fn squares<S: Lanes>(simd: S, [s, t]: [&[f32]; 2]) -> f64 {
    let mut sum = simd.splat(0.0);
    for (s, t) in s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES)) {
        let difference = simd.sub(simd.load(s), simd.load(t));
        sum = simd.mul_add(difference, difference, sum);
    }
    let [(s, _), (t, _)] = [s, t].map(|x| padded_tail::<S>(x, 0.0));
    let difference = simd.sub(simd.load(&s), simd.load(&t));
    simd.sum(simd.mul_add(difference, difference, sum))
}

/// Adds `weight * (s - t)` of a block to its gradient.
#[inline(always)]
pub fn add_differences<S: Lanes>(simd: S, [s, t]: [&[f32]; 2], grad: &mut [f32], weight: f32) {
    let whole = s.len() - s.len() % S::LANES;
    let vectors = s.chunks_exact(S::LANES).zip(t.chunks_exact(S::LANES));
    for ((s, t), grad) in vectors.zip(grad.chunks_exact_mut(S::LANES)) {
        let difference = simd.sub(simd.load(s), simd.load(t));
        simd.store(simd.mul_add(difference, simd.splat(weight), simd.load(grad)), grad);
    }
    for ((s, t), grad) in s[whole..].iter().zip(&t[whole..]).zip(&mut grad[whole..]) {
        *grad += weight * (s - t);
    }
}

/// Sum of the squares of `mass + excess` over whole vectors.
#[inline(always)]
pub fn sum_of_squares<S: Lanes>(simd: S, mass: &[f32], excess: &[f32]) -> f64 {
    let mut total = simd.splat(0.0);
    for (mass, excess) in mass.chunks(VECTORS_PER_GROUP * S::LANES).zip(excess.chunks(VECTORS_PER_GROUP * S::LANES)) {
        let mut sum = simd.splat(0.0);
        for (mass, excess) in mass.chunks_exact(S::LANES).zip(excess.chunks_exact(S::LANES)) {
            let student = simd.add(simd.load(mass), simd.load(excess));
            sum = simd.mul_add(student, student, sum);
        }
        total = simd.add(total, sum);
    }
    simd.sum(total)
}
