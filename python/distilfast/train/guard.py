"""Text of a second kind that must not be forgotten: how near student and teacher are on it before and after training.

What a student is not trained on it may forget, below what the untrained cut of its teacher knew. Held-out text of the
kind that is trained on does not show it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from .._core import InputError
from ..batches.masked import MaskedBatches
from ..heads.masked_lm import MaskedLM
from ..prepare.directory import PreparedTokens, unknown_note, unknown_share
from ..prepare.rows import encode_and_cut
from ..prepare.sources import find_text_files
from ..prepare.text import read_texts
from . import text
from .arguments import DataArguments
from .evaluation import evaluate, masked_lm_metrics, masked_lm_scores
from .step import DistillationStep

GUARD = "guard"
"""Its name among held-out sets, as in `eval_guard_kl`."""
MOST_TEXTS, MOST_TOKENS = 1_024, 16_384
"""So much of each kind of text is looked at, at most."""

REMEDIES = (
    "mix text of that kind into the training (--text A B --text_weights 3 1), or end with the best evaluation of it "
    "(--eval_strategy steps --metric_for_best_model eval_guard_{} --load_best_model_at_end True)"
)

TITLES = {"trained_on": "on the text trained on", GUARD: "on the guard text"}
# Title, and how a value is written.
METRICS = {
    "accuracy": ("accuracy", "{:.1%}"),
    "kl": ("KL to the teacher", "{:.4f}"),
    "loss": ("loss", "{:.4f}"),
    "cosine": ("cosine to the teacher", "{:.4f}"),
}


@dataclass(frozen=True)
class Guard:
    """Some of the text that is trained on and some of the guard text, each with fixed masks; `notes`: what is to be
    said of the latter, a line each."""

    trained_on: MaskedBatches
    guard: MaskedBatches
    notes: list[str]


def build_guard(data: DataArguments, tokens: PreparedTokens, column: str) -> Guard | None:
    """Some of --guard_text and of the `tokens` that are trained on, drawn at random, the same in every run; None where
    there is no guard text.

    Raises `InputError` for guard text that cannot be read, and for files of it that are trained on.
    """
    if data.guard_text is None:
        return None
    _refuse_trained_on(data.guard_text, data)
    texts = read_texts(data.guard_text, column=column)
    rows, cut = encode_and_cut(tokens.tokenizer, [texts[place] for place in _drawn(len(texts))], data.max_length)
    guard = _bounded(rows)
    trained_on = pa.array(tokens.dataset[_drawn(len(tokens.dataset))]["input_ids"], pa.list_(pa.int32()))
    note = f"guard text: {len(guard):,} of {len(texts):,} texts are looked at, {len(guard.flatten()):,} tokens"
    note += f"; {cut:,} of {len(rows):,} texts are longer than {data.max_length} tokens and cut" if cut else ""
    counts = np.bincount(guard.flatten().to_numpy(), minlength=tokens.tokenizer.vocab_size)
    unknown = unknown_note(unknown_share(tokens.tokenizer, counts))
    return Guard(
        text.fixed_batches(_bounded(trained_on), data, tokens.tokenizer),
        text.fixed_batches(guard, data, tokens.tokenizer),
        [note, *([f"guard text: {unknown}"] if unknown else [])],
    )


def _refuse_trained_on(names: Sequence[str], data: DataArguments) -> None:
    trained_on = {os.path.realpath(path) for path in find_text_files(data.text)} if data.text else set()
    for path in find_text_files(names):
        if os.path.realpath(path) in trained_on:
            raise InputError(
                f"--guard_text {path} is among --text: what is trained on does not show what is forgotten; hold some "
                "of it out, in a file of its own"
            )


def _drawn(count: int) -> list[int]:
    """The numbers of some of `count` texts in random order, the same for the same count."""
    draws = np.random.Generator(np.random.Philox(0))
    return [int(number) for number in draws.choice(count, min(count, MOST_TEXTS), replace=False)]


def _bounded(rows: pa.ListArray) -> pa.ListArray:
    """The first of `rows`, as many as have `MOST_TOKENS` tokens, and one at least."""
    return rows.slice(0, max(1, int(np.searchsorted(rows.offsets.to_numpy(), MOST_TOKENS, side="right")) - 1))


def measure(guard: Guard, step: DistillationStep, device: torch.device) -> dict[str, dict[str, dict[str, float]]]:
    """{"trained_on", "guard": {"student": its metrics, "teacher": those that need no other model}}."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for kind, batches in (("trained_on", guard.trained_on), (GUARD, guard.guard)):
        if isinstance(step.head, MaskedLM):
            scores = masked_lm_scores(step, batches, device)
            found[kind] = {"student": masked_lm_metrics(scores["student"])}
            if "teacher" in scores:
                found[kind]["teacher"] = {
                    "loss": scores["teacher"].mlm_loss,
                    "accuracy": scores["teacher"].mlm_accuracy,
                }
        else:
            found[kind] = {"student": evaluate(step, batches, device)}
    return found


def forgetting(start: Mapping[str, Any], end: Mapping[str, Any], guard: Guard) -> dict[str, Any]:
    """What `measure` gave before and after training in one, JSON-ready, and by which `metric` it is judged whether the
    student `forgot`: whether on the guard text it is further from its teacher (without one: its loss is higher) than
    it was before training."""
    before, after = (each[GUARD]["student"] for each in (start, end))
    metric = next(name for name in ("kl", "cosine", "loss") if name in after)
    worse = after[metric] < before[metric] if metric == "cosine" else after[metric] > before[metric]
    found: dict[str, Any] = {"metric": metric, "forgot": worse}
    for kind, batches in (("trained_on", guard.trained_on), (GUARD, guard.guard)):
        teacher = {"teacher": end[kind]["teacher"]} if "teacher" in end[kind] else {}
        found[kind] = {"tokens": batches.num_tokens, **teacher}
        found[kind] |= {"start": start[kind]["student"], "student": end[kind]["student"]}
    return found


def start_lines(start: Mapping[str, Any]) -> list[str]:
    """What is known before training, a line for each kind of text."""
    return [
        f"before training, {title}: "
        + ", ".join(
            f"{name} {written.format(start[kind]['student'][metric])}{_teachers(start[kind], metric, written)}"
            for metric, (name, written) in METRICS.items()
            if _said(metric, start[kind]["student"])
        )
        for kind, title in TITLES.items()
    ]


def forgetting_lines(found: Mapping[str, Any]) -> list[str]:
    """What `forgetting` found, a line for each kind of text, and a warning where the student forgot."""
    lines = []
    for kind, title in TITLES.items():
        before, after = found[kind]["start"], found[kind]["student"]
        said = [
            f"{name} {written.format(after[metric])}, at the start {written.format(before[metric])}"
            f"{_teachers(found[kind], metric, written)}"
            for metric, (name, written) in METRICS.items()
            if _said(metric, after)
        ]
        lines.append(f"{title}, {found[kind]['tokens']:,} tokens: {'; '.join(said)}")
    if found["forgot"]:
        metric = found["metric"]
        name, written = METRICS[metric]
        before, after = (written.format(found[GUARD][when][metric]) for when in ("start", "student"))
        what = "predicts it worse" if metric == "loss" else "is further from its teacher"
        lines.append(
            f"warning: the student forgot: on the guard text it {what} than before training ({name} {after}, before "
            f"{before}). What helps: {REMEDIES.format(metric)}"
        )
    return lines


def _said(metric: str, values: Mapping[str, float]) -> bool:
    """Whether a line tells of the metric: of the loss only where there is no teacher."""
    return metric in values and not (metric == "loss" and "kl" in values)


def _teachers(found: Mapping[str, Any], metric: str, written: str) -> str:
    value = found.get("teacher", {}).get(metric)
    return "" if value is None else f", the teacher's {written.format(value)}"
