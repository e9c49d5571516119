"""How a run ends that was told to stop: what stands, what was not written, and how to go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingInterruptedError(RuntimeError):
    """A signal ended the run; the message says what is written. `resumable`: a checkpoint is, to go on from."""

    def __init__(self, message: str, number: int, resumable: bool = True) -> None:
        super().__init__(message)
        self.exit_code = 128 + number  # of the command
        self.resumable = resumable


@contextmanager
def told_when_stopped(message: str, resumable: bool) -> Iterator[None]:
    """Ctrl-C within the block ends the run with `message`."""
    try:
        yield
    except KeyboardInterrupt:
        raise TrainingInterruptedError(message, signal.SIGINT, resumable) from None
