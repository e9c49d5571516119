//! Which positions of a batch are masked, and what they become.
//!
//! Drawn for the batch as a whole, as the original does: `ceil(prob * tokens)` positions without replacement, with the
//! weights `max(count, 1)^-smoothing` and none for special tokens. Every draw belongs to (seed, epoch, batch number).

use crate::batch_simd::Simd;
use crate::error::{Error, Result};
use crate::for_each_simd;
use crate::mask_bits::Bits;
use crate::mask_bounds::{Bounds, CERTAIN};
use crate::mask_uniform::position_of;
use crate::mask_words::Word;
use crate::plan::Member;
use crate::random::{Key, Purpose, Stream};

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
    /// Which ids are special tokens, the pad token among them, for every id.
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

/// What masking needs to know of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class(u8);

impl Class {
    fn new(special: bool, begins: bool) -> Self {
        Self(u8::from(special) | u8::from(begins) << 1)
    }

    /// Whether it is a special token.
    #[inline]
    #[must_use]
    pub fn is_special(self) -> bool {
        self.0 & 1 == 1
    }

    /// Whether it begins a word.
    #[inline]
    #[must_use]
    pub fn begins(self) -> bool {
        self.0 & 2 == 2
    }

    /// Whether the word before it ends there.
    #[inline]
    #[must_use]
    pub fn ends(self) -> bool {
        self.0 != 0
    }
}

/// Memory that is used again from batch to batch.
#[derive(Default)]
pub struct Workspace {
    /// The masked positions of the last batch in its flattened tensor, in ascending order.
    pub flat: Vec<u32>,
    pub(crate) taken: Bits,
    pub(crate) rows: Bits,
    pub(crate) words: Vec<u32>,
    pub(crate) draws: Vec<u32>,
    pub(crate) keys: Vec<u64>,
    pub(crate) sorted: Vec<u64>,
    pub(crate) found: Vec<Word>,
    /// Masked positions that get a random id.
    random: Vec<u32>,
}

/// Masks batches.
pub struct Masker {
    masking: Masking,
    pub(crate) classes: Vec<Class>,
    /// One over the weight of each id, where ids are weighted.
    pub(crate) inverse_weights: Vec<f64>,
    pub(crate) bounds: Bounds,
    pub(crate) simd: Simd,
    /// One over the rate at which positions are hit where each is drawn for itself.
    pub(crate) mean_gap: f64,
    /// The ids that a random token is drawn from.
    replacements: Vec<u32>,
    mask_id: u32,
    mask_below: u32,
    random_below: u32,
}

impl Masker {
    /// Refuses a vocabulary without an id that may be drawn.
    pub fn new(masking: Masking, vocabulary: &Vocabulary, simd: Simd) -> Result<Self> {
        let size = vocabulary.special.len();
        let replacements: Vec<u32> =
            (0..size as u32).filter(|&id| masking.random_specials || !vocabulary.special[id as usize]).collect();
        if replacements.is_empty() {
            return Err(Error::invalid(format!(
                "all {size} ids of the vocabulary are special tokens: nothing to mask"
            )));
        }
        let begins = |id: usize| vocabulary.word_starts.get(id).is_some_and(|&begins| begins);
        let classes = vocabulary.special.iter().enumerate().map(|(id, &special)| Class::new(special, begins(id)));
        // Rounded to 32 bits, so that the last bit of a platform's `pow` and `ln` does not decide about a mask.
        let weight = |&count: &u64| f64::from((count.max(1) as f64).powf(-masking.smoothing) as f32);
        let is_weighted = masking.smoothing > 0.0;
        let weights: Vec<f64> =
            if is_weighted { vocabulary.token_counts.iter().map(weight).collect() } else { Vec::new() };
        let share = |share: f64| (share * f64::from(CERTAIN)).round() as u32;
        Ok(Self {
            classes: classes.collect(),
            bounds: Bounds::new(masking.prob, vocabulary, &weights),
            inverse_weights: weights.into_iter().map(f64::recip).collect(),
            simd,
            mean_gap: f64::from((-(-masking.prob).ln_1p()).recip() as f32),
            replacements,
            mask_id: vocabulary.mask_id,
            mask_below: share(masking.mask),
            random_below: share(masking.mask + masking.random),
            masking,
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
    /// once in 10^9 batches, and then some drawn at random are left out.
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

    /// Chooses the positions of batch `batch`, whose flattened tensor `ids` holds `members`, into `workspace.flat`,
    /// and returns how many they are.
    pub fn choose(&self, members: &[Member], ids: &[i64], key: Key, batch: u32, workspace: &mut Workspace) -> usize {
        let tokens: usize = members.iter().map(|member| member.length as usize).sum();
        let end = members.last().map_or(0, |last| (last.start + last.length) as usize);
        let (ids, capacity) = (&ids[..end], self.capacity(ids.len()));
        let stream = &mut Stream::new(self.simd, key, batch, Purpose::Select);
        let wanted = self.wanted(tokens);
        match (self.masking.exact, self.masking.whole_word, !self.inverse_weights.is_empty()) {
            (true, false, false) => self.choose_tokens(ids, wanted, stream, workspace),
            (true, false, true) => self.choose_weighted(ids, wanted, stream, workspace),
            (true, true, false) => self.choose_words(members, ids, wanted, stream, workspace),
            (true, true, true) => self.choose_weighted_words(members, ids, wanted, stream, workspace),
            (false, false, _) => self.choose_tokens_each(ids, stream, workspace),
            (false, true, _) => self.choose_words_each(members, ids, stream, workspace),
        }
        let Workspace { flat, words, .. } = workspace;
        while flat.len() > capacity {
            stream.fill(words, 1);
            let surplus = position_of(words[0], flat.len() as u32);
            surplus.map(|place| flat.remove(place));
        }
        flat.len()
    }

    /// Replaces the positions of `ids` that were chosen, and writes them and their original ids to `positions` and
    /// `labels`; unused places get position 0 and label -100.
    pub fn replace(
        &self,
        key: Key,
        batch: u32,
        ids: &mut [i64],
        positions: &mut [i64],
        labels: &mut [i64],
        workspace: &mut Workspace,
    ) {
        let Workspace { flat, words, random, .. } = workspace;
        let (positions, unused_positions) = positions.split_at_mut(flat.len());
        let (labels, unused_labels) = labels.split_at_mut(flat.len());
        unused_positions.fill(0);
        unused_labels.fill(-100);
        let mut stream = Stream::new(self.simd, key, batch, Purpose::Replace);
        stream.fill(words, flat.len());
        random.resize(flat.len() + 1, 0);
        let below = [self.mask_below, self.random_below];
        let count = replace(self.simd, flat, words, below, i64::from(self.mask_id), ids, positions, labels, random);
        stream.fill(words, 2 * count);
        for (&position, pair) in random[..count].iter().zip(words.as_chunks::<2>().0) {
            let draw = u64::from(pair[0]) << 32 | u64::from(pair[1]);
            let index = (u128::from(draw) * self.replacements.len() as u128) >> 64;
            ids[position as usize] = i64::from(self.replacements[index as usize]);
        }
    }
}

for_each_simd! {
    fn replace(
        flat: &[u32], words: &[u32], below: [u32; 2], mask_id: i64, ids: &mut [i64], positions: &mut [i64],
        labels: &mut [i64], random: &mut [u32],
    ) -> usize = replace_body
}

/// `below`: the draws that give the mask token, and those that give it or a random one. The positions of the latter are
/// written to `random`; returns how many they are.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
#[expect(clippy::too_many_arguments, reason = "slices, so that every version knows all lengths")]
fn replace_body(
    flat: &[u32],
    words: &[u32],
    below: [u32; 2],
    mask_id: i64,
    ids: &mut [i64],
    positions: &mut [i64],
    labels: &mut [i64],
    random: &mut [u32],
) -> usize {
    let mut count = 0;
    let outputs = positions.iter_mut().zip(labels);
    for ((&position, &word), (place, label)) in flat.iter().zip(words).zip(outputs) {
        let id = &mut ids[position as usize];
        *place = i64::from(position);
        *label = *id;
        let choice = word >> 1;
        *id = if choice < below[0] { mask_id } else { *id };
        // What is not kept is overwritten by the next.
        random[count] = position;
        count += usize::from(choice >= below[0] && choice < below[1]);
    }
    count
}
