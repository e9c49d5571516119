"""`distilfast task_distillation`, `python -m distilfast.task_distillation`: another name of `distilfast train`.

It came before `train` learned from rows; the flags that were called otherwise are still understood.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from .train.__main__ import COMMAND as TRAIN

RENAMED = {"--unlabelled": "--unlabelled_file", "--batch_size": "--per_device_train_batch_size"}

COMMAND = dataclasses.replace(TRAIN, name="task_distillation")


def start(argv: Sequence[str] | None = None, program: str | None = None) -> None:
    """Runs `train` with the flags of `argv`, old names replaced by today's, which is said."""
    COMMAND.start(renamed(sys.argv[1:] if argv is None else argv), program)


def renamed(argv: Sequence[str]) -> list[str]:
    """`argv` with the names that its flags have today."""
    words = []
    for word in argv:
        flag, equals, value = word.partition("=")
        now = RENAMED.get(flag, flag)
        if now != flag:
            print(f"{flag} is called {now} now", file=sys.stderr)
        words.append(now + equals + value)
    return words


if __name__ == "__main__":
    start()
