//! [`crate::text::wordpiece::segment`] with NEON, which every 64-bit ARM processor has.

use crate::neon::{
    uint8x16_t, vaddv_u8, vandq_u8, vceqq_u8, vcgeq_u8, vdupq_n_u8, vget_high_u8, vget_low_u8, vld1q_u8, vmvnq_u8,
    vorrq_u8, vqtbl1q_u8, vshrq_n_u8, vtstq_u8,
};

use crate::text::wordpiece::segment::{Carry, FIRST_MARK, HIGH_HALF, LOW_HALF, Masks, SEGMENT_BYTES, push_bits};

const BIT_OF_LANE: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];

/// See [`crate::text::wordpiece::segment::segment`].
#[cfg_attr(not(target_arch = "aarch64"), expect(unused_unsafe, reason = "emulated instructions need no promise"))]
pub fn segment(text: &[u8], starts: &mut Vec<u32>, ends: &mut Vec<u32>) {
    let mut carry = Carry::default();
    for (number, block) in text.as_chunks::<SEGMENT_BYTES>().0.iter().enumerate() {
        let mut masks = Masks { word: 0, alone: 0 };
        for (part, bytes) in block.as_chunks::<16>().0.iter().enumerate() {
            // SAFETY: NEON is part of the architecture.
            let (word, alone) = unsafe { neon_masks(bytes) };
            masks.word |= u64::from(word) << (16 * part);
            masks.alone |= u64::from(alone) << (16 * part);
        }
        let (begin, end) = carry.bounds(masks);
        push_bits(starts, begin, (number * SEGMENT_BYTES) as u32);
        push_bits(ends, end, (number * SEGMENT_BYTES) as u32);
    }
}

/// The masks of 16 bytes: of words, and of words of their own.
#[inline]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
fn neon_masks(bytes: &[u8; 16]) -> (u16, u16) {
    let load = |bytes: &[u8; 16]| {
        // SAFETY: 16 bytes are read from an array of 16 bytes.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    };
    let bytes = load(bytes);
    // An index above 15 looks up 0, so a byte of 0x80 and more is in no class.
    let low = vqtbl1q_u8(load(&LOW_HALF), vandq_u8(bytes, vdupq_n_u8(0x8F)));
    let high = vqtbl1q_u8(load(&HIGH_HALF), vshrq_n_u8::<4>(bytes));
    let classes = vandq_u8(low, high);
    let mark = vcgeq_u8(bytes, vdupq_n_u8(FIRST_MARK));
    let alone = vorrq_u8(vtstq_u8(classes, vdupq_n_u8(0x1F)), mark);
    let word = vandq_u8(vceqq_u8(classes, vdupq_n_u8(0)), vmvnq_u8(mark));
    let bits = load(&BIT_OF_LANE);
    let gather = |lanes: uint8x16_t| {
        let lanes = vandq_u8(lanes, bits);
        u16::from(vaddv_u8(vget_low_u8(lanes))) | u16::from(vaddv_u8(vget_high_u8(lanes))) << 8
    };
    (gather(word), gather(alone))
}
