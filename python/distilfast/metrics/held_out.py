"""Held-out text: how well masked-language models predict it, and how near students are to their teacher on it.

Every model sees the same masked batches, so differences between rows of the table are differences between models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from .._core import InputError
from ..batches.masked import MaskedBatches, attended
from ..batches.settings import Masking
from ..losses.definitions import IGNORED
from ..models.families import evaluating, has_mlm_head, mlm_decoder, mlm_transform
from ..models.last_layer import encode
from ..prepare.directory import load_tokens, unknown_share
from ..prepare.rows import encode_and_cut
from ..tokenizer import Tokenizer

# Logits held at once per model, in numbers: 16 MiB of float32, which stays in a large cache and is reused by malloc.
LOGITS_AT_ONCE = 1 << 22
TEACHER = "teacher"


class HeldOutBatches(Protocol):
    """Batches by number, as those of `MaskedBatches`."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class HeldOutScores:
    """One model on held-out text; losses and divergences in nats, shares from 0 to 1.

    mlm_loss, mlm_accuracy: cross-entropy of and share of the original ids at masked positions.
    agreement, kl: share of masked positions where the most likely id is the teacher's, and mean KL(teacher || model)
    at temperature 1 there. agreement_all, kl_all: the same over all attended positions. None where there is no teacher.
    masked, tokens: the number of masked and of attended positions they are taken over.
    """

    mlm_loss: float
    mlm_accuracy: float
    agreement: float | None
    kl: float | None
    agreement_all: float | None
    kl_all: float | None
    masked: int
    tokens: int

    @property
    def perplexity(self) -> float:
        """exp of the masked cross-entropy."""
        return math.exp(self.mlm_loss) if self.mlm_loss < 700 else math.inf


class _Teacher:
    """What is needed of the teacher's logits [N, V], once for all models."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.normaliser = logits.logsumexp(-1)
        self.best = logits.argmax(-1)
        self.probabilities = (logits - self.normaliser[:, None]).exp_()

    def expected(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of values [N, V] under the teacher's distribution, [N], without a product as large as both."""
        return torch.bmm(self.probabilities[:, None, :], values[:, :, None]).flatten()


class _Sums:
    """Running sums of one model, float64 on its device."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(6, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, teacher: _Teacher, masked: torch.Tensor, labels: torch.Tensor) -> None:
        """logits [N, V] of some attended positions; masked [M] indexes them; labels [M] their original ids."""
        normaliser = logits.logsumexp(-1)
        best = logits.argmax(-1)
        self.values[0] += (normaliser[masked] - logits[masked, labels]).sum(dtype=torch.float64)
        self.values[1] += (best[masked] == labels).sum()
        agrees = best == teacher.best
        # sum_v p (log p - log q), where log q is the logits less their normaliser; a copy of the teacher gives 0.
        divergence = teacher.expected(teacher.logits) - teacher.normaliser - teacher.expected(logits) + normaliser
        self.values[2] += agrees[masked].sum()
        self.values[3] += divergence[masked].sum(dtype=torch.float64)
        self.values[4] += agrees.sum()
        self.values[5] += divergence.sum(dtype=torch.float64)

    def scores(self, masked: int, tokens: int, has_teacher: bool) -> HeldOutScores:
        loss, correct, agreement, kl, agreement_all, kl_all = self.values.tolist()
        return HeldOutScores(
            mlm_loss=loss / masked,
            mlm_accuracy=correct / masked,
            agreement=agreement / masked if has_teacher else None,
            kl=kl / masked if has_teacher else None,
            agreement_all=agreement_all / tokens if has_teacher else None,
            kl_all=kl_all / tokens if has_teacher else None,
            masked=masked,
            tokens=tokens,
        )


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is the first CUDA GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is none that torch knows; use auto, cpu, cuda or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {name!r} asked for, but torch sees no CUDA GPU here; use cpu or auto")
    return device


def evaluate_held_out(
    teacher: Any | None,
    students: Mapping[str, Any],
    batches: HeldOutBatches,
    *,
    device: str = "auto",
    progress: bool = False,
) -> dict[str, HeldOutScores]:
    """Scores of the teacher (under the name "teacher", where there is one) and of each student, in that order.

    teacher, students: masked-language models of one vocabulary (`...ForMaskedLM`); they are put in evaluation mode and
    back as they were. Where some have spare rows or more words than others, all are scored over the words that all
    have: softmaxes are over these alone. batches: `MaskedBatches`, padded or (for models that `models.adapt` made ready
    for it) packed.

    Raises `InputError` for no model, no batch, no masked position, a student called "teacher", and ids that a model
    does not have.
    """
    if TEACHER in students:
        raise InputError(f"a student may not be called {TEACHER!r}, the name of the teacher's row; rename it")
    models = ({TEACHER: teacher} if teacher is not None else {}) | dict(students)
    words = words_of_all(models)
    number = len(batches)
    if not number:
        raise InputError("no batch of held-out text to evaluate on; give more text")
    on = pick_device(device)
    sums = {name: _Sums(on) for name in models}
    masked = tokens = 0
    with evaluating(*models.values(), device=on), torch.inference_mode():
        for i in tqdm(range(number), desc="held-out text", disable=not progress):
            given = batches[i]
            if (most := int(given["input_ids"].max())) >= words:
                raise InputError(f"the text has the id {most}, and a model has words up to {words - 1} alone")
            batch = {key: each.to(on) if isinstance(each, torch.Tensor) else each for key, each in given.items()}
            masked += int((batch["mlm_labels"] != IGNORED).sum())
            tokens += int(attended(batch).sum())
            _score_batch(models, sums, batch, words)
    if masked == 0:
        raise InputError(
            f"no position of the held-out text is masked: its {tokens:,} tokens are special ones and [UNK]; give text "
            "that the vocabulary has words for"
        )
    return {name: total.scores(masked, tokens, teacher is not None) for name, total in sums.items()}


def words_of_all(models: Mapping[str, Any]) -> int:
    """How many words, from id 0, every one of the masked-language models has. Raises `InputError` for other models, and
    for none."""
    if not models:
        raise InputError("no model to evaluate: give a teacher or a student")
    for name, model in models.items():
        if not has_mlm_head(model):
            raise InputError(
                f"{name} is a {type(model).__name__}, which predicts no tokens; give a masked-language model"
            )
    return min(mlm_decoder(model).out_features for model in models.values())


def _score_batch(models: Mapping[str, Any], sums: Mapping[str, _Sums], batch: Mapping[str, Any], words: int) -> None:
    """Adds the batch to every model's sums over the first `words`; the first model is the one the others are compared
    with."""
    is_text = attended(batch)
    used = batch["mlm_labels"] != IGNORED
    labels = batch["mlm_labels"][used]
    # Where each masked position stands among the attended ones.
    places = (is_text.cumsum(0) - 1)[batch["mlm_positions"][used]]
    hidden = {}
    for name, model in models.items():
        hidden[name] = mlm_transform(model, encode(model, batch).picked[is_text])
    number = int(is_text.sum())
    step = max(1, LOGITS_AT_ONCE // mlm_decoder(next(iter(models.values()))).out_features)
    for start in range(0, number, step):
        stop = min(start + step, number)
        here = (places >= start) & (places < stop)
        teacher = None
        for name, model in models.items():
            logits = mlm_decoder(model)(hidden[name][start:stop])[:, :words].float()
            teacher = _Teacher(logits) if teacher is None else teacher
            sums[name].add(logits, teacher, places[here] - start, labels[here])


def shared_tokenizer(tokenizers: Mapping[str, Tokenizer], lines: Sequence[str] = ()) -> Tokenizer:
    """The one with the fewest words among the models' tokenizers, once it is known that all of them read `lines` as the
    same ids, and that an id is the same word to all that have it.

    Raises `InputError` where two models would see different ids, or mean different words by them.
    """
    fewest = min(tokenizers, key=lambda name: tokenizers[name].vocab_size)
    shared = tokenizers[fewest]
    for name, tokenizer in tokenizers.items():
        if tokenizer.fingerprint != shared.fingerprint:
            shared.check_words(tokenizer, name)
            if not _same_rows(shared.encode_batch(list(lines)), tokenizer.encode_batch(list(lines))):
                raise InputError(
                    f"{fewest} and {name} have different tokenizers, which read the text as other ids, so their "
                    "masked-LM numbers cannot be compared; evaluate them on tasks instead"
                )
    return shared


def _same_rows(ours: pa.ListArray, theirs: pa.ListArray) -> bool:
    parts = ((each.offsets.to_numpy(), each.values.to_numpy()) for each in (ours, theirs))
    return all(np.array_equal(mine, other) for mine, other in zip(*parts, strict=True))


def held_out_batches(
    paths: Mapping[str, str],
    *,
    lines: Sequence[str] = (),
    tokens: str | None = None,
    max_length: int = 512,
    batch_tokens: int = 8192,
    seed: int = 0,
) -> tuple[MaskedBatches, dict[str, Any]]:
    """Masked batches of `lines` or of the prepared directory `tokens`, and what the report says about them."""
    tokenizers = {name: Tokenizer.from_pretrained(path) for name, path in paths.items()}
    tokenizer = shared_tokenizer(tokenizers, lines)
    rows: Any
    if tokens is not None:
        prepared = load_tokens(tokens)
        if prepared.tokenizer.fingerprint not in {each.fingerprint for each in tokenizers.values()}:
            prepared.check_tokenizer(tokenizer, "the models")
        rows, cut = prepared.dataset, 0
        number, counts = len(prepared.dataset), prepared.token_counts
    else:
        rows, cut = encode_and_cut(tokenizer, list(lines), max_length)
        number, counts = len(lines), np.bincount(rows.values.to_numpy(), minlength=tokenizer.vocab_size)
    batches = MaskedBatches(
        rows,
        tokenizer,
        batch_tokens=batch_tokens,
        max_length=max_length,
        masking=Masking(),
        layout="padded",
        seed=seed,
    )
    info = {
        "rows": number,
        "batches": len(batches),
        "max_length": max_length,
        "mask_seed": seed,
        "cut": cut,
        "unknown_share": unknown_share(tokenizer, counts),
        "fingerprint": batches.state_fingerprint,
    }
    return batches, info
