//! The widths of the padded layout: the fewest that keep padding under a share of the batch, then moved a little so that
//! few rows are left over in each bucket.

/// The share of padding that is worth no further width.
pub const PADDING: f64 = 0.0125;

/// How far a width is moved to leave fewer rows over, in multiples.
const NEAR: usize = 8;

/// How often all widths are tried in turn.
const ROUNDS: usize = 6;

/// Widths in ascending order for batches of up to `batch_tokens` elements: those of [`best_widths`] or, for few rows, the
/// widths of the batches that the rows in order of their length are cut into, whichever gives fewer elements once each is
/// moved to where it gives the fewest.
#[must_use]
pub fn choose_widths(
    histogram: &[u64],
    multiple: usize,
    max_length: usize,
    most: usize,
    batch_tokens: usize,
) -> Vec<usize> {
    let mut rows_up_to = vec![0; histogram.len() + multiple];
    let mut sum = 0;
    for (length, total) in rows_up_to.iter_mut().enumerate() {
        sum += histogram.get(length).unwrap_or(&0);
        *total = sum;
    }
    let grid = Grid { rows_up_to, multiple, batch_tokens };
    let best = best_widths(histogram, multiple, max_length, most);
    let cut = grid.cut(best[best.len() - 1]).filter(|widths| widths.len() <= most);
    let choices = [Some(best), cut].into_iter().flatten().map(|widths| grid.refine(widths));
    choices.min_by_key(|widths| grid.elements(widths)).unwrap_or_default()
}

/// Where widths may lie, and what they cost.
struct Grid {
    /// How many rows are no longer than each length.
    rows_up_to: Vec<u64>,
    multiple: usize,
    batch_tokens: usize,
}

impl Grid {
    fn rows(&self, width: usize) -> u64 {
        ((self.batch_tokens / width) as u64).max(1)
    }

    /// The elements of all batches: rows that do not fill the last batch of a width go up to the next.
    fn elements(&self, widths: &[usize]) -> u64 {
        let (mut carried, mut before, mut elements) = (0, 0, 0);
        for &width in widths {
            let waiting = carried + self.rows_up_to[width] - before;
            carried = waiting % self.rows(width);
            elements += (waiting - carried) * width as u64;
            before = self.rows_up_to[width];
        }
        elements + carried * widths[widths.len() - 1] as u64
    }

    /// The widths of batches that take the rows in order of their length; the last is `widest`.
    fn cut(&self, widest: usize) -> Option<Vec<usize>> {
        let total = self.rows_up_to[widest];
        let (mut widths, mut taken, mut width) = (Vec::new(), 0, self.multiple.min(widest));
        while width < widest {
            if self.rows_up_to[width] >= taken + self.rows(width) {
                taken += self.rows(width);
                if widths.last() != Some(&width) {
                    widths.push(width);
                }
            } else {
                width = (width + self.multiple).min(widest);
            }
        }
        widths.push(widest);
        (taken <= total).then_some(widths)
    }

    /// Moves each width but the last, or leaves it out, where that gives fewer elements.
    fn refine(&self, mut widths: Vec<usize>) -> Vec<usize> {
        let mut least = self.elements(&widths);
        for _ in 0..ROUNDS {
            let before = least;
            let mut number = 0;
            while number + 1 < widths.len() {
                let width = widths[number];
                let low = if number == 0 { 0 } else { widths[number - 1] };
                let near = (1..=NEAR).map(|steps| steps * self.multiple);
                let moved = near.flat_map(|by| [width.saturating_sub(by), width + by]);
                let mut kept = width;
                for place in moved.filter(|&place| low < place && place < widths[number + 1]).collect::<Vec<_>>() {
                    widths[number] = place;
                    let elements = self.elements(&widths);
                    if elements < least {
                        (least, kept) = (elements, place);
                    }
                }
                widths[number] = kept;
                let without: Vec<usize> = widths.iter().copied().filter(|&width| width != kept).collect();
                if self.elements(&without) <= least {
                    least = self.elements(&without);
                    widths = without;
                } else {
                    number += 1;
                }
            }
            if least == before {
                break;
            }
        }
        widths
    }
}

/// Widths in ascending order, the last of them at least the longest row. `histogram[length]` counts the rows; each width
/// is a multiple of `multiple`, except that none is above `max_length`. Dynamic programming over the lengths: the best
/// `k` widths follow from the best `k - 1`, and `k` grows until padding is under [`PADDING`] or `most` is reached. The
/// cost has the quadrangle inequality, so the best split moves to the right with the length and each round takes
/// O(lengths * log(lengths)).
#[must_use]
fn best_widths(histogram: &[u64], multiple: usize, max_length: usize, most: usize) -> Vec<usize> {
    // Candidate 0 stands for "no row": a bucket lies between two candidates.
    let longest = histogram.len() - 1;
    let mut candidates = vec![0];
    while candidates[candidates.len() - 1] < longest {
        candidates.push((candidates[candidates.len() - 1] + multiple).min(max_length));
    }
    let (mut rows, mut tokens) = (vec![0.0], vec![0.0]);
    for pair in candidates.windows(2) {
        let (mut row_sum, mut token_sum) = (rows[rows.len() - 1], tokens[tokens.len() - 1]);
        for (&count, length) in histogram[pair[0] + 1..=pair[1].min(longest)].iter().zip(pair[0] + 1..) {
            row_sum += count as f64;
            token_sum += count as f64 * length as f64;
        }
        rows.push(row_sum);
        tokens.push(token_sum);
    }
    let last = candidates.len() - 1;
    let padded = |from: usize, to: usize| candidates[to] as f64 * (rows[to] - rows[from]);
    let mut best: Vec<f64> = (0..=last).map(|to| padded(0, to)).collect();
    let mut splits: Vec<Vec<u32>> = Vec::new();
    while splits.len() + 1 < most.min(last) && 1.0 - tokens[last] / best[last] > PADDING {
        let mut next = vec![f64::INFINITY; last + 1];
        let mut split = vec![0_u32; last + 1];
        improve(&best, &padded, &mut next, &mut split, (1, last), (0, last));
        best = next;
        splits.push(split);
    }
    let mut widths = vec![candidates[last]];
    let mut to = last;
    for split in splits.iter().rev() {
        to = split[to] as usize;
        if to == 0 {
            break;
        }
        widths.push(candidates[to]);
    }
    widths.reverse();
    widths
}

/// `next[to] = min over from of best[from] + padded(from, to)` for `to` in `range`, knowing that the best `from` lies in
/// `window`.
fn improve(
    best: &[f64],
    padded: &impl Fn(usize, usize) -> f64,
    next: &mut [f64],
    split: &mut [u32],
    range: (usize, usize),
    window: (usize, usize),
) {
    if range.0 > range.1 {
        return;
    }
    let middle = usize::midpoint(range.0, range.1);
    for (before, from) in best[window.0..=window.1.min(middle)].iter().zip(window.0..) {
        let cost = before + padded(from, middle);
        if cost < next[middle] {
            next[middle] = cost;
            split[middle] = from as u32;
        }
    }
    let chosen = split[middle] as usize;
    if middle > range.0 {
        improve(best, padded, next, split, (range.0, middle - 1), (window.0, chosen));
    }
    improve(best, padded, next, split, (middle + 1, range.1), (chosen, window.1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn padded_tokens(histogram: &[u64], widths: &[usize]) -> u64 {
        let width_of = |length: usize| *widths.iter().find(|&&width| width >= length).unwrap() as u64;
        histogram.iter().enumerate().skip(1).map(|(length, &count)| count * width_of(length)).sum()
    }

    /// The least padded tokens over all choices of `count` widths, one of them the longest length.
    fn least(histogram: &[u64], count: usize) -> u64 {
        let longest = histogram.len() - 1;
        let mut best = u64::MAX;
        for subset in 0_u32..1 << (longest - 1) {
            if subset.count_ones() as usize == count - 1 {
                let mut widths: Vec<usize> = (1..longest).filter(|width| subset >> (width - 1) & 1 == 1).collect();
                widths.push(longest);
                best = best.min(padded_tokens(histogram, &widths));
            }
        }
        best
    }

    proptest! {
        #[test]
        fn widths_are_the_best_of_their_number(mut histogram in prop::collection::vec(0_u64..50, 2..10), most in 1_usize..6) {
            histogram[0] = 0;
            let last = histogram.len() - 1;
            histogram[last] += 1;
            let widths = best_widths(&histogram, 1, last, most);
            prop_assert!(widths.len() <= most && widths.is_sorted());
            prop_assert_eq!(*widths.last().unwrap(), last);
            prop_assert_eq!(padded_tokens(&histogram, &widths), least(&histogram, widths.len()));
        }

        #[test]
        fn widths_keep_to_their_multiple(
            lengths in prop::collection::vec(1_usize..100, 1..300), multiple in 1_usize..16, batch_tokens in 100_usize..2000,
        ) {
            let mut histogram = vec![0; lengths.iter().max().unwrap() + 1];
            for length in lengths {
                histogram[length] += 1;
            }
            let widths = choose_widths(&histogram, multiple, 100, 8, batch_tokens);
            prop_assert!(widths.iter().all(|width| width % multiple == 0 || *width == 100));
            prop_assert!(*widths.last().unwrap() >= histogram.len() - 1);
            prop_assert!(widths.is_sorted_by(|one, next| one < next) && widths.len() <= 8);
        }
    }
}
