"""Masked batches of tokenised rows, each a pure function of (seed, epoch, batch number).

The method's choices are those of DistilBERT (Sanh et al. 2019 and its published training code): rows of like length in
a batch, `ceil(prob * tokens)` masked positions drawn for the batch as a whole, weights `max(count, 1)^-smoothing`, 80 %
of them replaced by the mask token, 10 % kept, 10 % random.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
import operator
import os
from typing import TYPE_CHECKING, Any, Literal, Protocol, SupportsIndex

import numpy as np
import torch

from .._core import BatchPlan, InputError, __version__
from .ahead import BatchesAhead
from .columns import token_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DRAWS = 3
"""How batches are drawn, a part of `MaskedBatches.state_fingerprint`: raised where the same seed gives others."""

MAX_SHAPES = 80
"""The most widths that the padded layout takes: each is a shape for a compiler to specialise on."""


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
class Masking:
    """Which positions are masked, and what they become.

    prob: the share of a batch's tokens ([CLS] and [SEP] counted) that is masked, in (0, 1].
    mask, keep, random: what becomes of a masked position: the mask token, itself, a random id. They add up to 1.
    smoothing: positions are drawn with the weight `max(count, 1) ** -smoothing` of their id (DistilBERT: 0.7); 0 draws
        them uniformly. Special tokens are never drawn.
    whole_word: the pieces of a word are masked together or not at all. Words are taken in random order while they fit
        what is left of the number (BERT's rule), with the weight of their rarest piece.
    count: "exact" draws `ceil(prob * tokens)` positions of a batch without replacement, or all there are if those are
        fewer; "bernoulli" draws each position (each word, with `whole_word`) for itself with the chance `prob`, as
        `transformers.DataCollatorForLanguageModeling` does.
    compat: "distilbert" draws random ids from the whole vocabulary, special tokens included, as the original and the
        collator of `transformers` do; None leaves special tokens out.

    Raises `InputError` for shares that are no probabilities or do not add up, and for choices that do not exist.
    """

    prob: float = 0.15
    mask: float = 0.8
    keep: float = 0.1
    random: float = 0.1
    smoothing: float = 0.0
    whole_word: bool = False
    count: Literal["exact", "bernoulli"] = "exact"
    compat: Literal["distilbert"] | None = None

    def __post_init__(self) -> None:
        for name in ("prob", "mask", "keep", "random", "smoothing"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"Masking: {name} is a number, not {value!r}")
        if not 0 < self.prob <= 1:
            raise InputError(f"Masking: prob={self.prob} is not a share of tokens; give one above 0, up to 1")
        for name in ("mask", "keep", "random"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"Masking: {name}={getattr(self, name)} is not a share between 0 and 1")
        total = self.mask + self.keep + self.random
        if abs(total - 1) > 1e-6:
            raise InputError(
                f"Masking: mask={self.mask}, keep={self.keep} and random={self.random} add up to {total:g}, not to 1"
            )
        if not (self.smoothing >= 0 and math.isfinite(self.smoothing)):
            raise InputError(f"Masking: smoothing={self.smoothing} is not an exponent of 0 or more")
        if self.count not in ("exact", "bernoulli"):
            raise InputError(f"Masking: count={self.count!r} is neither 'exact' nor 'bernoulli'")
        if self.compat not in (None, "distilbert"):
            raise InputError(f"Masking: compat={self.compat!r} is neither None nor 'distilbert'")
        if self.count == "bernoulli" and self.smoothing > 0:
            raise InputError(
                f"Masking: count='bernoulli' draws every position with the same chance, smoothing={self.smoothing} "
                "weights them; use count='exact' or smoothing=0"
            )


class MaskedBatches:
    """A map from batch number to a dictionary of tensors, for a `DataLoader` whose batch sampler gives single numbers.

    tokens: a `datasets.Dataset` or pyarrow table with the column `input_ids`, or such a column: lists of uint16,
        uint32, int32 or int64 ids, read where they lie. Every row is complete, with its special tokens.
    tok: the tokenizer the ids are from; see `TokenizerLike`.
    batch_tokens: the most elements of `input_ids` in a batch. Padded: rows * width is at most this. Packed: exactly.
    max_length: a longer row is refused.
    masking: see `Masking`.
    layout: "padded" puts rows of like length together, one per row of the tensor, in a few fixed shapes. "packed" puts
        rows end to end in bins of `batch_tokens`.
    seed: of everything that is drawn.
    batches_per_step: how many batches make one step of the optimiser (ranks * accumulation steps).
    token_counts: int64 [vocab_size], how often each id occurs, for `Masking.smoothing`; counted if None.
    threads: for reading all ids once at the start; as many as there are cores if None. It changes no result.
    prefetch: how many batches are made ahead on a thread of their own, once two batch numbers have shown the stride in
        which they are asked for; 0 makes each batch when it is asked for. It changes no result.
    pad_to_multiple_of: widths of the padded layout are multiples of it (but never above `max_length`).

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

    Raises `InputError`, naming row and value, for ids outside the vocabulary, rows that are empty, null or longer than
    `max_length`, no rows at all, and a `batch_tokens` that the longest row does not fit; `TypeError` for other types.
    """

    def __init__(
        self,
        tokens: Any,
        tok: TokenizerLike,
        batch_tokens: int = 16384,
        max_length: int = 512,
        masking: Masking | None = None,
        layout: Literal["padded", "packed"] = "padded",
        seed: int = 0,
        batches_per_step: int = 1,
        token_counts: NDArray[np.int64] | None = None,
        threads: int | None = None,
        prefetch: int = 2,
        *,
        pad_to_multiple_of: int = 1,
    ) -> None:
        masking = Masking() if masking is None else masking
        # What a process that the object is sent to builds it from, over the same rows.
        self._arguments = {
            "tokens": tokens,
            "tok": tok,
            "batch_tokens": batch_tokens,
            "max_length": max_length,
            "masking": masking,
            "layout": layout,
            "seed": seed,
            "batches_per_step": batches_per_step,
            "token_counts": token_counts,
            "threads": threads,
            "prefetch": prefetch,
            "pad_to_multiple_of": pad_to_multiple_of,
        }
        if not isinstance(masking, Masking):
            raise TypeError(f"masking is a Masking, not {type(masking).__name__}")
        if layout not in ("padded", "packed"):
            raise InputError(f"layout={layout!r} is neither 'padded' nor 'packed'")
        threads = available_cores() if threads is None else threads
        limits = {"batch_tokens": batch_tokens, "max_length": max_length, "batches_per_step": batches_per_step}
        limits |= {"threads": threads, "pad_to_multiple_of": pad_to_multiple_of}
        for name, value in limits.items():
            _check_integer(name, value, 1, 2**31 - 1)
        _check_integer("seed", seed, 0, 2**64 - 1)
        _check_integer("prefetch", prefetch, 0, 2**16)
        self.tokens = tokens
        self.tok = tok
        self.masking = masking
        self.layout = layout
        self.seed = int(seed)
        self.batches_per_step = int(batches_per_step)
        self.batch_tokens = int(batch_tokens)
        self.max_length = int(max_length)
        column, selected = token_columns(tokens)
        special, word_starts = _vocabulary(tok, masking)
        counts = _token_counts(token_counts, tok.vocab_size)
        self._plan = BatchPlan(
            column,
            selected,
            special=special,
            word_starts=word_starts,
            mask_id=_required_id(tok, "mask_id"),
            pad_id=_required_id(tok, "pad_id"),
            token_counts=counts,
            packed=layout == "packed",
            batch_tokens=int(batch_tokens),
            max_length=int(max_length),
            pad_to_multiple_of=int(pad_to_multiple_of),
            max_widths=MAX_SHAPES,
            prob=float(masking.prob),
            mask=float(masking.mask),
            random=float(masking.random),
            smoothing=float(masking.smoothing),
            whole_word=bool(masking.whole_word),
            exact=masking.count == "exact",
            random_specials=masking.compat == "distilbert",
            seed=self.seed,
            batches_per_step=self.batches_per_step,
            threads=int(threads),
        )
        self._settings = {
            "batch_tokens": self.batch_tokens,
            "max_length": self.max_length,
            "masking": dataclasses.asdict(masking),
            "layout": layout,
            "seed": self.seed,
            "batches_per_step": self.batches_per_step,
            "pad_to_multiple_of": int(pad_to_multiple_of),
            "token_counts": hashlib.sha256(counts.tobytes()).hexdigest(),
        }
        self._count = len(self._plan)
        self._longest = self._plan.longest()
        self._layouts = {shape: self._plan.layout(*shape) for shape in self.shapes}
        self._ahead = BatchesAhead(self._plan, int(prefetch))
        self.set_epoch(0)

    def __len__(self) -> int:
        return self._count

    @property
    def epoch(self) -> int:
        """The epoch that `batches[i]` belongs to; see `set_epoch`."""
        return self._epoch.number

    def set_epoch(self, epoch: int) -> None:
        """Makes `batches[i]` those of epoch `epoch`, from 0: other rows together, another order, other masks."""
        _check_integer("epoch", epoch, 0, 2**63)
        self._epoch = self._plan.epoch(int(epoch))

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
            **self._settings,
        }
        return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        number = operator.index(index)
        if not 0 <= number < self._count:
            if not -self._count <= number < 0:
                raise IndexError(f"batch {number} of {self._count}")
            number += self._count
        # Read once: another thread may set another epoch meanwhile.
        epoch = self._epoch
        array, buffer = self._ahead.get(epoch, number)
        return self._tensors(self._plan.shape(epoch, number), array, buffer)

    def _tensors(self, shape: tuple[int, int], array: NDArray[np.int64], buffer: torch.Tensor) -> dict[str, Any]:
        """The parts of a batch as views of its buffer, which is `array` too."""
        rows, width = shape
        extra, positions, labels, counts, cu_seqlens, _, capacity, sequences = self._layouts[shape]
        # One call for each tensor: every call of torch costs a microsecond or two.
        input_ids = buffer.as_strided((rows, width), (width, 1))
        mask_or_places = buffer.as_strided((rows, width), (width, 1), extra)
        masked = buffer.as_strided((capacity,), (1,), positions)
        original = buffer.as_strided((capacity,), (1,), labels)
        # Copies: who keeps a count does not keep the whole batch.
        copied = array[counts : counts + 3].copy()
        batch: dict[str, Any] = {"input_ids": input_ids}
        if self.layout == "padded":
            batch["attention_mask"] = mask_or_places
        else:
            batch["position_ids"] = mask_or_places
            batch["cu_seqlens"] = buffer.view(torch.int32).as_strided((sequences,), (1,), 2 * cu_seqlens)
            batch["max_seqlen"] = self._longest
        batch["mlm_positions"] = masked
        batch["mlm_labels"] = original
        batch["num_tokens"] = torch.from_numpy(copied[0, ...])
        batch["num_attended_in_step"] = torch.from_numpy(copied[1, ...])
        batch["num_masked_in_step"] = torch.from_numpy(copied[2, ...])
        return batch

    def rows_of(self, number: int) -> NDArray[np.int64]:
        """The numbers of the rows of `tokens` in batch `number` of the epoch, in the order in which they lie in it."""
        return np.asarray(self._plan.rows(self._epoch, number), np.int64)

    def batches_of_rank(self, rank: int, ranks: int) -> range:
        """The batch numbers that rank `rank` of `ranks` reads: every `ranks`-th, from `rank` on.

        Raises `InputError` for more ranks than batches, where some would have nothing to do.
        """
        _check_integer("ranks", ranks, 1, 2**31 - 1)
        _check_integer("rank", rank, 0, ranks - 1)
        if ranks > len(self):
            raise InputError(
                f"{ranks} ranks are more than the {len(self)} batches of an epoch; use fewer ranks, more data, or a "
                f"batch_tokens below {self.batch_tokens}"
            )
        return range(rank, len(self), ranks)

    def __getstate__(self) -> dict[str, Any]:
        return {"arguments": self._arguments, "epoch": self.epoch}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["arguments"])  # type: ignore[misc]
        self.set_epoch(state["epoch"])


def available_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} is an integer, not {value!r}")
    if not low <= int(value) <= high:
        raise InputError(f"{name}={value} is not between {low} and {high}")


def _required_id(tok: TokenizerLike, name: str) -> int:
    value: int | None = getattr(tok, name)
    if value is None:
        raise InputError(f"the tokenizer has no {name}: masked batches need a mask and a pad token")
    if not 0 <= value < tok.vocab_size:
        raise InputError(f"the tokenizer's {name}={value} is outside its vocabulary of {tok.vocab_size} ids")
    return int(value)


def _vocabulary(tok: TokenizerLike, masking: Masking) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """For each id whether it is never masked and, if words matter, whether it begins a word."""
    special = np.zeros(tok.vocab_size, dtype=np.bool_)
    outside = [value for value in tok.special_ids if not 0 <= value < tok.vocab_size]
    if outside:
        raise InputError(f"the special token {outside[0]} is outside the vocabulary of {tok.vocab_size} ids")
    special[[*tok.special_ids, _required_id(tok, "pad_id")]] = True
    if not masking.whole_word:
        return special, np.zeros(0, dtype=np.bool_)
    word_starts = np.ascontiguousarray(tok.word_starts, dtype=np.bool_)
    if word_starts.shape != special.shape:
        raise InputError(f"word_starts has the shape {word_starts.shape}, not ({tok.vocab_size},)")
    return special, word_starts


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
