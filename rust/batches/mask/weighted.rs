//! Positions with weights, drawn without replacement.
//!
//! That is taking the smallest of the keys `-ln(1 - v) / weight` (Efraimidis and Spirakis, "Weighted random sampling with
//! a reservoir", 2006). Most positions are ruled out by one comparison of `v` with a bound that depends on the id alone,
//! so the logarithm is taken of few.

use crate::batches::mask::masker::{Masker, Workspace};
use crate::for_each_level;
use crate::random::Stream;
use crate::random::exponential;

impl Masker {
    /// `wanted` of the positions of `ids` that hold no special token, or all of them, into `workspace.flat`.
    pub(crate) fn choose_weighted(&self, ids: &[i64], wanted: usize, stream: &mut Stream, workspace: &mut Workspace) {
        let Workspace { words, flat, draws, .. } = workspace;
        stream.fill(words, ids.len());
        for bounds in self.bounds.from(wanted) {
            flat.resize(ids.len() + 1, 0);
            draws.resize(ids.len() + 1, 0);
            let found = draw_below(self.level, words, ids, bounds, flat, draws);
            flat.truncate(found);
            draws.truncate(found);
            if found >= wanted {
                break;
            }
        }
        self.keep_smallest(ids, wanted, workspace);
    }

    /// Keeps the `wanted` candidates with the smallest keys, in their order; among equal keys the first.
    fn keep_smallest(&self, ids: &[i64], wanted: usize, workspace: &mut Workspace) {
        let Workspace { flat, draws, keys, sorted, .. } = workspace;
        if flat.len() <= wanted {
            return;
        }
        keys.resize(flat.len(), 0);
        find_keys(self.level, flat, draws, ids, &self.inverse_weights, keys);
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
}

/// The middle of what 31 bits of a draw stand for, in 52.
pub(crate) fn centre(draw: u32) -> u64 {
    (2 * u64::from(draw) + 1) << 20
}

for_each_level! {
    fn find_keys(flat: &[u32], draws: &[u32], ids: &[i64], inverse_weights: &[f64], keys: &mut [u64]) = find_keys_body
}

/// The keys of positions, as bits: positive doubles order as their bits do.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn find_keys_body(flat: &[u32], draws: &[u32], ids: &[i64], inverse_weights: &[f64], keys: &mut [u64]) {
    for (key, &draw) in keys.iter_mut().zip(draws) {
        *key = exponential(centre(draw)).to_bits();
    }
    for (key, &position) in keys.iter_mut().zip(flat) {
        *key = (f64::from_bits(*key) * inverse_weights[ids[position as usize] as usize]).to_bits();
    }
}

for_each_level! {
    fn draw_below(words: &[u32], ids: &[i64], bounds: &[u32], flat: &mut [u32], draws: &mut [u32]) -> usize = draw_below_body
}

/// Into `flat` and `draws` the positions, in ascending order, whose draw is below the bound of their id, and their draws.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn draw_below_body(words: &[u32], ids: &[i64], bounds: &[u32], flat: &mut [u32], draws: &mut [u32]) -> usize {
    let mut found = 0;
    for ((&draw, &id), position) in words.iter().zip(ids).zip(0..) {
        // What is not kept is overwritten by the next.
        flat[found] = position;
        draws[found] = draw >> 1;
        found += usize::from(draw >> 1 < bounds[id as usize]);
    }
    found
}
