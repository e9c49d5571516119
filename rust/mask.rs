//! Which positions of a batch are masked, and what they become.
//!
//! Drawn for the batch as a whole, as the original does: `ceil(prob * tokens)` positions without replacement, with the
//! weights `max(count, 1)^-smoothing` and none for special tokens. Sampling without replacement with weights is taking
//! the smallest of the keys `-ln(u) / weight` (Efraimidis and Spirakis, "Weighted random sampling with a reservoir",
//! 2006); `u` belongs to (seed, epoch, row, position). Most positions are ruled out by one comparison of `u` with a bound
//! that depends on the id alone, so the logarithm is taken of few.

use crate::batch_simd::Simd;
use crate::error::{Error, Result};
use crate::for_each_simd;
use crate::mask_bounds::{Bounds, CERTAIN};
use crate::mask_draw::draw_below;
use crate::plan::Member;
use crate::random::{Key, LANES, Purpose, philox};

/// What a user asks for.
#[derive(Clone, Debug)]
pub struct Masking {
    /// The share of positions that is masked.
    pub prob: f64,
    /// The share of those that becomes the mask token.
    pub mask: f64,
    /// The share of those that becomes a random token; what is left keeps its id.
    pub random: f64,
    /// Positions are weighted with the frequency of their id to the power of minus this.
    pub smoothing: f64,
    /// Whether the pieces of a word are masked together.
    pub whole_word: bool,
    /// Whether the number of positions is exact, or each position is drawn for itself.
    pub exact: bool,
    /// Whether a random token may be a special one.
    pub random_specials: bool,
}

/// What there is to know about the vocabulary.
pub struct Vocabulary {
    /// Which ids are special tokens, for every id.
    pub special: Vec<bool>,
    /// Which ids begin a word, for every id; read only for whole words.
    pub word_starts: Vec<bool>,
    /// The id of the mask token.
    pub mask_id: u32,
    /// How often each id occurs in the rows at hand.
    pub occurrences: Vec<u64>,
    /// How often each id occurs, for the weights.
    pub token_counts: Vec<u64>,
}

/// A masked position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Masked {
    /// Where it lies in the flattened batch.
    pub flat: u32,
    /// The row of the data.
    pub row: u32,
    /// Where it lies in the row.
    pub position: u32,
}

/// Memory that is used again from batch to batch.
#[derive(Default)]
pub struct Workspace {
    /// The masked positions of the last batch, in ascending order.
    pub masked: Vec<Masked>,
    pub(crate) flat: Vec<u32>,
    pub(crate) draws: Vec<u32>,
    pub(crate) keys: Vec<u64>,
    pub(crate) sorted: Vec<u64>,
    pub(crate) words: Vec<crate::mask_words::Word>,
}

/// Masks batches.
pub struct Masker {
    pub(crate) masking: Masking,
    pub(crate) vocabulary: Vocabulary,
    /// One over the weight of each id, where ids are weighted.
    pub(crate) inverse_weights: Option<Vec<f64>>,
    pub(crate) bounds: Bounds,
    pub(crate) simd: Simd,
    /// The ids that a random token is drawn from.
    replacements: Vec<u32>,
    mask_below: u32,
    random_below: u32,
}

impl Masker {
    /// Refuses shares that are no probabilities or do not add up.
    pub fn new(masking: Masking, vocabulary: Vocabulary, simd: Simd) -> Result<Self> {
        let size = vocabulary.special.len();
        let replacements: Vec<u32> =
            (0..size as u32).filter(|&id| masking.random_specials || !vocabulary.special[id as usize]).collect();
        if replacements.is_empty() {
            return Err(Error::invalid(format!(
                "all {size} ids of the vocabulary are special tokens: nothing to mask"
            )));
        }
        let weights = (masking.smoothing > 0.0).then(|| {
            // Rounded to 32 bits, so that the last bit of a platform's `pow` does not decide about a mask.
            let weight = |&count: &u64| f64::from((count.max(1) as f64).powf(-masking.smoothing) as f32);
            vocabulary.token_counts.iter().map(weight).collect::<Vec<f64>>()
        });
        let bounds = Bounds::new(&masking, &vocabulary, weights.as_deref());
        let share = |share: f64| (share * f64::from(CERTAIN)).round() as u32;
        Ok(Self {
            mask_below: share(masking.mask),
            random_below: share(masking.mask + masking.random),
            inverse_weights: weights.map(|weights| weights.iter().map(|weight| weight.recip()).collect()),
            masking,
            vocabulary,
            bounds,
            simd,
            replacements,
        })
    }

    /// The instruction set that batches are made with.
    #[must_use]
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// How many positions are asked for in a batch of `tokens` tokens.
    #[must_use]
    pub fn wanted(&self, tokens: usize) -> usize {
        (self.masking.prob * tokens as f64).ceil() as usize
    }

    /// The most positions that are masked in a tensor of `size` elements. Positions drawn one by one overrun it less than
    /// once in 10^9 batches, and then those with the largest draws are left out.
    #[must_use]
    pub fn capacity(&self, size: usize) -> usize {
        if self.masking.exact {
            return self.wanted(size);
        }
        // A word of several pieces is masked or left as one, which spreads the number more widely.
        let spread = if self.masking.whole_word { 2.0 } else { 1.0 };
        let deviation = (self.masking.prob * (1.0 - self.masking.prob) * size as f64).sqrt() * spread;
        ((self.masking.prob * size as f64 + 6.5 * deviation).ceil() as usize + 1).min(size)
    }

    /// Whether the number of masked positions follows from the number of tokens, where enough of them may be masked.
    #[must_use]
    pub fn is_counted(&self) -> bool {
        self.masking.exact && !self.masking.whole_word
    }

    /// Chooses the positions of the batch `ids`, a flattened tensor in which `members` lie, into `workspace.masked`.
    pub fn choose(&self, members: &[Member], ids: &[i64], key: Key, workspace: &mut Workspace) {
        let tokens: usize = members.iter().map(|member| member.length as usize).sum();
        if self.masking.whole_word {
            self.choose_words(members, ids, key, tokens, workspace);
        } else if self.masking.exact {
            let wanted = self.wanted(tokens);
            for bounds in self.bounds.from(wanted) {
                draw_below(self.simd, members, ids, key, bounds, &mut workspace.flat, &mut workspace.draws);
                if workspace.flat.len() >= wanted {
                    break;
                }
            }
            self.keep_smallest(ids, wanted, workspace);
        } else {
            let bounds = self.bounds.each();
            draw_below(self.simd, members, ids, key, bounds, &mut workspace.flat, &mut workspace.draws);
            self.keep_smallest(ids, self.capacity(ids.len()), workspace);
        }
        locate(members, &workspace.flat, &mut workspace.masked);
    }

    /// Keeps the `wanted` candidates with the smallest keys, in their order; among equal keys the first.
    fn keep_smallest(&self, ids: &[i64], wanted: usize, workspace: &mut Workspace) {
        let Workspace { flat, draws, keys, sorted, .. } = workspace;
        if flat.len() <= wanted {
            return;
        }
        keys.clear();
        match &self.inverse_weights {
            None => keys.extend(draws.iter().map(|&draw| u64::from(draw))),
            Some(inverse) => keys.extend(
                // Positive doubles order as their bits do.
                flat.iter()
                    .zip(draws.iter())
                    .map(|(&flat, &draw)| (exponential(draw) * inverse[ids[flat as usize] as usize]).to_bits()),
            ),
        }
        sorted.clone_from(keys);
        let (_, &mut limit, _) = sorted.select_nth_unstable(wanted - 1);
        let mut ties = wanted - keys.iter().filter(|&&key| key < limit).count();
        let mut kept = 0;
        for index in 0..keys.len() {
            let tie = keys[index] == limit && ties > 0;
            ties -= usize::from(tie);
            flat[kept] = flat[index];
            kept += usize::from(keys[index] < limit || tie);
        }
        flat.truncate(kept);
    }

    /// Replaces the masked positions of `ids` and writes them and their original ids to `positions` and `labels`; unused
    /// places get position 0 and label -100.
    pub fn replace(&self, key: Key, masked: &[Masked], ids: &mut [i64], positions: &mut [i64], labels: &mut [i64]) {
        let (below, mask_id) = ([self.mask_below, self.random_below], self.vocabulary.mask_id);
        replace(self.simd, masked, key, below, mask_id, &self.replacements, ids, positions, labels);
        positions[masked.len()..].fill(0);
        labels[masked.len()..].fill(-100);
    }
}

for_each_simd! {
    fn replace(
        masked: &[Masked], key: Key, below: [u32; 2], mask_id: u32, replacements: &[u32],
        ids: &mut [i64], positions: &mut [i64], labels: &mut [i64],
    ) = replace_body
}

/// `below`: the draws that give the mask token, and those that give it or a random one of `replacements`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
#[expect(clippy::too_many_arguments, reason = "slices, so that every version knows all lengths")]
fn replace_body(
    masked: &[Masked],
    key: Key,
    below: [u32; 2],
    mask_id: u32,
    replacements: &[u32],
    ids: &mut [i64],
    positions: &mut [i64],
    labels: &mut [i64],
) {
    let used = positions.chunks_mut(LANES).zip(labels.chunks_mut(LANES));
    for (group, (positions, labels)) in masked.chunks(LANES).zip(used) {
        let mut counter = [[0; LANES], [0; LANES], [0; LANES], [Purpose::Replace as u32; LANES]];
        for (lane, masked) in group.iter().enumerate() {
            counter[0][lane] = masked.position;
            counter[1][lane] = masked.row;
        }
        let words = philox(counter, key);
        for (lane, masked) in group.iter().enumerate() {
            let id = &mut ids[masked.flat as usize];
            positions[lane] = i64::from(masked.flat);
            labels[lane] = *id;
            let draw = u64::from(words[1][lane]) << 32 | u64::from(words[2][lane]);
            let index = (u128::from(draw) * replacements.len() as u128) >> 64;
            let random = replacements[index as usize];
            let choice = words[0][lane] >> 1;
            let replaced = if choice < below[0] { mask_id } else { random };
            *id = if choice < below[1] { i64::from(replaced) } else { *id };
        }
    }
}

/// The rows and positions of flat positions in ascending order.
fn locate(members: &[Member], flat: &[u32], masked: &mut Vec<Masked>) {
    masked.clear();
    let mut members = members.iter();
    let mut current = members.next();
    for &flat in flat {
        while let Some(member) = current {
            if flat < member.start + member.length {
                masked.push(Masked { flat, row: member.row, position: flat - member.start });
                break;
            }
            current = members.next();
        }
    }
}

/// `-ln(1 - v)` for `v = (draw + 1/2) / 2^31`: an exponential variate that grows with `draw`. Only additions, products and
/// one division, so that it has the same bits everywhere.
pub(crate) fn exponential(draw: u32) -> f64 {
    let rest = f64::from(u32::MAX - 2 * draw) / 4_294_967_296.0;
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
