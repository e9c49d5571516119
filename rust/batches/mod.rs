//! Batch `index` of an epoch, written into the buffers it is handed over in.

pub mod check;
pub mod mask;
pub mod plan;
pub mod rows;
#[cfg(test)]
mod tests;

use crate::batches::mask::{Masker, Workspace};
use crate::batches::plan::{Epoch, Member, Plan, Shape};
use crate::batches::rows::{Id, TokenRows};
use crate::{for_each_level, with_ids};

/// Everything that batches are made from; it never changes.
pub struct Batches {
    /// The tokenised rows.
    pub rows: TokenRows,
    /// Which rows form which batch.
    pub plan: Plan,
    /// The length of the longest row.
    pub longest: usize,
    /// What is masked.
    pub masker: Masker,
    /// One bit for each row with too few maskable positions.
    pub poor: Option<Vec<u64>>,
    /// The id that fills up.
    pub pad_id: u32,
    /// The seed of all that is drawn.
    pub seed: u64,
    /// How many batches make one step of the optimiser.
    pub batches_per_step: usize,
    /// How many positions that are not masked are sampled, as a share of a batch's elements.
    pub sample_share: f64,
}

/// Where the parts of a batch lie in its buffer, a slice of `i64`. Each part begins at a multiple of 64 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Elements of `input_ids`, from 0 on.
    pub size: usize,
    /// Masked positions at most.
    pub capacity: usize,
    /// Sampled positions at most.
    pub samples: usize,
    /// Entries of `cu_seqlens`; 0 for the padded layout.
    pub sequences: usize,
    /// Where the attention mask or the position ids begin.
    pub extra: usize,
    /// Where the masked positions begin.
    pub positions: usize,
    /// Where their original ids begin.
    pub labels: usize,
    /// Where tokens, tokens in the step and masked positions in the step lie.
    pub counts: usize,
    /// Where `cu_seqlens` begins, as `i32`.
    pub cu_seqlens: usize,
    /// Where the sampled positions begin.
    pub sampled: usize,
    /// Where their weights begin, as `f32`.
    pub weights: usize,
    /// The size of the buffer.
    pub end: usize,
}

/// What a batch, or a step, counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens.
    pub tokens: usize,
    /// Masked positions.
    pub masked: usize,
}

/// Memory that is used again from batch to batch.
#[derive(Default)]
pub struct BatchScratch {
    members: Vec<Member>,
    ids: Vec<i64>,
    mask: Workspace,
    /// The last step that was counted: its epoch, its first batch, its counts. Its owner reads one plan only.
    step: Option<(u64, usize, Counts)>,
}

impl Batches {
    /// The number of batches in an epoch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.plan.len()
    }

    /// Never.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.plan.is_empty()
    }

    /// The epoch of a number.
    #[must_use]
    pub fn epoch(&self, number: u64) -> Epoch {
        self.plan.epoch(self.seed, number, self.masker.level())
    }

    /// The shape of a batch.
    pub fn shape(&self, epoch: &Epoch, index: usize) -> Shape {
        self.plan.shape(epoch, index)
    }

    /// How the buffer of a batch is cut up.
    #[must_use]
    pub fn layout(&self, shape: Shape) -> Layout {
        let size = shape.rows * shape.width;
        let capacity = self.masker.capacity(size);
        let sequences = match &self.plan {
            Plan::Padded(_) => 0,
            Plan::Packed(plan) => plan.most_sequences() + 1,
        };
        let after = |start: usize, length: usize| (start + length).next_multiple_of(8);
        let extra = after(0, size);
        let positions = after(extra, size);
        let labels = after(positions, capacity);
        let counts = after(labels, capacity);
        let cu_seqlens = after(counts, 3);
        let samples = (self.sample_share * size as f64).ceil() as usize;
        let sampled = after(cu_seqlens, sequences.div_ceil(2));
        let weights = after(sampled, samples);
        let end = after(weights, samples.div_ceil(2));
        Layout {
            size,
            capacity,
            samples,
            sequences,
            extra,
            positions,
            labels,
            counts,
            cu_seqlens,
            sampled,
            weights,
            end,
        }
    }

    /// Writes batch `index` of `epoch` into `buffer`, which holds a [`Layout`] of its shape.
    pub fn fill(&self, epoch: &Epoch, index: usize, buffer: &mut [i64], scratch: &mut BatchScratch) {
        let BatchScratch { members, mask, .. } = scratch;
        let shape = self.plan.members(epoch, index, &self.rows, members);
        let layout = self.layout(shape);
        let (input_ids, rest) = buffer[..layout.end].split_at_mut(layout.extra);
        let (extra, rest) = rest.split_at_mut(layout.positions - layout.extra);
        let (positions, rest) = rest.split_at_mut(layout.labels - layout.positions);
        let (labels, rest) = rest.split_at_mut(layout.counts - layout.labels);
        let (counts, rest) = rest.split_at_mut(layout.cu_seqlens - layout.counts);
        let (cu_seqlens, rest) = rest.split_at_mut(layout.sampled - layout.cu_seqlens);
        let (sampled, weights) = rest.split_at_mut(layout.weights - layout.sampled);
        let (input_ids, extra) = (&mut input_ids[..layout.size], &mut extra[..layout.size]);
        self.write_ids(members, input_ids);
        match &self.plan {
            Plan::Padded(_) => write_attention_mask(self.masker.level(), shape.width, members, extra),
            // SAFETY: any two i32 are an i64, and no pointer that is aligned for i64 is not for i32.
            Plan::Packed(plan) => unsafe {
                let cu_seqlens = &mut cu_seqlens.align_to_mut::<i32>().1[..layout.sequences];
                write_sequences(self.masker.level(), members, plan.longest(), extra, cu_seqlens);
            },
        }
        let own = Counts {
            tokens: count_tokens(members),
            masked: self.masker.choose(members, input_ids, epoch.key, index as u32, mask),
        };
        let (positions, labels) = (&mut positions[..layout.capacity], &mut labels[..layout.capacity]);
        self.masker.replace(epoch.key, index as u32, input_ids, positions, labels, mask);
        if layout.samples > 0 {
            // SAFETY: any two f32 are an i64, and no pointer that is aligned for i64 is not for f32.
            let weights = unsafe { &mut weights.align_to_mut::<f32>().1[..layout.samples] };
            self.masker.sample(members, epoch.key, index as u32, &mut sampled[..layout.samples], weights, mask);
        }
        let step = if self.batches_per_step == 1 { own } else { self.count_step(epoch, index, scratch) };
        counts[..3].copy_from_slice(&[own.tokens, step.tokens, step.masked].map(|count| count as i64));
    }

    /// The tokens and masked positions of the whole step that batch `index` belongs to.
    pub fn count_step(&self, epoch: &Epoch, index: usize, scratch: &mut BatchScratch) -> Counts {
        let first = index - index % self.batches_per_step;
        if let Some((number, start, counts)) = scratch.step
            && (number, start) == (epoch.number, first)
        {
            return counts;
        }
        let mut sum = Counts::default();
        for index in first..(first + self.batches_per_step).min(self.len()) {
            let counts = self.count(epoch, index, scratch);
            sum.tokens += counts.tokens;
            sum.masked += counts.masked;
        }
        scratch.step = Some((epoch.number, first, sum));
        sum
    }

    /// The tokens and masked positions of batch `index`, without writing it.
    pub fn count(&self, epoch: &Epoch, index: usize, scratch: &mut BatchScratch) -> Counts {
        let BatchScratch { members, ids, mask, .. } = scratch;
        if self.masker.is_counted() && self.poor.is_none() {
            let tokens = self.plan.tokens(epoch, index, &self.rows, members);
            return Counts { tokens, masked: self.masker.wanted(tokens) };
        }
        let shape = self.plan.members(epoch, index, &self.rows, members);
        let tokens = count_tokens(members);
        if self.masker.is_counted() && !members.iter().any(|member| self.is_poor(member.row)) {
            return Counts { tokens, masked: self.masker.wanted(tokens) };
        }
        ids.resize(shape.rows * shape.width, 0);
        self.write_ids(members, ids);
        Counts { tokens, masked: self.masker.choose(members, ids, epoch.key, index as u32, mask) }
    }

    fn is_poor(&self, row: u32) -> bool {
        self.poor.as_ref().is_some_and(|bits| bits[row as usize / 64] >> (row % 64) & 1 == 1)
    }

    fn write_ids(&self, members: &[Member], input_ids: &mut [i64]) {
        write_ids(self.masker.level(), &self.rows, members, i64::from(self.pad_id), input_ids);
    }
}

fn count_tokens(members: &[Member]) -> usize {
    members.iter().map(|member| member.length as usize).sum()
}

for_each_level! {
    fn write_ids(rows: &TokenRows, members: &[Member], pad: i64, input_ids: &mut [i64]) = write_ids_body
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn write_ids_body(rows: &TokenRows, members: &[Member], pad: i64, input_ids: &mut [i64]) {
    let mut end = 0;
    for (number, member) in members.iter().enumerate() {
        if let Some(later) = members.get(number + ROWS_AHEAD) {
            rows.prefetch(later.row as usize);
        }
        let start = member.start as usize;
        input_ids[end..start].fill(pad);
        end = start + member.length as usize;
        with_ids!(rows.row(member.row as usize), ids => widen(ids, &mut input_ids[start..end]));
    }
    input_ids[end..].fill(pad);
}

/// How many rows before its turn a row is brought near.
const ROWS_AHEAD: usize = 4;

/// As many ids as a register of 512 bits holds once they are wide.
const WIDE: usize = 8;

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn widen<T: Id>(ids: &[T], wide: &mut [i64]) {
    // Loops of a fixed length become one instruction; iterators over arrays would be calls.
    let (Some(wide_end), Some(ids_end)) = (wide.len().checked_sub(WIDE), ids.len().checked_sub(WIDE)) else {
        for (wide, id) in wide.iter_mut().zip(ids) {
            *wide = id.wide();
        }
        return;
    };
    for (wide, id) in wide.iter_mut().zip(&ids[..ids.len() / WIDE * WIDE]) {
        *wide = id.wide();
    }
    // What is left over is written together with some that were written before.
    for (wide, id) in wide[wide_end..].iter_mut().zip(&ids[ids_end..]) {
        *wide = id.wide();
    }
}

for_each_level! {
    fn write_attention_mask(width: usize, members: &[Member], attention_mask: &mut [i64]) = write_attention_mask_body
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn write_attention_mask_body(width: usize, members: &[Member], attention_mask: &mut [i64]) {
    attention_mask.fill(1);
    for member in members {
        attention_mask[(member.start + member.length) as usize..member.start as usize + width].fill(0);
    }
}

for_each_level! {
    fn write_sequences(members: &[Member], longest: usize, position_ids: &mut [i64], cu_seqlens: &mut [i32]) = write_sequences_body
}

/// Positions restart with every sequence; what is left of the bin is cut into sequences no longer than the longest row,
/// so that no position is beyond what a model has seen.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn write_sequences_body(members: &[Member], longest: usize, position_ids: &mut [i64], cu_seqlens: &mut [i32]) {
    let mut number = 0;
    let mut start = 0;
    let mut lengths = members.iter().map(|member| member.length as usize);
    while start < position_ids.len() {
        let length = lengths.next().unwrap_or(longest.min(position_ids.len() - start));
        cu_seqlens[number] = start as i32;
        for (position, id) in position_ids[start..start + length].iter_mut().zip(0..) {
            *position = id;
        }
        number += 1;
        start += length;
    }
    cu_seqlens[number..].fill(start as i32);
}
