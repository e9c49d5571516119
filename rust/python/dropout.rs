//! Dropout's masks for Python.

use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;

use crate::dropout;

/// A mask to fill, as the bits of its numbers.
#[derive(FromPyObject)]
pub enum Mask<'py> {
    Half(Bound<'py, PyArray1<u16>>),
    Single(Bound<'py, PyArray1<u32>>),
}

/// Fills a mask with the bits `kept` or with 0.
#[pyfunction]
pub fn fill_dropout_mask(
    py: Python<'_>,
    mask: Mask<'_>,
    seed: u64,
    dropped: u32,
    kept: u32,
    threads: usize,
) -> PyResult<()> {
    match mask {
        Mask::Half(mask) => {
            let kept = u16::try_from(kept)?;
            let mut mask = mask.try_readwrite()?;
            let elements = mask.as_slice_mut()?;
            py.detach(|| dropout::fill(elements, seed, dropped, kept, threads))?;
        }
        Mask::Single(mask) => {
            let mut mask = mask.try_readwrite()?;
            let elements = mask.as_slice_mut()?;
            py.detach(|| dropout::fill(elements, seed, dropped, kept, threads))?;
        }
    }
    Ok(())
}
