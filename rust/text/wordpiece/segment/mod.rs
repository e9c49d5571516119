//! Where the words of a text begin and end, 64 bytes at a time.
//!
//! To the tokeniser a text is bytes of three kinds: separators (space, tab, line feed, carriage return), bytes that are
//! words of their own (the 32 ASCII punctuation marks, and 0xF8 to 0xFF, which UTF-8 never uses and which the tokeniser
//! puts in as marks), and bytes of words (all others: letters, digits, control characters and everything of more than
//! one byte). Every instruction set gives the same positions.

#[cfg(any(target_arch = "aarch64", test))]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::simd::Level;

/// Text is segmented in blocks of this many bytes.
pub const SEGMENT_BYTES: usize = 64;

/// The least byte that marks something between rows; it and those above are words of their own.
pub const FIRST_MARK: u8 = 0xF8;
/// The mark of an added token found in the text; its id is next in a queue.
pub const ADDED: u8 = FIRST_MARK;

// For the vector units: a byte is in a class if its two halves share a bit here, where bits 0 to 4 are punctuation and 5
// and 6 separators. A look-up at an index past 15 gives 0, so bytes of 0x80 and more are in none.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
const LOW_HALF: [u8; 16] = [0x44, 1, 1, 1, 1, 1, 1, 1, 1, 0x21, 0x23, 0x1B, 0x1B, 0x3B, 0x1B, 0x0B];
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
const HIGH_HALF: [u8; 16] = [0x20, 0, 0x41, 2, 4, 8, 4, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];

/// Whether a byte separates words.
pub const fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// A block as two masks, bit `i` for byte `i`: bytes of words, and bytes that are words of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masks {
    /// Bytes of words.
    pub word: u64,
    /// Bytes that are words of their own.
    pub alone: u64,
}

/// What is carried from block to block, and turns masks into the beginnings and ends in a block.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carry {
    word: u64,
    alone: u64,
}

impl Carry {
    /// The bits where words begin, and where they have ended.
    #[inline]
    pub fn bounds(&mut self, masks: Masks) -> (u64, u64) {
        let Masks { word, alone } = masks;
        let before_word = word << 1 | self.word;
        let before_alone = alone << 1 | self.alone;
        self.word = word >> 63;
        self.alone = alone >> 63;
        ((word & !before_word) | alone, (!word & before_word) | before_alone)
    }
}

/// Sets `starts` and `ends` to the beginning and end of every word of `text`, in order; with `lowercase`, makes the
/// capitals of ASCII small.
///
/// The length of `text` is a multiple of [`SEGMENT_BYTES`] and its last byte is a separator.
pub fn segment(level: Level, text: &mut [u8], lowercase: bool, starts: &mut Vec<u32>, ends: &mut Vec<u32>) {
    assert!(text.len().is_multiple_of(SEGMENT_BYTES) && text.last().is_none_or(|&byte| is_separator(byte)));
    starts.clear();
    ends.clear();
    match level {
        // SAFETY: `Level::available` names a level only where the processor has it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 | Level::Avx512 => unsafe { x86::avx2(text, lowercase, starts, ends) },
        #[cfg(any(target_arch = "aarch64", test))]
        Level::Neon => {
            lower(text, lowercase);
            neon::segment(text, starts, ends);
        }
        _ => {
            lower(text, lowercase);
            scalar(text, starts, ends);
        }
    }
}

fn lower(text: &mut [u8], lowercase: bool) {
    if lowercase {
        text.make_ascii_lowercase();
    }
}

/// [`segment`] in plain Rust, eight bytes to a register.
fn scalar(text: &[u8], starts: &mut Vec<u32>, ends: &mut Vec<u32>) {
    let mut carry = Carry::default();
    for (number, block) in text.as_chunks::<SEGMENT_BYTES>().0.iter().enumerate() {
        let (begin, end) = carry.bounds(scalar_masks(block));
        push_bits(starts, begin, (number * SEGMENT_BYTES) as u32);
        push_bits(ends, end, (number * SEGMENT_BYTES) as u32);
    }
}

/// Appends `base` plus the position of each bit.
#[inline(always)]
#[expect(clippy::inline_always, reason = "to be compiled for the instructions of its caller")]
pub fn push_bits(positions: &mut Vec<u32>, mut bits: u64, base: u32) {
    let count = bits.count_ones() as usize;
    positions.reserve(SEGMENT_BYTES);
    let out = positions.spare_capacity_mut().as_mut_ptr();
    // Eight at a time without a look at the count, and 16 in any case, so that there is little to predict.
    let mut written = 0;
    while written < count.max(16) {
        for place in 0..8 {
            // SAFETY: there is room for `SEGMENT_BYTES` values, and eights of them are written until all of at most `SEGMENT_BYTES` are.
            unsafe { (*out.add(written + place)).write(base.wrapping_add(bits.trailing_zeros())) };
            bits &= bits.wrapping_sub(1);
        }
        written += 8;
    }
    // SAFETY: at least as many as there are bits have been written.
    unsafe { positions.set_len(positions.len() + count) };
}

/// The masks of a block, eight bytes at a time.
pub fn scalar_masks(block: &[u8; SEGMENT_BYTES]) -> Masks {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    const ONES: u64 = 0x0101_0101_0101_0101;
    let mut masks = Masks { word: 0, alone: 0 };
    for (number, bytes) in block.as_chunks::<8>().0.iter().enumerate() {
        let bytes = u64::from_le_bytes(*bytes);
        let low = bytes & !HIGH;
        // The high bit of each byte: whether its lower seven bits are at least `least`.
        let from = |least: u8| low + ONES * u64::from(0x80 - least);
        let range = |first: u8, last: u8| from(first) & !from(last + 1);
        let ascii = !bytes & HIGH;
        let separator = (range(b' ', b' ') | range(b'\t', b'\n') | range(b'\r', b'\r')) & ascii;
        let punctuation = (range(b'!', b'/') | range(b':', b'@') | range(b'[', b'`') | range(b'{', b'~')) & ascii;
        let mark = from(FIRST_MARK & 0x7F) & bytes & HIGH;
        let alone = punctuation | mark;
        let word = !(separator | alone) & HIGH;
        // Gathers the eight high bits into one byte.
        let gather = |high: u64| ((high >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * number);
        masks.word |= gather(word);
        masks.alone |= gather(alone);
    }
    masks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, byte by byte.
    fn plain(text: &[u8]) -> (Vec<u32>, Vec<u32>) {
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        let mut open = false;
        for (position, &byte) in text.iter().enumerate() {
            let alone = byte.is_ascii_punctuation() || byte >= FIRST_MARK;
            let word = !alone && !is_separator(byte);
            if open && !word {
                ends.push(position as u32);
            }
            if word && !open || alone {
                starts.push(position as u32);
            }
            if alone {
                ends.push(position as u32 + 1);
            }
            open = word;
        }
        (starts, ends)
    }

    fn padded(mut text: Vec<u8>) -> Vec<u8> {
        text.resize((text.len() / SEGMENT_BYTES + 1) * SEGMENT_BYTES, b' ');
        text
    }

    fn check(text: &[u8]) {
        let expected = plain(text);
        for level in Level::available() {
            for lowercase in [false, true] {
                let (mut text, mut starts, mut ends) = (text.to_vec(), Vec::new(), Vec::new());
                let kept = if lowercase { text.to_ascii_lowercase() } else { text.clone() };
                segment(level, &mut text, lowercase, &mut starts, &mut ends);
                assert_eq!((&starts, &ends), (&expected.0, &expected.1), "{level:?}");
                assert_eq!(text, kept, "{level:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_path_gives_the_same(text in prop::collection::vec(any::<u8>(), 0..500)) {
            check(&padded(text));
        }

        #[test]
        fn every_path_gives_the_same_on_text(text in "[ a-z.,\\n\u{e9}]{0,700}") {
            check(&padded(text.into_bytes()));
        }
    }

    #[test]
    fn every_byte_beside_every_byte() {
        for first in 0..=u8::MAX {
            let text: Vec<u8> = (0..=u8::MAX).flat_map(|second| [first, second]).collect();
            check(&padded(text));
        }
        for byte in [b'a', b'.', b' ', 0xFF] {
            check(&padded(vec![byte; 200]));
        }
    }
}
