//! The packed layout: rows one after the other in bins of fixed size.
//!
//! What is packed once is lengths, not rows: each bin gets a list of places in the order of the rows by length, and in
//! each epoch the rows of a length are dealt to the places of that length. So fill, number of bins and the longest
//! `cu_seqlens` are the same in every epoch.

use crate::batches::plan::{Member, Shape};
use crate::batches::rows::TokenRows;
use crate::random::Permutation;

/// Places of the length order that are walked through side by side, so that every bin gets a like mixture of lengths
/// whatever the order of the rows.
const STREAMS: usize = 64;

/// The longest rows are this fraction (one in ...) of all turns ahead of the shortest.
const LEAD_FRACTION: usize = 4;

/// The rows of each length that are in no bin yet.
struct Waiting {
    /// The first place of each length that waits, and where the length ends.
    places: Vec<(u32, u32)>,
    /// A bit for each length of which rows wait.
    some: Vec<u64>,
}

impl Waiting {
    fn new(starts: &[u32]) -> Self {
        let places: Vec<(u32, u32)> = starts.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let mut some = vec![0; places.len().div_ceil(64)];
        for (length, place) in places.iter().enumerate() {
            some[length / 64] |= u64::from(place.0 < place.1) << (length % 64);
        }
        Self { places, some }
    }

    /// The place of a row of `length`, which waits no longer.
    fn take(&mut self, length: usize) -> Option<u32> {
        let (next, end) = &mut self.places[length];
        let place = *next;
        if place == *end {
            return None;
        }
        *next += 1;
        if *next == *end {
            self.some[length / 64] &= !(1 << (length % 64));
        }
        Some(place)
    }

    /// The longest length up to `free` of which a row waits.
    fn longest_within(&self, free: usize) -> Option<usize> {
        let free = free.min(self.places.len() - 1);
        let below = self.some[free / 64] & (u64::MAX >> (63 - free % 64));
        let words = std::iter::once(below).chain(self.some[..free / 64].iter().rev().copied());
        words.enumerate().find(|&(_, word)| word != 0).map(|(back, word)| {
            let word_number = free / 64 - back;
            word_number * 64 + 63 - word.leading_zeros() as usize
        })
    }
}

/// Bins of fixed size.
pub struct PackedPlan {
    size: usize,
    /// Rows by length and, within a length, by number.
    order: Vec<u32>,
    /// Where each length begins in the order, and the number of rows at the end.
    starts: Vec<u32>,
    /// The places of all bins, bin by bin.
    places: Vec<u32>,
    /// Where each bin begins in the places, and their number at the end.
    bins: Vec<u32>,
    /// The tokens of each bin.
    tokens: Vec<u32>,
}

impl PackedPlan {
    /// Packs rows with the lengths that `histogram` counts into bins of `size` tokens, no fewer than the longest has.
    pub fn new(rows: &TokenRows, histogram: &[u64], size: usize) -> Self {
        let mut starts = vec![0_u32];
        for count in histogram {
            starts.push(starts[starts.len() - 1] + *count as u32);
        }
        let mut next = starts.clone();
        let mut order = vec![0; rows.len()];
        rows.for_each_length(|row, length| {
            order[next[length] as usize] = row as u32;
            next[length] += 1;
        });
        let mut packed = Self { size, order, starts, places: Vec::new(), bins: vec![0], tokens: Vec::new() };
        packed.pack();
        packed
    }

    /// One bin after the other: rows of all lengths in turn until the next is too long, then, for the gap, the longest
    /// that fit. Long rows come a little before their turn, so that short ones are left for the last gaps.
    fn pack(&mut self) {
        let count = self.order.len();
        self.places.reserve_exact(count);
        let mut waiting = Waiting::new(&self.starts);
        let mut free = self.size;
        let stride = count.div_ceil(STREAMS);
        let delay = stride.div_ceil(LEAD_FRACTION);
        let mut lengths: Vec<usize> = (0..STREAMS).map(|stream| self.length_at(stream * stride, 0)).collect();
        for turn in 0..stride + delay {
            for stream in 0..STREAMS {
                // Neighbouring streams have lengths far apart.
                let stream = stream * 29 % STREAMS;
                let Some(step) = turn.checked_sub(delay * (STREAMS - 1 - stream) / (STREAMS - 1)) else { continue };
                let place = stream * stride + step;
                if step >= stride || place >= count {
                    continue;
                }
                lengths[stream] = self.length_at(place, lengths[stream]);
                let length = lengths[stream];
                // A gap may have taken the row whose turn it is.
                let Some(place) = waiting.take(length) else { continue };
                if length > free {
                    while let Some(fitting) = waiting.longest_within(free) {
                        self.places.extend(waiting.take(fitting));
                        free -= fitting;
                    }
                    self.close(&mut free);
                }
                self.places.push(place);
                free -= length;
            }
        }
        self.close(&mut free);
    }

    fn close(&mut self, free: &mut usize) {
        self.bins.push(self.places.len() as u32);
        self.tokens.push((self.size - *free) as u32);
        *free = self.size;
    }

    /// The length of the row at `place`, which is not below `from`.
    fn length_at(&self, place: usize, from: usize) -> usize {
        let mut length = from;
        while length + 2 < self.starts.len() && self.starts[length + 1] as usize <= place {
            length += 1;
        }
        length
    }

    /// The number of bins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Never: there is a row, so there is a bin.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The one shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape { rows: 1, width: self.size }
    }

    /// The length of the longest row.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.starts.len() - 2
    }

    /// The most sequences that a batch has, counting what fills it up.
    #[must_use]
    pub fn most_sequences(&self) -> usize {
        let sequences = |bin: usize| {
            let filled = (self.size - self.tokens[bin] as usize).div_ceil(self.longest());
            (self.bins[bin + 1] - self.bins[bin]) as usize + filled
        };
        (0..self.len()).map(sequences).max().unwrap_or(0)
    }

    /// The number of rows of each length.
    #[must_use]
    pub fn class_sizes(&self) -> Vec<u32> {
        self.starts.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// The tokens of a bin.
    #[must_use]
    pub fn tokens(&self, bin: usize) -> usize {
        self.tokens[bin] as usize
    }

    /// The rows of a bin and its shape.
    pub fn members(&self, shuffles: &[Permutation], bin: usize, members: &mut Vec<Member>) -> Shape {
        let mut start = 0;
        for &place in &self.places[self.bins[bin] as usize..self.bins[bin + 1] as usize] {
            let length = self.starts.partition_point(|&first| first <= place) - 1;
            let first = self.starts[length];
            let row = self.order[(first + shuffles[length].apply(place - first)) as usize];
            members.push(Member { row, start, length: length as u32 });
            start += length as u32;
        }
        self.shape()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batches::plan::length_histogram;
    use crate::batches::rows::{ColumnChunk, Ids, Offsets};
    use proptest::prelude::*;

    fn packed(lengths: &[usize], size: usize) -> PackedPlan {
        let mut offsets = vec![0_i64];
        offsets.extend(lengths.iter().scan(0, |sum, &length| {
            *sum += length as i64;
            Some(*sum)
        }));
        let ids = Ids::U16(Box::new(Vec::new()));
        let rows = TokenRows::new(vec![ColumnChunk { offsets: Offsets::Wide(Box::new(offsets)), ids }], None).unwrap();
        PackedPlan::new(&rows, &length_histogram(&rows, 100).unwrap(), size)
    }

    proptest! {
        #[test]
        fn every_row_lies_in_one_bin_and_a_gap_is_shorter_than_what_comes_after(
            lengths in prop::collection::vec(1_usize..=100, 1..400), size in 100_usize..600,
        ) {
            let packed = packed(&lengths, size);
            let mut places = packed.places.clone();
            places.sort_unstable();
            prop_assert!(places.iter().copied().eq(0..lengths.len() as u32));
            let length = |place: u32| packed.starts.partition_point(|&first| first <= place) - 1;
            for bin in 0..packed.len() {
                let (from, to) = (packed.bins[bin] as usize, packed.bins[bin + 1] as usize);
                let tokens: usize = packed.places[from..to].iter().map(|&place| length(place)).sum();
                prop_assert_eq!(tokens, packed.tokens(bin));
                prop_assert!(tokens <= size && from < to);
                prop_assert!(packed.places[to..].iter().all(|&place| length(place) > size - tokens));
            }
        }
    }
}
