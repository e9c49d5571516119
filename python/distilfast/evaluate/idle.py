"""Flags of `evaluate` that belong to a part of it which nobody asked for, where they would do nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

from .. import _command as command
from .._core import InputError
from ..models.pooling import POOLINGS

_OF_TASKS = ("data_dir", "seeds", "shard", "distil", "sweep", "learning_rate", "epochs", "batch_size")
PARTS: command.Parts = (
    (("tasks",), (*_OF_TASKS, "task_max_length", "max_train_rows", "bf16")),
    (("distil",), ("alpha_ce", "alpha_task", "temperature")),
    (("sweep",), ("sweep_learning_rates",)),
    (("tasks", "validation_file"), ("max_dev_rows",)),
    (("validation_file",), ("label_separator", "group_column", "ragged")),
    (("validation_file", "sts_file"), ("text_column", "label_column")),
    (("text", "sentences"), ("max_lines",)),
    (("text", "tokens"), ("batch_tokens", "mask_seed")),
    (("sts_file", "sentences", "retrieval_dir"), ("pooling", "normalize")),
    (("text", "tokens", "sts_file", "sentences", "retrieval_dir"), ("controls",)),
    (("validation_file", "text", "tokens", "sts_file", "sentences", "retrieval_dir"), ("max_length",)),
    (("speed",), ("speed_length", "speed_repeats")),
)


def refuse_idle(options: Any) -> None:
    """Raises `InputError` for a field of `options` that is not its default and whose part is not asked for, and for a
    pooling that is none."""
    if options.pooling is not None and options.pooling not in POOLINGS:
        raise InputError(f"--pooling {options.pooling!r} is none of {', '.join(POOLINGS)}")
    command.refuse_idle(command.changed(options), PARTS, partial(getattr, options))
