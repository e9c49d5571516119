//! Rows of 32-bit and 16-bit floating-point numbers. Everything is computed in `f32`; 16-bit rows are widened and
//! narrowed a block at a time.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::lanes::Lanes;

/// A row to read; 16-bit numbers as their bits.
#[derive(Clone, Copy, Debug)]
pub enum FloatRow<'a> {
    /// IEEE single precision.
    F32(&'a [f32]),
    /// The upper half of single precision.
    Bf16(&'a [u16]),
    /// IEEE half precision.
    F16(&'a [u16]),
}

/// A row to write.
#[derive(Debug)]
pub enum FloatRowMut<'a> {
    /// IEEE single precision.
    F32(&'a mut [f32]),
    /// The upper half of single precision.
    Bf16(&'a mut [u16]),
    /// IEEE half precision.
    F16(&'a mut [u16]),
}

impl<'a> FloatRow<'a> {
    /// Number of columns.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(row) => row.len(),
            Self::Bf16(row) | Self::F16(row) => row.len(),
        }
    }

    /// Whether there is no column.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of one number.
    pub fn element_size(&self) -> usize {
        match self {
            Self::F32(_) => 4,
            Self::Bf16(_) | Self::F16(_) => 2,
        }
    }

    /// Where the row begins in memory: for prefetching only.
    pub fn address(&self) -> *const u8 {
        match self {
            Self::F32(row) => row.as_ptr().cast(),
            Self::Bf16(row) | Self::F16(row) => row.as_ptr().cast(),
        }
    }

    /// The number in column `index`.
    pub fn get(&self, index: usize) -> f32 {
        match self {
            Self::F32(row) => row[index],
            Self::Bf16(row) => widen_bf16(row[index]),
            Self::F16(row) => f16::from_bits(row[index]).to_f32(),
        }
    }

    /// Columns before the first that begins a cache line.
    pub fn columns_to_line(&self) -> usize {
        (self.address().addr().wrapping_neg() % 64) / self.element_size()
    }

    /// Copies the numbers in single precision to the beginning of `wide`.
    #[inline(always)]
    pub fn copy_widened(self, wide: &mut [f32]) {
        if let Self::F32(row) = self {
            wide[..row.len()].copy_from_slice(row);
        } else {
            self.block(0..self.len(), wide);
        }
    }

    /// The numbers of `range` in single precision: as they are, or widened into the beginning of `scratch`.
    #[inline(always)]
    pub fn block<'b>(self, range: Range<usize>, scratch: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        let length = range.len();
        match self {
            Self::F32(row) => return &row[range],
            Self::Bf16(row) => {
                for (wide, &bits) in scratch[..length].iter_mut().zip(&row[range]) {
                    *wide = widen_bf16(bits);
                }
            }
            Self::F16(row) => bits_as_f16(&row[range]).convert_to_f32_slice(&mut scratch[..length]),
        }
        &scratch[..length]
    }
}

impl FloatRowMut<'_> {
    /// The row, to read.
    pub fn as_row(&self) -> FloatRow<'_> {
        match self {
            Self::F32(row) => FloatRow::F32(row),
            Self::Bf16(row) => FloatRow::Bf16(row),
            Self::F16(row) => FloatRow::F16(row),
        }
    }

    /// Zeros everywhere.
    pub fn clear(&mut self) {
        match self {
            Self::F32(row) => row.fill(0.0),
            Self::Bf16(row) | Self::F16(row) => row.fill(0),
        }
    }

    /// Puts `value`, rounded to nearest, in column `index`.
    pub fn set(&mut self, index: usize, value: f32) {
        match self {
            Self::F32(row) => row[index] = value,
            Self::Bf16(row) => row[index] = narrow_bf16(value),
            Self::F16(row) => row[index] = f16::from_f32(value).to_bits(),
        }
    }
}

/// The single-precision number that the bits of a `bfloat16` stand for.
#[inline(always)]
pub fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bits of the nearest `bfloat16`, ties to even; NaN stays NaN.
#[inline(always)]
pub fn narrow_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if value.is_nan() { bf16::NAN.to_bits() } else { rounded }
}

/// Narrows `wide` to `bits` as half precision, to nearest.
pub fn narrow_f16_slice(wide: &[f32], bits: &mut [u16]) {
    use half::slice::HalfBitsSliceExt;
    bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(wide);
}

fn bits_as_f16(bits: &[u16]) -> &[f16] {
    use half::slice::HalfBitsSliceExt;
    bits.reinterpret_cast::<f16>()
}

/// Writes `wide` to the columns of `grad` from `start` on, narrowed by way of `narrow` if need be, past the caches if
/// `stream` says so.
#[inline(always)]
pub fn write_block<S: Lanes>(
    simd: S,
    wide: &[f32],
    narrow: &mut [u16],
    grad: &mut FloatRowMut<'_>,
    start: usize,
    stream: bool,
) {
    let range = start..start + wide.len();
    let narrow = &mut narrow[..if matches!(grad, FloatRowMut::F32(_)) { 0 } else { wide.len() }];
    match grad {
        FloatRowMut::F32(row) if stream => simd.stream(wide, &mut row[range]),
        FloatRowMut::F32(row) => row[range].copy_from_slice(wide),
        FloatRowMut::Bf16(row) => {
            for (bits, &value) in narrow.iter_mut().zip(wide) {
                *bits = narrow_bf16(value);
            }
            if stream { simd.stream(narrow, &mut row[range]) } else { row[range].copy_from_slice(narrow) }
        }
        FloatRowMut::F16(row) => {
            narrow_f16_slice(wide, narrow);
            if stream { simd.stream(narrow, &mut row[range]) } else { row[range].copy_from_slice(narrow) }
        }
    }
}
