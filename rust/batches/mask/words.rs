//! Masking of whole words: the pieces of a word are masked together or not at all.
//!
//! A word begins at an id that begins one, at the start of a row and after a special token, and takes in what follows up
//! to the next; this is read off the ids, no text is needed. With an exact number, words are taken in random order as long
//! as their pieces fit what is left of it, as BERT does; the number is missed only where no word fits any more.

use crate::batches::mask::bits::Bits;
use crate::batches::mask::masker::{BatchWord, Masker, TokenClass, Workspace};
use crate::batches::mask::uniform::{draw_from, most_draws, position_of, some_draws};
use crate::batches::mask::weighted::centre;
use crate::batches::plan::Member;
use crate::random::Stream;
use crate::random::exponential;

/// Tells where the words of a batch begin and end.
struct BatchWords<'a> {
    ids: &'a [i64],
    classes: &'a [TokenClass],
    rows: &'a Bits,
}

impl BatchWords<'_> {
    fn class(&self, position: usize) -> TokenClass {
        self.classes[self.ids[position] as usize]
    }

    fn begins(&self, position: usize) -> bool {
        let class = self.class(position);
        !class.is_special()
            && (class.begins() || self.rows.has(position) || self.class(position.saturating_sub(1)).is_special())
    }

    /// The pieces of the word that begins at `position`.
    fn pieces(&self, position: usize) -> usize {
        let goes_on = |next: usize| !self.class(next).ends() && !self.rows.has(next);
        (position + 1..self.ids.len()).take_while(|&next| goes_on(next)).count() + 1
    }
}

/// The positions at which rows begin.
fn mark_rows(members: &[Member], size: usize, rows: &mut Bits) {
    rows.clear(size);
    for member in members {
        rows.add(member.start as usize);
    }
}

impl Masker {
    /// Words with `wanted` pieces in all, every word as likely, into `workspace.flat`.
    pub(crate) fn choose_words(
        &self,
        members: &[Member],
        ids: &[i64],
        wanted: usize,
        stream: &mut Stream,
        workspace: &mut Workspace,
    ) {
        let Workspace { taken, rows, words, flat, .. } = workspace;
        taken.clear(ids.len());
        mark_rows(members, ids.len(), rows);
        let text = BatchWords { ids, classes: &self.classes, rows };
        let (mut left, mut draws) = (wanted, 0);
        let mut take = |position: usize, taken: &mut Bits| {
            let pieces = text.pieces(position);
            if pieces <= left {
                (position..position + pieces).for_each(|piece| taken.add(piece));
                left -= pieces;
            }
            left
        };
        let mut remaining = wanted;
        // A word that does not fit is drawn again in vain: that changes the chances of no other.
        while remaining > 0 && draws < most_draws(wanted) {
            stream.fill(words, some_draws(remaining));
            draws += words.len();
            for &word in words.iter() {
                if let Some(position) = position_of(word, ids.len() as u32)
                    && text.begins(position)
                    && !taken.has(position)
                {
                    remaining = take(position, taken);
                    if remaining == 0 {
                        break;
                    }
                }
            }
        }
        if remaining > 0 {
            flat.clear();
            let begin = (0..ids.len()).filter(|&position| text.begins(position) && !taken.has(position));
            flat.extend(begin.map(|position| position as u32));
            draw_from(flat, stream, words, |position| take(position as usize, taken) > 0);
        }
        taken.list(flat);
    }

    /// Every word with a chance of its own, into `workspace.flat`.
    pub(crate) fn choose_words_each(
        &self,
        members: &[Member],
        ids: &[i64],
        stream: &mut Stream,
        workspace: &mut Workspace,
    ) {
        self.hit_positions(ids.len(), stream, workspace);
        let Workspace { taken, rows, flat, .. } = workspace;
        taken.clear(ids.len());
        mark_rows(members, ids.len(), rows);
        let text = BatchWords { ids, classes: &self.classes, rows };
        for position in flat.iter().map(|&position| position as usize).filter(|&position| text.begins(position)) {
            (position..position + text.pieces(position)).for_each(|piece| taken.add(piece));
        }
        taken.list(flat);
    }

    /// Words with `wanted` pieces in all, each with the weight of its rarest piece, into `workspace.flat`.
    pub(crate) fn choose_weighted_words(
        &self,
        members: &[Member],
        ids: &[i64],
        wanted: usize,
        stream: &mut Stream,
        workspace: &mut Workspace,
    ) {
        let Workspace { rows, words, flat, found, .. } = workspace;
        mark_rows(members, ids.len(), rows);
        let text = BatchWords { ids, classes: &self.classes, rows };
        stream.fill(words, ids.len());
        found.clear();
        let mut position = 0;
        while position < ids.len() {
            if !text.begins(position) {
                position += 1;
                continue;
            }
            let pieces = text.pieces(position);
            let weights = ids[position..position + pieces].iter().map(|&id| self.inverse_weights[id as usize]);
            let key = exponential(centre(words[position] >> 1)) * weights.fold(f64::INFINITY, f64::min);
            found.push(BatchWord { key: key.to_bits(), start: position as u32, pieces: pieces as u32 });
            position += pieces;
        }
        flat.clear();
        // A word has a piece at least, so the first `wanted` words are nearly always enough.
        let near = wanted.min(found.len());
        if near < found.len() {
            found.select_nth_unstable_by_key(near, |word| (word.key, word.start));
        }
        let (first, rest) = found.split_at_mut(near);
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
}
