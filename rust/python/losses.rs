//! CPU kernels of the losses for Python: arrays in, arrays out.

use numpy::ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2, PyReadwriteArray2};
use pyo3::prelude::*;

use crate::cpu::memory::GradientMemory;
use crate::error::{Error, Result};
use crate::losses::{self, FloatRow, FloatRowMut, HiddenInputs, HiddenKind, Inputs, LossSettings};
use crate::simd::Level;

/// A matrix of numbers: `float32`, or `uint16` bits of a 16-bit format.
#[derive(FromPyObject)]
pub enum FloatMatrix<'py> {
    Single(Bound<'py, PyArray2<f32>>),
    Bits(Bound<'py, PyArray2<u16>>),
}

/// How the numbers of a `uint16` matrix are to be read.
#[derive(Clone, Copy, PartialEq)]
enum Format {
    Float32,
    Bfloat16,
    Float16,
}

impl Format {
    fn parse(name: &str) -> Result<Self> {
        match name {
            "float32" => Ok(Self::Float32),
            "bfloat16" => Ok(Self::Bfloat16),
            "float16" => Ok(Self::Float16),
            _ => Err(Error::invalid(format!("format {name:?} is none of 'float32', 'bfloat16', 'float16'"))),
        }
    }
}

/// A borrowed matrix to read.
enum Readonly<'py> {
    Single(PyReadonlyArray2<'py, f32>),
    Bits(PyReadonlyArray2<'py, u16>, Format),
}

/// A borrowed matrix to write.
enum Readwrite<'py> {
    Single(PyReadwriteArray2<'py, f32>),
    Bits(PyReadwriteArray2<'py, u16>, Format),
}

impl<'py> FloatMatrix<'py> {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Single(one), Self::Single(other)) => one.is(other),
            (Self::Bits(one), Self::Bits(other)) => one.is(other),
            _ => false,
        }
    }

    fn readonly(&self, format: Format) -> PyResult<Readonly<'py>> {
        Ok(match self {
            Self::Single(array) => Readonly::Single(array.try_readonly()?),
            Self::Bits(array) => Readonly::Bits(array.try_readonly()?, format),
        })
    }

    fn readwrite(&self, format: Format) -> PyResult<Readwrite<'py>> {
        Ok(match self {
            Self::Single(array) => Readwrite::Single(array.try_readwrite()?),
            Self::Bits(array) => Readwrite::Bits(array.try_readwrite()?, format),
        })
    }
}

impl Readonly<'_> {
    fn rows(&self) -> Result<Vec<FloatRow<'_>>> {
        match self {
            Self::Single(array) => rows(array.as_array()).map(|row| row.map(FloatRow::F32)).collect(),
            Self::Bits(array, Format::Bfloat16) => rows(array.as_array()).map(|row| row.map(FloatRow::Bf16)).collect(),
            Self::Bits(array, _) => rows(array.as_array()).map(|row| row.map(FloatRow::F16)).collect(),
        }
    }
}

impl Readwrite<'_> {
    fn rows(&mut self) -> Result<Vec<FloatRowMut<'_>>> {
        match self {
            Self::Single(array) => rows_mut(array.as_array_mut()).map(|row| row.map(FloatRowMut::F32)).collect(),
            Self::Bits(array, Format::Bfloat16) => {
                rows_mut(array.as_array_mut()).map(|row| row.map(FloatRowMut::Bf16)).collect()
            }
            Self::Bits(array, _) => rows_mut(array.as_array_mut()).map(|row| row.map(FloatRowMut::F16)).collect(),
        }
    }
}

const NOT_CONTIGUOUS: &str = "a row's columns must lie side by side in memory";

fn rows<T>(array: ArrayView2<'_, T>) -> impl Iterator<Item = Result<&'_ [T]>> {
    (0..array.nrows()).map(move |index| {
        array.index_axis_move(Axis(0), index).to_slice().ok_or_else(|| Error::invalid(NOT_CONTIGUOUS))
    })
}

fn rows_mut<T>(array: ArrayViewMut2<'_, T>) -> impl Iterator<Item = Result<&'_ mut [T]>> {
    let rows: Vec<_> = split_rows(array);
    rows.into_iter().map(|row| row.into_slice().ok_or_else(|| Error::invalid(NOT_CONTIGUOUS)))
}

fn split_rows<T>(array: ArrayViewMut2<'_, T>) -> Vec<numpy::ndarray::ArrayViewMut1<'_, T>> {
    let mut rest = array;
    let mut rows = Vec::with_capacity(rest.nrows());
    while rest.nrows() > 0 {
        let (row, after) = rest.split_at(Axis(0), 1);
        rows.push(row.index_axis_move(Axis(0), 0));
        rest = after;
    }
    rows
}

type Losses<'py> = (Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>, Bound<'py, PyArray1<f32>>);

/// Values and gradient of the losses on logits, in one pass.
#[pyfunction]
#[pyo3(signature = (student, teacher, labels, row_weights, grad, *, formats, temperature, kl_grad, ce_grad, mse_grad, threads))]
#[expect(clippy::too_many_arguments, reason = "the arguments of a Python function")]
pub fn distillation_loss_rows<'py>(
    py: Python<'py>,
    student: FloatMatrix<'py>,
    teacher: Option<FloatMatrix<'py>>,
    labels: Option<PyReadonlyArray1<'py, i64>>,
    row_weights: Option<PyReadonlyArray1<'py, f32>>,
    grad: Option<FloatMatrix<'py>>,
    formats: (String, String),
    temperature: f32,
    kl_grad: f32,
    ce_grad: f32,
    mse_grad: f32,
    threads: usize,
) -> PyResult<Losses<'py>> {
    let (student_format, teacher_format) = (Format::parse(&formats.0)?, Format::parse(&formats.1)?);
    let in_place = grad.as_ref().is_some_and(|grad| grad.is(&student));
    let student = if in_place { None } else { Some(student.readonly(student_format)?) };
    let teacher = teacher.map(|teacher| teacher.readonly(teacher_format)).transpose()?;
    let mut grad = grad.map(|grad| grad.readwrite(student_format)).transpose()?;
    let labels = labels.as_ref().map(|labels| labels.as_slice()).transpose()?;
    let row_weights = row_weights.as_ref().map(|weights| weights.as_slice()).transpose()?;
    let inputs = Inputs {
        student: student.as_ref().map(Readonly::rows).transpose()?.unwrap_or_default(),
        teacher: teacher.as_ref().map(Readonly::rows).transpose()?.unwrap_or_default(),
        labels,
        row_weights,
        grad: grad.as_mut().map(Readwrite::rows).transpose()?,
    };
    let settings =
        LossSettings { temperature, kl_grad, ce_grad, mse_grad, threads: threads.max(1), level: Level::chosen()? };
    let rows = py.detach(|| losses::distillation_loss(inputs, settings))?;
    Ok((rows.kl.into_pyarray(py), rows.ce.into_pyarray(py), rows.mse.into_pyarray(py)))
}

/// Values and gradient of a loss of hidden states, row by row.
#[pyfunction]
#[pyo3(signature = (student, teacher, row_weights, grad, *, formats, cosine, scale, threads))]
#[expect(clippy::too_many_arguments, reason = "the arguments of a Python function")]
pub fn hidden_loss_rows<'py>(
    py: Python<'py>,
    student: FloatMatrix<'py>,
    teacher: FloatMatrix<'py>,
    row_weights: Option<PyReadonlyArray1<'py, f32>>,
    grad: Option<FloatMatrix<'py>>,
    formats: (String, String),
    cosine: bool,
    scale: f32,
    threads: usize,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    let (student_format, teacher_format) = (Format::parse(&formats.0)?, Format::parse(&formats.1)?);
    let (student, teacher) = (student.readonly(student_format)?, teacher.readonly(teacher_format)?);
    let mut grad = grad.map(|grad| grad.readwrite(student_format)).transpose()?;
    let row_weights = row_weights.as_ref().map(|weights| weights.as_slice()).transpose()?;
    let inputs = HiddenInputs {
        student: student.rows()?,
        teacher: teacher.rows()?,
        row_weights,
        grad: grad.as_mut().map(Readwrite::rows).transpose()?,
    };
    let level = Level::chosen()?;
    let kind = if cosine { HiddenKind::Cosine } else { HiddenKind::SquaredDistance };
    let values = py.detach(|| losses::hidden_loss(inputs, kind, scale, threads.max(1), level))?;
    Ok(values.into_pyarray(py))
}

/// Owner of a gradient's memory, which goes back to the kept ones with the last array over it.
#[pyclass(frozen)]
struct MemoryOwner(GradientMemory);

/// Memory for a large gradient.
#[pyfunction]
pub fn gradient_memory(py: Python<'_>, length: usize) -> PyResult<Bound<'_, PyArray1<u8>>> {
    let owner = Bound::new(py, MemoryOwner(GradientMemory::take(length)?))?;
    let memory = &owner.get().0;
    // SAFETY: the memory is `length` bytes long and lives, at this place, as long as its owner, whom the array holds.
    Ok(unsafe {
        let view = ArrayView1::from_shape_ptr(memory.length(), memory.start().cast_const());
        PyArray1::borrow_from_array(&view, owner.clone().into_any())
    })
}
