//! Errors of the crate as Python exceptions.

use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;

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
