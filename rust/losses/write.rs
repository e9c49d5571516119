//! Gradients to their place.

use super::formats::{RowMut, narrow_bf16, narrow_f16_slice};
use super::simd::Simd;

/// Writes `wide` to the columns of `grad` from `start` on, narrowed by way of `narrow` if need be, past the caches if
/// `stream` says so.
#[inline(always)]
pub fn write_block<S: Simd>(
    simd: S,
    wide: &[f32],
    narrow: &mut [u16],
    grad: &mut RowMut<'_>,
    start: usize,
    stream: bool,
) {
    let range = start..start + wide.len();
    let narrow = &mut narrow[..if matches!(grad, RowMut::F32(_)) { 0 } else { wide.len() }];
    match grad {
        RowMut::F32(row) if stream => simd.stream(wide, &mut row[range]),
        RowMut::F32(row) => row[range].copy_from_slice(wide),
        RowMut::Bf16(row) => {
            for (bits, &value) in narrow.iter_mut().zip(wide) {
                *bits = narrow_bf16(value);
            }
            if stream { simd.stream(narrow, &mut row[range]) } else { row[range].copy_from_slice(narrow) }
        }
        RowMut::F16(row) => {
            narrow_f16_slice(wide, narrow);
            if stream { simd.stream(narrow, &mut row[range]) } else { row[range].copy_from_slice(narrow) }
        }
    }
}
