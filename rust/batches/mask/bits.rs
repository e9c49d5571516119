//! A set of positions of a batch, one bit each.

/// Positions below a size that is set anew for every batch.
#[derive(Default)]
pub struct Bits(Vec<u64>);

impl Bits {
    /// No position, of `size`.
    pub fn clear(&mut self, size: usize) {
        self.0.clear();
        self.0.resize(size.div_ceil(64), 0);
    }

    /// The bits themselves: position `p` is bit `p % 64` of word `p / 64`.
    pub fn words(&mut self) -> &mut [u64] {
        &mut self.0
    }

    /// Whether `position` is in the set.
    #[inline]
    #[must_use]
    pub fn has(&self, position: usize) -> bool {
        self.0[position / 64] >> (position % 64) & 1 == 1
    }

    /// Adds `position`.
    #[inline]
    pub fn add(&mut self, position: usize) {
        self.0[position / 64] |= 1 << (position % 64);
    }

    /// Writes all positions in ascending order to `positions`, which need not be empty before.
    pub fn list(&self, positions: &mut Vec<u32>) {
        let count: u32 = self.0.iter().map(|word| word.count_ones()).sum();
        positions.resize(count as usize, 0);
        let mut places = positions.iter_mut();
        for (&word, first) in self.0.iter().zip((0..).step_by(64)) {
            let mut rest = word;
            for place in places.by_ref().take(word.count_ones() as usize) {
                *place = first + rest.trailing_zeros();
                rest &= rest - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_are_listed_in_order(positions in prop::collection::btree_set(0_u32..500, 0..200)) {
            let mut bits = Bits::default();
            bits.clear(500);
            for &position in &positions {
                bits.add(position as usize);
            }
            let mut listed = vec![7; 3];
            bits.list(&mut listed);
            prop_assert!(listed.into_iter().eq(positions.iter().copied()));
            prop_assert!((0..500).all(|position| bits.has(position as usize) == positions.contains(&position)));
        }
    }
}
