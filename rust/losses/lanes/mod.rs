//! What the kernels ask of a vector unit, and which units there are.

/// The methods of [`Lanes`] that are one instruction, by the names that a vector unit's instructions have.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
macro_rules! one_instruction {
    ($v:ty, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $max:ident, $min:ident) => {
        type V = $v;
        const LANES: usize = size_of::<$v>() / size_of::<f32>();

        #[inline(always)]
        fn splat(self, x: f32) -> $v {
            unsafe { $splat(x) }
        }
        #[inline(always)]
        fn load(self, from: &[f32]) -> $v {
            assert!(from.len() >= Self::LANES);
            unsafe { $load(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, v: $v, to: &mut [f32]) {
            assert!(to.len() >= Self::LANES);
            unsafe { $store(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn add(self, a: $v, b: $v) -> $v {
            unsafe { $add(a, b) }
        }
        #[inline(always)]
        fn sub(self, a: $v, b: $v) -> $v {
            unsafe { $sub(a, b) }
        }
        #[inline(always)]
        fn mul(self, a: $v, b: $v) -> $v {
            unsafe { $mul(a, b) }
        }
        #[inline(always)]
        fn max(self, a: $v, b: $v) -> $v {
            unsafe { $max(a, b) }
        }
        #[inline(always)]
        fn min(self, a: $v, b: $v) -> $v {
            unsafe { $min(a, b) }
        }
    };
}

#[cfg(any(target_arch = "aarch64", test))]
mod neon;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::simd::Level;

/// 32-bit lanes of one instruction set. A value exists only where the processor has the instructions, so its methods are
/// safe to call; they are inlined into a function compiled for the set (see [`run`]).
pub trait Lanes: Copy {
    /// A vector of [`Self::LANES`] lanes.
    type V: Copy;
    /// Lanes of a vector, at most [`MAX_LANES`].
    const LANES: usize;

    /// All lanes `x`.
    fn splat(self, x: f32) -> Self::V;
    /// The first `LANES` values of `from`.
    fn load(self, from: &[f32]) -> Self::V;
    /// Lanes to the first `LANES` values of `to`.
    fn store(self, v: Self::V, to: &mut [f32]);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; which one is unspecified where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller, likewise.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// `2^x` for `x` up to 127, within an ulp or so; 0 below -126; NaN for NaN.
    fn exp2(self, x: Self::V) -> Self::V;
    /// `2^n` of an integer `n` from -126 to 127; `rounded` is `n + ROUND`.
    fn power(self, n: Self::V, rounded: Self::V) -> Self::V;
    /// `small` where `|u| < bound`, else (so also where `u` is NaN) `large`.
    fn select_small(self, u: Self::V, bound: Self::V, small: Self::V, large: Self::V) -> Self::V;
    /// `a * b`, but 0 where `a` is 0, whatever `b` is.
    fn mul_unless_zero(self, a: Self::V, b: Self::V) -> Self::V;
    /// Sum of the lanes, in double precision.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f64 {
        let mut lanes = [0.0; MAX_LANES];
        self.store(v, &mut lanes);
        lanes[..Self::LANES].iter().map(|&lane| f64::from(lane)).sum()
    }
    /// The largest lane; NaNs may be passed over.
    #[inline(always)]
    fn largest(self, v: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
        self.store(v, &mut lanes);
        lanes[..Self::LANES].iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
    }
    /// Lanes to the first `LANES` values of `to`, past the caches where the unit can and `to` begins at a whole vector.
    #[inline(always)]
    fn stream_vector(self, v: Self::V, to: &mut [f32]) {
        self.store(v, to);
    }
    /// Copies numbers past the caches where the unit can: for memory that is written whole and not read soon.
    fn stream<T: Copy>(self, from: &[T], to: &mut [T]) {
        to.copy_from_slice(from);
    }
    /// Makes streamed bytes visible to other threads.
    fn fence(self) {}
    /// Asks for the cache line at `address`, which need not be valid.
    fn prefetch(self, _address: *const u8) {}
}

/// Lanes of the widest unit.
pub const MAX_LANES: usize = 16;

/// `2^f = 1 + f * (C[0] + f * (C[1] + ...))` for `0 <= f <= 1`, relative error 8e-8: a minimax fit.
pub const EXP2: [f32; 5] = [0.693_151_3, 0.240_164_46, 0.055_799_868, 0.009_017_096, 0.001_867_099];

/// Added to a number, it leaves no bits for a fraction, and the integer in the lowest ones.
pub const ROUND: f32 = 12_582_912.0;

/// Below this exponent [`Lanes::exp2`] is 0: no subnormal numbers, which are slow.
pub const LEAST_EXPONENT: f32 = -126.0;

/// The first `count` lanes of `v`, 0 in the others.
#[inline(always)]
pub fn keep_first<S: Lanes>(simd: S, v: S::V, count: usize) -> S::V {
    let mut lanes = [0.0; MAX_LANES];
    simd.store(v, &mut lanes);
    lanes[count..].fill(0.0);
    simd.load(&lanes)
}

/// Work that is written once for all instruction sets.
pub trait Work {
    /// Does it; `#[inline(always)]`, so that it is compiled for the set of `simd`.
    fn with<S: Lanes>(self, simd: S);
}

/// Does `work` with the instructions of `level`.
pub fn run(level: Level, work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    match level {
        // SAFETY: the processor has the instructions.
        Level::Avx512 if level.is_available() => return unsafe { x86::run_avx512(work) },
        // SAFETY: likewise.
        Level::Avx2 if level.is_available() => return unsafe { x86::run_avx2(work) },
        _ => {}
    }
    #[cfg(any(target_arch = "aarch64", test))]
    if level == Level::Neon {
        return work.with(neon::Neon);
    }
    work.with(scalar::Scalar);
}
