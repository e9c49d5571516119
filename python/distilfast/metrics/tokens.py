"""Scores of taggers: entities by seqeval's rules, which are conlleval's, or plain tags.

Ramshaw and Marcus, "Text chunking using transformation-based learning", 1995; Nakayama, seqeval, 2018.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from seqeval.metrics import classification_report
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import f1_score

from .._core import InputError

Tags = Sequence[Sequence[str]]

_ENTITY = re.compile(r"[BIOESLU]-.")


def has_entities(names: Sequence[str]) -> bool:
    """Whether tags of these names mark the places of entities (O, B-PER, I-PER, ...), rather than stand alone."""
    others = [name for name in names if name != "O"]
    return bool(others) and all(_ENTITY.match(name) for name in others)


def token_metrics(
    predictions: Tags, labels: Tags | None = None, teacher_predictions: Tags | None = None, entities: bool = True
) -> dict[str, float]:
    """What a tagger scores; each argument holds a list of tags a sentence, one a word.

    With labels: `accuracy` of the words and, with `entities`, `precision`, `recall` and `f1` of whole entities over all
    sentences, else `macro_f1` of the tags. With a teacher: `agreement`, the share of words with the teacher's tag.
    Raises `InputError` where two sentences differ in their number of words.
    """
    found: dict[str, float] = {}
    if labels is not None:
        truth, said = _flat(labels, predictions)
        found["accuracy"] = float(np.mean(truth == said)) if len(truth) else 0.0
        if entities:
            found |= entity_scores(entity_counts(predictions, labels).sum(axis=0))
        else:
            found["macro_f1"] = float(f1_score(truth, said, average="macro", zero_division=0.0))
    if teacher_predictions is not None:
        theirs, ours = _flat(teacher_predictions, predictions)
        found["agreement"] = float(np.mean(theirs == ours)) if len(theirs) else 0.0
    return found


def _flat(first: Tags, second: Tags) -> tuple[np.ndarray, np.ndarray]:
    for i, (one, other) in enumerate(zip(first, second, strict=True)):
        if len(one) != len(other):
            raise InputError(f"sentence {i} has {len(one)} tags and {len(other)} predicted ones; give one a word")
    return np.array([tag for tags in first for tag in tags]), np.array([tag for tags in second for tag in tags])


def entity_counts(predictions: Tags, labels: Tags) -> np.ndarray:
    """[sentences, 3]: entities that are right in kind and both ends, entities predicted, entities there are."""
    counts = np.zeros((len(labels), 3), np.int64)
    for i, (said, truth) in enumerate(zip(predictions, labels, strict=True)):
        predicted, true = set(get_entities(list(said))), set(get_entities(list(truth)))
        counts[i] = len(predicted & true), len(predicted), len(true)
    return counts


def entity_scores(counts: np.ndarray) -> dict[str, float]:
    """`precision`, `recall` and `f1` of (right, predicted, true) entities; 0 where there is none."""
    right, predicted, true = (float(count) for count in counts)
    return {
        "precision": right / predicted if predicted else 0.0,
        "recall": right / true if true else 0.0,
        "f1": 2 * right / (predicted + true) if predicted + true else 0.0,
    }


def entity_table(predictions: Tags, labels: Tags) -> list[dict[str, Any]]:
    """`label`, `precision`, `recall`, `f1` and `rows` (how many there are) of each kind of entity, by seqeval."""
    report = classification_report(
        [list(tags) for tags in labels], [list(tags) for tags in predictions], output_dict=True, zero_division=0
    )
    return [
        {
            "label": kind,
            "precision": float(values["precision"]),
            "recall": float(values["recall"]),
            "f1": float(values["f1-score"]),
            "rows": int(values["support"]),
        }
        for kind, values in report.items()
        if not kind.endswith(" avg")
    ]
