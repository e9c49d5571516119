//! NEON's instructions as the kernels call them. In tests on other processors they are what Arm's reference says they do,
//! lane by lane, so that the kernels of 64-bit Arm are compiled and held to the laws everywhere.

#[cfg(target_arch = "aarch64")]
pub use std::arch::aarch64::*;

#[cfg(not(target_arch = "aarch64"))]
pub use emulated::*;

#[cfg(not(target_arch = "aarch64"))]
#[allow(non_camel_case_types, clippy::missing_safety_doc, reason = "named and called as the instructions are")]
mod emulated {
    use std::array::from_fn;

    #[derive(Clone, Copy)]
    pub struct float32x4_t([f32; 4]);
    #[derive(Clone, Copy)]
    pub struct int32x4_t([i32; 4]);
    #[derive(Clone, Copy)]
    pub struct uint32x4_t([u32; 4]);
    #[derive(Clone, Copy)]
    pub struct uint8x16_t([u8; 16]);
    #[derive(Clone, Copy)]
    pub struct uint8x8_t([u8; 8]);

    /// Functions of two vectors, a lane at a time.
    macro_rules! by_lane {
        ($($name:ident($($argument:ident: $from:ident),+) -> $to:ident = $lane:expr;)+) => {
            $(pub fn $name($($argument: $from),+) -> $to {
                $to(from_fn(|lane| $lane($($argument.0[lane]),+)))
            })+
        };
    }

    fn all_if(condition: bool) -> u32 {
        if condition { u32::MAX } else { 0 }
    }

    fn byte_if(condition: bool) -> u8 {
        if condition { u8::MAX } else { 0 }
    }

    /// NaN where either is.
    fn extreme(a: f32, b: f32, choose: impl Fn(f32, f32) -> f32) -> f32 {
        if a.is_nan() || b.is_nan() { f32::NAN } else { choose(a, b) }
    }

    by_lane! {
        vaddq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a: f32, b: f32| a + b;
        vsubq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a: f32, b: f32| a - b;
        vmulq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a: f32, b: f32| a * b;
        vmaxq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a, b| extreme(a, b, f32::max);
        vminq_f32(a: float32x4_t, b: float32x4_t) -> float32x4_t = |a, b| extreme(a, b, f32::min);
        vfmaq_f32(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = |a: f32, b: f32, c: f32| b.mul_add(c, a);
        vrndmq_f32(a: float32x4_t) -> float32x4_t = f32::floor;
        vcltq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t = |a: f32, b: f32| all_if(a < b);
        vcaltq_f32(a: float32x4_t, b: float32x4_t) -> uint32x4_t = |a: f32, b: f32| all_if(a.abs() < b.abs());
        vceqzq_f32(a: float32x4_t) -> uint32x4_t = |a: f32| all_if(a == 0.0);
        vcvtq_s32_f32(a: float32x4_t) -> int32x4_t = |a: f32| a as i32;
        vaddq_s32(a: int32x4_t, b: int32x4_t) -> int32x4_t = i32::wrapping_add;
        vbicq_u32(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = |a: u32, b: u32| a & !b;
        vbslq_f32(a: uint32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t =
            |a: u32, b: f32, c: f32| f32::from_bits(a & b.to_bits() | !a & c.to_bits());
        vreinterpretq_f32_s32(a: int32x4_t) -> float32x4_t = |a: i32| f32::from_bits(a as u32);
        vreinterpretq_f32_u32(a: uint32x4_t) -> float32x4_t = f32::from_bits;
        vreinterpretq_s32_f32(a: float32x4_t) -> int32x4_t = |a: f32| a.to_bits() as i32;
        vreinterpretq_u32_f32(a: float32x4_t) -> uint32x4_t = f32::to_bits;
        vandq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t = |a: u8, b: u8| a & b;
        vorrq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t = |a: u8, b: u8| a | b;
        vmvnq_u8(a: uint8x16_t) -> uint8x16_t = |a: u8| !a;
        vceqq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t = |a: u8, b: u8| byte_if(a == b);
        vcgeq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t = |a: u8, b: u8| byte_if(a >= b);
        vtstq_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t = |a: u8, b: u8| byte_if(a & b != 0);
    }

    pub fn vdupq_n_f32(value: f32) -> float32x4_t {
        float32x4_t([value; 4])
    }

    pub fn vdupq_n_s32(value: i32) -> int32x4_t {
        int32x4_t([value; 4])
    }

    pub fn vdupq_n_u8(value: u8) -> uint8x16_t {
        uint8x16_t([value; 16])
    }

    pub fn vshlq_n_s32<const N: i32>(a: int32x4_t) -> int32x4_t {
        int32x4_t(a.0.map(|lane| lane << N))
    }

    pub fn vshrq_n_u8<const N: i32>(a: uint8x16_t) -> uint8x16_t {
        uint8x16_t(a.0.map(|lane| lane >> N))
    }

    pub fn vqtbl1q_u8(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        uint8x16_t(b.0.map(|place| a.0.get(usize::from(place)).copied().unwrap_or(0)))
    }

    pub fn vget_low_u8(a: uint8x16_t) -> uint8x8_t {
        uint8x8_t(from_fn(|lane| a.0[lane]))
    }

    pub fn vget_high_u8(a: uint8x16_t) -> uint8x8_t {
        uint8x8_t(from_fn(|lane| a.0[8 + lane]))
    }

    pub fn vaddv_u8(a: uint8x8_t) -> u8 {
        a.0.into_iter().fold(0, u8::wrapping_add)
    }

    pub unsafe fn vld1q_f32(from: *const f32) -> float32x4_t {
        // SAFETY: four numbers can be read, as the caller promised.
        float32x4_t(unsafe { from.cast::<[f32; 4]>().read() })
    }

    pub unsafe fn vst1q_f32(to: *mut f32, a: float32x4_t) {
        // SAFETY: four numbers can be written, as the caller promised.
        unsafe { to.cast::<[f32; 4]>().write(a.0) }
    }

    pub unsafe fn vld1q_u8(from: *const u8) -> uint8x16_t {
        // SAFETY: sixteen bytes can be read, as the caller promised.
        uint8x16_t(unsafe { from.cast::<[u8; 16]>().read() })
    }
}
