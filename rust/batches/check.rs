//! One pass over all ids before the first batch: every id is in the vocabulary, how often each occurs, which rows have too
//! few positions that may be masked, and a hash of the whole.

use crate::batches::rows::{Id, TokenRows};
use crate::error::{Error, Result};
use crate::with_ids;

/// What the pass finds.
#[derive(Debug)]
pub struct Checked {
    /// How often each id occurs.
    pub occurrences: Vec<u64>,
    /// A hash of all rows and their order. It depends neither on chunks nor on the width of the ids.
    pub hash: u64,
    /// One bit for each row that has fewer maskable positions than its share of the masked ones; `None` where no row has.
    pub poor: Option<Vec<u64>>,
}

struct Part {
    occurrences: Vec<u64>,
    hash: u64,
    poor: Vec<u32>,
    bad: Option<(usize, usize, i64)>,
}

/// Reads all rows on `threads` threads. `special` says for each id of the vocabulary whether it is a special token; a row
/// is poor if `prob` of its tokens are more than may be masked. The outcome does not depend on `threads`.
pub fn check(rows: &TokenRows, special: &[bool], prob: f64, threads: usize) -> Result<Checked> {
    let share = rows.len().div_ceil(threads.max(1)).max(1);
    let ranges: Vec<_> = (0..rows.len()).step_by(share).map(|start| start..(start + share).min(rows.len())).collect();
    let parts: Vec<Part> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            ranges.into_iter().map(|range| scope.spawn(move || check_range(rows, range, special, prob))).collect();
        workers.into_iter().map(|worker| worker.join().expect("reading ids does not panic")).collect()
    });
    let mut checked = Checked { occurrences: vec![0; special.len()], hash: 0, poor: None };
    for part in parts {
        if let Some((row, position, id)) = part.bad {
            return Err(Error::invalid(format!(
                "row {row} has the id {id} at position {position}, but the vocabulary has ids from 0 to {}; tokenise the data with this tokenizer",
                special.len() - 1
            )));
        }
        checked.occurrences.iter_mut().zip(part.occurrences).for_each(|(sum, count)| *sum += count);
        checked.hash = checked.hash.wrapping_add(part.hash);
        for row in part.poor {
            let bits = checked.poor.get_or_insert_with(|| vec![0; rows.len().div_ceil(64)]);
            bits[row as usize / 64] |= 1 << (row % 64);
        }
    }
    Ok(checked)
}

fn check_range(rows: &TokenRows, range: std::ops::Range<usize>, special: &[bool], prob: f64) -> Part {
    let mut part = Part { occurrences: vec![0; special.len()], hash: 0, poor: Vec::new(), bad: None };
    for row in range {
        let found = with_ids!(rows.row(row), ids => check_row(ids, row, special, &mut part));
        let Some(maskable) = found else { return part };
        let length = rows.length(row);
        // A hair more than asked for, so that no rounding of sums of rows asks for more than there is.
        if (maskable as f64) < prob * length as f64 * (1.0 + 1e-9) {
            part.poor.push(row as u32);
        }
    }
    part
}

/// The number of maskable positions; `None` after an id that is not in the vocabulary.
fn check_row<T: Id>(ids: &[T], row: usize, special: &[bool], part: &mut Part) -> Option<usize> {
    const LANE_FACTORS: [u64; 4] =
        [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F, 0x1656_67B1_9E37_79F9, 0x27D4_EB2F_1656_67C5];
    let mut maskable = 0;
    let mut hashes = LANE_FACTORS;
    for (number, group) in ids.chunks(4).enumerate() {
        for (lane, &id) in group.iter().enumerate() {
            let Some(&special) = special.get(id.index()) else {
                part.bad = Some((row, number * 4 + lane, id.wide()));
                return None;
            };
            part.occurrences[id.index()] += 1;
            maskable += usize::from(!special);
            hashes[lane] = (hashes[lane] ^ id.index() as u64).wrapping_mul(LANE_FACTORS[lane]);
            hashes[lane] ^= hashes[lane] >> 29;
        }
    }
    let seed = mix(row as u64 ^ mix(ids.len() as u64));
    part.hash = part.hash.wrapping_add(hashes.iter().fold(seed, |hash, &lane| mix(hash ^ lane)));
    Some(maskable)
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    let value = (value ^ (value >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    value ^ (value >> 32)
}
