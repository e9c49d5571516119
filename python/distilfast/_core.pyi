"""The compiled half of distilfast: tokeniser, batches and CPU loss kernels, written in Rust."""

__version__: str

class InputError(ValueError):
    """A value, file or argument given by the user that cannot be worked with; the message says which, why, and what to do."""
