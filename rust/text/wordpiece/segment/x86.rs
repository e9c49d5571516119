//! [`crate::text::wordpiece::segment`] with AVX2.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi8, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_cmpeq_epi8,
    _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_max_epu8, _mm256_movemask_epi8, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256,
};

use crate::text::wordpiece::segment::{Carry, FIRST_MARK, HIGH_HALF, LOW_HALF, Masks, SEGMENT_BYTES, push_bits};

/// Classes by two look-ups of four bits each; positions bit by bit.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn avx2(text: &mut [u8], lowercase: bool, starts: &mut Vec<u32>, ends: &mut Vec<u32>) {
    // The bytes from A on, as many as are made small, become the least numbers.
    let least = _mm256_set1_epi8(i8::MIN + if lowercase { 26 } else { 0 });
    let mut carry = Carry::default();
    for (number, block) in text.as_chunks_mut::<SEGMENT_BYTES>().0.iter_mut().enumerate() {
        let (first, second) = block.split_at_mut(SEGMENT_BYTES / 2);
        let (first, second) = (avx2_masks(first, least), avx2_masks(second, least));
        let masks = Masks {
            word: u64::from(first.0) | u64::from(second.0) << 32,
            alone: u64::from(first.1) | u64::from(second.1) << 32,
        };
        let (begin, end) = carry.bounds(masks);
        push_bits(starts, begin, (number * SEGMENT_BYTES) as u32);
        push_bits(ends, end, (number * SEGMENT_BYTES) as u32);
    }
}

/// The masks of 32 bytes: of words, and of words of their own. Capitals are made small on the way.
#[inline]
#[target_feature(enable = "avx2")]
fn avx2_masks(text: &mut [u8], least: __m256i) -> (u32, u32) {
    assert!(text.len() == SEGMENT_BYTES / 2);
    let table = |table: &[u8; 16]| {
        // SAFETY: 16 bytes are read from an array of 16 bytes.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(table.as_ptr().cast()) })
    };
    // SAFETY: 32 bytes are read from a slice of 32 bytes.
    let bytes: __m256i = unsafe { _mm256_loadu_si256(text.as_ptr().cast()) };
    let from_least = _mm256_add_epi8(bytes, _mm256_set1_epi8((i8::MIN as u8 - b'A') as i8));
    let capital = _mm256_cmpgt_epi8(least, from_least);
    let bytes = _mm256_add_epi8(bytes, _mm256_and_si256(capital, _mm256_set1_epi8(0x20)));
    // SAFETY: 32 bytes are written to a slice of 32 bytes.
    unsafe { _mm256_storeu_si256(text.as_mut_ptr().cast(), bytes) };
    let high = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(0x0F));
    let classes =
        _mm256_and_si256(_mm256_shuffle_epi8(table(&LOW_HALF), bytes), _mm256_shuffle_epi8(table(&HIGH_HALF), high));
    let none_of = |bits: i8| {
        let found = _mm256_and_si256(classes, _mm256_set1_epi8(bits));
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(found, _mm256_setzero_si256())) as u32
    };
    let mark =
        _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(bytes, _mm256_set1_epi8(FIRST_MARK as i8)), bytes))
            as u32;
    (none_of(0x7F) & !mark, !none_of(0x1F) | mark)
}
