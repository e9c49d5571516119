//! Batch `index` of an epoch, written into the buffers it is handed over in.

use crate::batch_rows::{Id, Rows};
use crate::mask::{Masker, Workspace};
use crate::plan::{Epoch, Member, Plan, Shape};
use crate::with_ids;

/// Everything that batches are made from; it never changes.
pub struct Batches {
    /// The tokenised rows.
    pub rows: Rows,
    /// Which rows form which batch.
    pub plan: Plan,
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
}

/// Buffers of one batch. `input_ids` and the masks have the elements of the shape, `positions` and `labels` those of the
/// capacity of the shape, `cu_seqlens` one more than there are sequences at most.
pub struct Buffers<'a> {
    /// Token ids.
    pub input_ids: &'a mut [i64],
    /// What belongs to the layout.
    pub layout: LayoutBuffers<'a>,
    /// Masked positions.
    pub positions: &'a mut [i64],
    /// Their original ids.
    pub labels: &'a mut [i64],
}

/// What only one layout has.
pub enum LayoutBuffers<'a> {
    /// Padded.
    Padded {
        /// 1 for a token, 0 for padding.
        attention_mask: &'a mut [i64],
    },
    /// Packed.
    Packed {
        /// The position in the sequence.
        position_ids: &'a mut [i64],
        /// Where each sequence begins, and the size of the bin ever after.
        cu_seqlens: &'a mut [i32],
    },
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
pub struct Scratch {
    members: Vec<Member>,
    ids: Vec<i64>,
    mask: Workspace,
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
        self.plan.epoch(self.seed, number)
    }

    /// The shape of a batch.
    pub fn shape(&self, epoch: &Epoch, index: usize) -> Shape {
        self.plan.shape(epoch, index)
    }

    /// Writes batch `index` of `epoch`.
    pub fn fill(&self, epoch: &Epoch, index: usize, buffers: Buffers<'_>, scratch: &mut Scratch) -> Counts {
        let Scratch { members, mask, .. } = scratch;
        let shape = self.plan.members(epoch, index, &self.rows, members);
        let Buffers { input_ids, layout, positions, labels } = buffers;
        self.write_ids(shape, members, input_ids);
        match layout {
            LayoutBuffers::Padded { attention_mask } => write_attention_mask(shape, members, attention_mask),
            LayoutBuffers::Packed { position_ids, cu_seqlens } => {
                write_sequences(members, self.longest(), position_ids, cu_seqlens);
            }
        }
        self.masker.choose(members, input_ids, epoch.key, mask);
        self.masker.replace(epoch.key, &mask.masked, input_ids, positions, labels);
        Counts { tokens: count_tokens(members), masked: mask.masked.len() }
    }

    /// The tokens and masked positions of the whole step that batch `index` belongs to.
    pub fn count_step(&self, epoch: &Epoch, index: usize, scratch: &mut Scratch) -> Counts {
        let first = index - index % self.batches_per_step;
        let mut sum = Counts::default();
        for index in first..(first + self.batches_per_step).min(self.len()) {
            let counts = self.count(epoch, index, scratch);
            sum.tokens += counts.tokens;
            sum.masked += counts.masked;
        }
        sum
    }

    /// The tokens and masked positions of batch `index`, without writing it.
    pub fn count(&self, epoch: &Epoch, index: usize, scratch: &mut Scratch) -> Counts {
        let Scratch { members, ids, mask } = scratch;
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
        self.write_ids(shape, members, ids);
        self.masker.choose(members, ids, epoch.key, mask);
        Counts { tokens, masked: mask.masked.len() }
    }

    /// The longest sequence that a batch may have.
    #[must_use]
    pub fn longest(&self) -> usize {
        match &self.plan {
            Plan::Padded(plan) => plan.shapes().iter().map(|(shape, _)| shape.width).max().unwrap_or(0),
            Plan::Packed(plan) => plan.longest(),
        }
    }

    fn is_poor(&self, row: u32) -> bool {
        self.poor.as_ref().is_some_and(|bits| bits[row as usize / 64] >> (row % 64) & 1 == 1)
    }

    fn write_ids(&self, shape: Shape, members: &[Member], input_ids: &mut [i64]) {
        let pad = i64::from(self.pad_id);
        let mut end = 0;
        for member in members {
            let start = member.start as usize;
            input_ids[end..start].fill(pad);
            end = start + member.length as usize;
            with_ids!(self.rows.row(member.row as usize), ids => widen(ids, &mut input_ids[start..end]));
        }
        input_ids[end..shape.rows * shape.width].fill(pad);
    }
}

fn count_tokens(members: &[Member]) -> usize {
    members.iter().map(|member| member.length as usize).sum()
}

fn widen<T: Id>(ids: &[T], wide: &mut [i64]) {
    for (wide, id) in wide.iter_mut().zip(ids) {
        *wide = id.wide();
    }
}

fn write_attention_mask(shape: Shape, members: &[Member], attention_mask: &mut [i64]) {
    for (mask, member) in attention_mask.chunks_exact_mut(shape.width).zip(members) {
        let (tokens, padding) = mask.split_at_mut(member.length as usize);
        tokens.fill(1);
        padding.fill(0);
    }
}

/// Positions restart with every sequence; what is left of the bin is cut into sequences no longer than the longest row,
/// so that no position is beyond what a model has seen.
fn write_sequences(members: &[Member], longest: usize, position_ids: &mut [i64], cu_seqlens: &mut [i32]) {
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
