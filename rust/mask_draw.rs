//! One draw per position of a batch, and the positions whose draw is below the bound of their id.

use crate::plan::Member;
use crate::random::{Key, LANES, Purpose, philox};

/// Positions whose draws come from one call: every lane gives four words.
pub(crate) const GROUP: usize = 4 * LANES;

/// Which instructions the draws are computed with. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simd {
    /// What the target always has.
    Baseline,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// Everything that this machine can run, the best first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                available.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") {
                available.push(Self::Avx2);
            }
        }
        available.push(Self::Baseline);
        available
    }
}

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
    let found = match simd {
        Simd::Baseline => draw_members(members, ids, key, bounds, flat, values),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Simd::available` offers it only where the machine has the instructions.
        Simd::Avx2 => unsafe { draw_avx2(members, ids, key, bounds, flat, values) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Simd::Avx512 => unsafe { draw_avx512(members, ids, key, bounds, flat, values) },
    };
    flat.truncate(found);
    values.truncate(found);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn draw_avx2(members: &[Member], ids: &[i64], key: Key, bounds: &[u32], flat: &mut [u32], values: &mut [u32]) -> usize {
    draw_members(members, ids, key, bounds, flat, values)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn draw_avx512(
    members: &[Member],
    ids: &[i64],
    key: Key,
    bounds: &[u32],
    flat: &mut [u32],
    values: &mut [u32],
) -> usize {
    draw_members(members, ids, key, bounds, flat, values)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled anew for the instructions of each caller")]
fn draw_members(
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
