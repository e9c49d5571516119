//! Bounds on draws, one per id of the vocabulary, below which a position may be among the smallest keys.
//!
//! The key of a position with weight `w` and draw `v` is `-ln(1 - v) / w`; it is below `t` exactly where `v` is below
//! `1 - exp(-w * t)`. For a `t` that a little more than the wanted number of positions stay under, nothing is lost by
//! looking at those alone. Where fewer than wanted are found, the next larger `t` is tried; the last lets all through. So
//! bounds decide about time only, never about the outcome.

use crate::batches::mask::masker::Vocabulary;

/// One more than the largest draw: a bound that every draw is below.
pub const CERTAIN: u32 = 1 << 31;

/// How many times the wanted number of positions stays below each bound.
const MARGINS: [f64; 5] = [1.06, 1.15, 1.35, 2.0, 4.0];

/// Bounds of growing generosity.
pub struct Bounds {
    levels: Vec<Vec<u32>>,
    /// The index of the level of each margin; a level that would let all through is the last.
    first: [usize; MARGINS.len()],
}

impl Bounds {
    /// The bounds for a share `prob` of the rows whose ids `vocabulary` counts; none without weights.
    #[must_use]
    pub fn new(prob: f64, vocabulary: &Vocabulary, weights: &[f64]) -> Self {
        let mut bounds = Self { levels: Vec::new(), first: [0; MARGINS.len()] };
        if weights.is_empty() {
            return bounds;
        }
        let tokens: f64 = vocabulary.occurrences.iter().map(|&count| count as f64).sum();
        for (level, margin) in MARGINS.iter().enumerate() {
            bounds.first[level] = bounds.levels.len();
            if let Some(time) = solve(vocabulary, weights, margin * prob * tokens) {
                let bound = |id: usize| {
                    let chance = -(-weights[id] * time).exp_m1();
                    (chance * f64::from(CERTAIN)).ceil() as u32
                };
                bounds.levels.push(table(vocabulary, bound));
            }
        }
        bounds.levels.push(table(vocabulary, |_| CERTAIN));
        bounds
    }

    /// The bounds to try one after the other where `wanted` positions are wanted: the fewer, the larger the margin, four
    /// standard deviations of the number found.
    pub fn from(&self, wanted: usize) -> impl Iterator<Item = &[u32]> {
        let needed = 1.0 + 4.0 / (wanted.max(1) as f64).sqrt();
        let level = MARGINS.iter().position(|&margin| margin >= needed).unwrap_or(MARGINS.len() - 1);
        self.levels[self.first[level].min(self.levels.len() - 1)..].iter().map(Vec::as_slice)
    }
}

fn table(vocabulary: &Vocabulary, bound: impl Fn(usize) -> u32) -> Vec<u32> {
    let bound = |(id, &special): (usize, &bool)| if special { 0 } else { bound(id).min(CERTAIN) };
    vocabulary.special.iter().enumerate().map(bound).collect()
}

/// The `t` that about `target` positions of all rows stay under; `None` where nearly all would.
fn solve(vocabulary: &Vocabulary, weights: &[f64], target: f64) -> Option<f64> {
    let ids = || (0..vocabulary.special.len()).filter(|&id| !vocabulary.special[id] && vocabulary.occurrences[id] > 0);
    let maskable: f64 = ids().map(|id| vocabulary.occurrences[id] as f64).sum();
    if target >= 0.95 * maskable {
        return None;
    }
    let below = |time: f64| -> f64 {
        ids().map(|id| vocabulary.occurrences[id] as f64 * -(-weights[id] * time).exp_m1()).sum()
    };
    let (mut low, mut high) = (1.0, 1.0);
    while below(high) < target {
        low = high;
        high *= 4.0;
    }
    while below(low) > target {
        high = low;
        low /= 4.0;
    }
    // To half a per cent of what is wanted, never under it.
    while below(high) > 1.005 * target && high > low * (1.0 + 1e-9) {
        let middle = (low * high).sqrt();
        if below(middle) < target { low = middle } else { high = middle }
    }
    Some(high)
}
