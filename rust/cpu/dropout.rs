//! Dropout's masks: random bits to the numbers that activations are multiplied by, on several threads.
//!
//! torch's own generator of such masks costs a CPU a tenth of a training step.

use crate::cpu::threads;
use crate::error::{Error, Result};
use crate::for_each_level;
use crate::random::{DRAWN_WORDS, PHILOX_LANES, PhiloxKey, Purpose, halves, philox};
use crate::simd::Level;

/// Elements that a thread takes at a time: a multiple of those that one call of [`philox`] decides about.
const CHUNK: usize = 1 << 14;

/// Elements that one call of [`philox`] decides about: two a word.
const DECIDED: usize = 2 * DRAWN_WORDS;

/// Chances are multiples of one over this.
pub const LEVELS: u32 = 1 << 16;

/// Fills `mask` with `kept` where an element stays, with probability 1 - `dropped` / [`LEVELS`], otherwise with 0.
///
/// Every element is a function of `seed` and its place. So the mask does not depend on the number of threads.
pub fn fill<T: DropoutNumber>(mask: &mut [T], seed: u64, dropped: u32, kept: T, threads: usize) -> Result<()> {
    if dropped > LEVELS {
        return Err(Error::invalid(format!("{dropped} of {LEVELS} elements cannot be dropped; at most all can")));
    }
    let level = Level::chosen()?;
    let mut chunks: Vec<_> = mask.chunks_mut(CHUNK).enumerate().collect();
    threads::for_each(&mut chunks, threads, |(number, chunk)| {
        T::fill(level, chunk, halves(seed), (*number * CHUNK) as u64, dropped, kept);
    })
}

/// A number of a mask, as its bits.
pub trait DropoutNumber: Copy + Default + Send + Sync {
    /// Fills the elements of a mask from `first` on, a multiple of [`DECIDED`].
    fn fill(level: Level, elements: &mut [Self], key: PhiloxKey, first: u64, dropped: u32, kept: Self);
}

impl DropoutNumber for u16 {
    fn fill(level: Level, elements: &mut [Self], key: PhiloxKey, first: u64, dropped: u32, kept: Self) {
        fill_half(level, elements, key, first, dropped, kept);
    }
}

impl DropoutNumber for u32 {
    fn fill(level: Level, elements: &mut [Self], key: PhiloxKey, first: u64, dropped: u32, kept: Self) {
        fill_single(level, elements, key, first, dropped, kept);
    }
}

for_each_level! {
    fn fill_half(elements: &mut [u16], key: PhiloxKey, first: u64, dropped: u32, kept: u16) = fill_body
}

for_each_level! {
    fn fill_single(elements: &mut [u32], key: PhiloxKey, first: u64, dropped: u32, kept: u32) = fill_body
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn fill_body<T: Copy + Default>(elements: &mut [T], key: PhiloxKey, first: u64, dropped: u32, kept: T) {
    let groups = (first / DECIDED as u64 * PHILOX_LANES as u64..).step_by(PHILOX_LANES);
    for (places, group) in elements.chunks_mut(DECIDED).zip(groups) {
        let mut counters = [[0; PHILOX_LANES]; 4];
        let [low, high, _, purpose] = &mut counters;
        for ((low, high), counter) in low.iter_mut().zip(high).zip(group..) {
            [*low, *high] = halves(counter);
        }
        *purpose = [Purpose::Dropout as u32; PHILOX_LANES];
        // All draws before all comparisons: two loops that the compiler can vectorise.
        let mut draws = [0_u16; DECIDED];
        for (pair, &word) in draws.as_chunks_mut::<2>().0.iter_mut().zip(philox(counters, key).as_flattened()) {
            *pair = [word as u16, (word >> 16) as u16];
        }
        for (element, drawn) in places.iter_mut().zip(draws) {
            *element = if u32::from(drawn) < dropped { T::default() } else { kept };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_share_dropped_is_the_one_asked_for() {
        let mut mask = vec![0_u16; 1 << 18];
        for dropped in [0, 1, 6554, 32768, 65535, LEVELS] {
            fill(&mut mask, 7, dropped, 1, 2).unwrap();
            let kept = mask.iter().map(|&kept| f64::from(kept)).sum::<f64>() / mask.len() as f64;
            let expected = 1.0 - f64::from(dropped) / f64::from(LEVELS);
            // Five standard deviations of a share of 2^18 draws.
            assert!(
                (kept - expected).abs() <= 5.0 * (expected * (1.0 - expected) / mask.len() as f64).sqrt(),
                "{kept}"
            );
        }
        assert!(fill(&mut mask, 7, LEVELS + 1, 1, 1).is_err());
    }

    #[test]
    fn every_level_gives_the_same_mask() {
        let mut expected = vec![0_u32; 5000];
        u32::fill(Level::Scalar, &mut expected, [3, 4], 1 << 40, 20_000, 7);
        for level in Level::available() {
            let mut mask = vec![0_u32; 5000];
            u32::fill(level, &mut mask, [3, 4], 1 << 40, 20_000, 7);
            assert_eq!(mask, expected, "{level:?}");
        }
    }

    proptest! {
        #[test]
        fn threads_and_length_change_no_element(length in 0_usize..100_000, seed: u64, dropped in 0..=LEVELS) {
            let mut whole = vec![0_u16; length];
            fill(&mut whole, seed, dropped, 3, 3).unwrap();
            let mut wide = vec![0_u32; length / 2];
            fill(&mut wide, seed, dropped, 3, 1).unwrap();
            prop_assert!(whole.iter().zip(&wide).all(|(&one, &other)| u32::from(one) == other));
        }
    }
}
