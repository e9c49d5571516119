//! Masked batches of tokenised rows.

use std::sync::{Arc, Mutex};

use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Int32Type, Int64Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, GenericListArray, OffsetSizeTrait, PrimitiveArray};
use arrow_buffer::ScalarBuffer;
use arrow_schema::DataType;
use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3_arrow::{PyArray, PyChunkedArray};

use crate::batches::check::check;
use crate::batches::mask::{Masker, Masking, Vocabulary};
use crate::batches::plan::packed::Packed;
use crate::batches::plan::padded::Padded;
use crate::batches::plan::widths::choose_widths;
use crate::batches::plan::{Epoch, Plan, Shape, length_histogram};
use crate::batches::rows::{Buffer, Chunk, Ids, Offsets, Rows};
use crate::batches::{Batches, Layout, Scratch};
use crate::error::{Error, Result};
use crate::simd::Simd;

/// A plan over a column of token ids, and what fills its batches.
#[pyclass(frozen, module = "distilfast._core", name = "BatchPlan")]
pub struct PyBatchPlan {
    pub batches: Arc<Batches>,
    scratch: Mutex<Scratch>,
    hash: u64,
    num_tokens: u64,
}

/// One epoch of a plan.
#[pyclass(frozen, module = "distilfast._core", name = "BatchEpoch")]
pub struct PyBatchEpoch {
    pub epoch: Arc<Epoch>,
}

/// Everything the plan is made with, taken out of Python.
struct Settings {
    packed: bool,
    batch_tokens: usize,
    max_length: usize,
    pad_to_multiple_of: usize,
    max_widths: usize,
    pad_id: u32,
    seed: u64,
    batches_per_step: usize,
    threads: usize,
}

/// The plan and the length of the longest row. `budget`: tokens of a batch and of a row; `widths`: what widths are
/// multiples of, and how many there may be.
fn plan_rows(rows: &Rows, packed: bool, budget: (usize, usize), widths: (usize, usize)) -> Result<(Plan, usize)> {
    let histogram = length_histogram(rows, budget.1)?;
    let plan = if packed {
        Plan::Packed(Packed::new(rows, &histogram, budget.0)?)
    } else {
        let widths = choose_widths(&histogram, widths.0, budget.1, widths.1, budget.0);
        Plan::Padded(Padded::new(rows, &histogram, &widths, budget.0)?)
    };
    Ok((plan, histogram.len() - 1))
}

fn build(
    column: &PyChunkedArray,
    selected: Option<&PyChunkedArray>,
    settings: &Settings,
    masking: Masking,
    mut vocabulary: Vocabulary,
) -> Result<PyBatchPlan> {
    let rows = rows_of(column.chunks(), selected.map(PyChunkedArray::chunks))?;
    let budget = (settings.batch_tokens, settings.max_length);
    let (plan, longest) =
        plan_rows(&rows, settings.packed, budget, (settings.pad_to_multiple_of, settings.max_widths))?;
    let checked = check(&rows, &vocabulary.special, masking.prob, settings.threads)?;
    let num_tokens = checked.occurrences.iter().sum();
    if vocabulary.token_counts.is_empty() {
        vocabulary.token_counts.clone_from(&checked.occurrences);
    }
    vocabulary.occurrences = checked.occurrences;
    let masker = Masker::new(masking, &vocabulary, Simd::available()[0])?;
    let batches = Batches {
        longest,
        rows,
        plan,
        masker,
        poor: checked.poor,
        pad_id: settings.pad_id,
        seed: settings.seed,
        batches_per_step: settings.batches_per_step,
    };
    Ok(PyBatchPlan { batches: Arc::new(batches), scratch: Mutex::default(), hash: checked.hash, num_tokens })
}

#[pymethods]
impl PyBatchEpoch {
    /// The number of the epoch, from 0.
    #[getter]
    fn number(&self) -> u64 {
        self.epoch.number
    }
}

#[pymethods]
impl PyBatchPlan {
    #[new]
    #[pyo3(signature = (column, selected, *, special, word_starts, mask_id, pad_id, token_counts, packed, batch_tokens, max_length, pad_to_multiple_of, max_widths, prob, mask, random, smoothing, whole_word, exact, random_specials, seed, batches_per_step, threads))]
    #[expect(
        clippy::too_many_arguments,
        clippy::fn_params_excessive_bools,
        reason = "keywords, all given by one caller"
    )]
    fn new(
        py: Python<'_>,
        column: PyChunkedArray,
        selected: Option<PyChunkedArray>,
        special: PyReadonlyArray1<'_, bool>,
        word_starts: PyReadonlyArray1<'_, bool>,
        mask_id: u32,
        pad_id: u32,
        token_counts: PyReadonlyArray1<'_, u64>,
        packed: bool,
        batch_tokens: usize,
        max_length: usize,
        pad_to_multiple_of: usize,
        max_widths: usize,
        prob: f64,
        mask: f64,
        random: f64,
        smoothing: f64,
        whole_word: bool,
        exact: bool,
        random_specials: bool,
        seed: u64,
        batches_per_step: usize,
        threads: usize,
    ) -> PyResult<Self> {
        let settings = Settings {
            packed,
            batch_tokens,
            max_length,
            pad_to_multiple_of,
            max_widths,
            pad_id,
            seed,
            batches_per_step,
            threads,
        };
        let masking = Masking { prob, mask, random, smoothing, whole_word, exact, random_specials };
        let vocabulary = Vocabulary {
            special: special.as_array().to_vec(),
            word_starts: word_starts.as_array().to_vec(),
            mask_id,
            occurrences: Vec::new(),
            token_counts: token_counts.as_array().to_vec(),
        };
        Ok(py.detach(|| build(&column, selected.as_ref(), &settings, masking, vocabulary))?)
    }

    fn __len__(&self) -> usize {
        self.batches.len()
    }

    /// (rows, width, batches) of every shape.
    fn shapes(&self) -> Vec<(usize, usize, usize)> {
        self.batches.plan.shapes().iter().map(|(shape, count)| (shape.rows, shape.width, *count)).collect()
    }

    /// The length of the longest row.
    fn longest(&self) -> usize {
        self.batches.longest
    }

    /// A hash of all rows and their order.
    fn hash(&self) -> u64 {
        self.hash
    }

    /// The tokens of all rows.
    fn num_tokens(&self) -> u64 {
        self.num_tokens
    }

    /// What is drawn for epoch `number`.
    fn epoch(&self, number: u64) -> PyBatchEpoch {
        PyBatchEpoch { epoch: Arc::new(self.batches.epoch(number)) }
    }

    /// (rows, width) of batch `index`.
    fn shape(&self, epoch: &PyBatchEpoch, index: usize) -> PyResult<(usize, usize)> {
        self.check_index(index)?;
        let shape = self.batches.shape(&epoch.epoch, index);
        Ok((shape.rows, shape.width))
    }

    /// The numbers of the rows of the data in batch `index`, in the order in which they lie in it.
    fn rows(&self, py: Python<'_>, epoch: &PyBatchEpoch, index: usize) -> PyResult<Vec<u32>> {
        self.check_index(index)?;
        let mut members = Vec::new();
        py.detach(|| self.batches.plan.members(&epoch.epoch, index, &self.batches.rows, &mut members));
        Ok(members.iter().map(|member| member.row).collect())
    }

    /// How the buffer of a batch of this shape is cut up: where extra (attention mask or position ids), masked
    /// positions, labels, counts and `cu_seqlens` begin and where it ends, then the number of masked positions and of
    /// entries of `cu_seqlens`.
    fn layout(&self, rows: usize, width: usize) -> [usize; 8] {
        let layout = self.batches.layout(Shape { rows, width });
        let Layout { extra, positions, labels, counts, cu_seqlens, end, capacity, sequences, .. } = layout;
        [extra, positions, labels, counts, cu_seqlens, end, capacity, sequences]
    }

    /// Writes batch `index` into the buffer.
    fn fill(
        &self,
        py: Python<'_>,
        epoch: &PyBatchEpoch,
        index: usize,
        mut buffer: PyReadwriteArray1<'_, i64>,
    ) -> PyResult<()> {
        let buffer = buffer.as_slice_mut()?;
        self.check_buffer(epoch, index, buffer.len())?;
        let Self { batches, scratch, .. } = self;
        py.detach(|| {
            // Someone else's turn: memory of one's own, rather than waiting.
            match scratch.try_lock() {
                Ok(mut scratch) => batches.fill(&epoch.epoch, index, buffer, &mut scratch),
                Err(_) => batches.fill(&epoch.epoch, index, buffer, &mut Scratch::default()),
            }
        });
        Ok(())
    }
}

impl PyBatchPlan {
    pub fn check_buffer(&self, epoch: &PyBatchEpoch, index: usize, length: usize) -> PyResult<()> {
        self.check_index(index)?;
        let needed = self.batches.layout(self.batches.shape(&epoch.epoch, index)).end;
        if length < needed {
            return Err(
                Error::invalid(format!("batch {index} needs a buffer of {needed} elements, not {length}")).into()
            );
        }
        Ok(())
    }

    fn check_index(&self, index: usize) -> PyResult<()> {
        if index < self.batches.len() {
            return Ok(());
        }
        Err(PyIndexError::new_err(format!("batch {index} of {}", self.batches.len())))
    }
}

/// Plans rows with these offsets (int64, one more than rows) and returns the number of batches and the share of their
/// elements that holds a token. What `MaskedBatches` does before it reads an id; for measuring it.
#[pyfunction]
pub fn plan_lengths(
    py: Python<'_>,
    offsets: PyArray,
    batch_tokens: usize,
    max_length: usize,
    packed: bool,
    max_widths: usize,
) -> PyResult<(usize, f64)> {
    let Some(offsets) = offsets.array().as_primitive_opt::<Int64Type>() else {
        return Err(Error::Type(format!("offsets have the type {}, not int64", offsets.array().data_type())).into());
    };
    let offsets = offsets.values().clone();
    Ok(py.detach(|| {
        let ids = Ids::U16(Box::new(Vec::new()));
        let rows = Rows::new(vec![Chunk { offsets: Offsets::Wide(Box::new(offsets)), ids }], None)?;
        let plan = plan_rows(&rows, packed, (batch_tokens, max_length), (1, max_widths))?.0;
        let elements: usize = plan.shapes().iter().map(|(shape, count)| shape.rows * shape.width * count).sum();
        let mut tokens = 0;
        rows.for_each_length(|_, length| tokens += length);
        Ok::<_, Error>((plan.len(), tokens as f64 / elements as f64))
    })?)
}

/// The rows of a column of lists, or those of them that `selected` names.
pub fn rows_of(chunks: &[ArrayRef], selected: Option<&[ArrayRef]>) -> Result<Rows> {
    let mut first = 0;
    let mut stored = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        stored.push(match chunk.data_type() {
            DataType::List(_) => {
                list_chunk(chunk.as_list::<i32>(), first, |offsets| Offsets::Narrow(Box::new(offsets)))
            }
            DataType::LargeList(_) => {
                list_chunk(chunk.as_list::<i64>(), first, |offsets| Offsets::Wide(Box::new(offsets)))
            }
            other => Err(not_lists(other)),
        }?);
        first += chunk.len();
    }
    Rows::new(stored, selected.map(numbers).transpose()?)
}

fn not_lists(found: &DataType) -> Error {
    Error::Type(format!(
        "the column of token ids has the type {found}, not list or large_list of uint16, uint32, int32 or int64; cast it, for example with column.cast(pyarrow.list_(pyarrow.int32()))"
    ))
}

fn list_chunk<O: OffsetSizeTrait>(
    list: &GenericListArray<O>,
    first: usize,
    offsets_of: impl Fn(ScalarBuffer<O>) -> Offsets,
) -> Result<Chunk> {
    if let Some(row) = list.nulls().and_then(|nulls| nulls.iter().position(|valid| !valid)) {
        return Err(Error::invalid(format!("row {} is null; drop null rows before batching", first + row)));
    }
    let offsets = list.offsets();
    let (start, end) = (offsets[0].as_usize(), offsets[offsets.len() - 1].as_usize());
    let values = list.values();
    if let Some(nulls) = values.slice(start, end - start).nulls()
        && let Some(place) = nulls.iter().position(|valid| !valid)
    {
        let row = offsets.partition_point(|&offset| offset.as_usize() <= start + place) - 1;
        let position = start + place - offsets[row].as_usize();
        return Err(Error::invalid(format!(
            "row {} has a null at position {position}; drop or fill nulls",
            first + row
        )));
    }
    let ids = match values.data_type() {
        DataType::UInt16 => Ids::U16(buffer::<UInt16Type>(values)),
        DataType::UInt32 => Ids::U32(buffer::<UInt32Type>(values)),
        DataType::Int32 => Ids::I32(buffer::<Int32Type>(values)),
        DataType::Int64 => Ids::I64(buffer::<Int64Type>(values)),
        _ => return Err(not_lists(list.data_type())),
    };
    Ok(Chunk { offsets: offsets_of(offsets.inner().clone()), ids })
}

fn buffer<T: ArrowPrimitiveType>(values: &Arc<dyn Array>) -> Buffer<T::Native>
where
    ScalarBuffer<T::Native>: AsRef<[T::Native]> + Send + Sync,
{
    let values: &PrimitiveArray<T> = values.as_primitive();
    Box::new(values.values().clone())
}

/// Row numbers; in place where they are one chunk.
fn numbers(chunks: &[ArrayRef]) -> Result<Buffer<u64>> {
    let mut parts = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        match chunk.as_primitive_opt::<UInt64Type>() {
            Some(part) if part.null_count() == 0 => parts.push(part.values().clone()),
            _ => {
                return Err(Error::Type(format!(
                    "indices of type {} with or without nulls, not uint64",
                    chunk.data_type()
                )));
            }
        }
    }
    if parts.len() == 1 {
        return Ok(Box::new(parts.remove(0)));
    }
    Ok(Box::new(parts.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u64>>()))
}
