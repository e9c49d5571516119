//! Splitting and cutting of text for `prepare`, as Python sees them.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, UInt16Type, UInt32Type};
use arrow_array::{Array, ArrayRef, ListArray, PrimitiveArray, StringArray};
use arrow_buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyDict;
use pyo3_arrow::PyArray;

use crate::error::{Error, Result};
use crate::python::arrow::to_pyarrow;
use crate::text::lines;
use crate::text::rows::{self, CutRows, Mode, Rules, Totals};
use crate::text::wordpiece::ids::TokenId;

/// Lines of a block of a file: a pyarrow string array, which of them begin a document, and whether the next one would.
type PyLines<'py> = (Bound<'py, PyAny>, Bound<'py, PyArray1<bool>>, bool);

#[pyfunction]
#[pyo3(signature = (block, name, position=0, starts_document=true))]
pub fn split_lines(
    py: Python<'_>,
    block: PyBackedBytes,
    name: String,
    position: u64,
    starts_document: bool,
) -> PyResult<PyLines<'_>> {
    let (array, document_starts, next) = py.detach(|| {
        let lines = lines::split_lines(&block, &name, position, starts_document)?;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(lines.offsets));
        // Checked as one string above; every offset lies on the end of a line of it.
        let array = StringArray::new(offsets, Buffer::from_vec(lines.text.into_bytes()), None);
        Ok::<_, Error>((array, lines.document_starts, lines.next_starts_document))
    })?;
    let array = to_pyarrow(py, Arc::new(array))?;
    Ok((array, document_starts.into_pyarray(py), next))
}

enum Cutter {
    U16(rows::RowCutter<u16>),
    U32(rows::RowCutter<u32>),
}

#[pyclass(frozen, module = "distilfast._core")]
pub struct RowCutter {
    cutter: Mutex<Cutter>,
}

#[pymethods]
impl RowCutter {
    #[new]
    #[pyo3(signature = (mode, max_length, cls_id, sep_id, unk_id, vocab_size, min_length=12, max_unknown=0.5))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python constructor")]
    fn new(
        mode: &str,
        max_length: usize,
        cls_id: u32,
        sep_id: u32,
        unk_id: Option<u32>,
        vocab_size: usize,
        min_length: usize,
        max_unknown: f64,
    ) -> Result<Self> {
        let mode = match mode {
            "lines" => Mode::Lines,
            "packed" => Mode::Packed,
            other => return Err(Error::invalid(format!("mode {other:?} is neither \"lines\" nor \"packed\""))),
        };
        let rules = Rules { mode, max_length, min_length, max_unknown, cls_id, sep_id, unk_id, vocab_size };
        let cutter = if vocab_size <= 1 << 16 {
            Cutter::U16(rows::RowCutter::new(rules)?)
        } else {
            Cutter::U32(rows::RowCutter::new(rules)?)
        };
        Ok(Self { cutter: Mutex::new(cutter) })
    }

    #[pyo3(signature = (token_ids, document_starts=None))]
    fn push<'py>(
        &self,
        py: Python<'py>,
        token_ids: PyArray,
        document_starts: Option<PyReadonlyArray1<'py, bool>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let starts = document_starts.as_ref().map(PyReadonlyArray1::as_slice).transpose()?;
        let array = py.detach(|| match &mut *self.lock() {
            Cutter::U16(cutter) => push::<UInt16Type>(cutter, token_ids.array(), starts),
            Cutter::U32(cutter) => push::<UInt32Type>(cutter, token_ids.array(), starts),
        })?;
        to_pyarrow(py, array)
    }

    fn finish<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let array = match &mut *self.lock() {
            Cutter::U16(cutter) => list_array::<UInt16Type>(cutter.finish()?),
            Cutter::U32(cutter) => list_array::<UInt32Type>(cutter.finish()?),
        };
        to_pyarrow(py, array)
    }

    #[getter]
    fn token_counts<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i64>> {
        self.totals().token_counts.into_pyarray(py)
    }

    #[getter]
    fn totals_by_name<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let totals = self.totals();
        let named = PyDict::new(py);
        named.set_item("lines", totals.lines)?;
        named.set_item("rows", totals.rows)?;
        named.set_item("tokens", totals.tokens)?;
        named.set_item("dropped_short", totals.dropped_short)?;
        named.set_item("dropped_unknown", totals.dropped_unknown)?;
        Ok(named)
    }
}

impl RowCutter {
    fn lock(&self) -> std::sync::MutexGuard<'_, Cutter> {
        self.cutter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn totals(&self) -> Totals {
        match &*self.lock() {
            Cutter::U16(cutter) => cutter.totals().clone(),
            Cutter::U32(cutter) => cutter.totals().clone(),
        }
    }
}

fn push<P>(cutter: &mut rows::RowCutter<P::Native>, lines: &ArrayRef, starts: Option<&[bool]>) -> Result<ArrayRef>
where
    P: ArrowPrimitiveType,
    P::Native: TokenId,
{
    let lines = lines
        .as_list_opt::<i32>()
        .ok_or_else(|| Error::Type(format!("token ids are {}, not an Arrow list array", lines.data_type())))?;
    let ids = lines.values().as_primitive_opt::<P>().ok_or_else(|| {
        Error::Type(format!("token ids are {}; this vocabulary is stored as {}", lines.data_type(), P::DATA_TYPE))
    })?;
    if lines.null_count() > 0 || ids.null_count() > 0 {
        return Err(Error::invalid("token ids hold nulls; leave out the rows without text"));
    }
    Ok(list_array::<P>(cutter.push(ids.values(), lines.value_offsets(), starts)?))
}

fn list_array<P>(rows: CutRows<P::Native>) -> ArrayRef
where
    P: ArrowPrimitiveType,
{
    let ids = PrimitiveArray::<P>::new(ScalarBuffer::from(rows.ids), None);
    let offsets = OffsetBuffer::new(ScalarBuffer::from(rows.offsets));
    let field: Field = Field::new("item", DataType::clone(ids.data_type()), true);
    Arc::new(ListArray::new(Arc::new(field), offsets, Arc::new(ids), None))
}
