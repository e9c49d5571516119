//! The border to Python: arguments are taken out while attached to the interpreter, the work is done detached, errors
//! become exceptions in one place. Classes are frozen.

#![allow(clippy::needless_pass_by_value, reason = "Python hands the arguments of a function over by value")]

mod arrow;
mod batch_columns;
mod batch_prefetch;
mod batches;
mod dropout;
mod error;
mod losses;
mod products;
mod rows;
mod tokenizer;

use pyo3::prelude::*;

pub use error::InputError;
pub use tokenizer::PyTokenizer;

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
    use super::batches::{PyBatchEpoch, PyBatchPlan, plan_lengths};

    #[pymodule_export]
    use super::batch_prefetch::PyBatchPrefetcher;

    #[pymodule_export]
    use super::dropout::fill_dropout_mask;

    #[pymodule_export]
    use super::losses::{distillation_loss_rows, gradient_memory, hidden_loss_rows, instruction_sets, use_openmp_team};

    #[pymodule_export]
    use super::products::{has_matrix_instructions, multiply_bfloat16};

    #[pymodule_init]
    #[allow(clippy::unnecessary_wraps, reason = "the form that a module's initialisation has")]
    fn init(_module: &pyo3::Bound<'_, pyo3::types::PyModule>) -> pyo3::PyResult<()> {
        // The first call notes this process, so that forked ones are told from it.
        crate::losses::threads::is_forked();
        Ok(())
    }

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
