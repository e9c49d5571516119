"""How a run ends that was told to stop: what stands, what was not written, and how to go on."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
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


def resume(argv: Sequence[str]) -> str:
    """The command that goes on with the run of `argv`, under torchrun where that started it."""
    kept, skip = [], False
    for word in argv:
        if not skip and not word.startswith("--resume_from_checkpoint"):
            kept.append(word)
        skip = word == "--resume_from_checkpoint"
    ranks, here = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    flags = shlex.join([*kept, "--resume_from_checkpoint", "last"])
    if ranks == "1":
        return f"distilfast train {flags}"
    others = "" if here == ranks else " (and the flags that name this machine and the first)"
    return f"torchrun --nproc-per-node {here}{others} -m distilfast.train {flags}"
