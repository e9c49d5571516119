//! What the kernels ask of a vector unit, and which units there are.

/// 32-bit lanes of one instruction set. A value exists only where the processor has the instructions, so its methods are
/// safe to call; they are inlined into a function compiled for the set (see [`Level`]).
pub trait Simd: Copy {
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
    /// `2^x` for `x` up to 127, within an ulp or so; 0 below -126; NaN for NaN.
    fn exp2(self, x: Self::V) -> Self::V;
    /// `small` where `|u| < bound`, else (so also where `u` is NaN) `large`.
    fn select_small(self, u: Self::V, bound: Self::V, small: Self::V, large: Self::V) -> Self::V;
    /// `a * b`, but 0 where `a` is 0, whatever `b` is.
    fn mul_unless_zero(self, a: Self::V, b: Self::V) -> Self::V;
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

/// `2^f = 1 + f * (C[0] + f * (C[1] + ...))` for `|f| <= 1/2`, relative error 2e-9: a minimax fit.
pub const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_62];

/// Below this exponent [`Simd::exp2`] is 0: no subnormal numbers, which are slow.
pub const LEAST_EXPONENT: f32 = -126.0;

/// Sum of the lanes, in double precision.
#[inline(always)]
pub fn sum<S: Simd>(simd: S, v: S::V) -> f64 {
    let mut lanes = [0.0; MAX_LANES];
    simd.store(v, &mut lanes);
    lanes[..S::LANES].iter().map(|&lane| f64::from(lane)).sum()
}

/// The largest lane.
#[inline(always)]
pub fn max<S: Simd>(simd: S, v: S::V) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; MAX_LANES];
    simd.store(v, &mut lanes);
    lanes[..S::LANES].iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

/// The first `count` lanes of `v`, 0 in the others.
#[inline(always)]
pub fn keep_first<S: Simd>(simd: S, v: S::V, count: usize) -> S::V {
    let mut lanes = [0.0; MAX_LANES];
    simd.store(v, &mut lanes);
    lanes[count..].fill(0.0);
    simd.load(&lanes)
}

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// 16 lanes: AVX-512 F.
    Avx512,
    /// 8 lanes: AVX2 and FMA.
    Avx2,
    /// 4 lanes: every 64-bit Arm.
    Neon,
    /// Plain Rust, anywhere.
    Scalar,
}

impl Level {
    /// All of them, the fastest first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Neon, Self::Scalar];

    /// Whether this processor has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            Self::Scalar => true,
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// The fastest of this processor.
    pub fn best() -> Self {
        Self::ALL.into_iter().find(|level| level.is_available()).unwrap_or(Self::Scalar)
    }

    /// Its name to users.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Neon => "neon",
            Self::Scalar => "scalar",
        }
    }
}
