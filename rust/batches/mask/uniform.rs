//! Positions that are all as likely, without looking at every token.
//!
//! An exact number is drawn one position after the other, uniformly among those that are left: a draw that hits a special
//! token or a position that is taken is thrown away. Most positions are never looked at. Where nearly all are taken, such
//! draws would seldom hit; then what is left is listed, and the rest is drawn from the list. Either way each position is
//! uniform among those left, so the set is uniform too.
//!
//! Positions that are drawn each for itself with a chance `p` are a geometric number of positions apart: the integer part
//! of an exponential variate over `-ln(1 - p)`.

use crate::batches::mask::masker::{Masker, TokenClass, Workspace};
use crate::for_each_level;
use crate::random::exponential;
use crate::random::{DRAWN_WORDS, Stream};

/// How many words may be drawn to find `wanted` positions before what is left is listed.
pub(crate) fn most_draws(wanted: usize) -> usize {
    2 * wanted + 8 * DRAWN_WORDS
}

/// How many words to draw at a time where `left` positions are left to find.
pub(crate) fn some_draws(left: usize) -> usize {
    left + left / 8 + DRAWN_WORDS / 2
}

/// A position below `size` out of a word; `None` for the few words that would make some positions likelier than others
/// (Lemire, "Fast random integer generation in an interval", 2019).
#[inline(always)]
#[expect(clippy::inline_always, reason = "the innermost of every draw")]
pub(crate) fn position_of(word: u32, size: u32) -> Option<usize> {
    let product = u64::from(word) * u64::from(size);
    (product as u32 >= size.wrapping_neg() % size).then_some((product >> 32) as usize)
}

impl Masker {
    /// `wanted` of the positions of `ids` that hold no special token, or all of them, into `workspace.flat`.
    pub(crate) fn choose_tokens(&self, ids: &[i64], wanted: usize, stream: &mut Stream, workspace: &mut Workspace) {
        let Workspace { taken, words, flat, .. } = workspace;
        taken.clear(ids.len());
        let (mut left, mut draws) = (wanted, 0);
        while left > 0 && draws < most_draws(wanted) {
            stream.fill(words, some_draws(left));
            draws += words.len();
            left = take_tokens(self.level, words, ids, &self.classes, taken.words(), left);
        }
        if left > 0 {
            flat.clear();
            flat.extend((0..ids.len() as u32).filter(|&position| {
                !self.classes[ids[position as usize] as usize].is_special() && !taken.has(position as usize)
            }));
            draw_from(flat, stream, words, |position| {
                if left == 0 {
                    return false;
                }
                taken.add(position as usize);
                left -= 1;
                true
            });
        }
        taken.list(flat);
    }

    /// Into `workspace.flat` every position below `size`, of whatever token, with the chance that `Masking::prob` is.
    pub(crate) fn hit_positions(&self, size: usize, stream: &mut Stream, workspace: &mut Workspace) {
        let Workspace { words, flat, keys, .. } = workspace;
        flat.clear();
        keys.resize(4 * DRAWN_WORDS, 0);
        let mut next = 0_u64;
        loop {
            stream.fill(words, 2 * keys.len());
            find_gaps(self.level, words, self.mean_gap, keys);
            for gap in keys.iter() {
                next = next.saturating_add(*gap);
                if next >= size as u64 {
                    return;
                }
                flat.push(next as u32);
                next += 1;
            }
        }
    }

    /// Every position of `ids` that holds no special token with a chance of its own, into `workspace.flat`.
    pub(crate) fn choose_tokens_each(&self, ids: &[i64], stream: &mut Stream, workspace: &mut Workspace) {
        self.hit_positions(ids.len(), stream, workspace);
        workspace.flat.retain(|&position| !self.classes[ids[position as usize] as usize].is_special());
    }
}

/// Hands the elements of `list` in random order to `take` until it refuses one.
pub(crate) fn draw_from<T>(
    list: &mut Vec<T>,
    stream: &mut Stream,
    words: &mut Vec<u32>,
    mut take: impl FnMut(T) -> bool,
) {
    loop {
        stream.fill(words, DRAWN_WORDS);
        for &word in words.iter() {
            if list.is_empty() {
                return;
            }
            if let Some(place) = position_of(word, list.len() as u32)
                && !take(list.swap_remove(place))
            {
                return;
            }
        }
    }
}

for_each_level! {
    fn find_gaps(words: &[u32], mean_gap: f64, gaps: &mut [u64]) = find_gaps_body
}

/// How many positions are passed over before each that is hit.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn find_gaps_body(words: &[u32], mean_gap: f64, gaps: &mut [u64]) {
    for (gap, pair) in gaps.iter_mut().zip(words.as_chunks::<2>().0) {
        let draw = u64::from(pair[0]) << 32 | u64::from(pair[1]);
        // The cast saturates.
        *gap = (exponential(draw >> 12) * mean_gap) as u64;
    }
}

for_each_level! {
    fn take_tokens(words: &[u32], ids: &[i64], classes: &[TokenClass], taken: &mut [u64], left: usize) -> usize = take_tokens_body
}

/// Takes the positions that `words` hit, until `left` are taken; returns how many are left to take.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
#[expect(clippy::needless_bitwise_bool, reason = "a branch on random words is mispredicted")]
fn take_tokens_body(
    mut words: &[u32],
    ids: &[i64],
    classes: &[TokenClass],
    taken: &mut [u64],
    mut left: usize,
) -> usize {
    let size = ids.len() as u32;
    let unfair = size.wrapping_neg() % size;
    // As many words at a time as could all be taken, so that the loop has no test but its own end.
    while left > 0 && !words.is_empty() {
        let (some, rest) = words.split_at(left.min(words.len()));
        words = rest;
        for &word in some {
            let product = u64::from(word) * u64::from(size);
            let position = (product >> 32) as usize;
            let bits = &mut taken[position / 64];
            let free = *bits >> (position % 64) & 1 == 0;
            let take = free & !classes[ids[position] as usize].is_special() & (product as u32 >= unfair);
            *bits |= u64::from(take) << (position % 64);
            left -= usize::from(take);
        }
    }
    left
}
