//! Words already encoded, in a table of fixed size: a look-up touches one cache line and has nothing to predict but
//! whether it hits.
//!
//! A set is one line of 64 bytes: two keys of 16 bytes, the text of a word as it stands (ASCII-lower-cased where the
//! tokenizer lower-cases), and their values, up to seven `u16` or three `u32` ids and their count. A word that finds its
//! set full replaces the second one, so the table never grows and words of the vocabulary, which come first, stay.

use crate::tokenizer::TokenId;

/// Two words and their ids.
#[repr(C, align(64))]
#[derive(Clone, Copy, Default)]
pub struct Set<I: TokenId> {
    keys: [u128; 2],
    values: [I::Lanes; 2],
}

/// The table of a thread.
#[derive(Clone)]
pub struct WordCache<I: TokenId> {
    sets: Vec<Set<I>>,
    shift: u32,
}

impl<I: TokenId> WordCache<I> {
    /// An empty table of `1 << bits` sets.
    pub fn new(bits: u32) -> Self {
        Self { sets: vec![Set::default(); 1 << bits], shift: 64 - bits }
    }

    /// The number of the set that a key belongs to.
    #[inline]
    pub fn place(&self, key: u128) -> usize {
        // Two multiplications; the upper bits of each depend on all bits of its half.
        let mixed =
            (key as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ ((key >> 64) as u64).wrapping_mul(0xC2B2_AE3D_27D4_EB4F);
        ((mixed ^ (mixed << 32)) >> self.shift) as usize
    }

    /// Asks for the line of a set, to be there when it is looked into.
    #[inline]
    pub fn prefetch(&self, place: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch is a hint and reads nothing; any address may be given.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.sets.as_ptr().wrapping_add(place).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    /// The ids of a word whose key belongs to the set `place`, if they are known.
    #[inline]
    pub fn get(&self, place: usize, key: u128) -> Option<&I::Lanes> {
        let set = &self.sets[place];
        // Which of the two it is cannot be predicted, that it is one of them can: so the half of the second key chooses
        // without a branch, and one branch tells whether the whole of the chosen key is right. A word that shares its
        // first half and its set with another may be missed, which costs time, not truth.
        let way = usize::from(set.keys[1] as u64 == key as u64);
        if set.keys[way] == key { Some(&set.values[way]) } else { None }
    }

    /// Notes the ids of a word; more than fit are not noted.
    pub fn insert(&mut self, key: u128, ids: &[u32], flags: u32) {
        let Some(lanes) = I::pack(ids, flags) else { return };
        let place = self.place(key);
        let set = &mut self.sets[place];
        let way = usize::from(set.keys[0] != 0);
        set.keys[way] = key;
        set.values[way] = lanes;
    }

    /// Whether the set of this key has room for another word.
    pub fn has_room(&self, key: u128) -> bool {
        self.sets[self.place(key)].keys[1] == 0
    }
}
