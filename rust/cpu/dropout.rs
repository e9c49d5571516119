//! Dropout's masks: random bits to the numbers that activations are multiplied by, on several threads.
//!
//! torch's own generator of such masks costs a CPU a tenth of a training step.

use crate::cpu::threads;
use crate::error::{Error, Result};

/// Elements that a thread takes at a time: a multiple of the four that share 64 random bits.
const CHUNK: usize = 1 << 14;

/// Groups of four whose bits are drawn together.
const GROUPS: usize = 16;

/// Chances are multiples of one over this.
pub const LEVELS: u32 = 1 << 16;

/// Fills `mask` with `kept` where an element stays, with probability 1 - `dropped` / [`LEVELS`], otherwise with 0.
///
/// Every element is a function of `seed` and its place: 16 of the 64 bits that `SplitMix64` (Steele, Lea and Flood,
/// 2014) gives for its group of four. So the mask does not depend on the number of threads.
pub fn fill<T: Copy + Default + Send + Sync>(
    mask: &mut [T],
    seed: u64,
    dropped: u32,
    kept: T,
    threads: usize,
) -> Result<()> {
    if dropped > LEVELS {
        return Err(Error::invalid(format!("{dropped} of {LEVELS} elements cannot be dropped; at most all can")));
    }
    let fill_chunk = |number: usize, chunk: &mut [T]| {
        let mut group = (number * CHUNK / 4) as u64;
        for places in chunk.chunks_mut(4 * GROUPS) {
            // All draws of a block before all comparisons: two loops that the compiler can vectorise.
            let mut draws = [0_u16; 4 * GROUPS];
            for four in draws.chunks_exact_mut(4) {
                let bits = bits_of_group(seed, group);
                four.copy_from_slice(&[bits as u16, (bits >> 16) as u16, (bits >> 32) as u16, (bits >> 48) as u16]);
                group += 1;
            }
            for (element, drawn) in places.iter_mut().zip(draws) {
                *element = if u32::from(drawn) < dropped { T::default() } else { kept };
            }
        }
    };
    let mut chunks: Vec<_> = mask.chunks_mut(CHUNK).enumerate().collect();
    threads::for_each(&mut chunks, threads, |(number, chunk)| fill_chunk(*number, chunk))
}

/// Output number `group` of `SplitMix64` seeded with `seed`.
fn bits_of_group(seed: u64, group: u64) -> u64 {
    let state = seed.wrapping_add((group + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_bits_are_those_of_splitmix64() {
        // The first outputs for seed 1234567, as its authors' reference program prints them.
        let outputs: Vec<u64> = (0..3).map(|group| bits_of_group(1_234_567, group)).collect();
        assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

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
