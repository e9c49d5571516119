//! NEON, which every 64-bit Arm processor has.

use super::{EXP2, LEAST_EXPONENT, Lanes};
#[allow(clippy::wildcard_imports)]
use crate::neon::*;

/// Four lanes.
#[derive(Clone, Copy)]
pub struct Neon;

// SAFETY, of every block in this implementation: NEON is part of the target, and memory is reached only inside slices
// whose lengths are asserted.
#[allow(clippy::undocumented_unsafe_blocks, unused_unsafe)]
impl Lanes for Neon {
    one_instruction! {
        float32x4_t, vdupq_n_f32, vld1q_f32, vst1q_f32, vaddq_f32, vsubq_f32, vmulq_f32, vmaxq_f32, vminq_f32
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn exp2(self, x: float32x4_t) -> float32x4_t {
        unsafe {
            // Where x is NaN or below -126 the exponent below is nonsense: NaN stays NaN, the rest is cleared at the end.
            let n = vrndmq_f32(x);
            let f = vsubq_f32(x, n);
            let mut power = vdupq_n_f32(EXP2[4]);
            for k in [3, 2, 1, 0] {
                power = vfmaq_f32(vdupq_n_f32(EXP2[k]), power, f);
            }
            power = vfmaq_f32(vdupq_n_f32(1.0), power, f);
            let exponent = vshlq_n_s32::<23>(vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127)));
            let scaled = vmulq_f32(power, vreinterpretq_f32_s32(exponent));
            let cleared = vcltq_f32(x, vdupq_n_f32(LEAST_EXPONENT));
            vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(scaled), cleared))
        }
    }
    #[inline(always)]
    fn power(self, _: float32x4_t, rounded: float32x4_t) -> float32x4_t {
        unsafe {
            let exponent = vshlq_n_s32::<23>(vreinterpretq_s32_f32(rounded));
            vreinterpretq_f32_s32(vaddq_s32(exponent, vreinterpretq_s32_f32(vdupq_n_f32(1.0))))
        }
    }
    #[inline(always)]
    fn select_small(self, u: float32x4_t, bound: float32x4_t, small: float32x4_t, large: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcaltq_f32(u, bound), small, large) }
    }
    #[inline(always)]
    fn mul_unless_zero(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(vmulq_f32(a, b)), vceqzq_f32(a))) }
    }
}
