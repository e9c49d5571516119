//! The one error of the crate. A message is lower-case, holds the offending value, says why it is wrong and what to do.

use std::fmt;

/// What can go wrong; each kind becomes the Python exception a user would catch.
#[derive(Debug)]
pub enum Error {
    /// A value that cannot be worked with: `InputError`, a `ValueError`, in Python.
    Invalid(String),
    /// A value of the wrong type: `TypeError` in Python.
    Type(String),
    /// A file that could not be read, with what was being done: `OSError` (or a subclass) in Python.
    Io(String, std::io::Error),
}

/// Shorthand of the crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An [`Error::Invalid`] from anything that reads as a message.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(message) | Self::Type(message) => formatter.write_str(message),
            Self::Io(what, error) => write!(formatter, "{what}: {error}"),
        }
    }
}

impl std::error::Error for Error {}
