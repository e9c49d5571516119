//! The packed layout: rows one after the other in bins of fixed size.
//!
//! What is packed once is lengths, not rows: each bin gets a list of places in the order of the rows by length, and in
//! each epoch the rows of a length are dealt to the places of that length. So fill, number of bins and the longest
//! `cu_seqlens` are the same in every epoch.

use crate::batch_rows::Rows;
use crate::error::Result;
use crate::plan::{Member, Shape, too_narrow};
use crate::random::Permutation;

/// Bins that are open at a time; more fill no better.
const OPEN: usize = 16;

/// Places of the length order that are walked through side by side, so that every bin gets a like mixture of lengths
/// whatever the order of the rows.
const STREAMS: usize = 64;

/// Bins of fixed size.
pub struct Packed {
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

impl Packed {
    /// Packs rows with the lengths that `histogram` counts into bins of `size` tokens.
    pub fn new(rows: &Rows, histogram: &[u64], size: usize) -> Result<Self> {
        let longest = histogram.len() - 1;
        if longest > size {
            return Err(too_narrow(rows, histogram, longest, size));
        }
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
        Ok(packed)
    }

    /// Best fit over open bins: a row goes into the fullest bin that holds it; where none does, the fullest is closed.
    fn pack(&mut self) {
        let count = self.order.len();
        self.places.reserve_exact(count);
        let mut free = [self.size as u32; OPEN];
        let mut open: [Vec<u32>; OPEN] = std::array::from_fn(|_| Vec::new());
        let stride = count.div_ceil(STREAMS);
        let mut lengths: Vec<usize> = (0..STREAMS).map(|stream| self.length_at(stream * stride, 0)).collect();
        for step in 0..stride {
            for stream in 0..STREAMS {
                // Neighbouring streams have lengths far apart.
                let stream = stream * 29 % STREAMS;
                let place = stream * stride + step;
                if place >= count {
                    continue;
                }
                lengths[stream] = self.length_at(place, lengths[stream]);
                let length = lengths[stream] as u32;
                let fitting = (0..OPEN).filter(|&bin| free[bin] >= length).min_by_key(|&bin| free[bin]);
                let bin = fitting.unwrap_or_else(|| {
                    let fullest = (0..OPEN).min_by_key(|&bin| free[bin]).unwrap_or(0);
                    self.close(&mut open[fullest], &mut free[fullest]);
                    fullest
                });
                open[bin].push(place as u32);
                free[bin] -= length;
            }
        }
        for (places, free) in open.iter_mut().zip(&mut free) {
            self.close(places, free);
        }
    }

    fn close(&mut self, places: &mut Vec<u32>, free: &mut u32) {
        if !places.is_empty() {
            self.places.append(places);
            self.bins.push(self.places.len() as u32);
            self.tokens.push(self.size as u32 - *free);
            *free = self.size as u32;
        }
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
