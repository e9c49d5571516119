//! Words looked up in the cache, many together: first the keys of all are made and the lines they belong to asked for,
//! then one after the other is looked at, while the lines of those behind it are on their way.
//!
//! Both steps are compiled for each instruction set; all give the same ids.

#![expect(clippy::inline_always, reason = "what is to be compiled for an instruction set has to be part of its caller")]

#[cfg(target_arch = "x86_64")]
mod x86;

use crate::simd::Level;
use crate::text::EncodedRows;
use crate::text::wordpiece::cache::WordCache;
use crate::text::wordpiece::cache::{KEY_BYTES, KEY_MASKS, WordKey};
use crate::text::wordpiece::ids::{IDS_WRITTEN, TokenId};

/// How many words are looked up together.
pub const WORDS_PER_BATCH: usize = 64;

/// Words that are looked up together.
#[repr(C, align(64))]
pub struct WordBatch {
    /// The key of each; 0 where it has more than 16 bytes.
    pub keys: [WordKey; WORDS_PER_BATCH],
    /// The bytes from the beginning of the table to the set of each.
    pub offsets: [u32; WORDS_PER_BATCH],
}

impl Default for WordBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl WordBatch {
    /// A batch that holds nothing yet.
    pub fn new() -> Self {
        Self { keys: [WordKey(0); WORDS_PER_BATCH], offsets: [0; WORDS_PER_BATCH] }
    }

    /// Makes the keys of the words that begin at `starts` and end at `ends`, and asks for their lines.
    ///
    /// # Safety
    ///
    /// Every start is at most `text.len() - 16`, and no end is before its start.
    #[inline]
    pub unsafe fn prepare(
        &mut self,
        level: Level,
        text: &[u8],
        starts: &[u32; WORDS_PER_BATCH],
        ends: &[u32; WORDS_PER_BATCH],
        cache: &WordCache,
    ) {
        debug_assert!(starts.iter().all(|&start| start as usize + KEY_BYTES <= text.len()));
        match level {
            // SAFETY: `Level::available` names a level only where the processor has it.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { x86::prepare_avx2(self, text, starts, ends, cache) },
            _ => prepare(self, text, starts, ends, cache),
        }
    }

    /// Appends the ids of the words `from..count`, up to the first that the cache does not know, whose number is given.
    #[inline]
    pub fn resolve<I: TokenId>(
        &self,
        level: Level,
        cache: &WordCache,
        from: usize,
        count: usize,
        out: &mut EncodedRows<I>,
    ) -> usize {
        match level {
            // SAFETY: `Level::available` names a level only where the processor has it.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => unsafe { x86::resolve_avx2(self, cache, from, count, out) },
            _ => resolve(self, cache, from, count, out),
        }
    }
}

/// [`WordBatch::prepare`], to be compiled for an instruction set.
#[inline(always)]
pub fn prepare(
    batch: &mut WordBatch,
    text: &[u8],
    starts: &[u32; WORDS_PER_BATCH],
    ends: &[u32; WORDS_PER_BATCH],
    cache: &WordCache,
) {
    for (((&start, &end), key), offset) in starts.iter().zip(ends).zip(&mut batch.keys).zip(&mut batch.offsets) {
        *key = load_key(text, start, end);
        *offset = key.offset();
        prefetch(cache.sets().as_ptr().wrapping_byte_add(*offset as usize));
    }
}

/// The key of the word from `start` to `end`.
#[inline(always)]
pub fn load_key(text: &[u8], start: u32, end: u32) -> WordKey {
    let length = ((end - start) as usize).min(KEY_BYTES + 1);
    // SAFETY: a word begins at least 16 bytes before the end of the text, see `WordBatch::prepare`, and there is a mask for
    // every length up to 17.
    let (bytes, mask) = unsafe {
        (text.as_ptr().add(start as usize).cast::<u128>().read_unaligned(), *KEY_MASKS.get_unchecked(length))
    };
    WordKey(u128::from_le(bytes) & mask)
}

/// Asks for the line at an address, to be there when it is looked into.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint and reads nothing; any address may be given.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// [`WordBatch::resolve`], to be compiled for an instruction set.
#[inline(always)]
pub fn resolve<I: TokenId>(
    batch: &WordBatch,
    cache: &WordCache,
    from: usize,
    count: usize,
    out: &mut EncodedRows<I>,
) -> usize {
    out.ids.reserve(WORDS_PER_BATCH * IDS_WRITTEN);
    out.ends.reserve(WORDS_PER_BATCH + 1);
    let (mut ids, mut ends) = (out.ids.len(), out.ends.len());
    let (ids_start, ends_start) = (out.ids.as_mut_ptr(), out.ends.as_mut_ptr());
    let sets = cache.sets().as_ptr();
    let mut word = from;
    for (&key, &offset) in batch.keys[from..count].iter().zip(&batch.offsets[from..count]) {
        // SAFETY: the offset of a key is that of a set of the table. There is room for `WORDS_PER_BATCH` words of `IDS_WRITTEN` ids
        // each and for the end of a row after each, of which all that is counted has been written.
        unsafe {
            let Some(packed) = (*sets.byte_add(offset as usize)).get(key) else { break };
            I::write(packed, ids_start.add(ids));
            let (count, flag) = packed.count_and_flag();
            ids += count;
            ends_start.add(ends).write(ids);
            ends += flag;
        }
        word += 1;
    }
    // SAFETY: as above.
    unsafe {
        out.ids.set_len(ids);
        out.ends.set_len(ends);
    }
    word
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys are the text of words, and every instruction set makes the same keys and finds the same sets.
        #[test]
        fn every_path_gives_the_same(
            text in prop::collection::vec(any::<u8>(), 1..300),
            bounds in prop::collection::vec((0_usize..300, 0_usize..40), WORDS_PER_BATCH),
        ) {
            let cache = WordCache::new();
            let (mut starts, mut ends) = ([0; WORDS_PER_BATCH], [0; WORDS_PER_BATCH]);
            for (number, (start, length)) in bounds.into_iter().enumerate() {
                let start = start.min(text.len());
                starts[number] = start as u32;
                ends[number] = (start + length).min(text.len()) as u32;
            }
            let mut padded = text.clone();
            padded.extend([b'X'; KEY_BYTES]);
            for level in Level::available() {
                let mut batch = WordBatch::new();
                // SAFETY: there are 16 bytes after the text, and every start is in the text or at its end.
                unsafe { batch.prepare(level, &padded, &starts, &ends, &cache) };
                for number in 0..WORDS_PER_BATCH {
                    let word = &text[starts[number] as usize..ends[number] as usize];
                    let key = if word.len() > KEY_BYTES { WordKey(0) } else { WordKey::of(word) };
                    prop_assert_eq!(batch.keys[number], key, "{:?}", level);
                    prop_assert_eq!(batch.offsets[number], key.offset(), "{:?}", level);
                }
            }
        }
    }
}
