//! The key of a word in the cache: its text in 16 bytes.

use crate::wordpiece_cache::{SET_BITS, SETS_BITS};

/// The most bytes of a word that a key holds.
pub const KEY_BYTES: usize = 16;

/// The text of a word of at most 16 bytes, filled up with zeros: NUL is deleted from every text, so it tells nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Key(pub u128);

/// Where there is no word: no text is like this, since every 0xFF in it is a word of its own.
pub const NO_KEY: Key = Key(u128::MAX);

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

impl Key {
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
