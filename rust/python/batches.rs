//! Masked batches of tokenised rows.

use std::cell::RefCell;

use numpy::{PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3_arrow::PyChunkedArray;

use super::batch_columns::rows_of;
use crate::batch::{Batches, Buffers, LayoutBuffers, Scratch};
use crate::batch_check::check;
use crate::error::{Error, Result};
use crate::mask::{Masker, Masking, Vocabulary};
use crate::mask_draw::Simd;
use crate::plan::{Epoch, Plan, length_histogram};
use crate::plan_packed::Packed;
use crate::plan_padded::Padded;
use crate::plan_widths::choose_widths;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A plan over a column of token ids, and what fills its batches.
#[pyclass(frozen, module = "distilfast._core", name = "BatchPlan")]
pub struct PyBatchPlan {
    batches: Batches,
    hash: u64,
    num_tokens: u64,
}

/// One epoch of a plan.
#[pyclass(frozen, module = "distilfast._core", name = "BatchEpoch")]
pub struct PyBatchEpoch {
    epoch: Epoch,
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

fn build(
    column: &PyChunkedArray,
    selected: Option<&PyChunkedArray>,
    settings: &Settings,
    masking: Masking,
    mut vocabulary: Vocabulary,
) -> Result<PyBatchPlan> {
    let rows = rows_of(column.chunks(), selected.map(PyChunkedArray::chunks))?;
    let histogram = length_histogram(&rows, settings.max_length)?;
    let plan = if settings.packed {
        Plan::Packed(Packed::new(&rows, &histogram, settings.batch_tokens)?)
    } else {
        let widths = choose_widths(&histogram, settings.pad_to_multiple_of, settings.max_length, settings.max_widths);
        Plan::Padded(Padded::new(&rows, &histogram, &widths, settings.batch_tokens)?)
    };
    let checked = check(&rows, &vocabulary.special, masking.prob, settings.threads)?;
    let num_tokens = checked.occurrences.iter().sum();
    if vocabulary.token_counts.is_empty() {
        vocabulary.token_counts.clone_from(&checked.occurrences);
    }
    vocabulary.occurrences = checked.occurrences;
    let masker = Masker::new(masking, vocabulary, Simd::available()[0])?;
    let batches = Batches {
        rows,
        plan,
        masker,
        poor: checked.poor,
        pad_id: settings.pad_id,
        seed: settings.seed,
        batches_per_step: settings.batches_per_step,
    };
    Ok(PyBatchPlan { batches, hash: checked.hash, num_tokens })
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

    /// The number of masked positions that a tensor of `size` elements has room for.
    fn capacity(&self, size: usize) -> usize {
        self.batches.masker.capacity(size)
    }

    /// The most sequences of a packed batch, with those that fill it up; 0 for the padded layout.
    fn most_sequences(&self) -> usize {
        match &self.batches.plan {
            Plan::Padded(_) => 0,
            Plan::Packed(plan) => plan.most_sequences(),
        }
    }

    /// The length of the longest sequence.
    fn longest(&self) -> usize {
        self.batches.longest()
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

    /// (tokens, masked positions) of the step that batch `index` belongs to.
    fn count_step(&self, py: Python<'_>, epoch: &PyBatchEpoch, index: usize) -> PyResult<(usize, usize)> {
        self.check_index(index)?;
        let count = || SCRATCH.with_borrow_mut(|scratch| self.batches.count_step(&epoch.epoch, index, scratch));
        let counts = py.detach(count);
        Ok((counts.tokens, counts.masked))
    }

    /// Writes batch `index` into the buffers and returns (tokens, masked positions). `extra` is the attention mask or,
    /// with `cu_seqlens`, the position ids.
    #[pyo3(signature = (epoch, index, input_ids, extra, cu_seqlens, positions, labels))]
    #[expect(clippy::too_many_arguments, reason = "one for each buffer")]
    fn fill(
        &self,
        py: Python<'_>,
        epoch: &PyBatchEpoch,
        index: usize,
        mut input_ids: PyReadwriteArray1<'_, i64>,
        mut extra: PyReadwriteArray1<'_, i64>,
        mut cu_seqlens: Option<PyReadwriteArray1<'_, i32>>,
        mut positions: PyReadwriteArray1<'_, i64>,
        mut labels: PyReadwriteArray1<'_, i64>,
    ) -> PyResult<(usize, usize)> {
        self.check_index(index)?;
        let shape = self.batches.shape(&epoch.epoch, index);
        let (input_ids, extra) = (input_ids.as_slice_mut()?, extra.as_slice_mut()?);
        let (positions, labels) = (positions.as_slice_mut()?, labels.as_slice_mut()?);
        let size = shape.rows * shape.width;
        let capacity = self.batches.masker.capacity(size);
        if [input_ids.len(), extra.len()] != [size; 2] || [positions.len(), labels.len()] != [capacity; 2] {
            return Err(Error::invalid(format!("batch {index} needs buffers of {size} and {capacity} elements")).into());
        }
        let layout = match &mut cu_seqlens {
            None => LayoutBuffers::Padded { attention_mask: extra },
            Some(cu_seqlens) => LayoutBuffers::Packed { position_ids: extra, cu_seqlens: cu_seqlens.as_slice_mut()? },
        };
        let buffers = Buffers { input_ids, layout, positions, labels };
        let counts =
            py.detach(|| SCRATCH.with_borrow_mut(|scratch| self.batches.fill(&epoch.epoch, index, buffers, scratch)));
        Ok((counts.tokens, counts.masked))
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
