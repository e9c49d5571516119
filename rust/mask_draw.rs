//! One draw per position of a batch, and the positions whose draw is below the bound of their id.

use crate::batch_simd::Simd;
use crate::for_each_simd;
use crate::plan::Member;
use crate::random::{Key, LANES, Purpose, philox};

/// Positions whose draws come from one call: every lane gives four words.
pub(crate) const GROUP: usize = 4 * LANES;

/// The 31-bit draws of positions `group * GROUP ..` of a row: position `p` has lane `p % LANES` and word `p / LANES`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
pub(crate) fn draws(row: u32, group: u32, key: Key) -> [[u32; LANES]; 4] {
    let mut blocks = [0; LANES];
    for (lane, block) in blocks.iter_mut().enumerate() {
        *block = group * LANES as u32 + lane as u32;
    }
    philox([blocks, [row; LANES], [0; LANES], [Purpose::Select as u32; LANES]], key).map(|word| word.map(|x| x >> 1))
}

/// Into `flat` and `values` the positions of the flattened batch `ids`, in ascending order, whose draw is below
/// `bounds[id]`, and their draws.
pub(crate) fn draw_below(
    simd: Simd,
    members: &[Member],
    ids: &[i64],
    key: Key,
    bounds: &[u32],
    flat: &mut Vec<u32>,
    values: &mut Vec<u32>,
) {
    // One element more than positions: a position that is not kept is written and overwritten.
    flat.resize(ids.len() + 1, 0);
    values.resize(ids.len() + 1, 0);
    let found = draw_members(simd, members, ids, key, bounds, flat, values);
    flat.truncate(found);
    values.truncate(found);
}

for_each_simd! {
    fn draw_members(
        members: &[Member], ids: &[i64], key: Key, bounds: &[u32], flat: &mut [u32], values: &mut [u32],
    ) -> usize = draw_members_body
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn draw_members_body(
    members: &[Member],
    ids: &[i64],
    key: Key,
    bounds: &[u32],
    flat: &mut [u32],
    values: &mut [u32],
) -> usize {
    let mut found = 0;
    for member in members {
        let ids = &ids[member.start as usize..][..member.length as usize];
        for (group, ids) in ids.chunks(GROUP).enumerate() {
            let draws = draws(member.row, group as u32, key);
            let first = member.start + (group * GROUP) as u32;
            for (offset, (&id, &draw)) in ids.iter().zip(draws.as_flattened()).enumerate() {
                flat[found] = first + offset as u32;
                values[found] = draw;
                found += usize::from(draw < bounds[id as usize]);
            }
        }
    }
    found
}
