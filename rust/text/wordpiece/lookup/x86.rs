//! [`crate::text::wordpiece::lookup`] with AVX2.

use std::arch::x86_64::{
    _mm_and_si128, _mm_load_si128, _mm_loadu_si128, _mm_set1_epi32, _mm_storeu_si128, _mm256_add_epi32,
    _mm256_add_epi64, _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_mul_epu32,
    _mm256_permutevar8x32_epi32, _mm256_set_m128i, _mm256_setr_epi32, _mm256_srli_epi32, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256,
};

use crate::text::EncodedRows;
use crate::text::wordpiece::cache::WordCache;
use crate::text::wordpiece::cache::{HASH_KEYS, KEY_BYTES, KEY_MASKS, OFFSET_MASK, OFFSET_SHIFT};
use crate::text::wordpiece::ids::TokenId;
use crate::text::wordpiece::lookup::{WORDS_PER_BATCH, WordBatch, prefetch, resolve};

/// See [`WordBatch::prepare`]; two keys to a register.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn prepare_avx2(
    batch: &mut WordBatch,
    text: &[u8],
    starts: &[u32; WORDS_PER_BATCH],
    ends: &[u32; WORDS_PER_BATCH],
    cache: &WordCache,
) {
    // SAFETY: four numbers of four bytes are 16 bytes.
    let hash_keys = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(HASH_KEYS.as_ptr().cast()) });
    // Which lanes hold the hashes of four words, see below.
    let hash_of_word = _mm256_setr_epi32(0, 4, 2, 6, 0, 0, 0, 0);
    let lengths: [u32; WORDS_PER_BATCH] =
        std::array::from_fn(|word| (ends[word] - starts[word]).min(KEY_BYTES as u32 + 1));
    let key = |word: usize| {
        // SAFETY: a word begins at least 16 bytes before the end of the text, see `WordBatch::prepare`, and there is a mask
        // for every length up to 17.
        unsafe {
            let bytes = _mm_loadu_si128(text.as_ptr().add(load_alone(&starts[word]) as usize).cast());
            let mask: *const u128 = KEY_MASKS.as_ptr().add(lengths[word] as usize);
            _mm_and_si128(bytes, _mm_load_si128(mask.cast()))
        }
    };
    let products = |keys| {
        let parts = _mm256_add_epi32(keys, hash_keys);
        _mm256_mul_epu32(parts, _mm256_srli_epi64::<32>(parts))
    };
    let results = batch.keys.as_chunks_mut::<4>().0.iter_mut().zip(batch.offsets.as_chunks_mut::<4>().0);
    for (number, (keys, offsets)) in results.enumerate() {
        let first = _mm256_set_m128i(key(4 * number + 1), key(4 * number));
        let second = _mm256_set_m128i(key(4 * number + 3), key(4 * number + 2));
        let (one, two) = (products(first), products(second));
        let sums = _mm256_add_epi64(_mm256_unpacklo_epi64(one, two), _mm256_unpackhi_epi64(one, two));
        let hashes = _mm256_xor_si256(sums, _mm256_srli_epi64::<32>(sums));
        let places = _mm256_permutevar8x32_epi32(_mm256_srli_epi32::<{ OFFSET_SHIFT as i32 }>(hashes), hash_of_word);
        let places = _mm_and_si128(_mm256_castsi256_si128(places), _mm_set1_epi32(OFFSET_MASK as i32));
        // SAFETY: four keys are 64 bytes, and four offsets are 16.
        unsafe {
            _mm256_storeu_si256(keys.as_mut_ptr().cast(), first);
            _mm256_storeu_si256(keys.as_mut_ptr().add(2).cast(), second);
            _mm_storeu_si128(offsets.as_mut_ptr().cast(), places);
        }
        fetch(offsets, cache);
    }
}

/// Asks for the sets at these offsets, which have just been stored.
#[inline]
fn fetch(offsets: &[u32], cache: &WordCache) {
    for offset in offsets {
        let offset = load_alone(offset);
        prefetch(cache.sets().as_ptr().wrapping_byte_add(offset as usize));
    }
}

/// The number, by a load of its own: the compiler would take it out of a register of many, which takes longer.
#[inline]
fn load_alone(number: &u32) -> u32 {
    // SAFETY: what a reference refers to may be read.
    unsafe { (&raw const *number).read_volatile() }
}

/// See [`WordBatch::resolve`].
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn resolve_avx2<I: TokenId>(
    batch: &WordBatch,
    cache: &WordCache,
    from: usize,
    count: usize,
    out: &mut EncodedRows<I>,
) -> usize {
    resolve(batch, cache, from, count, out)
}
