//! The widths of the padded layout: the fewest that keep padding under a share of the batch.

/// The share of padding that is worth no further width.
pub const PADDING: f64 = 0.0125;

/// Widths in ascending order, the last of them at least the longest row. `histogram[length]` counts the rows; each width
/// is a multiple of `multiple`, except that none is above `max_length`. Dynamic programming over the lengths: the best
/// `k` widths follow from the best `k - 1`, and `k` grows until padding is under [`PADDING`] or `most` is reached. The
/// cost has the quadrangle inequality, so the best split moves to the right with the length and each round takes
/// O(lengths * log(lengths)).
#[must_use]
pub fn choose_widths(histogram: &[u64], multiple: usize, max_length: usize, most: usize) -> Vec<usize> {
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
            let widths = choose_widths(&histogram, 1, last, most);
            prop_assert!(widths.len() <= most && widths.is_sorted());
            prop_assert_eq!(*widths.last().unwrap(), last);
            prop_assert_eq!(padded_tokens(&histogram, &widths), least(&histogram, widths.len()));
        }

        #[test]
        fn widths_keep_to_their_multiple(lengths in prop::collection::vec(1_usize..100, 1..50), multiple in 1_usize..16) {
            let mut histogram = vec![0; lengths.iter().max().unwrap() + 1];
            for length in lengths {
                histogram[length] += 1;
            }
            let widths = choose_widths(&histogram, multiple, 100, 8);
            prop_assert!(widths.iter().all(|width| width % multiple == 0 || *width == 100));
            prop_assert!(*widths.last().unwrap() >= histogram.len() - 1);
        }
    }
}
