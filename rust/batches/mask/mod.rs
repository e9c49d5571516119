//! Which positions of a batch are masked, and what they become.
//!
//! Drawn for the batch as a whole, as the original does: `ceil(prob * tokens)` positions without replacement, with the
//! weights `max(count, 1)^-smoothing` and none for special tokens. Every draw belongs to (seed, epoch, batch number).

mod bits;
mod bounds;
mod masker;
mod sample;
mod uniform;
mod weighted;
mod words;

pub use masker::{Masker, Masking, Vocabulary, Workspace};

use uniform::position_of;

use crate::batches::plan::Member;
use crate::for_each_level;
use crate::random::{PhiloxKey, Purpose, Stream};
use crate::simd::Level;

impl Masker {
    /// The instruction set that batches are made with.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
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
    pub fn choose(
        &self,
        members: &[Member],
        ids: &[i64],
        key: PhiloxKey,
        batch: u32,
        workspace: &mut Workspace,
    ) -> usize {
        let tokens: usize = members.iter().map(|member| member.length as usize).sum();
        let end = members.last().map_or(0, |last| (last.start + last.length) as usize);
        let (ids, capacity) = (&ids[..end], self.capacity(ids.len()));
        let stream = &mut Stream::new(self.level, key, batch, Purpose::Select);
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
        key: PhiloxKey,
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
        let mut stream = Stream::new(self.level, key, batch, Purpose::Replace);
        stream.fill(words, flat.len());
        random.resize(flat.len() + 1, 0);
        let below = [self.mask_below, self.random_below];
        let count = replace(self.level, flat, words, below, i64::from(self.mask_id), ids, positions, labels, random);
        stream.fill(words, 2 * count);
        for (&position, pair) in random[..count].iter().zip(words.as_chunks::<2>().0) {
            let draw = u64::from(pair[0]) << 32 | u64::from(pair[1]);
            let index = (u128::from(draw) * self.replacements.len() as u128) >> 64;
            ids[position as usize] = i64::from(self.replacements[index as usize]);
        }
    }
}

for_each_level! {
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
