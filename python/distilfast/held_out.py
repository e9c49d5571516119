"""How well masked-language models predict held-out text, and how near students are to their teacher on it.

Every model sees the same masked batches, so differences between rows of the table are differences between models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from tqdm import tqdm

from ._core import InputError

# Logits held at once per model, in numbers: 64 MiB of float32.
LOGITS_AT_ONCE = 1 << 24
TEACHER = "teacher"


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


class _Sums:
    """Running sums of one model, float64 on its device."""

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(6, dtype=torch.float64, device=device)

    def add(self, log_probs: torch.Tensor, teacher: torch.Tensor, masked: torch.Tensor, labels: torch.Tensor) -> None:
        """log_probs, teacher [N, V] of the attended positions; masked [M] indexes them; labels [M] their ids."""
        at_masks = log_probs[masked]
        self.values[0] += F.nll_loss(at_masks, labels, reduction="sum")
        self.values[1] += (at_masks.argmax(-1) == labels).sum()
        agrees = log_probs.argmax(-1) == teacher.argmax(-1)
        divergence = (teacher.exp() * (teacher - log_probs)).sum(-1)
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
    batches: Sequence[Mapping[str, torch.Tensor]],
    *,
    device: str = "auto",
    max_batches: int | None = None,
    progress: bool = False,
) -> dict[str, HeldOutScores]:
    """Scores of the teacher (under the name "teacher", where there is one) and of each student, in that order.

    teacher, students: masked-language models of one vocabulary (`...ForMaskedLM`); they are put in evaluation mode and
    back as they were. batches: `MaskedBatches` of layout "padded", or anything with its keys `input_ids`,
    `attention_mask` [rows, width], `mlm_positions`, `mlm_labels` [K].

    Raises `InputError` for no model, no batch, no masked position, a student called "teacher", models of different
    vocabulary sizes, or packed batches.
    """
    if TEACHER in students:
        raise InputError(f"a student may not be called {TEACHER!r}, the name of the teacher's row; rename it")
    models = ({TEACHER: teacher} if teacher is not None else {}) | dict(students)
    _check_vocabularies(models)
    number = len(batches) if max_batches is None else min(max_batches, len(batches))
    if number < 1:
        raise InputError("no batch of held-out text to evaluate on; give more text")
    on = pick_device(device)
    sums = {name: _Sums(on) for name in models}
    masked = tokens = 0
    modes = {name: model.training for name, model in models.items()}
    homes = {name: model.device for name, model in models.items()}
    try:
        for model in models.values():
            model.eval().to(on)
        with torch.inference_mode():
            for i in tqdm(range(number), desc="held-out text", disable=not progress):
                for piece in _pieces(batches[i], next(iter(models.values())).config.vocab_size):
                    masked += len(piece["labels"])
                    tokens += int(piece["attention_mask"].sum())
                    _score_piece(models, sums, {key: value.to(on) for key, value in piece.items()})
    finally:
        for name, model in models.items():
            model.train(modes[name]).to(homes[name])
    if masked == 0:
        raise InputError("the held-out batches mask no position; raise the masking probability")
    return {name: total.scores(masked, tokens, teacher is not None) for name, total in sums.items()}


def _check_vocabularies(models: Mapping[str, Any]) -> None:
    if not models:
        raise InputError("no model to evaluate: give a teacher or a student")
    sizes = {name: int(model.config.vocab_size) for name, model in models.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"models of different vocabulary sizes cannot be compared on one text: {listed}")


def _pieces(batch: Mapping[str, torch.Tensor], vocab_size: int) -> list[dict[str, torch.Tensor]]:
    """The batch cut by rows so that the logits of one model stay below `LOGITS_AT_ONCE`."""
    if "attention_mask" not in batch:
        raise InputError('held-out evaluation takes batches of layout "padded"; these have no attention_mask')
    input_ids, attention_mask = batch["input_ids"], batch["attention_mask"]
    rows, width = input_ids.shape
    used = batch["mlm_labels"] != -100
    positions, labels = batch["mlm_positions"][used], batch["mlm_labels"][used]
    step = max(1, LOGITS_AT_ONCE // (width * vocab_size))
    pieces = []
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        here = (positions >= start * width) & (positions < stop * width)
        if attention_mask[start:stop].any():
            pieces.append(
                {
                    "input_ids": input_ids[start:stop],
                    "attention_mask": attention_mask[start:stop],
                    "positions": positions[here] - start * width,
                    "labels": labels[here],
                }
            )
    return pieces


def _score_piece(models: Mapping[str, Any], sums: Mapping[str, _Sums], piece: Mapping[str, torch.Tensor]) -> None:
    """Adds the piece to every model's sums; the first model is the one the others are compared with."""
    attended = piece["attention_mask"].bool().flatten()
    # Where each position stands among the attended ones.
    rank = attended.cumsum(0) - 1
    masked = rank[piece["positions"]]
    reference = None
    for name, model in models.items():
        logits = model(input_ids=piece["input_ids"], attention_mask=piece["attention_mask"]).logits
        log_probs = F.log_softmax(logits.flatten(0, 1)[attended].float(), dim=-1)
        reference = log_probs if reference is None else reference
        sums[name].add(log_probs, reference, masked, piece["labels"])
