//! Counter-based randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and
//! permutations that are evaluated one element at a time. There is no state: every draw is a function of what is drawn,
//! so nothing depends on the order of work, on threads or on ranks.

use crate::for_each_level;
use crate::simd::Level;

/// Blocks that are computed side by side: eight products of 32 x 32 bits fill one 512-bit register.
pub const PHILOX_LANES: usize = 8;

/// What a draw is for. It is one word of the counter, so that two purposes never share random bits.
#[derive(Clone, Copy)]
pub enum Purpose {
    /// Which positions are masked.
    Select = 0,
    /// What a masked position becomes.
    Replace = 1,
    /// The order of rows and batches.
    Shuffle = 2,
    /// The key of an epoch.
    Epoch = 3,
    /// Which of the other positions a loss is taken at.
    Sample = 4,
    /// Which activations are dropped.
    Dropout = 5,
}

/// A Philox key.
pub type PhiloxKey = [u32; 2];

/// Philox4x32-10 over [`PHILOX_LANES`] counters, word by word: `counter[word][lane]` to `result[word][lane]`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
#[must_use]
pub fn philox(counter: [[u32; PHILOX_LANES]; 4], key: PhiloxKey) -> [[u32; PHILOX_LANES]; 4] {
    // Words are kept in 64 bits so that a product needs no widening.
    let mut words = [[0_u64; PHILOX_LANES]; 4];
    for (wide, word) in words.iter_mut().zip(&counter) {
        for (wide, &value) in wide.iter_mut().zip(word) {
            *wide = u64::from(value);
        }
    }
    let [mut key0, mut key1] = key;
    for _ in 0..10 {
        let [a, b, c, d] = words;
        for lane in 0..PHILOX_LANES {
            let product0 = 0xD251_1F53 * (a[lane] & 0xFFFF_FFFF);
            let product1 = 0xCD9E_8D57 * (c[lane] & 0xFFFF_FFFF);
            words[0][lane] = (product1 >> 32) ^ b[lane] ^ u64::from(key0);
            words[1][lane] = product1 & 0xFFFF_FFFF;
            words[2][lane] = (product0 >> 32) ^ d[lane] ^ u64::from(key1);
            words[3][lane] = product0 & 0xFFFF_FFFF;
        }
        key0 = key0.wrapping_add(0x9E37_79B9);
        key1 = key1.wrapping_add(0xBB67_AE85);
    }
    let mut drawn = [[0; PHILOX_LANES]; 4];
    for (narrow, word) in drawn.iter_mut().zip(&words) {
        for (narrow, &value) in narrow.iter_mut().zip(word) {
            *narrow = value as u32;
        }
    }
    drawn
}

/// Words that come from one call of [`philox`].
pub const DRAWN_WORDS: usize = 4 * PHILOX_LANES;

/// The random words of one batch for one purpose, in bulk.
#[derive(Clone, Copy)]
pub struct Stream {
    level: Level,
    key: PhiloxKey,
    batch: u32,
    purpose: Purpose,
    next: u32,
}

impl Stream {
    /// The words of `batch` for `purpose` under `key`, from the first on.
    #[must_use]
    pub fn new(level: Level, key: PhiloxKey, batch: u32, purpose: Purpose) -> Self {
        Self { level, key, batch, purpose, next: 0 }
    }

    /// The next words of the stream: at least `count` of them, in whole groups.
    pub fn fill(&mut self, words: &mut Vec<u32>, count: usize) {
        words.resize(count.next_multiple_of(DRAWN_WORDS), 0);
        draw_groups(self.level, words, self.key, self.batch, self.purpose as u32, self.next);
        self.next += (words.len() / 4) as u32;
    }
}

for_each_level! {
    fn draw_groups(words: &mut [u32], key: PhiloxKey, batch: u32, purpose: u32, first: u32) = draw_groups_body
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn draw_groups_body(words: &mut [u32], key: PhiloxKey, batch: u32, purpose: u32, first: u32) {
    for (group, block) in words.as_chunks_mut::<DRAWN_WORDS>().0.iter_mut().zip((first..).step_by(PHILOX_LANES)) {
        let mut blocks = [0; PHILOX_LANES];
        for (lane, number) in blocks.iter_mut().enumerate() {
            *number = block + lane as u32;
        }
        let drawn = philox([blocks, [batch; PHILOX_LANES], [0; PHILOX_LANES], [purpose; PHILOX_LANES]], key);
        group.copy_from_slice(drawn.as_flattened());
    }
}

/// One block of Philox4x32-10.
#[must_use]
pub fn philox_block(counter: [u32; 4], key: PhiloxKey) -> [u32; 4] {
    philox(counter.map(|word| [word; PHILOX_LANES]), key).map(|word| word[0])
}

/// The key under which everything in an epoch is drawn.
#[must_use]
pub fn epoch_key(seed: u64, epoch: u64) -> PhiloxKey {
    let block = philox_block([epoch as u32, (epoch >> 32) as u32, 0, Purpose::Epoch as u32], halves(seed));
    [block[0], block[1]]
}

/// The lower and the upper half.
pub fn halves(value: u64) -> PhiloxKey {
    [value as u32, (value >> 32) as u32]
}

const ROUNDS: usize = 8;

/// A pseudo-random permutation of `0..size`, evaluated one element at a time: a Feistel network over the smallest power
/// of two that holds `size`, walked until it lands below it (Black and Rogaway, "Ciphers with arbitrary finite
/// domains", 2002). It takes no memory and no time to set up, so that a new epoch costs nothing.
#[derive(Clone, Debug)]
pub struct Permutation {
    size: u32,
    right_bits: u32,
    left_mask: u32,
    right_mask: u32,
    keys: [u32; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..size` that `key` and `stream` name.
    #[must_use]
    pub fn new(size: u32, key: PhiloxKey, stream: u32) -> Self {
        let bits = (32 - size.saturating_sub(1).leading_zeros()).max(2);
        let right_bits = bits / 2;
        let left_bits = bits - right_bits;
        let mut keys = [0; ROUNDS];
        for (number, chunk) in keys.chunks_mut(4).enumerate() {
            chunk.copy_from_slice(&philox_block([stream, number as u32, size, Purpose::Shuffle as u32], key));
        }
        Self { size, right_bits, left_mask: (1 << left_bits) - 1, right_mask: (1 << right_bits) - 1, keys }
    }

    /// Where `index`, below the size, goes.
    #[must_use]
    pub fn apply(&self, index: u32) -> u32 {
        debug_assert!(index < self.size);
        let mut value = self.step(index);
        while value >= self.size {
            value = self.step(value);
        }
        value
    }

    /// [`Permutation::apply`] for many at once.
    pub fn apply_all(&self, level: Level, values: &mut [u32]) {
        step_all(level, values, self);
        for value in values {
            while *value >= self.size {
                *value = self.step(*value);
            }
        }
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
    fn step(&self, value: u32) -> u32 {
        let (mut left, mut right) = (value >> self.right_bits, value & self.right_mask);
        for pair in self.keys.chunks_exact(2) {
            left ^= mix(right.wrapping_add(pair[0])) & self.left_mask;
            right ^= mix(left.wrapping_add(pair[1])) & self.right_mask;
        }
        (left << self.right_bits) | right
    }
}

for_each_level! {
    fn step_all(values: &mut [u32], permutation: &Permutation) = step_all_body
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn step_all_body(values: &mut [u32], permutation: &Permutation) {
    let permutation = permutation.clone();
    for value in values {
        *value = permutation.step(*value);
    }
}

/// A 32-bit hash in which every input bit reaches every output bit.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn mix(value: u32) -> u32 {
    let value = (value ^ (value >> 16)).wrapping_mul(0x7FEB_352D);
    let value = (value ^ (value >> 15)).wrapping_mul(0x846C_A68B);
    value ^ (value >> 16)
}

/// `-ln(1 - v)` for `v = (draw + 1/2) / 2^52`, which grows with `draw`; `draw` has 52 bits. Only additions, products and
/// one division, so that it has the same bits everywhere.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
pub(crate) fn exponential(draw: u64) -> f64 {
    let rest = ((1_u64 << 53) - 1 - 2 * draw) as f64 / (1_u64 << 53) as f64;
    let bits = rest.to_bits();
    let mut exponent = (bits >> 52) as i32 - 1023;
    let mut mantissa = f64::from_bits(bits & 0x000F_FFFF_FFFF_FFFF | 0x3FF0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    // ln(m) = 2 atanh((m - 1) / (m + 1)), |argument| <= 0.172.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let mut series = 0.0;
    for odd in (3..=19).rev().step_by(2) {
        series = series * square + f64::from(odd).recip();
    }
    let logarithm = 2.0 * ratio + 2.0 * ratio * (square * series);
    -(logarithm + f64::from(exponent) * std::f64::consts::LN_2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn philox_gives_the_published_answers() {
        let answer = |counter, key| philox_block(counter, key);
        assert_eq!(answer([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(answer([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            answer([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn every_place_is_equally_likely_under_a_permutation() {
        // Chi-square over 6 x 6 (element, place) counts of 6000 permutations; 25 degrees of freedom, and 60.1 is
        // exceeded once in 10^4 by chance. The seeds are fixed, so the outcome is too.
        let (size, draws) = (6_usize, 6000_u32);
        let mut counts = [[0_u32; 6]; 6];
        for seed in 0..draws {
            let permutation = Permutation::new(size as u32, epoch_key(u64::from(seed), 1), 7);
            for index in 0..size {
                counts[index][permutation.apply(index as u32) as usize] += 1;
            }
        }
        let expected = f64::from(draws) / size as f64;
        let chi_square: f64 =
            counts.iter().flatten().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum();
        assert!(chi_square < 60.1, "{chi_square}");
    }

    proptest! {
        #[test]
        fn a_permutation_is_one(size in 1_u32..3000, seed: u64, stream: u32) {
            let permutation = Permutation::new(size, epoch_key(seed, 0), stream);
            let mut images: Vec<u32> = (0..size).map(|index| permutation.apply(index)).collect();
            for level in Level::available() {
                let mut together: Vec<u32> = (0..size).collect();
                permutation.apply_all(level, &mut together);
                prop_assert_eq!(&together, &images);
            }
            images.sort_unstable();
            prop_assert!(images.into_iter().eq(0..size));
        }

        #[test]
        fn epochs_have_keys_of_their_own(seed: u64, epoch in 0_u64..1 << 40) {
            prop_assert_ne!(epoch_key(seed, epoch), epoch_key(seed, epoch + 1));
        }
    }

    proptest! {
        #[test]
        fn it_is_the_logarithm(draw in 0_u64..1 << 52) {
            let exact = -(-((draw as f64 + 0.5) / (1_u64 << 52) as f64)).ln_1p();
            prop_assert!((exponential(draw) - exact).abs() <= 1e-15 + 2e-14 * exact, "{} {exact}", exponential(draw));
        }
    }

    #[test]
    fn the_ends_are_finite_and_positive() {
        assert!(exponential(0) > 0.0 && exponential(0) < 1e-15);
        assert!((36.0..37.0).contains(&exponential((1 << 52) - 1)));
    }
}
