"""Training, validation and unlabelled rows with their columns: all that comes before the labels are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import InputError
from .columns import Columns, Kind, find_columns
from .records import Rows
from .split import choose_rows, hold_out, shared_rows
from .table import RaggedRows, Source, pick_split, read_rows, read_splits
from .targets import with_text


@dataclass(frozen=True)
class Part:
    """Rows, and which of their columns are text and label."""

    rows: Rows
    columns: Columns

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[list[Any]]:
        """The values of each column of text."""
        return [self.rows.column(name) for name in self.columns.texts]

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """[rows], the group of each row: rows with one value in the group's column (one without a value is alone), or
        else pairs with one first text; None where there is neither."""
        texts = self.columns.texts
        name = self.columns.group or (texts[0] if self.columns.kind == "text" and len(texts) == 2 else None)
        if name is None:
            return None
        numbers: dict[Any, int] = {}
        values = enumerate(self.rows.column(name))
        keys = ((row,) if value is None else str(value) for row, value in values)
        return np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(self))

    @property
    def compared(self) -> NDArray[np.int64] | None:
        """The groups that a column gives, where two rows are of one; None where each row is alone in its own."""
        groups = None if self.columns.group is None else self.groups
        return None if groups is None or np.bincount(groups).max(initial=0) < 2 else groups


@dataclass(frozen=True)
class LabelledData:
    """notes: what was read, found, left out, held out and shared, a line each, to be printed before training."""

    train: Part
    validation: Part
    unlabelled: Part | None
    notes: tuple[str, ...]


def load_labelled(
    train: Source,
    validation: Source | None = None,
    unlabelled: Source | None = None,
    *,
    kind: Kind | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
    config_name: str | None = None,
    max_train_rows: int | None = None,
    seed: int = 0,
    ragged: RaggedRows = "refuse",
) -> LabelledData:
    """Rows to train on and to validate on, from whatever `read_splits` takes.

    `validation`: rows of their own; None takes the validation split of `train` (its first, where it has two), or holds
    out a tenth of it by a hash of the text. `unlabelled`: more rows to train on, whose labels are not read.
    `max_train_rows`: so many of the training rows, a fixed choice by `seed`, made after the rows were held out.

    Raises `InputError` for files and columns that are not there, and for validation rows of another kind.
    """
    splits = read_splits(train, config_name, ragged)
    source = pick_split(train, splits, "train")
    named: dict[str, Any] = {"text_column": text_column, "label_column": label_column, "group_column": group_column}
    first = _part(source, kind, named)
    kind = first.columns.kind
    notes: list[str] = []
    beside = next((name for name in splits if name.startswith("validation")), None)
    if validation is not None:
        found = read_splits(validation, config_name, ragged)
        rows = pick_split(validation, found, beside if beside in found else "validation")
        checked = _part(rows, kind, named)
    elif beside is not None:
        checked = _part(splits[beside], kind, named)
        notes.append(f"{checked.rows.source}: validated on its split {beside}, {len(checked)} rows")
    else:
        split = hold_out(first.rows, first.columns)
        checked = Part(first.rows.take(split.validation), first.columns)
        first = Part(first.rows.take(split.train), first.columns)
        notes.append(split.note)
    _refuse_other_texts(checked, first)
    more = None
    if unlabelled is not None:
        rows = read_rows(unlabelled, "train", None, ragged)
        group = group_column if group_column in rows.column_names else None
        more = _part(rows, kind, {**named, "label_column": "none", "group_column": group})
        _refuse_other_texts(more, first)
    if max_train_rows is not None:
        chosen = choose_rows(first.rows, first.columns, max_train_rows, seed)
        if len(chosen) < len(first):
            notes.append(
                f"trained on {len(chosen)} of {len(first)} rows (--max_train_rows), chosen at random by seed {seed}"
            )
        first = Part(first.rows.take(chosen), first.columns)
    for part, what in ((first, "training"), (more, "unlabelled")):
        shared = [] if part is None else shared_rows(part.rows, part.columns, checked.rows, checked.columns)
        if shared:
            notes.append(
                f"{len(shared)} of {len(checked)} validation rows are also among the {what} rows (case and blanks "
                "apart), so their scores say less"
            )
    read = [line for part in (first, checked, more) if part is not None for line in _said(part)]
    return LabelledData(first, checked, more, tuple(dict.fromkeys([*read, *notes])))


def compared_groups(part: Part) -> tuple[NDArray[np.int64], str]:
    """The group of each row, for losses that compare the rows of one; and how many there are, in words.

    Raises `InputError` where no two rows are of one.
    """
    groups = part.groups
    if groups is None or len(part) == int(groups.max(initial=-1)) + 1:
        of = "nothing says which rows are of one" if groups is None else "no two rows are of one"
        raise InputError(
            f"{part.rows.source}: --alpha_margin_mse and --alpha_listnet compare the passages of a query, and {of}; "
            "name the query's column with --group_column, or leave them out"
        )
    sizes = np.bincount(groups)
    several, alone = sizes[sizes > 1], int((sizes == 1).sum())
    beside = f", and {alone:,} rows alone in theirs" if alone else ""
    return groups, f"{len(several):,} groups of {several.min()} to {several.max()} rows{beside}"


def _refuse_other_texts(part: Part, train: Part) -> None:
    if len(part.columns.texts) != len(train.columns.texts):
        raise InputError(
            f"{part.rows.source} has {len(part.columns.texts)} columns of text ({part.columns.note}), the training "
            f"rows have {len(train.columns.texts)}; name them with --text_column"
        )


def _part(rows: Rows, kind: Kind | None, named: dict[str, Any]) -> Part:
    columns = find_columns(rows, kind, **named)
    return Part(with_text(rows, columns), columns)


def _said(part: Part) -> list[str]:
    counts = [f"{part.rows.source}: {count} {what}" for what, count in part.rows.counts.items()]
    return [*part.rows.notes, part.columns.note, *counts]
