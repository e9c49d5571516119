//! `_core.Tokenizer`: text from Python strings or Arrow buffers in, Arrow lists out.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, BinaryViewArray, LargeStringArray, ListArray, OffsetSizeTrait, PrimitiveArray, StringArray,
    StringViewArray,
    types::{ArrowPrimitiveType, UInt16Type, UInt32Type},
};
use arrow_buffer::{ArrowNativeType, OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use pyo3_arrow::input::AnyArray;

use crate::error::{Error, Result};
use crate::python::arrow::to_pyarrow;
use crate::simd::Level;
use crate::text::wordpiece::lookup::prefetch;
use crate::text::{EncodeOptions, Encoded, EncodedRows, TextRows, Tokenizer, default_threads};

/// How many strings before it is read a string is asked for; they lie all over the memory.
const STRINGS_AHEAD: usize = 16;

/// See `_core.pyi`.
#[pyclass(frozen, name = "Tokenizer", module = "distilfast._core")]
pub struct PyTokenizer(Tokenizer);

#[pymethods]
impl PyTokenizer {
    #[new]
    fn new(py: Python<'_>, json: &str) -> PyResult<Self> {
        Ok(Self(py.detach(|| Tokenizer::from_json(json))?))
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    #[getter]
    fn engine(&self) -> &'static str {
        self.0.engine()
    }

    #[getter]
    fn instructions(&self) -> Option<&'static str> {
        self.0.level().map(Level::name)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    fn tokens(&self) -> Vec<Option<String>> {
        self.0.tokens()
    }

    fn to_json(&self) -> PyResult<String> {
        Ok(self.0.to_json()?)
    }

    fn special_ids(&self) -> Vec<u32> {
        self.0.special_ids()
    }

    #[pyo3(signature = (text, add_special_tokens=true, max_length=None, split_special_tokens=false))]
    fn encode(
        &self,
        py: Python<'_>,
        text: &Bound<'_, PyString>,
        add_special_tokens: bool,
        max_length: Option<usize>,
        split_special_tokens: bool,
    ) -> PyResult<Vec<u32>> {
        let options = EncodeOptions { add_special_tokens, max_length, split_special_tokens };
        let text = text.to_str().map_err(|_| lone_surrogate(0))?;
        Ok(py.detach(|| self.0.encode(text, options))?)
    }

    #[pyo3(signature = (texts, add_special_tokens=true, max_length=None, threads=None, split_special_tokens=false))]
    fn encode_batch<'py>(
        &self,
        py: Python<'py>,
        texts: &Bound<'py, PyAny>,
        add_special_tokens: bool,
        max_length: Option<usize>,
        threads: Option<usize>,
        split_special_tokens: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let options = EncodeOptions { add_special_tokens, max_length, split_special_tokens };
        let threads = match threads {
            Some(0) => return Err(Error::invalid("threads=0: at least one thread is needed").into()),
            Some(count) => count,
            None => default_threads(),
        };
        let array = if let Ok(list) = texts.cast::<PyList>() {
            self.encode_strings(py, &list.to_tuple(), options, threads)?
        } else if let Ok(tuple) = texts.cast::<PyTuple>() {
            self.encode_strings(py, tuple, options, threads)?
        } else {
            let (chunks, _) = texts.extract::<AnyArray>()?.into_chunked_array()?.into_inner();
            py.detach(|| {
                let rows = ArrowRows::new(&chunks)?;
                self.encode_rows(&rows, options, threads)
            })?
        };
        to_pyarrow(py, array)
    }
}

impl PyTokenizer {
    /// Encodes strings, which the tuple holds on to while the interpreter is released.
    fn encode_strings(
        &self,
        py: Python<'_>,
        texts: &Bound<'_, PyTuple>,
        options: EncodeOptions,
        threads: usize,
    ) -> PyResult<ArrayRef> {
        let mut rows: Vec<&str> = Vec::with_capacity(texts.len());
        for (index, item) in texts.iter_borrowed().enumerate() {
            if let Some(later) = index.checked_add(STRINGS_AHEAD).filter(|&later| later < texts.len()) {
                prefetch(texts.get_borrowed_item(later)?.as_ptr());
            }
            rows.push(item.extract().map_err(|_| not_text(&item, index))?);
        }
        Ok(py.detach(|| self.encode_rows(rows.as_slice(), options, threads))?)
    }

    fn encode_rows<R: TextRows + ?Sized>(&self, rows: &R, options: EncodeOptions, threads: usize) -> Result<ArrayRef> {
        match self.0.encode_rows(rows, options, threads)? {
            Encoded::Narrow(encoded) => list_array::<UInt16Type>(encoded),
            Encoded::Wide(encoded) => list_array::<UInt32Type>(encoded),
        }
    }
}

fn list_array<T: ArrowPrimitiveType>(encoded: EncodedRows<T::Native>) -> Result<ArrayRef> {
    let total = encoded.ids.len();
    if i32::try_from(total).is_err() {
        return Err(Error::Invalid(format!(
            "{total} token ids in one call are more than an Arrow list array holds (2**31 - 1); pass fewer rows at a time"
        )));
    }
    let offsets: Vec<i32> = std::iter::once(0).chain(encoded.ends.iter().map(|&end| end as i32)).collect();
    let values: ArrayRef = Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(encoded.ids), None));
    let field = Arc::new(Field::new("item", T::DATA_TYPE, true));
    Ok(Arc::new(ListArray::new(field, OffsetBuffer::new(ScalarBuffer::from(offsets)), values, None)))
}

fn not_text(row: &Bound<'_, PyAny>, index: usize) -> PyErr {
    if row.is_instance_of::<PyString>() {
        return lone_surrogate(index);
    }
    let found = row.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
    PyTypeError::new_err(format!("row {index} is of type {found}, not str"))
}

fn lone_surrogate(row: usize) -> PyErr {
    Error::Invalid(format!(
        "row {row} holds a lone surrogate, which is not text; encode it with errors=\"replace\" first"
    ))
    .into()
}

/// The rows of one chunk of an Arrow column of strings, of any of the three layouts.
enum ArrowChunk<'a> {
    Small(&'a [i32], &'a [u8]),
    Large(&'a [i64], &'a [u8]),
    View(BinaryViewArray),
}

impl ArrowChunk<'_> {
    fn row(&self, row: usize) -> &[u8] {
        match self {
            Self::Small(offsets, data) => &data[offsets[row].as_usize()..offsets[row + 1].as_usize()],
            Self::Large(offsets, data) => &data[offsets[row].as_usize()..offsets[row + 1].as_usize()],
            Self::View(strings) => strings.value(row),
        }
    }

    fn row_len(&self, row: usize) -> usize {
        match self {
            Self::Small(offsets, _) => (offsets[row + 1] - offsets[row]) as usize,
            Self::Large(offsets, _) => (offsets[row + 1] - offsets[row]) as usize,
            // The length is the lower half of a view.
            Self::View(strings) => strings.views()[row] as u32 as usize,
        }
    }

    fn total_len(&self) -> usize {
        match self {
            Self::Small(offsets, _) => (offsets[offsets.len() - 1] - offsets[0]) as usize,
            Self::Large(offsets, _) => (offsets[offsets.len() - 1] - offsets[0]) as usize,
            Self::View(strings) => (0..strings.len()).map(|row| self.row_len(row)).sum(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Small(offsets, _) => offsets.len() - 1,
            Self::Large(offsets, _) => offsets.len() - 1,
            Self::View(strings) => strings.len(),
        }
    }

    /// Refuses rows that are not UTF-8; `start` is the number of the first row of the chunk.
    fn check(&self, start: usize, range: Range<usize>) -> Result<()> {
        match self {
            Self::Small(offsets, data) => check_utf8(start, range, data, offsets),
            Self::Large(offsets, data) => check_utf8(start, range, data, offsets),
            Self::View(strings) => range.into_iter().try_for_each(|row| check_row(start + row, strings.value(row))),
        }
    }
}

/// The rows of a chunked Arrow column, known to hold no null.
struct ArrowRows<'a> {
    chunks: Vec<ArrowChunk<'a>>,
    /// The first row of each chunk, and one past the last row.
    starts: Vec<usize>,
}

impl<'a> ArrowRows<'a> {
    fn new(arrays: &'a [ArrayRef]) -> Result<Self> {
        let mut starts = vec![0];
        let mut chunks = Vec::with_capacity(arrays.len());
        for array in arrays {
            let start = starts.last().copied().unwrap_or_default();
            if let Some(nulls) = array.nulls().filter(|nulls| nulls.null_count() > 0) {
                let row = start + nulls.iter().position(|valid| !valid).unwrap_or_default();
                return Err(Error::Invalid(format!("row {row} is null, not text; drop or fill such rows first")));
            }
            let any = array.as_any();
            chunks.push(if let Some(strings) = any.downcast_ref::<StringArray>() {
                ArrowChunk::Small(strings.value_offsets(), strings.value_data())
            } else if let Some(strings) = any.downcast_ref::<LargeStringArray>() {
                ArrowChunk::Large(strings.value_offsets(), strings.value_data())
            } else if let Some(strings) = any.downcast_ref::<StringViewArray>() {
                ArrowChunk::View(strings.clone().to_binary_view())
            } else {
                return Err(not_strings(array.data_type()));
            });
            starts.push(start + array.len());
        }
        Ok(Self { chunks, starts })
    }

    /// The chunk that holds a row, and the number of its first.
    fn chunk(&self, row: usize) -> (&ArrowChunk<'a>, usize) {
        let chunk = match self.chunks.len() {
            1 => 0,
            _ => self.starts.partition_point(|&start| start <= row) - 1,
        };
        (&self.chunks[chunk], self.starts[chunk])
    }
}

fn not_strings(found: &DataType) -> Error {
    Error::Type(format!("an Arrow array of {found} is not text; pass string, large_string or string_view"))
}

/// Arrow trusts the producer; nothing else checks that the bytes are UTF-8.
fn check_utf8<O: OffsetSizeTrait>(start: usize, range: Range<usize>, data: &[u8], offsets: &[O]) -> Result<()> {
    let offsets = &offsets[range.start..=range.end];
    let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    if first == last {
        // Of an array without rows the offset may lie anywhere, and the data are left out.
        return Ok(());
    }
    // All rows at once; each is whole if it begins where a character does.
    let data = &data[first..last];
    let whole = data.is_ascii()
        || std::str::from_utf8(data)
            .is_ok_and(|text| offsets.iter().all(|offset| text.is_char_boundary(offset.as_usize() - first)));
    if whole {
        return Ok(());
    }
    for (row, bounds) in offsets.windows(2).enumerate() {
        check_row(start + range.start + row, &data[bounds[0].as_usize() - first..bounds[1].as_usize() - first])?;
    }
    Ok(())
}

fn check_row(row: usize, bytes: &[u8]) -> Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Invalid(format!("row {row} is not UTF-8: {error}"))),
    }
}

impl TextRows for ArrowRows<'_> {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or_default()
    }

    fn row(&self, index: usize) -> &[u8] {
        let (chunk, start) = self.chunk(index);
        chunk.row(index - start)
    }

    fn row_len(&self, index: usize) -> usize {
        let (chunk, start) = self.chunk(index);
        chunk.row_len(index - start)
    }

    fn total_len(&self) -> usize {
        self.chunks.iter().map(ArrowChunk::total_len).sum()
    }

    fn check(&self, range: Range<usize>) -> Result<()> {
        let mut row = range.start;
        while row < range.end {
            let (chunk, start) = self.chunk(row);
            let end = range.end.min(start + chunk.len());
            chunk.check(start, row - start..end - start)?;
            row = end;
        }
        Ok(())
    }
}
