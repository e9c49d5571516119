//! The border to Python: arguments are taken out while attached to the interpreter, the work is done detached, errors
//! become exceptions in one place. Classes are frozen.

#![allow(clippy::needless_pass_by_value, reason = "Python hands the arguments of a function over by value")]

mod arrow;
mod batches;
mod cpu;
mod losses;
mod rows;
mod tokenizer;

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;

pub use tokenizer::PyTokenizer;

use crate::error::Error;

create_exception!(
    distilfast,
    InputError,
    PyValueError,
    "A value, file or argument given by the user that cannot be worked with; the message says which, why, and what to do."
);

impl From<Error> for PyErr {
    fn from(error: Error) -> Self {
        match error {
            Error::Invalid(message) => InputError::new_err(message),
            Error::Type(message) => PyTypeError::new_err(message),
            // With (errno, message) Python picks the subclass, FileNotFoundError among them.
            Error::Io(what, error) => match error.raw_os_error() {
                Some(number) => PyOSError::new_err((number, format!("{what}: {error}"))),
                None => PyOSError::new_err(format!("{what}: {error}")),
            },
        }
    }
}

/// The compiled half of distilfast.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::InputError;
    #[pymodule_export]
    use super::rows::{RowCutter, split_lines};

    #[pymodule_export]
    use super::PyTokenizer;

    #[pymodule_export]
    use super::batches::{PyBatchEpoch, PyBatchPlan};

    #[pymodule_export]
    use super::cpu::{fill_dropout_mask, has_matrix_instructions, multiply_bfloat16};

    #[pymodule_export]
    use super::losses::{distillation_loss_rows, gradient_memory, hidden_loss_rows};

    #[pymodule_init]
    #[allow(clippy::unnecessary_wraps, reason = "the form that a module's initialisation has")]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        // The first call notes this process, so that forked ones are told from it.
        crate::cpu::threads::is_forked();
        Ok(())
    }

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
