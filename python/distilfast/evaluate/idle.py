"""Flags of `evaluate` that belong to a part of it which nobody asked for, where they would do nothing."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from .._core import InputError
from ..models.pooling import POOLINGS

_OF_TASKS = ("data_dir", "seeds", "shard", "distil", "sweep", "learning_rate", "epochs", "batch_size")
PARTS: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
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
)
"""What asks for a part, one of them, and the flags that are of it alone."""


def refuse_idle(options: Any) -> None:
    """Raises `InputError` for a field of `options` that is not its default and whose part is not asked for, and for a
    pooling that is none."""
    if options.pooling is not None and options.pooling not in POOLINGS:
        raise InputError(f"--pooling {options.pooling!r} is none of {', '.join(POOLINGS)}")
    defaults = {each.name: _default(each) for each in fields(options)}
    for askers, flags in PARTS:
        if any(getattr(options, asker) not in (None, False, []) for asker in askers):
            continue
        for name in flags:
            if getattr(options, name) != defaults[name]:
                asked = " or ".join(f"--{asker}" for asker in askers)
                raise InputError(f"--{name} {getattr(options, name)} does nothing without {asked}; leave it out")


def _default(each: Field[Any]) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()
