"""SQuAD 1.1: windows over long passages, the best span, exact match and F1 after the official normalisation.

Rajpurkar et al., "SQuAD: 100,000+ questions for machine comprehension of text", 2016.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._core import InputError
from ..evaluate.task_data import Split

STRIDE = 128
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
    """Harmonic mean of precision and recall over the words of both, repeated words counted as often as in both."""
    predicted, true = normalise(prediction).split(), normalise(truth).split()
    common = sum((Counter(predicted) & Counter(true)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(predicted), common / len(true)
    return 2 * precision * recall / (precision + recall)


def squad_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """{"exact_match", "f1"} in per cent; each prediction counts against the one of its answers that suits it best."""
    pairs = list(zip(predictions, answers, strict=True))
    return {
        "exact_match": 100 * sum(max(exact_match(got, each) for each in truths) for got, truths in pairs) / len(pairs),
        "f1": 100 * sum(max(f1(got, each) for each in truths) for got, truths in pairs) / len(pairs),
    }


def windows(tokenizer: Any, split: Split, max_length: int) -> dict[str, list[Any]]:
    """Questions with overlapping windows of their passage, as columns.

    Beside the model's inputs: `start_positions`, `end_positions` (token indices of the first answer, 0 where it is not
    in the window), `example` (row of `split`) and `offsets` (character span of each passage token, None elsewhere).
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"SQuAD needs a tokenizer with character offsets; {type(tokenizer).__name__} has none")
    stride = min(STRIDE, max_length // 3)
    encoded = tokenizer(
        [question.lstrip() for question in split.first],
        split.second,
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    columns: dict[str, list[Any]] = {
        key: encoded[key] for key in encoded if key not in ("overflow_to_sample_mapping", "offset_mapping")
    }
    columns |= {"start_positions": [], "end_positions": [], "example": [], "offsets": []}
    for i, example in enumerate(encoded["overflow_to_sample_mapping"]):
        parts = encoded.sequence_ids(i)
        offsets = [
            tuple(span) if part == 1 else None for span, part in zip(encoded["offset_mapping"][i], parts, strict=True)
        ]
        label = split.labels[example]
        start, end = _token_span(offsets, label["starts"][0], label["starts"][0] + len(label["answers"][0]))
        columns["start_positions"].append(start)
        columns["end_positions"].append(end)
        columns["example"].append(example)
        columns["offsets"].append(offsets)
    return columns


def _token_span(offsets: Sequence[tuple[int, int] | None], start: int, end: int) -> tuple[int, int]:
    """First and last token of the characters [start, end), or (0, 0) where the window does not hold all of them."""
    passage = [i for i, span in enumerate(offsets) if span is not None]
    first, last = offsets[passage[0]], offsets[passage[-1]]
    assert first is not None
    assert last is not None
    if first[0] > start or last[1] < end:
        return 0, 0
    begins = [i for i in passage if (span := offsets[i]) is not None and span[0] <= start]
    ends = [i for i in passage if (span := offsets[i]) is not None and span[1] >= end]
    return begins[-1], ends[0]


def best_answers(split: Split, columns: dict[str, list[Any]], start: np.ndarray, end: np.ndarray) -> list[str]:
    """The likeliest span of each example over its windows; start, end: logits [windows, width]."""
    best: list[tuple[float, str]] = [(-np.inf, "")] * len(split)
    assert split.second is not None
    for window, (example, offsets) in enumerate(zip(columns["example"], columns["offsets"], strict=True)):
        for first in np.argsort(-start[window])[:BEST]:
            for last in np.argsort(-end[window])[:BEST]:
                if not first <= last < first + MAX_ANSWER_TOKENS or last >= len(offsets):
                    continue
                if offsets[first] is None or offsets[last] is None:
                    continue
                likely = float(start[window, first] + end[window, last])
                if likely > best[example][0]:
                    passage = split.second[example]
                    best[example] = (likely, passage[offsets[first][0] : offsets[last][1]])
    return [answer for _, answer in best]
