//! Plain Rust: eight lanes at a time, for processors without a vector unit that the kernels know.

use super::{EXP2, LEAST_EXPONENT, Lanes, ROUND};

/// Eight lanes of an array, which the compiler may vectorise.
#[derive(Clone, Copy)]
pub struct Scalar;

/// `a * b + c` rounded once, or as good as: the product is exact in double precision. `f32::mul_add` is a slow library
/// call where the processor has no such instruction.
#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(c)) as f32
}

/// Without a branch or a library call, so that it can be vectorised.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let kept = if x < LEAST_EXPONENT { LEAST_EXPONENT } else { x };
    let nearest = kept + ROUND - ROUND;
    let floor = if nearest > kept { nearest - 1.0 } else { nearest };
    let f = kept - floor;
    let power = EXP2.iter().rev().fold(0.0, |power, &c| mul_add(power, f, c));
    let scaled = mul_add(power, f, 1.0) * power_of(floor + ROUND);
    if x < LEAST_EXPONENT { 0.0 } else { scaled }
}

/// `2^n` where `rounded` is `n + ROUND`.
#[inline(always)]
fn power_of(rounded: f32) -> f32 {
    f32::from_bits((rounded.to_bits() << 23).wrapping_add(1f32.to_bits()))
}

impl Lanes for Scalar {
    type V = [f32; 8];
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; 8] {
        [x; 8]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> [f32; 8] {
        std::array::from_fn(|i| from[i])
    }
    #[inline(always)]
    fn store(self, v: [f32; 8], to: &mut [f32]) {
        to[..8].copy_from_slice(&v);
    }
    #[inline(always)]
    fn add(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| mul_add(a[i], b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn exp2(self, x: [f32; 8]) -> [f32; 8] {
        x.map(exp2)
    }
    #[inline(always)]
    fn power(self, _: [f32; 8], rounded: [f32; 8]) -> [f32; 8] {
        rounded.map(power_of)
    }
    #[inline(always)]
    fn select_small(self, u: [f32; 8], bound: [f32; 8], small: [f32; 8], large: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if u[i].abs() < bound[i] { small[i] } else { large[i] })
    }
    #[inline(always)]
    fn mul_unless_zero(self, a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| if a[i] == 0.0 { 0.0 } else { a[i] * b[i] })
    }
}
