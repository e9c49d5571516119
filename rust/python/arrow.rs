//! Arrow arrays handed to pyarrow without a copy.

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::{Array, ArrayRef};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use pyo3_arrow::PyArray;

use crate::error::Error;

/// What takes an array over: pyarrow's import from the C data interface, which needs no capsules.
static IMPORT: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
static ARRAY: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// The array as one of pyarrow's, without a copy.
pub fn to_pyarrow(py: Python<'_>, array: ArrayRef) -> PyResult<Bound<'_, PyAny>> {
    let import = IMPORT.get_or_try_init(py, || {
        let class = ARRAY.import(py, "pyarrow", "Array")?;
        PyResult::Ok(class.getattr("_import_from_c").ok().map(Bound::unbind))
    })?;
    let Some(import) = import else {
        return py.import("pyarrow")?.call_method1("array", (PyArray::from_array_ref(array),));
    };
    let data = array.to_data();
    let schema = FFI_ArrowSchema::try_from(data.data_type()).map_err(|error| Error::invalid(error.to_string()))?;
    // pyarrow takes what the two hold and leaves them empty; what it does not take is let go here.
    let array = FFI_ArrowArray::new(&data);
    import.bind(py).call1((&raw const array as usize, &raw const schema as usize))
}
