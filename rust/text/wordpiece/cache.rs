//! Words already encoded, in a table of fixed size: a look-up touches one cache line and has nothing to predict but
//! whether it hits.
//!
//! A set is one line of 64 bytes: two keys of 16 bytes, the text of a word as it stands, and their values, up to seven
//! `u16` or six `u32` ids and their count. A word that finds its set full goes to a neighbour of the set, from where it
//! comes back when it is looked for, and if those are full too it replaces the second word of its own set: so the table
//! never grows.

use std::hint::select_unpredictable;
use std::mem::MaybeUninit;

use crate::cpu::memory::{PAGE_BYTES, advise};
use crate::text::wordpiece::ids::PackedIds;

/// The most bytes of a word that a key holds.
pub const KEY_BYTES: usize = 16;

/// The text of a word of at most 16 bytes, filled up with zeros: NUL is deleted from every text, so it tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct WordKey(pub u128);

/// Where there is no word: no text is like this, since every 0xFF in it is a word of its own.
pub const NO_KEY: WordKey = WordKey(u128::MAX);

/// The bytes of a key that belong to a word of so many bytes; none for a word that is too long for a key.
pub const KEY_MASKS: [u128; KEY_BYTES + 2] = {
    let mut masks = [0; KEY_BYTES + 2];
    let mut length = 1;
    while length <= KEY_BYTES {
        masks[length] = masks[length - 1] << 8 | 0xFF;
        length += 1;
    }
    masks
};

/// What is added to the four parts of a key before they are multiplied.
pub const HASH_KEYS: [u32; 4] = [0x9E37_79B9, 0x85EB_CA6B, 0xC2B2_AE35, 0x27D4_EB2F];

/// How far the hash of a key is shifted to the right, and what is then kept of it, to give where its set begins.
pub const OFFSET_SHIFT: u32 = 32 - SETS_BITS - SET_BITS;
/// See [`OFFSET_SHIFT`].
pub const OFFSET_MASK: u32 = ((1 << SETS_BITS) - 1) << SET_BITS;

impl WordKey {
    /// The key of a word of at most 16 bytes, as it stands.
    pub fn of(word: &[u8]) -> Self {
        let mut bytes = [0; KEY_BYTES];
        bytes[..word.len()].copy_from_slice(word);
        Self(u128::from_le_bytes(bytes))
    }

    /// Whether this is the key of a word: 0 is that of none, and of those that are too long.
    pub fn is_word(self) -> bool {
        self.0 != 0
    }

    /// The text of the first eight bytes.
    #[inline]
    pub fn half(self) -> u64 {
        self.0 as u64
    }

    /// The bytes from the beginning of the table to the set that this key belongs to.
    ///
    /// The sum of products is NH, of UMAC (Black et al., 1999): two multiplications, and four keys at once with AVX-512.
    #[inline]
    pub fn offset(self) -> u32 {
        let part = |number: usize| u64::from(((self.0 >> (32 * number)) as u32).wrapping_add(HASH_KEYS[number]));
        let sum = (part(0) * part(1)).wrapping_add(part(2) * part(3));
        (((sum >> 32) ^ sum) as u32 >> OFFSET_SHIFT) & OFFSET_MASK
    }

    /// The number of the set that this key belongs to.
    pub fn place(self) -> usize {
        (self.offset() >> SET_BITS) as usize
    }
}

/// Two words and their ids.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub struct Set {
    keys: [WordKey; 2],
    values: [PackedIds; 2],
}

/// The size of a [`Set`], as a power of two.
pub const SET_BITS: u32 = 6;
/// Sets of the table of a thread, as a power of two: 8 MiB.
pub const SETS_BITS: u32 = 17;
const SETS: usize = 1 << SETS_BITS;
/// How many sets a word may be in, its own first.
const NEIGHBOURS: usize = 4;

/// As many sets as make a large page of memory: tables that lie in a few of those take few look-ups of addresses.
#[repr(C, align(2_097_152))]
struct Page([Set; PAGE_BYTES >> SET_BITS]);

/// The table of a thread.
pub struct WordCache {
    pages: Vec<Page>,
}

impl Default for WordCache {
    fn default() -> Self {
        Self::new()
    }
}

impl WordCache {
    /// An empty table.
    pub fn new() -> Self {
        let empty = Set { keys: [NO_KEY; 2], values: [PackedIds::default(); 2] };
        Self::filled(|sets| sets.iter_mut().for_each(|set| _ = set.write(empty)))
    }

    /// A table whose sets are all written by `fill`.
    fn filled(fill: impl FnOnce(&mut [MaybeUninit<Set>])) -> Self {
        const { assert!(size_of::<Set>() == 1 << SET_BITS) };
        let count = (SETS << SET_BITS) / PAGE_BYTES;
        let mut pages: Vec<Page> = Vec::with_capacity(count);
        let start = pages.as_mut_ptr();
        advise(start, count * PAGE_BYTES);
        // SAFETY: the vector has room for `count` pages, which are `SETS` sets without anything between them; all are
        // written before they count as there.
        unsafe {
            fill(std::slice::from_raw_parts_mut(start.cast(), SETS));
            pages.set_len(count);
        }
        Self { pages }
    }

    /// All sets, in order.
    #[inline]
    pub fn sets(&self) -> &[Set] {
        // SAFETY: pages are sets without anything between them.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast(), SETS) }
    }

    fn sets_mut(&mut self) -> &mut [Set] {
        // SAFETY: as above, and borrowed for as long as the table is.
        unsafe { std::slice::from_raw_parts_mut(self.pages.as_mut_ptr().cast(), SETS) }
    }

    /// The ids of a word, looked for in its set and, where that is full, in the neighbours of that.
    ///
    /// What is found there changes places with the second word of its own set: which it is looked for in first, the next
    /// time. That stays in the neighbourhood, which is the same for all that belong to it.
    pub fn find(&mut self, key: WordKey) -> Option<PackedIds> {
        if !key.is_word() {
            return None;
        }
        let own = key.place();
        let (place, way) = self.way(key, own)?;
        let sets = self.sets_mut();
        if sets[place].keys[way] != key {
            return None;
        }
        let packed = sets[place].values[way];
        if place != own {
            (sets[place].keys[way], sets[place].values[way]) = (sets[own].keys[1], sets[own].values[1]);
            (sets[own].keys[1], sets[own].values[1]) = (key, packed);
        }
        Some(packed)
    }

    /// Notes the ids of a word, and tells whether it has; words without a key are not noted.
    pub fn insert(&mut self, key: WordKey, packed: PackedIds) -> bool {
        if !key.is_word() {
            return false;
        }
        let own = key.place();
        let (place, way) = self.way(key, own).unwrap_or((own, 1));
        let set = &mut self.sets_mut()[place];
        set.keys[way] = key;
        set.values[way] = packed;
        true
    }

    /// Where a word is, or, if it is nowhere, the first free place that it may take; `None` if there is none.
    fn way(&self, key: WordKey, own: usize) -> Option<(usize, usize)> {
        (0..NEIGHBOURS).map(|step| own ^ step).find_map(|place| {
            let way = self.sets()[place].keys.iter().position(|&other| other == key || other == NO_KEY)?;
            Some((place, way))
        })
    }

    /// Whether the set of this key has room for another word.
    pub fn has_room(&self, key: WordKey) -> bool {
        self.sets()[key.place()].keys[1] == NO_KEY
    }
}

impl Set {
    /// The ids of a word that belongs to this set, if they are known.
    #[inline]
    pub fn get(&self, key: WordKey) -> Option<&PackedIds> {
        // Which of the two it is cannot be predicted, that it is one of them can: so the half of the second key chooses
        // without a branch, and one branch tells whether the whole of the chosen key is right. A word that shares its
        // first half and its set with another may be missed, which costs time, not truth.
        let way = select_unpredictable(self.keys[1].half() == key.half(), KEY_BYTES, 0);
        // SAFETY: a set is two keys and two values of 16 bytes each, so 16 bytes after the first of each is the second.
        unsafe {
            let chosen = (&raw const *self).byte_add(way);
            ((*chosen).keys[0] == key).then(|| &(*chosen).values[0])
        }
    }
}

impl Clone for WordCache {
    fn clone(&self) -> Self {
        Self::filled(|sets| {
            for (set, &own) in sets.iter_mut().zip(self.sets()) {
                set.write(own);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is found is what was last put in, and what was just put in is found.
        #[test]
        fn finds_what_was_put_in(words in prop::collection::vec(("[ab]{1,3}|[a-z]{1,16}", 0_u32..9), 1..300)) {
            let mut cache = WordCache::new();
            let mut known: HashMap<String, u32> = HashMap::new();
            for (word, count) in words {
                let key = WordKey::of(word.as_bytes());
                let ids: Vec<u32> = (0..count).collect();
                if let Some(packed) = PackedIds::new::<u16>(&ids, 0) {
                    cache.insert(key, packed);
                    known.insert(word.clone(), count);
                }
                let found = cache.find(key).map(|packed| packed.count_and_flag().0 as u32);
                prop_assert_eq!(found, known.get(&word).copied());
                let direct = cache.sets()[key.place()].get(key).map(|packed| packed.count_and_flag().0 as u32);
                prop_assert!(direct.is_none() || direct == found);
            }
            let mut copy = cache.clone();
            for (word, count) in known {
                let found = copy.find(WordKey::of(word.as_bytes())).map(|packed| packed.count_and_flag().0 as u32);
                prop_assert_eq!(found, Some(count));
            }
        }
    }

    /// However words of one neighbourhood change places, each is found as long as there is room for all.
    #[test]
    fn neighbours_change_places() {
        let group = WordKey::of(b"0").place() / NEIGHBOURS;
        let words = (0..u32::MAX).map(|number| (number, WordKey::of(number.to_string().as_bytes())));
        let words: Vec<(u32, WordKey)> =
            words.filter(|(_, key)| key.place() / NEIGHBOURS == group).take(2 * NEIGHBOURS).collect();
        let packed = |number: u32| PackedIds::new::<u16>(&[number & 0x7FFF], 0).expect("one id");
        let mut cache = WordCache::new();
        for &(number, key) in &words {
            cache.insert(key, packed(number));
        }
        for round in 0..20 {
            for &(number, key) in words.iter().skip(round % 3).step_by(1 + round % 4) {
                assert_eq!(cache.find(key), Some(packed(number)));
                assert!(cache.sets()[key.place()].get(key).is_some());
            }
        }
    }
}
