//! Token ids as they are stored, and a few of them packed into 16 bytes, as the tables of words hold them.

/// A token id as it is stored: `u16` where the vocabulary allows, else `u32`.
pub trait TokenId: Copy + Default + Into<u32> + Send + Sync + 'static {
    /// How many ids [`PackedIds`] takes.
    const PACKED: usize;

    /// How many bits each of them has there.
    const PACKED_BITS: u32;

    /// The id, which the caller knows to fit.
    fn from_u32(id: u32) -> Self;

    /// Writes [`IDS_WRITTEN`] ids: those that were packed, then others without meaning.
    ///
    /// # Safety
    ///
    /// `to` points to room for that many.
    unsafe fn write(packed: &PackedIds, to: *mut Self);
}

/// How many ids [`TokenId::write`] writes.
pub const IDS_WRITTEN: usize = 8;

/// A few ids, their count and a flag. Without the flag and ids it is all zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct PackedIds(u128);

/// Where the count and the flag are; ids lie below.
const COUNT_SHIFT: u32 = 120;
const FLAG_SHIFT: u32 = 124;

impl PackedIds {
    /// The ids with a flag of 0 or 1, if they fit.
    pub fn new<I: TokenId>(ids: &[u32], flag: u32) -> Option<Self> {
        const { assert!(I::PACKED as u32 * I::PACKED_BITS <= COUNT_SHIFT && I::PACKED <= IDS_WRITTEN) };
        // What is read as bytes must lie as it does in a register.
        const { assert!(cfg!(target_endian = "little")) };
        if ids.len() > I::PACKED || ids.iter().any(|id| id >> I::PACKED_BITS != 0) {
            return None;
        }
        let above = u128::from(flag) << FLAG_SHIFT | (ids.len() as u128) << COUNT_SHIFT;
        let places = (0..).step_by(I::PACKED_BITS as usize);
        Some(Self(ids.iter().zip(places).fold(above, |all, (&id, place)| all | u128::from(id) << place)))
    }

    /// The count of the ids, and the flag.
    #[inline]
    pub fn count_and_flag(&self) -> (usize, usize) {
        let [.., top] = self.0.to_le_bytes();
        (usize::from(top & 0xF), usize::from(top >> (FLAG_SHIFT - COUNT_SHIFT)))
    }

    /// Appends the ids.
    pub fn append<I: TokenId>(&self, ids: &mut Vec<I>) {
        let mut lanes = [I::default(); IDS_WRITTEN];
        // SAFETY: that is the room that is asked for.
        unsafe { I::write(self, lanes.as_mut_ptr()) };
        ids.extend_from_slice(&lanes[..self.count_and_flag().0]);
    }
}

impl TokenId for u16 {
    const PACKED: usize = 7;
    const PACKED_BITS: u32 = u16::BITS;

    #[inline]
    fn from_u32(id: u32) -> Self {
        id as Self
    }

    #[inline]
    unsafe fn write(packed: &PackedIds, to: *mut Self) {
        // SAFETY: eight ids are 16 bytes.
        unsafe { to.cast::<u128>().write_unaligned(packed.0) };
    }
}

impl TokenId for u32 {
    const PACKED: usize = 6;
    const PACKED_BITS: u32 = 20;

    #[inline]
    fn from_u32(id: u32) -> Self {
        id
    }

    #[inline]
    unsafe fn write(packed: &PackedIds, to: *mut Self) {
        let bytes: *const u8 = (&raw const packed.0).cast();
        for lane in 0..Self::PACKED {
            // Two ids are five bytes, of which the second begins in the middle of the third.
            let first = lane * Self::PACKED_BITS as usize / 8;
            // SAFETY: the last begins four bytes before the end; there is room for all of them.
            unsafe {
                let four = bytes.add(first).cast::<Self>().read_unaligned();
                to.add(lane).write(four >> (4 * (lane % 2)) & ((1 << Self::PACKED_BITS) - 1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip<I: TokenId + PartialEq + std::fmt::Debug>(ids: &[u32], flag: u32) {
        let packed = PackedIds::new::<I>(ids, flag);
        let fits = ids.len() <= I::PACKED && ids.iter().all(|&id| id < 1 << I::PACKED_BITS);
        assert_eq!(packed.is_some(), fits);
        let Some(packed) = packed else { return };
        assert_eq!(packed.count_and_flag(), (ids.len(), flag as usize));
        let (mut found, expected) = (vec![I::from_u32(9)], ids.iter().map(|&id| I::from_u32(id)));
        packed.append(&mut found);
        assert_eq!(found[1..], expected.collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(
            ids in prop::collection::vec(prop_oneof![0_u32..1 << 16, 0_u32..1 << 20, any::<u32>()], 0..10),
            flag in 0_u32..2,
        ) {
            round_trip::<u16>(&ids, flag);
            round_trip::<u32>(&ids, flag);
            let small: Vec<u32> = ids.iter().map(|id| id & 0xFFFF).collect();
            round_trip::<u16>(&small, flag);
            round_trip::<u32>(&small, flag);
        }
    }
}
