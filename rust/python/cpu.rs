//! Dropout's masks and matrix products for Python.

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::cpu::dropout;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::cpu::matmul;

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

/// Whether [`multiply_bfloat16`] can be called here.
#[pyfunction]
pub fn has_matrix_instructions() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return matmul::is_available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// Writes `left` x `right` + `bias` to `product`; all are the bits of bfloat16 numbers.
#[pyfunction]
#[cfg_attr(not(all(target_arch = "x86_64", target_os = "linux")), expect(unused_variables, reason = "never called"))]
pub fn multiply_bfloat16(
    py: Python<'_>,
    left: PyReadonlyArray2<'_, u16>,
    right: PyReadonlyArray2<'_, u16>,
    bias: Option<PyReadonlyArray1<'_, u16>>,
    product: Bound<'_, PyArray2<u16>>,
    threads: usize,
) -> PyResult<()> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    {
        let (left, right) = (matrix(&left)?, matrix(&right)?);
        let bias = bias.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
        let mut product = product.try_readwrite()?;
        let product = product.as_slice_mut()?;
        py.detach(|| matmul::multiply(left, right, bias, product, threads))?;
        Ok(())
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    Err(crate::error::Error::invalid("matrix instructions are used on x86-64 under Linux alone".to_owned()).into())
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn matrix<'a>(array: &'a PyReadonlyArray2<'_, u16>) -> crate::error::Result<matmul::Matrix<'a>> {
    let view = array.as_array();
    let (rows, columns) = view.dim();
    let strides = view.strides();
    let (Ok(row_stride), Ok(column_stride)) = (usize::try_from(strides[0]), usize::try_from(strides[1])) else {
        return Err(crate::error::Error::invalid("a matrix that lies backwards cannot be multiplied".to_owned()));
    };
    let last = rows.saturating_sub(1) * row_stride + columns.saturating_sub(1) * column_stride;
    let length = if view.is_empty() { 0 } else { last + 1 };
    // SAFETY: the array's numbers lie from its first to its last, and it is held, and read by others only, meanwhile.
    let data = unsafe { std::slice::from_raw_parts(view.as_ptr(), length) };
    matmul::Matrix::new(data, (rows, columns), (row_stride, column_stride))
}
