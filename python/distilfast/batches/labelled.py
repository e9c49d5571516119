"""Batches of rows with labels, each a pure function of (seed, epoch, batch number)."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DataCollatorForTokenClassification, DataCollatorWithPadding

from .._core import InputError, __version__
from ..prepare.targets import IGNORED
from .encode import EncodedRows, Ragged, joined
from .groups import WholeGroups
from .mixing import batch_order
from .shared_epoch import SharedEpoch

DRAWS = 1
"""How the order is drawn, a part of the fingerprint: raised where the same seed gives another."""


class LabelledBatches:
    """A map from batch number to a dictionary of tensors; what `MaskedBatches` is for rows with labels.

    rows: what `encode_texts`, `encode_words` or `encode_questions` made; several are joined.
    tokenizer: of `transformers`; its collators pad each batch to its longest row.
    batch_size: rows of a batch; the last of an epoch may have fewer.
    batches_per_step: how many batches make one step of the optimiser (ranks * accumulation steps).
    seed: of the order. `shuffle` false: the rows in their order, longest first within the whole, for evaluation.
    one_length: without `shuffle`, only rows of one length stand together, and none is padded.
    pad_to_multiple_of: widths are multiples of it.
    mixing: how far lengths are mixed in a batch, from 0 to 1 (`mixing.choose_mixing`).

    Every row is in exactly one batch of an epoch, and the number of batches is the same in every epoch. Rows with
    `groups` are shuffled group by group, each whole in a batch of at most `batch_size` rows.

    `batches[i]`:
        input_ids, attention_mask, and token_type_ids where the model has them: int64 [rows, width];
        labels: int64 [rows], -100 for none; float32 [rows], NaN for none; float32 [rows, classes], a row of -100 for
            none; for words int64 [rows, width], the tag at each word's first token, else -100. Not there where texts
            were encoded without labels;
        word_starts: bool [rows, width], each word's first token (only for words);
        answer_places: bool [rows, width], where an answer may begin or end: the tokens of the passage, and the one that
            stands for no answer (only for questions);
        start_positions, end_positions: int64 [rows], -100 for none (only for questions with answers);
        row_numbers: int64 [rows], which rows these are, counted through all of `rows`;
        teacher_0_outputs, ...: float32 [places of these rows, ...], what is in `teacher_outputs`;
        groups: int64 [rows], the group of each, counted in this batch, and num_groups_in_step: int64 [], as the sums
            below, those of two rows or more (only shuffled, of rows with groups);
        num_tokens: int64 [], attended positions;
        num_attended_in_step, num_rows_in_step, num_labelled_in_step: int64 [], sums over the batches
            [k * batches_per_step, (k + 1) * batches_per_step) that this one is among, cut at the end of the epoch: of
            attended positions; of what the head looks at (rows; first tokens of words); of those with a label.

    Raises `InputError` for no rows, and for sizes below 1.
    """

    layout = "padded"

    def __init__(
        self,
        rows: EncodedRows | Sequence[EncodedRows],
        tokenizer: Any,
        batch_size: int = 32,
        batches_per_step: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        pad_to_multiple_of: int | None = None,
        mixing: float = 0.0,
        one_length: bool = False,
    ) -> None:
        for name, value in {"batch_size": batch_size, "batches_per_step": batches_per_step}.items():
            if value < 1:
                raise InputError(f"{name}={value}; at least 1 is needed")
        self.rows = rows if isinstance(rows, EncodedRows) else joined(rows)
        if len(self.rows) == 0:
            raise InputError("there are no rows to make batches of")
        self.tokenizer = tokenizer
        self.batch_size = int(batch_size)
        self.batches_per_step = int(batches_per_step)
        self.seed = int(seed)
        self.shuffle = shuffle
        self.pad_to_multiple_of = pad_to_multiple_of
        self.mixing = mixing
        self.one_length = one_length
        words = self.rows.word_starts is not None
        collator = DataCollatorForTokenClassification if words else DataCollatorWithPadding
        # By way of numpy, which makes arrays of lists several times as fast as torch makes tensors of them.
        self._collate = collator(tokenizer, pad_to_multiple_of=pad_to_multiple_of, return_tensors="np")
        self._lengths = self.rows.input_ids.lengths
        self._counted, self._labelled = _rows_and_labels(self.rows)
        self.teacher_outputs: dict[int, tuple[str, NDArray[Any]]] = {}
        """What teachers say of the rows, by their number: a digest of what that depends on, and an array whose first
        axis has the places of all rows end to end (`output_starts`)."""
        self._groups = None
        if shuffle and self.rows.groups is not None:
            self._groups = WholeGroups(self.rows.groups, self._lengths, self.batch_size)
        self._shared_epoch = SharedEpoch()
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._starts) - 1

    @property
    def epoch(self) -> int:
        """The epoch that `batches[i]` belongs to; see `set_epoch`."""
        return self._shared_epoch.number

    def set_epoch(self, epoch: int) -> None:
        """Makes `batches[i]` those of epoch `epoch`, from 0: other rows together, another order.

        The workers of a `DataLoader`, those that persist too, see it at their next pass.
        """
        if epoch < 0:
            raise InputError(f"epoch={epoch}; epochs are counted from 0")
        self._epoch = self._shared_epoch.number = int(epoch)
        rows = len(self.rows)
        self._starts = np.append(np.arange(0, rows, self.batch_size), rows)
        if self._groups is not None:
            self._order, self._starts = self._groups.order(batch_order, self.seed, self._epoch)
        elif self.shuffle:
            self._order = batch_order(self._lengths, self.batch_size, self.seed, self._epoch, self.mixing)
        else:
            self._order = np.argsort(-self._lengths, kind="stable")
            self._starts = batch_starts(self._lengths[self._order], self.batch_size, self.one_length)
        counted = {
            "num_attended_in_step": self._lengths,
            "num_rows_in_step": self._counted,
            "num_labelled_in_step": self._labelled,
            **({} if self._groups is None else {"num_groups_in_step": self._groups.compared}),
        }
        steps = self._starts[:-1][:: self.batches_per_step]
        self._sums = {name: np.add.reduceat(counts[self._order], steps) for name, counts in counted.items()}

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self._lengths.max())

    @property
    def num_tokens(self) -> int:
        """The tokens of all rows."""
        return int(self._lengths.sum())

    @property
    def num_labelled(self) -> int:
        """Rows (for words: words) with a label."""
        return int(self._labelled.sum())

    @cached_property
    def output_starts(self) -> NDArray[np.int64]:
        """[rows + 1]: where each row's places begin among those of all: one a row, the first token of each word, or the
        tokens where an answer may begin or end."""
        marks = self.rows.answer_places if self.rows.word_starts is None else self.rows.word_starts
        counts = np.ones(len(self.rows), np.int64) if marks is None else _marked(marks)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @property
    def padding(self) -> float:
        """The share of this epoch's elements of `input_ids` that holds no token."""
        widths = np.maximum.reduceat(self._lengths[self._order], self._starts[:-1])
        multiple = self.pad_to_multiple_of or 1
        widths = -(-widths // multiple) * multiple
        return 1 - self.num_tokens / int((widths * np.diff(self._starts)).sum())

    @property
    def state_fingerprint(self) -> str:
        """Hex digits that change with the rows, their order, their labels and every setting that changes a batch."""
        digest = hashlib.sha256()
        rows = self.rows
        for ragged in (rows.input_ids, rows.token_type_ids, rows.word_starts, rows.word_labels, rows.answer_places):
            for array in () if ragged is None else (ragged.flat, ragged.offsets):
                digest.update(np.ascontiguousarray(array).tobytes())
            digest.update(b"|")
        for name, target in sorted(rows.targets.items()):
            digest.update(f"{name} {target.dtype} {target.shape}".encode())
            digest.update(np.ascontiguousarray(target).tobytes())
        if self._groups is not None and rows.groups is not None:
            digest.update(np.ascontiguousarray(rows.groups).tobytes())
        state = {
            "version": __version__,
            "draws": DRAWS,
            "rows": digest.hexdigest(),
            "pad": [self.tokenizer.pad_token_id, self.tokenizer.padding_side, self.pad_to_multiple_of],
            "settings": [self.batch_size, self.batches_per_step, self.seed, self.shuffle, self.mixing],
        }
        if self.one_length:
            state["one length"] = True
        if self.teacher_outputs:
            state["teacher outputs"] = [key for _, (key, _) in sorted(self.teacher_outputs.items())]
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}")
        number %= len(self)
        if self._epoch != self.epoch:  # set by the process that this one works for
            self.set_epoch(self.epoch)
        chosen = self._order[self._starts[number] : self._starts[number + 1]]
        batch = self._tensors(chosen)
        batch["num_tokens"] = torch.tensor(int(self._lengths[chosen].sum()))
        for name, sums in self._sums.items():
            batch[name] = torch.tensor(int(sums[number // self.batches_per_step]))
        return batch

    def _tensors(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        rows = self.rows
        features = []
        for row in chosen.tolist():
            ids = rows.input_ids[row].tolist()
            feature = {"input_ids": ids, "attention_mask": [1] * len(ids)}
            if rows.token_type_ids is not None:
                feature["token_type_ids"] = rows.token_type_ids[row].tolist()
            if rows.word_labels is not None:
                feature["labels"] = rows.word_labels[row].tolist()
            features.append(feature)
        padded = self._collate(features)
        batch: dict[str, Any] = {name: torch.from_numpy(np.asarray(each, np.int64)) for name, each in padded.items()}
        left = self.tokenizer.padding_side == "left"
        for name, marked in (("word_starts", rows.word_starts), ("answer_places", rows.answer_places)):
            if marked is not None:
                batch[name] = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
                for place, row in enumerate(chosen.tolist()):
                    marks = torch.from_numpy(marked[row])
                    batch[name][place, -len(marks) if left else 0 :][: len(marks)] = marks
        for name, values in rows.targets.items():
            target = torch.from_numpy(values[chosen])
            if left and name in ("start_positions", "end_positions"):
                shift = batch["input_ids"].shape[1] - torch.from_numpy(self._lengths[chosen])
                target = torch.where(target >= 0, target + shift, target)
            batch[name] = target
        batch["row_numbers"] = torch.from_numpy(chosen)
        if self.teacher_outputs:
            starts = self.output_starts
            places = np.concatenate([np.arange(starts[row], starts[row + 1]) for row in chosen.tolist()])
            for number, (_, outputs) in self.teacher_outputs.items():
                batch[f"teacher_{number}_outputs"] = torch.from_numpy(np.asarray(outputs[places]))
        if self._groups is not None and rows.groups is not None:
            batch["groups"] = torch.from_numpy(np.unique(rows.groups[chosen], return_inverse=True)[1])
        return batch


def batch_starts(lengths: NDArray[Any], size: int, one_length: bool = False) -> NDArray[np.int64]:
    """[batches + 1]: where batches of at most `size` rows begin among rows of these lengths, and the number of rows;
    `one_length`: with another where the length changes."""
    ends = [*(np.flatnonzero(np.diff(lengths)) + 1 if one_length else ()), len(lengths)]
    parts = [np.arange(start, end, size) for start, end in pairwise([0, *ends])]
    return np.concatenate([*parts, [len(lengths)]]).astype(np.int64)


def _marked(marks: Ragged) -> NDArray[np.int64]:
    """[rows]: how many places of each row are marked."""
    before = np.concatenate([[0], np.cumsum(marks.flat, dtype=np.int64)])
    return np.diff(before[marks.offsets])


def _rows_and_labels(rows: EncodedRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each row what the head looks at (itself, or its words), and how many of these have a label."""
    if rows.word_starts is not None and rows.word_labels is not None:
        labelled = Ragged(rows.word_labels.flat != IGNORED, rows.word_labels.offsets)
        return _marked(rows.word_starts), _marked(labelled)
    target = next(iter(rows.targets.values()), None)
    if target is None:
        given = np.zeros(len(rows), np.int64)
    elif target.ndim == 2:
        given = (target != IGNORED).all(axis=1).astype(np.int64)
    else:
        given = (~np.isnan(target) if target.dtype.kind == "f" else target != IGNORED).astype(np.int64)
    return np.ones(len(rows), np.int64), given
