//! [`crate::text::wordpiece::segment`] with AVX-512 (VBMI2) and with AVX2.

use std::arch::x86_64::{
    __m256i, __m512i, _mm_loadu_si128, _mm256_add_epi8, _mm256_and_si256, _mm256_broadcastsi128_si256,
    _mm256_cmpeq_epi8, _mm256_cmpgt_epi8, _mm256_loadu_si256, _mm256_max_epu8, _mm256_movemask_epi8, _mm256_set1_epi8,
    _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_srli_epi16, _mm256_storeu_si256, _mm512_add_epi32,
    _mm512_castsi512_si128, _mm512_cmpge_epu8_mask, _mm512_cmplt_epu8_mask, _mm512_cvtepu8_epi32,
    _mm512_extracti32x4_epi32, _mm512_loadu_si512, _mm512_mask_add_epi8, _mm512_maskz_compress_epi8,
    _mm512_movepi8_mask, _mm512_permutex2var_epi8, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_storeu_si512,
    _mm512_sub_epi8, _mm512_test_epi8_mask,
};

use crate::text::wordpiece::segment::{BLOCK, Carry, FIRST_MARK, Masks, is_separator, push_bits};

const WORD: u8 = 1;
const ALONE: u8 = 2;

const CLASSES: [u8; 128] = {
    let mut classes = [0; 128];
    let mut byte = 0;
    while byte < 128 {
        classes[byte] = if (byte as u8).is_ascii_punctuation() {
            ALONE
        } else if is_separator(byte as u8) {
            0
        } else {
            WORD
        };
        byte += 1;
    }
    classes
};

const POSITIONS: [u8; BLOCK] = {
    let mut positions = [0; BLOCK];
    let mut place = 0;
    while place < BLOCK {
        positions[place] = place as u8;
        place += 1;
    }
    positions
};

/// Classes by a look-up of seven bits in two registers; positions by compressing the numbers 0 to 63.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,popcnt")]
pub fn avx512(text: &mut [u8], lowercase: bool, starts: &mut Vec<u32>, ends: &mut Vec<u32>) {
    let load = |bytes: &[u8; BLOCK]| {
        // SAFETY: 64 bytes are read from an array of 64 bytes.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    };
    let (lower, upper) = CLASSES.as_chunks::<BLOCK>().0.split_at(1);
    let (lower, upper) = (load(&lower[0]), load(&upper[0]));
    let (word_bit, alone_bit) = (_mm512_set1_epi8(WORD as i8), _mm512_set1_epi8(ALONE as i8));
    let first_mark = _mm512_set1_epi8(FIRST_MARK as i8);
    let positions = load(&POSITIONS);
    let (first_capital, capitals) = (_mm512_set1_epi8(b'A' as i8), _mm512_set1_epi8(if lowercase { 26 } else { 0 }));
    let lower_bit = _mm512_set1_epi8(0x20);
    let mut carry = Carry::default();
    for (number, block) in text.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let bytes = load(block);
        let capital = _mm512_cmplt_epu8_mask(_mm512_sub_epi8(bytes, first_capital), capitals);
        let bytes = _mm512_mask_add_epi8(bytes, capital, bytes, lower_bit);
        // SAFETY: 64 bytes are written to an array of 64 bytes.
        unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), bytes) };
        let classes = _mm512_permutex2var_epi8(lower, bytes, upper);
        let high = _mm512_movepi8_mask(bytes);
        let mark = _mm512_cmpge_epu8_mask(bytes, first_mark);
        let masks = Masks {
            word: (_mm512_test_epi8_mask(classes, word_bit) | high) & !mark,
            alone: (_mm512_test_epi8_mask(classes, alone_bit) & !high) | mark,
        };
        let (begin, end) = carry.bounds(masks);
        let base = _mm512_set1_epi32((number * BLOCK) as i32);
        compress(starts, begin, positions, base);
        compress(ends, end, positions, base);
    }
}

/// Appends `base` plus the position of each bit, 16 at a time.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn compress(positions: &mut Vec<u32>, bits: u64, numbers: __m512i, base: __m512i) {
    let count = bits.count_ones() as usize;
    let packed = _mm512_maskz_compress_epi8(bits, numbers);
    positions.reserve(BLOCK);
    let out = positions.spare_capacity_mut().as_mut_ptr();
    // SAFETY: room for 64 values is reserved, and 32 or 64 are written; the first `count` are those of bits.
    unsafe {
        let store = |part: usize, sixteen| {
            let wide = _mm512_add_epi32(_mm512_cvtepu8_epi32(sixteen), base);
            _mm512_storeu_si512(out.add(16 * part).cast(), wide);
        };
        store(0, _mm512_castsi512_si128(packed));
        // More than 16 words in a block are too many to be sure of, more than 32 are rare.
        store(1, _mm512_extracti32x4_epi32::<1>(packed));
        if count > 32 {
            store(2, _mm512_extracti32x4_epi32::<2>(packed));
            store(3, _mm512_extracti32x4_epi32::<3>(packed));
        }
        positions.set_len(positions.len() + count);
    }
}

// A byte is in a class if its two halves share a bit here: bits 0 to 4 are punctuation, 5 and 6 separators. A look-up
// with the high bit set gives 0, so bytes of 0x80 and more are in none.
const LOW_HALF: [u8; 16] = [0x44, 1, 1, 1, 1, 1, 1, 1, 1, 0x21, 0x23, 0x1B, 0x1B, 0x3B, 0x1B, 0x0B];
const HIGH_HALF: [u8; 16] = [0x20, 0, 0x41, 2, 4, 8, 4, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];

/// Classes by two look-ups of four bits each; positions bit by bit.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn avx2(text: &mut [u8], lowercase: bool, starts: &mut Vec<u32>, ends: &mut Vec<u32>) {
    // The bytes from A on, as many as are made small, become the least numbers.
    let least = _mm256_set1_epi8(i8::MIN + if lowercase { 26 } else { 0 });
    let mut carry = Carry::default();
    for (number, block) in text.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        let (first, second) = block.split_at_mut(BLOCK / 2);
        let (first, second) = (avx2_masks(first, least), avx2_masks(second, least));
        let masks = Masks {
            word: u64::from(first.0) | u64::from(second.0) << 32,
            alone: u64::from(first.1) | u64::from(second.1) << 32,
        };
        let (begin, end) = carry.bounds(masks);
        push_bits(starts, begin, (number * BLOCK) as u32);
        push_bits(ends, end, (number * BLOCK) as u32);
    }
}

/// The masks of 32 bytes: of words, and of words of their own. Capitals are made small on the way.
#[inline]
#[target_feature(enable = "avx2")]
fn avx2_masks(text: &mut [u8], least: __m256i) -> (u32, u32) {
    assert!(text.len() == BLOCK / 2);
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
