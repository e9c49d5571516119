"""Batches of whole texts as they are, for sentence encoders: the plan of `MaskedBatches` with nothing masked."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray

from .._core import InputError
from .encode import Ragged
from .masked import MaskedBatches, TokenizerLike
from .settings import Masking
from .tensors import padded_batch

# The plan always draws one position a batch; it stays what it was.
NOTHING_CHANGED = Masking(prob=1e-6, mask=0.0, keep=1.0, random=0.0)


class Known(NamedTuple):
    """What is known of texts that are evaluated on, by their order."""

    pair_scores: NDArray[Any] | None = None
    """How alike people find text i of the first half and text i of the second [texts / 2]."""
    relevant: Sequence[Mapping[int, float]] | None = None
    """Of the first texts, so many, which are queries: {document, counted from 0 behind the queries: judgement}."""


NOTHING_KNOWN = Known()


class SentenceBatches:
    """A map from batch number to a dictionary of tensors; see `MaskedBatches` for the arguments that it shares.

    tokens, tok: of the student. teachers: for each teacher the ids [rows] that its own tokenizer gives for the same
        texts and its pad id, or None where it reads the student's.
    vectors: the teachers' vectors of the texts [rows, width], floating, in memory or memory-mapped, where they are
        kept or given; None where teachers run.
    shuffle: false keeps the order of epoch 0, for evaluation.
    known: what is known of the texts, for evaluation.

    Every row is in exactly one batch of an epoch, and the number of batches is the same in every epoch.

    `batches[i]` has what a `MaskedBatches` has but for its masks, and beside it:
        num_rows_in_step: int64 [], the texts in the batches of the optimiser step that this one is among;
        row_numbers: int64 [rows] (packed: [C], -1 for what is no text), which texts these are;
        teacher_vectors: float32 [rows or C, width], if there are any;
        teacher_0_input_ids, teacher_0_attention_mask, ...: int64 [rows, width], for teachers with ids of their own.

    Raises `InputError` as `MaskedBatches` does, and for ids or vectors of another number of texts.
    """

    def __init__(
        self,
        tokens: Any,
        tok: TokenizerLike,
        batch_tokens: int = 2048,
        max_length: int = 512,
        layout: Literal["padded", "packed"] = "padded",
        seed: int = 0,
        batches_per_step: int = 1,
        threads: int | None = None,
        teachers: Sequence[tuple[Ragged, int] | None] = (),
        vectors: NDArray[Any] | None = None,
        shuffle: bool = True,
        known: Known = NOTHING_KNOWN,
    ) -> None:
        self.planned = MaskedBatches(
            tokens,
            _Unmasked(tok),
            batch_tokens=batch_tokens,
            max_length=max_length,
            masking=NOTHING_CHANGED,
            layout=layout,
            seed=seed,
            batches_per_step=batches_per_step,
            threads=threads,
        )
        self.teachers = list(teachers)
        self.vectors = vectors
        self.shuffle = shuffle
        self.known = known
        self.layout = layout
        self.batches_per_step = self.planned.batches_per_step
        texts = len(tokens)
        scores = known.pair_scores
        if scores is not None and 2 * len(scores) != texts:
            raise InputError(f"{texts:,} texts and the scores of {len(scores):,} pairs; give two texts a pair")
        for length in [len(each[0]) for each in self.teachers if each] + ([] if vectors is None else [len(vectors)]):
            if length != texts:
                raise InputError(f"{texts:,} texts, and what the teacher makes of {length:,}; both must be of the same")
        self._step: tuple[int, int, int] | None = None

    def __len__(self) -> int:
        return len(self.planned)

    @property
    def epoch(self) -> int:
        """The epoch that `batches[i]` belongs to; see `set_epoch`."""
        return self.planned.epoch

    def set_epoch(self, epoch: int) -> None:
        """Makes `batches[i]` those of epoch `epoch`, from 0: other texts together, in another order."""
        if self.shuffle:
            self.planned.set_epoch(epoch)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return self.planned.longest

    @property
    def num_tokens(self) -> int:
        """The tokens of all texts."""
        return self.planned.num_tokens

    @property
    def padding(self) -> float:
        """The share of all elements of `input_ids` that holds no token."""
        return self.planned.padding

    @property
    def state_fingerprint(self) -> str:
        """Hex digits that change with the texts, their order and every setting that changes a batch."""
        digest = hashlib.sha256(self.planned.state_fingerprint.encode())
        for each in self.teachers:
            if each is not None:
                digest.update(np.ascontiguousarray(each[0].flat).tobytes() + bytes([each[1] & 255]))
        if self.vectors is not None:
            # A sample: vectors can be larger than memory.
            sample = np.ascontiguousarray(self.vectors[:: max(1, len(self.vectors) // 1000)])
            digest.update(f"{self.vectors.shape} {self.vectors.dtype}".encode() + sample.tobytes())
        return digest.hexdigest()

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        batch = self.planned[index]
        number = int(index) % len(self)
        for name in ("mlm_positions", "mlm_labels", "num_masked_in_step"):
            del batch[name]
        rows = self.planned.rows_of(number)
        batch["num_rows_in_step"] = torch.tensor(self._rows_in_step(number))
        for teacher, each in enumerate(self.teachers):
            if each is not None:
                own = padded_batch([each[0][row] for row in rows], each[1])
                batch |= {f"teacher_{teacher}_{name}": value for name, value in own.items()}
        places = len(batch["input_ids"]) if self.layout == "padded" else len(batch["cu_seqlens"]) - 1
        if self.vectors is not None:
            vectors = torch.zeros(places, self.vectors.shape[1])
            vectors[: len(rows)] = torch.from_numpy(np.asarray(self.vectors[rows], np.float32))
            batch["teacher_vectors"] = vectors
        numbers = torch.full((places,), -1)
        numbers[: len(rows)] = torch.from_numpy(rows)
        batch["row_numbers"] = numbers
        return batch

    def _rows_in_step(self, number: int) -> int:
        step = number // self.batches_per_step
        if self._step is None or self._step[:2] != (self.epoch, step):
            first = step * self.batches_per_step
            members = range(first, min(first + self.batches_per_step, len(self)))
            self._step = (self.epoch, step, sum(len(self.planned.rows_of(each)) for each in members))
        return self._step[2]


class _Unmasked:
    """A tokenizer that need not have a mask token, since nothing is masked."""

    def __init__(self, tok: TokenizerLike) -> None:
        self.tok = tok
        self.mask_id = tok.pad_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tok, name)
