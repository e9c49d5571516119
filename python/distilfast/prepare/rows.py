"""Batches of text to rows of token ids as a plain function of Arrow tables, for any engine that maps over them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .._core import InputError
from .._files import whole_directory
from ..tokenizer import Tokenizer, load_tokenizer
from .directory import TokenWriter, id_type, write_description
from .records import check_column
from .rules import RowRuleFields, RowRules, check_specials
from .text import column_block

if TYPE_CHECKING:
    import datasets
    from typing_extensions import Unpack


logger = logging.getLogger(__name__)

_SAID: set[RowRules] = set()
"""Rules of which this process has said that they leave rows out."""


class BatchTokenizer:
    """A callable from an Arrow table with a column of text to an Arrow table with the column `input_ids`.

    Every row is a document. The rows made of it depend on nothing but it, so tables may be cut, ordered and spread over
    processes and machines in any way. Pickles to what it was made of. rules: the fields of `RowRules`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | str | Path,
        column: str = "text",
        threads: int | None = None,
        **rules: Unpack[RowRuleFields],
    ) -> None:
        self.tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
        self.column = column
        self.rules = RowRules(**rules)
        self.threads = threads
        self.rules.cutter(self.tokenizer)  # refuses bad rules here, not in the workers

    def __call__(self, table: pa.Table, indices: Sequence[int] | None = None) -> pa.Table:
        """`table` with one row a document to a table of `input_ids`; raises `InputError` for nulls in the column.

        indices: the numbers of the rows in the whole data set, for what is said of them.
        """
        start, where = (0, "the table") if indices is None or not len(indices) else (int(indices[0]), "the dataset")
        check_column(self.column, table.column_names, where, "--column")
        texts = column_block(table.column(self.column), self.column, where, start, len(table)).texts
        token_ids = self.tokenizer.encode_batch(
            texts, add_special_tokens=False, threads=self.threads, split_special_tokens=True
        )
        cutter = self.rules.cutter(self.tokenizer)
        rows = pa.chunked_array([cutter.push(token_ids), cutter.finish()])
        totals = cutter.totals_by_name
        if (totals["dropped_short"] or totals["dropped_unknown"]) and self.rules not in _SAID:
            _SAID.add(self.rules)
            logger.warning(
                "%d texts from row %d on: %d rows of fewer than %d tokens and %d of unknown words are left out, and so "
                "are others further on; min_length=0, max_unknown=2 keep all",
                *(len(table), start, totals["dropped_short"], self.rules.min_length, totals["dropped_unknown"]),
            )
        return pa.table({"input_ids": rows})


def tokenize_dataset(
    dataset: datasets.Dataset,
    tokenizer: Tokenizer | str | Path,
    column: str = "text",
    *,
    batch_size: int = 10_000,
    num_proc: int | None = None,
    threads: int | None = None,
    **rules: Unpack[RowRuleFields],
) -> datasets.Dataset:
    """`dataset` with its `column` of text turned into rows of token ids, cached on disk by `datasets` as any `map` is.

    Returns a dataset whose one column `input_ids` holds lists of uint16 (vocabularies of up to 65,536) or uint32, rows
    `[CLS] ... [SEP]` made by `rules`, the fields of `RowRules`: a row of text may become several, or none (by default
    one of fewer than 12 tokens; `min_length=0, max_unknown=2` keeps all). `batch_size` is in rows of text; `num_proc`
    processes share the work, on top of the `threads` of each.

    Raises `InputError` for a missing column, for a row without text, and for a tokenizer without [MASK].
    """
    if not hasattr(dataset, "column_names"):
        raise InputError(
            f"dataset is a {type(dataset).__name__}; make one with datasets.Dataset.from_dict or from_list"
        )
    check_column(column, dataset.column_names, "the dataset", "--column")
    tokenize = BatchTokenizer(tokenizer, column, threads, **rules)
    features = id_features(tokenize.tokenizer)
    if not len(dataset):
        import datasets

        return datasets.Dataset.from_dict({"input_ids": []}, features=features)
    return (
        dataset.with_format("arrow")
        .map(
            tokenize,
            batched=True,
            with_indices=True,
            batch_size=batch_size,
            remove_columns=dataset.column_names,
            features=features,
            num_proc=num_proc,
            desc="tokenize",
        )
        .with_format(None)
    )


def encode_and_cut(tokenizer: Tokenizer, texts: Any, max_length: int) -> tuple[pa.ListArray, int]:
    """The ids of `texts` (strings, a list or an Arrow array), cut to `max_length` tokens, and how many were cut."""
    ids = tokenizer.encode_batch(texts, max_length=max_length + 1)
    cut = int((np.diff(ids.offsets.to_numpy()) > max_length).sum())
    return (tokenizer.encode_batch(texts, max_length=max_length) if cut else ids), cut


def id_features(tokenizer: Tokenizer) -> datasets.Features:
    """The `datasets.Features` of rows of ids of `tokenizer`."""
    import datasets

    return datasets.Features({"input_ids": datasets.List(datasets.Value(id_type(tokenizer.vocab_size)))})


def save_tokens(
    dataset: datasets.Dataset,
    tokenizer: Tokenizer | str | Path,
    output_dir: str | Path,
    mode: str = RowRules.mode,
    max_length: int = RowRules.max_length,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Writes rows that were tokenised elsewhere as a prepared directory and returns its `tokens.json`.

    dataset: the column `input_ids`, lists of ids of `tokenizer`, rows `[CLS] ... [SEP]` of at most `max_length`.
    Counts the tokens on the way. Raises `InputError` for ids that the vocabulary does not have, rows that are longer or
    lack their ends, and an `output_dir` that holds something.
    """
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
    check_specials(tokenizer)
    check_column("input_ids", dataset.column_names, "the dataset")
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    rows = 0
    with (
        whole_directory(output_dir, overwrite) as directory,
        closing(TokenWriter(directory, tokenizer.vocab_size)) as writer,
    ):
        for table in dataset.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=100_000):
            for chunk in table.column("input_ids").chunks:
                chunk = _checked(chunk, tokenizer, max_length, rows)
                counts += np.bincount(chunk.flatten().to_numpy(), minlength=tokenizer.vocab_size)
                writer.write(chunk)
                rows += len(chunk)
        info = {"mode": mode, "max_length": max_length, "rows": rows, "tokens": int(counts.sum())}
        return write_description(directory, tokenizer, counts, writer.finish(), info)


def _checked(rows: pa.ListArray, tokenizer: Tokenizer, max_length: int, start: int) -> pa.ListArray:
    """`rows` in the type they are stored in, each known to be a row of `tokenizer`; the first is row `start`."""
    if not pa.types.is_list(rows.type) or not pa.types.is_integer(rows.type.value_type):
        raise InputError(f"input_ids holds {rows.type}, not lists of token ids")
    # From its parts, so that a slice does not bring the ids outside it along.
    offsets = rows.offsets.to_numpy().astype(np.int64)
    ids = rows.flatten().to_numpy(zero_copy_only=False)
    if rows.null_count or len(ids) != offsets[-1] - offsets[0] or ids.dtype.kind not in "iu":
        raise InputError("input_ids holds nulls")
    offsets -= offsets[0]
    lengths = np.diff(offsets)
    whole = (lengths >= 2) & (lengths <= max_length)
    filled = np.flatnonzero(whole)
    whole[filled] &= (ids[offsets[filled]] == tokenizer.cls_id) & (ids[offsets[filled + 1] - 1] == tokenizer.sep_id)
    if not whole.all():
        raise InputError(
            f"row {start + int(np.flatnonzero(~whole)[0])} (counted from 0) of input_ids is not [CLS] ... [SEP] of "
            f"at most {max_length} tokens; make the rows with distilfast.BatchTokenizer, or say their max_length"
        )
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < tokenizer.vocab_size:
        raise InputError(
            f"input_ids goes from {ids.min()} to {ids.max()}; the vocabulary has {tokenizer.vocab_size:,} ids from 0"
        )
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(ids.astype(id_type(tokenizer.vocab_size))))
