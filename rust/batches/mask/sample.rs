//! A sample of the positions that are not masked, for losses that are taken at a share of all tokens.

use crate::batches::mask::masker::{Masker, Workspace};
use crate::batches::mask::uniform::draw_from;
use crate::batches::plan::Member;
use crate::random::{PhiloxKey, Purpose, Stream};

impl Masker {
    /// Of the positions of batch `batch` that hold a token and are not among those chosen into `workspace.flat`, as many
    /// as `positions` has places, or all of them, without replacement, each as likely; ascending. Every one has the weight
    /// (all / drawn), so that the expectation of a weighted sum over the sample is the sum over all. Unused places get
    /// position 0 and weight 0.
    pub fn sample(
        &self,
        members: &[Member],
        key: PhiloxKey,
        batch: u32,
        positions: &mut [i64],
        weights: &mut [f32],
        workspace: &mut Workspace,
    ) {
        let Workspace { flat, taken, words, others, drawn, .. } = workspace;
        let mut masked = flat.iter().copied().peekable();
        others.clear();
        for member in members {
            let tokens = member.start..member.start + member.length;
            others.extend(tokens.filter(|position| masked.next_if_eq(position).is_none()));
        }
        let (all, mut left) = (others.len(), others.len().min(positions.len()));
        let weight = if left > 0 { all as f32 / left as f32 } else { 0.0 };
        taken.clear(members.last().map_or(0, |last| (last.start + last.length) as usize));
        if left > 0 {
            draw_from(others, &mut Stream::new(self.level, key, batch, Purpose::Sample), words, |position| {
                taken.add(position as usize);
                left -= 1;
                left > 0
            });
        }
        taken.list(drawn);
        let (used, unused) = positions.split_at_mut(drawn.len());
        used.iter_mut().zip(drawn.iter()).for_each(|(place, &position)| *place = i64::from(position));
        unused.fill(0);
        weights[..drawn.len()].fill(weight);
        weights[drawn.len()..].fill(0.0);
    }
}
