"""The column of token ids out of whatever holds it, without copying it."""

from __future__ import annotations

from typing import Any

import datasets
import pyarrow as pa

from .._core import InputError

COLUMN = "input_ids"


def token_columns(tokens: Any) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
    """The lists of ids and, for a dataset that was selected from or shuffled, which of them are its rows (uint64).

    tokens: a `datasets.Dataset`, a pyarrow table or record batch with the column `input_ids`, or a pyarrow array or
    chunked array. Raises `TypeError` for anything else, `InputError` where there is no such column.
    """
    if isinstance(tokens, datasets.Dataset):
        _require_column(tokens.column_names)
        # What `select`, `shuffle` and `sort` leave behind; there is no public name for it.
        selected = tokens._indices
        column = tokens.data.column(COLUMN)
        return column, None if selected is None else selected.column(0)
    if isinstance(tokens, pa.Table | pa.RecordBatch):
        _require_column(tokens.schema.names)
        return _chunked(tokens.column(COLUMN)), None
    if isinstance(tokens, pa.Array | pa.ChunkedArray):
        return _chunked(tokens), None
    if isinstance(tokens, datasets.DatasetDict):
        raise TypeError(f"tokens is a DatasetDict; pick one of its splits: {', '.join(tokens)}")
    if isinstance(tokens, datasets.IterableDataset):
        raise TypeError("tokens is an IterableDataset, which has no rows to plan with; save it and load_from_disk")
    raise TypeError(f"tokens is a datasets.Dataset or a pyarrow table or array, not {type(tokens).__name__}")


def _require_column(names: list[str]) -> None:
    if COLUMN not in names:
        raise InputError(f"there is no column {COLUMN!r} among {names}; tokenise the text first")


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
