"""Masked batches of tokenised rows, each a pure function of (seed, epoch, batch number).

The method's choices are those of DistilBERT (Sanh et al. 2019 and its published training code): rows of like length in
a batch, `ceil(prob * tokens)` masked positions drawn for the batch as a whole, weights `max(count, 1)^-smoothing`, 80 %
of them replaced by the mask token, 10 % kept, 10 % random.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex

import numpy as np
import pyarrow as pa
import torch

from .._core import BatchPlan, InputError, __version__
from ..prepare.directory import PreparedTokens
from ..tokenizer import Tokenizer, as_tokenizer
from .settings import BatchSettings, Masking, check_integer
from .shared_epoch import SharedEpoch

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 4
"""How batches are drawn, a part of `MaskedBatches.state_fingerprint`: raised where the same seed gives others."""

COLUMN = "input_ids"


class TokenizerLike(Protocol):
    """What `MaskedBatches` reads of a tokenizer; `distilfast.Tokenizer` has it."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int | None: ...
    @property
    def mask_id(self) -> int | None: ...
    @property
    def special_ids(self) -> Sequence[int]: ...
    @property
    def word_starts(self) -> NDArray[np.bool_]: ...
    @property
    def fingerprint(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class MaskingVocabulary:
    """What of a tokenizer and its text decides about masks, as the compiled half reads it."""

    special: NDArray[np.bool_]
    """For each id whether it is never masked."""
    word_starts: NDArray[np.bool_]
    """For each id whether it begins a word; empty where words do not matter."""
    mask_id: int
    pad_id: int
    token_counts: NDArray[np.uint64]
    """For each id how often it occurs; empty where the rows at hand are to be counted."""


class MaskedBatches:
    """A map from batch number to a dictionary of tensors, for a `DataLoader` whose batch sampler gives single numbers.

    tokens: a `datasets.Dataset` or pyarrow table with the column `input_ids`, or such a column: lists of uint16,
        uint32, int32 or int64 ids, read where they lie. Every row is complete, with its special tokens. Or what
        `load_tokens` gave, whose `token_counts` are then taken.
    tok: the tokenizer the ids are from: a `Tokenizer`, a fast one of `transformers`, a path of either, or anything like
        `TokenizerLike`.
    batch_tokens, max_length, masking, layout, seed, batches_per_step, kl_sample_share: see `BatchSettings`.
    token_counts: int64 [vocab_size], how often each id occurs, for `Masking.smoothing`; counted if None.
    threads: for reading all ids once at the start; as many as there are cores if None. It changes no result.

    Every row is in exactly one batch of an epoch, and the number of batches is the same in every epoch. Padded: rows
    that do not fill the last batch of a width go up to the next wider one, and what is left in the widest forms one
    batch with fewer rows. Packed: the last bin is filled up with pad tokens like any other.

    `batches[i]`, padded:
        input_ids, attention_mask: int64 [rows, width];
        mlm_positions: int64 [K], masked positions as indices into rows * width, ascending; the shape alone fixes K;
        mlm_labels: int64 [K], the ids that were there; unused places have position 0 and label -100;
        num_tokens: int64 [], attended positions;
        num_attended_in_step, num_masked_in_step: int64 [], sums over the batches
            [k * batches_per_step, (k + 1) * batches_per_step) that this one is among, cut at the end of the epoch.
    Packed, instead of attention_mask:
        input_ids, position_ids: int64 [1, batch_tokens]; positions restart with each sequence;
        cu_seqlens: int32 [C + 1], where each sequence begins; what the rows leave of the bin is cut into sequences of
            pad tokens no longer than the longest row, and all entries after them are batch_tokens. C is fixed;
        max_seqlen: int, the longest row of all; the first num_tokens positions are real.

    With `kl_sample_share`, either layout:
        sampled_positions: int64 [ceil(kl_sample_share * rows * width)], of the attended positions that are not masked
            so many, drawn without replacement (all, where there are fewer), ascending; unused places are 0;
        sampled_weights: float32 of that size, (all of them / drawn), 0 in unused places: the expectation of a weighted
            sum over the sample is the sum over all.

    Raises `InputError`, naming row and value, for ids outside the vocabulary, rows that are empty, null or longer than
    `max_length`, no rows at all, and a `batch_tokens` that the longest row does not fit; `TypeError` for other types.
    """

    def __init__(
        self,
        tokens: Any,
        tok: Any,
        batch_tokens: int = 16384,
        max_length: int = 512,
        masking: Masking | None = None,
        layout: Literal["padded", "packed"] = "padded",
        seed: int = 0,
        batches_per_step: int = 1,
        token_counts: NDArray[np.int64] | None = None,
        threads: int | None = None,
        *,
        kl_sample_share: float = 0.0,
    ) -> None:
        masking = Masking() if masking is None else masking
        settings = BatchSettings(batch_tokens, max_length, masking, layout, seed, batches_per_step, kl_sample_share)
        if not all(hasattr(tok, name) for name in ("special_ids", "mask_id", "pad_id", "vocab_size")):
            tok = as_tokenizer(tok)
        if isinstance(tokens, PreparedTokens):
            if isinstance(tok, Tokenizer):
                tokens.check_tokenizer(tok, "tok")
            token_counts = tokens.token_counts if token_counts is None else token_counts
            tokens = tokens.dataset
        self._plan_batches(tokens, tok, settings, token_counts, threads)
        self._shared_epoch = SharedEpoch()
        self.set_epoch(0)

    def _plan_batches(
        self,
        tokens: Any,
        tok: TokenizerLike,
        settings: BatchSettings,
        token_counts: NDArray[np.int64] | None,
        threads: int | None,
    ) -> None:
        threads = available_cores() if threads is None else threads
        check_integer("threads", threads, 1, 2**31 - 1)
        self.settings = settings
        self.tok = tok
        # What a process that the object is sent to makes it from, over the same rows.
        self._made_from = (tokens, tok, settings, token_counts, threads)
        self._vocabulary = _vocabulary(tok, settings.masking, token_counts)
        self._plan = BatchPlan(*_token_columns(tokens), self._vocabulary, settings, int(threads))
        self._count = len(self._plan)
        self._longest = self._plan.longest()
        self._layouts = {shape: self._plan.layout(*shape) for shape in self.shapes}

    def __len__(self) -> int:
        return self._count

    @property
    def batches_per_step(self) -> int:
        """How many batches make one step of the optimiser."""
        return self.settings.batches_per_step

    @property
    def layout(self) -> Literal["padded", "packed"]:
        """How the rows lie, which the models must be made ready for (`models.adapt`)."""
        return self.settings.layout

    @property
    def epoch(self) -> int:
        """The epoch that `batches[i]` belongs to; see `set_epoch`."""
        return self._shared_epoch.number

    def set_epoch(self, epoch: int) -> None:
        """Makes `batches[i]` those of epoch `epoch`, from 0: other rows together, another order, other masks.

        The workers of a `DataLoader`, those that persist too, see it at their next pass.
        """
        check_integer("epoch", epoch, 0, 2**63 - 1)
        self._epoch = self._plan.epoch(int(epoch))
        self._shared_epoch.number = int(epoch)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(rows, width) of `input_ids`, every shape that occurs, the same in every epoch."""
        return [(rows, width) for rows, width, _ in self._plan.shapes()]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self._longest

    @property
    def padding(self) -> float:
        """The share of all elements of `input_ids` that holds no token."""
        elements = sum(rows * width * batches for rows, width, batches in self._plan.shapes())
        return 1 - self.num_tokens / elements

    @property
    def num_tokens(self) -> int:
        """The tokens of all rows."""
        return self._plan.num_tokens()

    @property
    def state_fingerprint(self) -> str:
        """Hex digits that change with the rows, their order, the tokenizer and every setting that changes a batch."""
        state = {
            "version": __version__,
            "draws": DRAWS,
            "rows": self._plan.hash(),
            "tokenizer": self.tok.fingerprint,
            "token_counts": hashlib.sha256(self._vocabulary.token_counts.tobytes()).hexdigest(),
            **dataclasses.asdict(self.settings),
        }
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = operator.index(index)
        if not 0 <= number < self._count:
            if not -self._count <= number < 0:
                raise IndexError(f"batch {number} of {self._count}")
            number += self._count
        # Read once: another thread, or the process that this one works for, may set another epoch meanwhile.
        epoch = self._epoch
        if epoch.number != (wanted := self._shared_epoch.number):
            epoch = self._epoch = self._plan.epoch(wanted)
        shape = self._plan.shape(epoch, number)
        buffer = torch.empty(self._layouts[shape]["end"], dtype=torch.int64)
        array = buffer.numpy()
        self._plan.fill(epoch, number, array)
        return self._tensors(shape, array, buffer)

    def _tensors(self, shape: tuple[int, int], array: NDArray[np.int64], buffer: torch.Tensor) -> dict[str, Any]:
        """The parts of a batch as views of its buffer, which is `array` too."""
        layout, capacity = self._layouts[shape], (self._layouts[shape]["capacity"],)
        # One call for each tensor: every call of torch costs a microsecond or two.
        batch: dict[str, Any] = {"input_ids": buffer.as_strided(shape, (shape[1], 1))}
        mask_or_places = buffer.as_strided(shape, (shape[1], 1), layout["extra"])
        if self.settings.layout == "padded":
            batch["attention_mask"] = mask_or_places
        else:
            batch["position_ids"] = mask_or_places
            ends = buffer.view(torch.int32).as_strided((layout["sequences"],), (1,), 2 * layout["cu_seqlens"])
            batch["cu_seqlens"] = ends
            batch["max_seqlen"] = self._longest
        batch["mlm_positions"] = buffer.as_strided(capacity, (1,), layout["positions"])
        batch["mlm_labels"] = buffer.as_strided(capacity, (1,), layout["labels"])
        if layout["samples"]:
            samples = (layout["samples"],)
            batch["sampled_positions"] = buffer.as_strided(samples, (1,), layout["sampled"])
            weights = buffer.view(torch.float32).as_strided(samples, (1,), 2 * layout["weights"])
            batch["sampled_weights"] = weights
        # Copies: who keeps a count does not keep the whole batch.
        copied = array[layout["counts"] : layout["counts"] + 3].copy()
        batch["num_tokens"] = torch.from_numpy(copied[0, ...])
        batch["num_attended_in_step"] = torch.from_numpy(copied[1, ...])
        batch["num_masked_in_step"] = torch.from_numpy(copied[2, ...])
        return batch

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """The numbers of the rows of `tokens` in batch `number` of the epoch, in the order in which they lie in it."""
        return np.asarray(self._plan.rows(self._epoch, number), np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {"made_from": self._made_from, "epoch": self._shared_epoch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._plan_batches(*state["made_from"])
        self._shared_epoch = state["epoch"]
        self._epoch = self._plan.epoch(self.epoch)


def attended(batch: Mapping[str, Any]) -> torch.Tensor:
    """[rows * width] bool: the tokens of `batch`, padded or packed, that are text and not padding."""
    if "attention_mask" in batch:
        mask: torch.Tensor = batch["attention_mask"]
        return mask.flatten().bool()
    input_ids: torch.Tensor = batch["input_ids"]
    return torch.arange(input_ids.numel(), device=input_ids.device).lt(batch["num_tokens"])


def available_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _required_id(tok: TokenizerLike, name: str) -> int:
    value: int | None = getattr(tok, name)
    if value is None:
        raise InputError(f"the tokenizer has no {name}: masked batches need a mask and a pad token")
    if not 0 <= value < tok.vocab_size:
        raise InputError(f"the tokenizer's {name}={value} is outside its vocabulary of {tok.vocab_size} ids")
    return int(value)


def _vocabulary(tok: TokenizerLike, masking: Masking, token_counts: object) -> MaskingVocabulary:
    special = np.zeros(tok.vocab_size, dtype=np.bool_)
    outside = [value for value in tok.special_ids if not 0 <= value < tok.vocab_size]
    if outside:
        raise InputError(f"the special token {outside[0]} is outside the vocabulary of {tok.vocab_size} ids")
    mask_id, pad_id = _required_id(tok, "mask_id"), _required_id(tok, "pad_id")
    special[[*tok.special_ids, pad_id]] = True
    word_starts = np.zeros(0, dtype=np.bool_)
    if masking.whole_word:
        word_starts = np.ascontiguousarray(tok.word_starts, dtype=np.bool_)
        if word_starts.shape != special.shape:
            raise InputError(f"word_starts has the shape {word_starts.shape}, not ({tok.vocab_size},)")
    return MaskingVocabulary(special, word_starts, mask_id, pad_id, _token_counts(token_counts, tok.vocab_size))


def _token_counts(token_counts: object, vocab_size: int) -> NDArray[np.uint64]:
    """The counts for the border; no element where the rows are to be counted."""
    if token_counts is None:
        return np.zeros(0, dtype=np.uint64)
    counts = np.asarray(token_counts)
    if counts.dtype.kind not in "iu":
        raise TypeError(f"token_counts has the type {counts.dtype}, not integers")
    if counts.shape != (vocab_size,):
        raise InputError(f"token_counts has the shape {counts.shape}, not ({vocab_size},), one for each id")
    if counts.min(initial=0) < 0:
        raise InputError(f"token_counts[{int(counts.argmin())}] is {counts.min()}; counts are 0 or more")
    return np.ascontiguousarray(counts, dtype=np.uint64)


def _token_columns(tokens: Any) -> tuple[pa.ChunkedArray, pa.ChunkedArray | None]:
    """The lists of ids and, for a dataset that was selected from or shuffled, which of them are its rows (uint64).

    tokens: a `datasets.Dataset`, a pyarrow table or record batch with the column `input_ids`, or a pyarrow array or
    chunked array. Raises `TypeError` for anything else, `InputError` where there is no such column.
    """
    datasets = sys.modules.get("datasets")  # who has one of its objects has it loaded; the second of imports is spared
    if datasets is not None and isinstance(tokens, datasets.Dataset):
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
    if datasets is not None and isinstance(tokens, datasets.DatasetDict):
        raise TypeError(f"tokens is a DatasetDict; pick one of its splits: {', '.join(tokens)}")
    if datasets is not None and isinstance(tokens, datasets.IterableDataset):
        raise TypeError("tokens is an IterableDataset, which has no rows to plan with; save it and load_from_disk")
    raise TypeError(f"tokens is a datasets.Dataset or a pyarrow table or array, not {type(tokens).__name__}")


def _require_column(names: list[str]) -> None:
    if COLUMN not in names:
        raise InputError(f"there is no column {COLUMN!r} among {names}; tokenise the text first")


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
