//! The key of a word in the cache: its text in 16 bytes, ASCII capitals made small.

/// The most bytes of a word that a key holds.
pub const KEY_BYTES: usize = 16;

/// The bit that tells a small letter from a capital.
pub const LOWER_BIT: u8 = 0x20;

/// The bytes of a key that belong to a word of so many bytes.
const KEY_MASKS: [u128; KEY_BYTES + 1] = {
    let mut masks = [0; KEY_BYTES + 1];
    let mut length = 1;
    while length <= KEY_BYTES {
        masks[length] = masks[length - 1] << 8 | 0xFF;
        length += 1;
    }
    masks
};

/// The key of a word of at most 16 bytes, as it stands.
pub fn key_of(word: &[u8]) -> u128 {
    let mut bytes = [0; KEY_BYTES];
    bytes[..word.len()].copy_from_slice(word);
    u128::from_le_bytes(bytes)
}

/// The key of the `length` bytes of `text` from `start` on, where at least 16 bytes are; lower-cased where `lower_bit` is
/// [`LOWER_BIT`], as they stand where it is 0. A key that no word has where `length` is more than 16.
#[inline]
pub fn load_key(text: &[u8], start: usize, length: usize, lower_bit: u8) -> u128 {
    let Some(mask) = KEY_MASKS.get(length) else { return u128::MAX };
    let Some(bytes) = text[start..].first_chunk::<KEY_BYTES>() else { return u128::MAX };
    lower(u128::from_le_bytes(*bytes) & mask, lower_bit)
}

/// 16 bytes with `lower_bit` set in every ASCII capital.
#[cfg(target_arch = "x86_64")]
#[inline]
fn lower(bytes: u128, lower_bit: u8) -> u128 {
    use std::arch::x86_64::{__m128i, _mm_add_epi8, _mm_and_si128, _mm_cmplt_epi8, _mm_or_si128, _mm_set1_epi8};
    use std::mem::transmute;
    // SAFETY: both types are 16 bytes of which every value is valid, and SSE2 is part of the architecture.
    unsafe {
        let bytes = transmute::<u128, __m128i>(bytes);
        // A to Z become the 26 least numbers.
        let moved = _mm_add_epi8(bytes, _mm_set1_epi8((i8::MIN as u8 - b'A') as i8));
        let capital = _mm_cmplt_epi8(moved, _mm_set1_epi8(i8::MIN + 26));
        transmute::<__m128i, u128>(_mm_or_si128(bytes, _mm_and_si128(capital, _mm_set1_epi8(lower_bit as i8))))
    }
}

/// 16 bytes with `lower_bit` set in every ASCII capital.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn lower(bytes: u128, lower_bit: u8) -> u128 {
    u128::from_le_bytes(bytes.to_le_bytes().map(|byte| if byte.is_ascii_uppercase() { byte | lower_bit } else { byte }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn key_is_the_lowered_word(text in "\\PC{0,40}", start in 0_usize..40, length in 0_usize..40) {
            let mut text = text.into_bytes();
            let start = start.min(text.len());
            let length = length.min(text.len() - start);
            let word = text[start..start + length].to_vec();
            text.extend([b'X'; KEY_BYTES]);
            for (bit, word) in [(LOWER_BIT, word.to_ascii_lowercase()), (0, word)] {
                let expected = if word.len() > KEY_BYTES { u128::MAX } else { key_of(&word) };
                prop_assert_eq!(load_key(&text, start, length, bit), expected);
            }
        }
    }
}
