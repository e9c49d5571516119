//! Matrix products for Python.

use numpy::{PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::products;

/// Whether [`multiply_bfloat16`] can be called here.
#[pyfunction]
pub fn has_matrix_instructions() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return products::is_available();
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
        py.detach(|| products::multiply(left, right, bias, product, threads))?;
        Ok(())
    }
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    Err(crate::error::Error::invalid("matrix instructions are used on x86-64 under Linux alone".to_owned()).into())
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn matrix<'a>(array: &'a PyReadonlyArray2<'_, u16>) -> crate::error::Result<products::Matrix<'a>> {
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
    products::Matrix::new(data, (rows, columns), (row_stride, column_stride))
}
