//! Masking of whole words: the pieces of a word are masked together or not at all.
//!
//! A word begins at an id that begins one (or after a special token) and takes in what follows up to the next; this is
//! read off the ids, no text is needed. With an exact number, words are taken in random order as long as their pieces fit
//! what is left of it, as BERT does; the number is missed only where no word fits any more.

use crate::mask::{Masker, Workspace, exponential};
use crate::mask_bounds::CERTAIN;
use crate::mask_draw::{GROUP, draws};
use crate::plan::Member;
use crate::random::Key;

/// A word in a batch.
#[derive(Clone, Copy)]
pub(crate) struct Word {
    /// Words are taken in ascending order of it.
    key: u64,
    start: u32,
    pieces: u32,
}

impl Masker {
    pub(crate) fn choose_words(
        &self,
        members: &[Member],
        ids: &[i64],
        key: Key,
        tokens: usize,
        workspace: &mut Workspace,
    ) {
        let Workspace { words, flat, .. } = workspace;
        words.clear();
        for member in members {
            self.words_of(*member, &ids[member.start as usize..][..member.length as usize], key, words);
        }
        let wanted = if self.masking.exact {
            self.wanted(tokens)
        } else {
            let bound = (self.masking.prob * f64::from(CERTAIN)).round() as u64;
            words.retain(|word| word.key < bound);
            self.capacity(ids.len())
        };
        flat.clear();
        // A word has a piece at least, so the first `wanted` words are nearly always enough.
        let near = wanted.min(words.len());
        if near < words.len() {
            words.select_nth_unstable_by_key(near, |word| (word.key, word.start));
        }
        let (first, rest) = words.split_at_mut(near);
        for part in [first, rest] {
            if flat.len() == wanted {
                break;
            }
            part.sort_unstable_by_key(|word| (word.key, word.start));
            for word in part {
                if flat.len() + word.pieces as usize <= wanted {
                    flat.extend(word.start..word.start + word.pieces);
                }
            }
        }
        flat.sort_unstable();
    }

    /// The words of one row. A word's weight is that of its rarest piece.
    fn words_of(&self, member: Member, ids: &[i64], key: Key, words: &mut Vec<Word>) {
        let first = words.len();
        let mut in_word = false;
        let mut inverse_weight = f64::INFINITY;
        for (group, part) in ids.chunks(GROUP).enumerate() {
            let draws = draws(member.row, group as u32, key);
            for (offset, (&id, &draw)) in part.iter().zip(draws.as_flattened()).enumerate() {
                let id = id as usize;
                if self.vocabulary.special[id] {
                    in_word = false;
                    continue;
                }
                if !in_word || self.vocabulary.word_starts[id] {
                    let start = member.start + (group * GROUP + offset) as u32;
                    words.push(Word { key: u64::from(draw), start, pieces: 0 });
                    inverse_weight = f64::INFINITY;
                    in_word = true;
                }
                let word = words.last_mut().expect("a word was begun");
                word.pieces += 1;
                if let Some(inverse) = &self.inverse_weights {
                    inverse_weight = inverse_weight.min(inverse[id]);
                    // The draw waits in the upper half until the rarest piece is known.
                    word.key = word.key & 0xFFFF_FFFF | u64::from((inverse_weight as f32).to_bits()) << 32;
                }
            }
        }
        if self.inverse_weights.is_some() {
            for word in &mut words[first..] {
                let inverse = f64::from(f32::from_bits((word.key >> 32) as u32));
                word.key = (exponential(word.key as u32) * inverse).to_bits();
            }
        }
    }
}
