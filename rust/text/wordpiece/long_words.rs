//! Words that the table of [`crate::text::wordpiece::cache`] does not take, encoded before: those of 17 to 32 bytes, which in
//! Greek, Russian or Hindi are many, and shorter ones of many pieces.
//!
//! Their pieces would be looked up one by one, all over a trie that with 120,000 tokens is larger than the second-level
//! cache; here it is one line, at most two.

use crate::text::wordpiece::cache::{SET_BITS, SETS_BITS};
use crate::text::wordpiece::ids::{PackedIds, TokenId};

/// The most bytes of a word that is kept.
const LONG_BYTES: usize = 32;
/// Words of the table of a thread, as a power of two: 1 MiB.
const ENTRIES_BITS: u32 = SETS_BITS - 3;

/// The text of a word, filled up with zeros, which are deleted from every text and tell nothing.
type LongKey = [u64; LONG_BYTES / 8];

/// A word and up to 14 `u16` or 12 `u32` ids. One of zeros is that of no text, and has no ids either.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Entry {
    key: LongKey,
    values: [PackedIds; 2],
}

/// The table of a thread; it is made when the first word comes.
#[derive(Default)]
pub struct LongWords {
    entries: Vec<Entry>,
}

impl LongWords {
    /// Appends the ids of a word, if they are known.
    pub fn append<I: TokenId>(&self, word: &[u8], ids: &mut Vec<I>) -> bool {
        let Some(key) = key_of(word).filter(|_| !self.entries.is_empty()) else { return false };
        let own = place(&key);
        let Some(entry) = [own, own ^ 1].map(|place| &self.entries[place]).into_iter().find(|entry| entry.key == key)
        else {
            return false;
        };
        entry.values.iter().for_each(|packed| packed.append(ids));
        true
    }

    /// Notes the ids of a word, if they fit: in its place, or else in that beside it, or in place of what has its own.
    pub fn insert<I: TokenId>(&mut self, word: &[u8], ids: &[u32]) {
        let (first, second) = ids.split_at(ids.len().min(I::PACKED));
        let (Some(key), Some(first), Some(second)) =
            (key_of(word), PackedIds::new::<I>(first, 0), PackedIds::new::<I>(second, 0))
        else {
            return;
        };
        const { assert!(size_of::<Entry>() == 1 << SET_BITS) };
        if self.entries.is_empty() {
            self.entries.resize(1 << ENTRIES_BITS, Entry { key: [0; 4], values: [PackedIds::default(); 2] });
        }
        let own = place(&key);
        let free = |place: &usize| self.entries[*place].key == key || self.entries[*place].key == [0; 4];
        let place = [own, own ^ 1].into_iter().find(free).unwrap_or(own);
        self.entries[place] = Entry { key, values: [first, second] };
    }
}

fn key_of(word: &[u8]) -> Option<LongKey> {
    let mut bytes = [0; LONG_BYTES];
    bytes.get_mut(..word.len())?.copy_from_slice(word);
    let (parts, _) = bytes.as_chunks::<8>();
    Some(std::array::from_fn(|part| u64::from_le_bytes(parts[part])))
}

fn place(key: &LongKey) -> usize {
    // The odd constants of PCG and MMIX, and of the golden ratio.
    const KEY_FACTORS: [u64; 4] =
        [0x9E37_79B9_7F4A_7C15, 0x5851_F42D_4C95_7F2D, 0xDA94_2042_E4DD_58B5, 0x1405_7B7E_F767_814F];
    let sum = key
        .iter()
        .zip(KEY_FACTORS)
        .fold(0_u64, |sum, (part, factor)| (sum.rotate_left(29) ^ (part ^ part >> 32)).wrapping_mul(factor));
    (sum >> (u64::BITS - ENTRIES_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is found is what was last put in, and what was just put in is found if it fits.
        #[test]
        fn finds_what_was_put_in(words in prop::collection::vec(("[ab]{1,3}|[a-z]{1,40}", 0_u32..20), 1..200)) {
            let mut table = LongWords::default();
            let mut known: HashMap<String, Vec<u32>> = HashMap::new();
            for (word, count) in words {
                let ids: Vec<u32> = (0..count).collect();
                table.insert::<u32>(word.as_bytes(), &ids);
                if count <= 12 && word.len() <= LONG_BYTES {
                    known.insert(word.clone(), ids);
                }
                let mut found = vec![77_u32];
                let hit = table.append(word.as_bytes(), &mut found);
                prop_assert_eq!(hit, known.contains_key(&word));
                prop_assert_eq!(&found[1..], known.get(&word).map_or(&[][..], Vec::as_slice));
            }
        }
    }

    #[test]
    fn words_that_meet_push_each_other_out() {
        let mut table = LongWords::default();
        for number in 0..100_000_u32 {
            let (word, mut found) = (format!("a word of number {number}"), Vec::<u16>::new());
            table.insert::<u16>(word.as_bytes(), &[number & 0xFFFF, 5]);
            assert!(table.append(word.as_bytes(), &mut found));
            assert_eq!(found, [number as u16, 5]);
        }
        assert_eq!(table.entries.len(), 1 << ENTRIES_BITS);
    }
}
