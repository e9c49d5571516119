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
use pyo3_arrow::PyChunkedArray;

use crate::batches::check::check;
use crate::batches::mask::{Masker, Masking, Vocabulary};
use crate::batches::plan::{Epoch, Plan, Shape};
use crate::batches::rows::{Buffer, ColumnChunk, Ids, Offsets, TokenRows};
use crate::batches::{BatchScratch, Batches, Layout};
use crate::error::{Error, Result};
use crate::simd::Level;

/// A plan over a column of token ids, and what fills its batches.
#[pyclass(frozen, module = "distilfast._core", name = "BatchPlan")]
pub struct PyBatchPlan {
    batches: Batches,
    scratch: Mutex<BatchScratch>,
    hash: u64,
    num_tokens: u64,
}

/// One epoch of a plan.
#[pyclass(frozen, module = "distilfast._core", name = "BatchEpoch")]
pub struct PyBatchEpoch {
    epoch: Epoch,
}

/// See [`Layout`], whose parts these are; a dictionary to Python.
#[derive(IntoPyObject)]
pub struct BufferLayout {
    extra: usize,
    positions: usize,
    labels: usize,
    counts: usize,
    cu_seqlens: usize,
    sampled: usize,
    weights: usize,
    end: usize,
    capacity: usize,
    samples: usize,
    sequences: usize,
}

/// What a batch is made with: `distilfast.batches.BatchSettings`.
#[derive(FromPyObject)]
pub struct BatchSettings {
    batch_tokens: usize,
    max_length: usize,
    masking: MaskingSettings,
    layout: String,
    seed: u64,
    batches_per_step: usize,
    kl_sample_share: f64,
}

/// What is masked: `distilfast.Masking`.
#[derive(FromPyObject)]
struct MaskingSettings {
    prob: f64,
    mask: f64,
    random: f64,
    smoothing: f64,
    whole_word: bool,
    count: String,
    compat: Option<String>,
}

/// What there is to know of the tokenizer: `distilfast.batches.masked.Vocabulary`.
#[derive(FromPyObject)]
pub struct TokenizerVocabulary<'py> {
    special: PyReadonlyArray1<'py, bool>,
    word_starts: PyReadonlyArray1<'py, bool>,
    mask_id: u32,
    pad_id: u32,
    token_counts: PyReadonlyArray1<'py, u64>,
}

fn build(
    column: &PyChunkedArray,
    selected: Option<&PyChunkedArray>,
    settings: &BatchSettings,
    mut vocabulary: Vocabulary,
    pad_id: u32,
    threads: usize,
) -> Result<PyBatchPlan> {
    let rows = rows_of(column.chunks(), selected.map(PyChunkedArray::chunks))?;
    let (plan, longest) = Plan::new(&rows, settings.layout == "packed", settings.batch_tokens, settings.max_length)?;
    let masking = &settings.masking;
    let checked = check(&rows, &vocabulary.special, masking.prob, threads)?;
    let num_tokens = checked.occurrences.iter().sum();
    if vocabulary.token_counts.is_empty() {
        vocabulary.token_counts.clone_from(&checked.occurrences);
    }
    vocabulary.occurrences = checked.occurrences;
    let masking = Masking {
        prob: masking.prob,
        mask: masking.mask,
        random: masking.random,
        smoothing: masking.smoothing,
        whole_word: masking.whole_word,
        exact: masking.count == "exact",
        random_specials: masking.compat.as_deref() == Some("distilbert"),
    };
    let batches = Batches {
        longest,
        rows,
        plan,
        masker: Masker::new(masking, &vocabulary, Level::chosen()?)?,
        poor: checked.poor,
        pad_id,
        seed: settings.seed,
        batches_per_step: settings.batches_per_step,
        sample_share: settings.kl_sample_share,
    };
    Ok(PyBatchPlan { batches, scratch: Mutex::default(), hash: checked.hash, num_tokens })
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
    fn new(
        py: Python<'_>,
        column: PyChunkedArray,
        selected: Option<PyChunkedArray>,
        vocabulary: TokenizerVocabulary<'_>,
        settings: BatchSettings,
        threads: usize,
    ) -> PyResult<Self> {
        let pad_id = vocabulary.pad_id;
        let vocabulary = Vocabulary {
            special: vocabulary.special.as_array().to_vec(),
            word_starts: vocabulary.word_starts.as_array().to_vec(),
            mask_id: vocabulary.mask_id,
            occurrences: Vec::new(),
            token_counts: vocabulary.token_counts.as_array().to_vec(),
        };
        Ok(py.detach(|| build(&column, selected.as_ref(), &settings, vocabulary, pad_id, threads))?)
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
        PyBatchEpoch { epoch: self.batches.epoch(number) }
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

    /// How the buffer of a batch of this shape is cut up.
    fn layout(&self, rows: usize, width: usize) -> BufferLayout {
        let layout = self.batches.layout(Shape { rows, width });
        let Layout { extra, positions, labels, counts, cu_seqlens, sampled, weights, end, .. } = layout;
        let Layout { capacity, samples, sequences, .. } = layout;
        BufferLayout {
            extra,
            positions,
            labels,
            counts,
            cu_seqlens,
            sampled,
            weights,
            end,
            capacity,
            samples,
            sequences,
        }
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
        self.check_index(index)?;
        let needed = self.batches.layout(self.batches.shape(&epoch.epoch, index)).end;
        if buffer.len() < needed {
            let length = buffer.len();
            return Err(
                Error::invalid(format!("batch {index} needs a buffer of {needed} elements, not {length}")).into()
            );
        }
        let Self { batches, scratch, .. } = self;
        py.detach(|| {
            // Someone else's turn: memory of one's own, rather than waiting.
            match scratch.try_lock() {
                Ok(mut scratch) => batches.fill(&epoch.epoch, index, buffer, &mut scratch),
                Err(_) => batches.fill(&epoch.epoch, index, buffer, &mut BatchScratch::default()),
            }
        });
        Ok(())
    }
}

impl PyBatchPlan {
    fn check_index(&self, index: usize) -> PyResult<()> {
        if index < self.batches.len() {
            return Ok(());
        }
        Err(PyIndexError::new_err(format!("batch {index} of {}", self.batches.len())))
    }
}

/// The rows of a column of lists, or those of them that `selected` names.
pub fn rows_of(chunks: &[ArrayRef], selected: Option<&[ArrayRef]>) -> Result<TokenRows> {
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
    TokenRows::new(stored, selected.map(numbers).transpose()?)
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
) -> Result<ColumnChunk> {
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
    Ok(ColumnChunk { offsets: offsets_of(offsets.inner().clone()), ids })
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
