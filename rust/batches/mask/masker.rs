//! What is masked, as it is asked for, and what drawing it needs to know of the vocabulary.

use super::bits::Bits;
use super::bounds::{Bounds, CERTAIN};
use crate::error::{Error, Result};
use crate::simd::Level;

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
pub struct TokenClass(u8);

impl TokenClass {
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

/// A word of a batch, for sorting.
#[derive(Clone, Copy)]
pub(crate) struct BatchWord {
    pub(crate) key: u64,
    pub(crate) start: u32,
    pub(crate) pieces: u32,
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
    pub(crate) found: Vec<BatchWord>,
    /// Positions that are not masked, and those drawn of them.
    pub(crate) others: Vec<u32>,
    pub(crate) drawn: Vec<u32>,
    /// Masked positions that get a random id.
    pub(crate) random: Vec<u32>,
}

/// Masks batches.
pub struct Masker {
    pub(crate) masking: Masking,
    pub(crate) classes: Vec<TokenClass>,
    /// One over the weight of each id, where ids are weighted.
    pub(crate) inverse_weights: Vec<f64>,
    pub(crate) bounds: Bounds,
    pub(crate) level: Level,
    /// One over the rate at which positions are hit where each is drawn for itself.
    pub(crate) mean_gap: f64,
    /// The ids that a random token is drawn from.
    pub(crate) replacements: Vec<u32>,
    pub(crate) mask_id: u32,
    pub(crate) mask_below: u32,
    pub(crate) random_below: u32,
}

impl Masker {
    /// Refuses a vocabulary without an id that may be drawn.
    pub fn new(masking: Masking, vocabulary: &Vocabulary, level: Level) -> Result<Self> {
        let size = vocabulary.special.len();
        let replacements: Vec<u32> =
            (0..size as u32).filter(|&id| masking.random_specials || !vocabulary.special[id as usize]).collect();
        if replacements.is_empty() {
            return Err(Error::invalid(format!(
                "all {size} ids of the vocabulary are special tokens: nothing to mask"
            )));
        }
        let begins = |id: usize| vocabulary.word_starts.get(id).is_some_and(|&begins| begins);
        let classes = vocabulary.special.iter().enumerate().map(|(id, &special)| TokenClass::new(special, begins(id)));
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
            level,
            mean_gap: f64::from((-(-masking.prob).ln_1p()).recip() as f32),
            replacements,
            mask_id: vocabulary.mask_id,
            mask_below: share(masking.mask),
            random_below: share(masking.mask + masking.random),
            masking,
        })
    }
}
