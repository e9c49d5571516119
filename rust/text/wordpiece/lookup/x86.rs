//! [`crate::text::wordpiece::lookup`] with AVX-512 and with AVX2.

use std::arch::x86_64::{
    __m512i, _mm_and_si128, _mm_load_si128, _mm_loadu_si128, _mm_set1_epi32, _mm_storeu_si128, _mm256_add_epi32,
    _mm256_add_epi64, _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_mul_epu32,
    _mm256_permutevar8x32_epi32, _mm256_set_m128i, _mm256_setr_epi32, _mm256_srli_epi32, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64, _mm256_xor_si256, _mm512_add_epi32,
    _mm512_add_epi64, _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_cmple_epu32_mask,
    _mm512_cmplt_epu8_mask, _mm512_inserti32x4, _mm512_loadu_si512, _mm512_maskz_mov_epi8, _mm512_maskz_mov_epi32,
    _mm512_mul_epu32, _mm512_permutex2var_epi32, _mm512_permutexvar_epi8, _mm512_set1_epi32, _mm512_srli_epi32,
    _mm512_srli_epi64, _mm512_storeu_si512, _mm512_sub_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

use crate::text::EncodedRows;
use crate::text::wordpiece::cache::WordCache;
use crate::text::wordpiece::cache::{HASH_KEYS, KEY_BYTES, KEY_MASKS, OFFSET_MASK, OFFSET_SHIFT};
use crate::text::wordpiece::ids::TokenId;
use crate::text::wordpiece::lookup::{AHEAD, Batch, prefetch, resolve};

/// How many words are done at a time with AVX-512, four to a register.
const GROUP: usize = 16;

/// See [`Batch::prepare`]; two keys to a register.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn prepare_avx2(batch: &mut Batch, text: &[u8], starts: &[u32; AHEAD], ends: &[u32; AHEAD], cache: &WordCache) {
    // SAFETY: four numbers of four bytes are 16 bytes.
    let hash_keys = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(HASH_KEYS.as_ptr().cast()) });
    // Which lanes hold the hashes of four words, see below.
    let hash_of_word = _mm256_setr_epi32(0, 4, 2, 6, 0, 0, 0, 0);
    let lengths: [u32; AHEAD] = std::array::from_fn(|word| (ends[word] - starts[word]).min(KEY_BYTES as u32 + 1));
    let key = |word: usize| {
        // SAFETY: a word begins at least 16 bytes before the end of the text, see `Batch::prepare`, and there is a mask
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

/// See [`Batch::resolve`].
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn resolve_avx2<I: TokenId>(
    batch: &Batch,
    cache: &WordCache,
    from: usize,
    count: usize,
    out: &mut EncodedRows<I>,
) -> usize {
    resolve(batch, cache, from, count, out)
}

/// For each of four registers of keys: which byte of 16 lengths of four bytes belongs to each byte of the register.
const LENGTH_OF_BYTE: [[u8; 64]; 4] = {
    let mut places = [[0; 64]; 4];
    let mut place = 0;
    while place < 256 {
        places[place / 64][place % 64] = (place / 16 * 4) as u8;
        place += 1;
    }
    places
};

/// The number of each byte in its key.
const PLACE_IN_KEY: [u8; 64] = {
    let mut places = [0; 64];
    let mut place = 0;
    while place < 64 {
        places[place] = (place % KEY_BYTES) as u8;
        place += 1;
    }
    places
};

/// Where the hashes of 16 keys are found in two registers of eight, as [`hashes`] leaves them.
const HASH_OF_WORD: [u32; GROUP] = [0, 4, 8, 12, 2, 6, 10, 14, 16, 20, 24, 28, 18, 22, 26, 30];

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T>(values: &[T]) -> __m512i {
    debug_assert!(size_of_val(values) >= 64);
    // SAFETY: every slice that is given here has 64 bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// See [`Batch::prepare`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx2,bmi1,bmi2,lzcnt,popcnt")]
pub fn prepare_avx512(batch: &mut Batch, text: &[u8], starts: &[u32; AHEAD], ends: &[u32; AHEAD], cache: &WordCache) {
    let place_in_key = load(&PLACE_IN_KEY);
    let length_of_byte = LENGTH_OF_BYTE.each_ref().map(|places| load(places));
    let hash_of_word = load(&HASH_OF_WORD);
    let word = |start: &u32| {
        // SAFETY: a word begins at least 16 bytes before the end of the text, see `Batch::prepare`.
        unsafe { _mm_loadu_si128(text.as_ptr().add(load_alone(start) as usize).cast()) }
    };
    let groups = starts.as_chunks::<GROUP>().0.iter().zip(ends.as_chunks::<GROUP>().0);
    let results = batch.keys.as_chunks_mut::<GROUP>().0.iter_mut().zip(batch.offsets.as_chunks_mut::<GROUP>().0);
    for ((starts, ends), (keys, offsets)) in groups.zip(results) {
        let lengths = _mm512_sub_epi32(load(ends), load(starts));
        // A length of 0 takes no bytes of a word that is too long for a key.
        let fits = _mm512_cmple_epu32_mask(lengths, _mm512_set1_epi32(KEY_BYTES as i32));
        let lengths = _mm512_maskz_mov_epi32(fits, lengths);
        let four = |part: usize| {
            let first = _mm512_castsi128_si512(word(&starts[4 * part]));
            let two = _mm512_inserti32x4::<1>(first, word(&starts[4 * part + 1]));
            let three = _mm512_inserti32x4::<2>(two, word(&starts[4 * part + 2]));
            let texts = _mm512_inserti32x4::<3>(three, word(&starts[4 * part + 3]));
            let lengths = _mm512_permutexvar_epi8(length_of_byte[part], lengths);
            _mm512_maskz_mov_epi8(_mm512_cmplt_epu8_mask(place_in_key, lengths), texts)
        };
        let fours = [four(0), four(1), four(2), four(3)];
        for (keys, four) in keys.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
            // SAFETY: four keys are 64 bytes.
            unsafe { _mm512_storeu_si512(keys.as_mut_ptr().cast(), four) };
        }
        let [first, second] = [hashes(fours[0], fours[1]), hashes(fours[2], fours[3])];
        let hashes = _mm512_permutex2var_epi32(first, hash_of_word, second);
        let places = _mm512_srli_epi32::<OFFSET_SHIFT>(hashes);
        let places = _mm512_and_si512(places, _mm512_set1_epi32(OFFSET_MASK as i32));
        // SAFETY: 16 offsets are 64 bytes.
        unsafe { _mm512_storeu_si512(offsets.as_mut_ptr().cast(), places) };
        fetch(offsets, cache);
    }
}

/// The hashes of eight keys, as [`crate::text::wordpiece::cache::Key::offset`] makes them, in the lower halves of eight lanes:
/// one of the first four keys, one of the second four, and so on.
#[inline]
#[target_feature(enable = "avx512f")]
fn hashes(first: __m512i, second: __m512i) -> __m512i {
    // SAFETY: four numbers of four bytes are 16 bytes.
    let hash_keys = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(HASH_KEYS.as_ptr().cast()) });
    let products = |keys| {
        let parts = _mm512_add_epi32(keys, hash_keys);
        _mm512_mul_epu32(parts, _mm512_srli_epi64::<32>(parts))
    };
    let (first, second) = (products(first), products(second));
    let sums = _mm512_add_epi64(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
    _mm512_xor_si512(sums, _mm512_srli_epi64::<32>(sums))
}
