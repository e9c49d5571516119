//! Which rows form which batch, from lengths alone.
//!
//! A plan is made once. What changes from epoch to epoch is the permutation of the rows within a class (a bucket of the
//! padded layout, a length of the packed one) and the order of the batches; both are evaluated one element at a time
//! ([`Permutation`]), so any batch of any epoch is found without building the others. The number of batches, their
//! shapes and how many batches each shape has are the same in every epoch, and each row is in exactly one batch.

pub mod packed;
pub mod padded;
mod widths;

use crate::batches::plan::packed::PackedPlan;
use crate::batches::plan::padded::PaddedPlan;
use crate::batches::plan::widths::choose_widths;
use crate::batches::rows::TokenRows;
use crate::error::{Error, Result};
use crate::random::{Permutation, PhiloxKey, epoch_key};
use crate::simd::Level;

/// How rows lie in a batch.
pub enum Plan {
    /// One row of the batch for each row of text, padded to the width of its bucket.
    Padded(PaddedPlan),
    /// All rows of the batch one after the other in a bin of fixed size.
    Packed(PackedPlan),
}

/// The size of a batch's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the tensor.
    pub rows: usize,
    /// Columns of the tensor.
    pub width: usize,
}

/// One row of text in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The row of the data.
    pub row: u32,
    /// Where its first token lies in the flattened batch.
    pub start: u32,
    /// How many tokens it has.
    pub length: u32,
}

/// What is drawn anew in an epoch.
pub struct Epoch {
    /// Its number, from 0.
    pub number: u64,
    /// Under which everything in it is drawn.
    pub key: PhiloxKey,
    level: Level,
    batches: Permutation,
    classes: Vec<Permutation>,
}

/// How often each length occurs: `histogram[length]`, up to the longest row. Refuses rows that are empty or longer than
/// `max_length`.
pub(crate) fn length_histogram(rows: &TokenRows, max_length: usize) -> Result<Vec<u64>> {
    if rows.is_empty() {
        return Err(Error::invalid("there is no row: the column of token ids is empty"));
    }
    let mut histogram = vec![0_u64; max_length + 1];
    let mut refused = None;
    rows.for_each_length(|row, length| match histogram.get_mut(length) {
        Some(count) if length > 0 => *count += 1,
        _ => refused = refused.or(Some((row, length))),
    });
    match refused {
        Some((row, 0)) => Err(Error::invalid(format!("row {row} has no token; drop empty rows before batching"))),
        Some((row, length)) => Err(Error::invalid(format!(
            "row {row} has {length} tokens, more than max_length={max_length}; split it when tokenising or raise max_length"
        ))),
        None => {
            let longest = histogram.iter().rposition(|&count| count > 0).unwrap_or(0);
            histogram.truncate(longest + 1);
            Ok(histogram)
        }
    }
}

/// The most widths of the padded layout: each is a shape for a compiler to specialise on.
const MOST_WIDTHS: usize = 80;

impl Plan {
    /// The plan of all rows, and the length of the longest. `batch_tokens`: elements of a batch at most. Refuses rows
    /// that are empty or longer than `max_length`, and fewer elements than the longest row takes.
    pub fn new(rows: &TokenRows, packed: bool, batch_tokens: usize, max_length: usize) -> Result<(Self, usize)> {
        let histogram = length_histogram(rows, max_length)?;
        let longest = histogram.len() - 1;
        if longest > batch_tokens {
            let row = (0..rows.len()).find(|&row| rows.length(row) == longest).unwrap_or(0);
            return Err(Error::invalid(format!(
                "row {row} has {longest} tokens, more than batch_tokens={batch_tokens}; give at least as many tokens as the longest row takes"
            )));
        }
        let plan = if packed {
            Self::Packed(PackedPlan::new(rows, &histogram, batch_tokens))
        } else {
            let widths = choose_widths(&histogram, MOST_WIDTHS, batch_tokens);
            Self::Padded(PaddedPlan::new(rows, &histogram, &widths, batch_tokens))
        };
        Ok((plan, longest))
    }

    /// The number of batches in every epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Padded(plan) => plan.len(),
            Self::Packed(plan) => plan.len(),
        }
    }

    /// Never: a plan is made of at least one row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every shape that occurs, with the number of batches that have it.
    #[must_use]
    pub fn shapes(&self) -> Vec<(Shape, usize)> {
        match self {
            Self::Padded(plan) => plan.shapes(),
            Self::Packed(plan) => vec![(plan.shape(), plan.len())],
        }
    }

    /// The permutations of an epoch, evaluated with `level`.
    #[must_use]
    pub fn epoch(&self, seed: u64, number: u64, level: Level) -> Epoch {
        let key = epoch_key(seed, number);
        let sizes = match self {
            Self::Padded(plan) => plan.class_sizes(),
            Self::Packed(plan) => plan.class_sizes(),
        };
        let classes = sizes.iter().zip(1..).map(|(&size, stream)| Permutation::new(size, key, stream)).collect();
        Epoch { number, key, level, batches: Permutation::new(self.len() as u32, key, 0), classes }
    }

    /// The shape of batch `index`.
    #[must_use]
    pub fn shape(&self, epoch: &Epoch, index: usize) -> Shape {
        match self {
            Self::Padded(plan) => plan.shape(epoch.batches.apply(index as u32) as usize),
            Self::Packed(plan) => plan.shape(),
        }
    }

    /// The shape of batch `index` and, into `members`, its rows in the order in which they lie in it.
    pub fn members(&self, epoch: &Epoch, index: usize, rows: &TokenRows, members: &mut Vec<Member>) -> Shape {
        members.clear();
        let batch = epoch.batches.apply(index as u32) as usize;
        match self {
            Self::Padded(plan) => plan.members(epoch.level, &epoch.classes, batch, rows, members),
            Self::Packed(plan) => plan.members(&epoch.classes, batch, members),
        }
    }

    /// The number of tokens in batch `index`.
    pub fn tokens(&self, epoch: &Epoch, index: usize, rows: &TokenRows, members: &mut Vec<Member>) -> usize {
        if let Self::Packed(plan) = self {
            return plan.tokens(epoch.batches.apply(index as u32) as usize);
        }
        self.members(epoch, index, rows, members);
        members.iter().map(|member| member.length as usize).sum()
    }
}
