//! `_core.Tokenizer`: text from Python strings or Arrow buffers in, Arrow lists out.

use std::sync::Arc;

use arrow_array::{
    Array, ArrayRef, LargeStringArray, ListArray, OffsetSizeTrait, PrimitiveArray, StringArray, StringViewArray,
    types::{ArrowPrimitiveType, UInt16Type, UInt32Type},
};
use arrow_buffer::{OffsetBuffer, ScalarBuffer};
use arrow_schema::{DataType, Field};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyList, PyString, PyTuple};
use pyo3_arrow::input::AnyArray;

use crate::error::{Error, Result};
use crate::python::arrow::to_pyarrow;
use crate::tokenizer::{EncodeOptions, Encoded, EncodedRows, Rows, Tokenizer, default_threads};
use crate::unicode::Profile;

/// See `_core.pyi`.
#[pyclass(frozen, name = "Tokenizer", module = "distilfast._core")]
pub struct PyTokenizer(Tokenizer);

#[pymethods]
impl PyTokenizer {
    #[new]
    #[pyo3(signature = (json, unicode="hf-0.23"))]
    fn new(py: Python<'_>, json: &str, unicode: &str) -> PyResult<Self> {
        let profile = Profile::from_name(unicode).ok_or_else(|| {
            Error::Invalid(format!("unicode={unicode:?} is no profile; pass \"hf-0.23\" or \"hf-1.0\""))
        })?;
        Ok(Self(py.detach(|| Tokenizer::from_json(json, profile))?))
    }

    #[getter]
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    #[getter]
    fn engine(&self) -> &'static str {
        self.0.engine()
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
            self.encode_strings(py, list.iter(), options, threads)?
        } else if let Ok(tuple) = texts.cast::<PyTuple>() {
            self.encode_strings(py, tuple.iter(), options, threads)?
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
    /// Encodes strings, which are held on to, so that nobody can take them away while the interpreter is released.
    fn encode_strings<'py>(
        &self,
        py: Python<'py>,
        texts: impl ExactSizeIterator<Item = Bound<'py, PyAny>>,
        options: EncodeOptions,
        threads: usize,
    ) -> PyResult<ArrayRef> {
        let mut rows: Vec<PyBackedStr> = Vec::with_capacity(texts.len());
        for (index, item) in texts.enumerate() {
            let string = item.cast_into::<PyString>().map_err(|error| {
                let found =
                    error.into_inner().get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
                PyTypeError::new_err(format!("row {index} is of type {found}, not str"))
            })?;
            rows.push(string.try_into().map_err(|_| lone_surrogate(index))?);
        }
        Ok(py.detach(|| self.encode_rows(rows.as_slice(), options, threads))?)
    }

    fn encode_rows<R: Rows + ?Sized>(&self, rows: &R, options: EncodeOptions, threads: usize) -> Result<ArrayRef> {
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

fn lone_surrogate(row: usize) -> PyErr {
    Error::Invalid(format!(
        "row {row} holds a lone surrogate, which is not text; encode it with errors=\"replace\" first"
    ))
    .into()
}

impl Rows for [PyBackedStr] {
    fn len(&self) -> usize {
        <[PyBackedStr]>::len(self)
    }

    fn row(&self, index: usize) -> &str {
        &self[index]
    }
}

/// One chunk of an Arrow column of strings, of any of the three layouts.
enum ArrowChunk<'a> {
    Small(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
}

/// The rows of a chunked Arrow column, known to hold no null and only UTF-8.
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
                check_utf8(start, strings.value_data(), strings.value_offsets())?;
                ArrowChunk::Small(strings)
            } else if let Some(strings) = any.downcast_ref::<LargeStringArray>() {
                check_utf8(start, strings.value_data(), strings.value_offsets())?;
                ArrowChunk::Large(strings)
            } else if let Some(strings) = any.downcast_ref::<StringViewArray>() {
                let bytes = strings.clone().to_binary_view();
                for row in 0..strings.len() {
                    check_row(start + row, bytes.value(row))?;
                }
                ArrowChunk::View(strings)
            } else {
                return Err(not_strings(array.data_type()));
            });
            starts.push(start + array.len());
        }
        Ok(Self { chunks, starts })
    }
}

fn not_strings(found: &DataType) -> Error {
    Error::Type(format!("an Arrow array of {found} is not text; pass string, large_string or string_view"))
}

/// Arrow trusts the producer; nothing else checks that the bytes are UTF-8.
fn check_utf8<O: OffsetSizeTrait>(start: usize, data: &[u8], offsets: &[O]) -> Result<()> {
    let (first, last) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    if first == last {
        // Of an array without rows the offset may lie anywhere, and the data are left out.
        return Ok(());
    }
    // All rows at once; each is whole if it begins where a character does.
    let whole = std::str::from_utf8(&data[first..last])
        .is_ok_and(|text| offsets.iter().all(|offset| text.is_char_boundary(offset.as_usize() - first)));
    if whole {
        return Ok(());
    }
    for (row, bounds) in offsets.windows(2).enumerate() {
        check_row(start + row, &data[bounds[0].as_usize()..bounds[1].as_usize()])?;
    }
    Ok(())
}

fn check_row(row: usize, bytes: &[u8]) -> Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Invalid(format!("row {row} is not UTF-8: {error}"))),
    }
}

impl Rows for ArrowRows<'_> {
    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or_default()
    }

    fn row(&self, index: usize) -> &str {
        let chunk = match self.chunks.len() {
            1 => 0,
            _ => self.starts.partition_point(|&start| start <= index) - 1,
        };
        let row = index - self.starts[chunk];
        match &self.chunks[chunk] {
            ArrowChunk::Small(strings) => strings.value(row),
            ArrowChunk::Large(strings) => strings.value(row),
            ArrowChunk::View(strings) => strings.value(row),
        }
    }
}
