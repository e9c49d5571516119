"""Answers in passages, SQuAD 1.1 and 2.0: the best span over windows, exact match and F1 after the official
normalisation.

Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of text", 2016, and "Know what you don't know:
unanswerable questions for SQuAD", 2018. All scores are shares from 0 to 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax

from .._core import InputError

MAX_ANSWER_TOKENS = 30
BEST = 20

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> str:
    """Lower case, without punctuation and articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, truth: str) -> float:
    """1 where both are the same after normalisation, else 0."""
    return float(normalise(prediction) == normalise(truth))


def f1(prediction: str, truth: str) -> float:
    """Harmonic mean of precision and recall over the words of both, repeated words counted as often as in both; where
    one has no word, 1 if neither has."""
    predicted, true = normalise(prediction).split(), normalise(truth).split()
    if not predicted or not true:
        return float(predicted == true)
    common = sum((Counter(predicted) & Counter(true)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(true)
    return 2 * precision * recall / (precision + recall)


def answer_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> np.ndarray:
    """[questions, 2]: exact match and F1 of each prediction against the one of its answers that suits it best.

    An empty prediction says that the passage holds no answer, as an empty list of answers does.
    """
    scores = np.zeros((len(predictions), 2))
    for i, (got, truths) in enumerate(zip(predictions, answers, strict=True)):
        wanted = [each for each in truths if normalise(each)] or [""]
        scores[i] = max(exact_match(got, each) for each in wanted), max(f1(got, each) for each in wanted)
    return scores


def question_metrics(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]] | None = None,
    teacher_predictions: Sequence[str] | None = None,
) -> dict[str, float]:
    """What a model that answers from passages scores.

    With answers: `exact_match` and `f1`; where some questions have no answer also those of either kind,
    `..._answerable` and `..._unanswerable`. With a teacher: `agreement`, exact match with its answers, and
    `teacher_f1`.
    """
    found: dict[str, float] = {}
    if answers is not None and len(predictions):
        scores = answer_scores(predictions, answers)
        answerable = np.array([any(normalise(each) for each in truths) for truths in answers])
        kinds = {"": np.ones(len(scores), bool)}
        if answerable.any() and not answerable.all():
            kinds |= {"_answerable": answerable, "_unanswerable": ~answerable}
        for kind, rows in kinds.items():
            found[f"exact_match{kind}"], found[f"f1{kind}"] = (float(value) for value in scores[rows].mean(axis=0))
    if teacher_predictions is not None and len(predictions):
        same = answer_scores(predictions, [[answer] for answer in teacher_predictions]).mean(axis=0)
        found["agreement"], found["teacher_f1"] = (float(value) for value in same)
    return found


def position_metrics(
    logits: np.ndarray, labels: np.ndarray | None = None, teacher_logits: np.ndarray | None = None
) -> dict[str, float]:
    """How well a model knows where answers begin and end, before the best span is looked for.

    logits: [windows, 2, width], -inf where no answer can be; labels: tokens [windows, 2], -100 for none. With labels
    `loss`, the mean cross-entropy; with a teacher `kl`, the mean KL(teacher || model) at temperature 1. Raises
    `InputError` for logits that are nan or all -inf.
    """
    said = _log_probabilities(logits)
    found: dict[str, float] = {}
    if labels is not None and (known := (labels >= 0).all(-1)).any():
        found["loss"] = -float(np.mean(np.take_along_axis(said[known], labels[known, :, None], -1)))
    if teacher_logits is not None:
        theirs = _log_probabilities(teacher_logits)
        gaps = np.subtract(theirs, said, out=np.zeros_like(theirs), where=np.isfinite(theirs))
        values = np.exp(theirs) * gaps
        found["kl"] = max(0.0, float(np.mean(values.sum(-1))))
    return found


def _log_probabilities(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    if not np.isfinite(logits.max(-1)).all():
        raise InputError("the model's outputs are not finite; its training diverged, or its weights are damaged")
    return np.asarray(log_softmax(logits, -1))


def best_answers(
    passages: Sequence[str],
    columns: Mapping[str, Sequence[Any]],
    start: np.ndarray,
    end: np.ndarray,
    unanswerable: bool = False,
) -> list[str]:
    """The likeliest span of each question over its windows; start, end: logits [windows, width].

    unanswerable: "" where no span of any window scores above the first token's ([CLS], "no answer"), the lowest of
    which over the windows counts, as in the official baseline.
    """
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(passages)
    none = np.full(len(passages), np.inf)
    for window, (example, offsets) in enumerate(zip(columns["example"], columns["offsets"], strict=True)):
        none[example] = min(none[example], float(start[window, 0] + end[window, 0]))
        for first in np.argsort(-start[window])[:BEST]:
            for last in np.argsort(-end[window])[:BEST]:
                if not first <= last < first + MAX_ANSWER_TOKENS or last >= len(offsets):
                    continue
                if offsets[first] is None or offsets[last] is None:
                    continue
                likely = float(start[window, first] + end[window, last])
                if likely > best[example][0]:
                    best[example] = (likely, passages[example][offsets[first][0] : offsets[last][1]])
    return [
        "" if unanswerable and nothing >= likely else answer
        for (likely, answer), nothing in zip(best, none, strict=True)
    ]
