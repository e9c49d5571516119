"""Scores of classifiers: one class a row, or any number of labels a row; beside the truth, beside the teacher.

Logits are numpy arrays [rows, classes]. All shares are from 0 to 1, divergences in nats. The sums are scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax
from sklearn import metrics as sklearn_metrics

from .._core import InputError
from ..losses.definitions import IGNORED


def single_label_metrics(
    logits: np.ndarray, labels: np.ndarray | None = None, teacher_logits: np.ndarray | None = None
) -> dict[str, float]:
    """What a model with one class a row scores.

    logits: [rows, classes]; labels: class numbers [rows], `IGNORED` where a row has none, or None; teacher_logits:
    [rows, classes], classes in the same order. With labels: `accuracy`, `macro_f1` (mean over the classes that occur
    in labels or predictions), `matthews`, for two classes `f1` of class 1 as GLUE has it, and `loss`, the mean
    cross-entropy. With a teacher: `agreement`, the share of rows with the teacher's class, and `kl`, the mean
    KL(teacher || model) at temperature 1. Raises `InputError` for outputs that are not finite.
    """
    logits = finite(logits)
    predictions = logits.argmax(-1)
    found: dict[str, float] = {}
    if labels is not None and (known := labels != IGNORED).any():
        truth, said = labels[known], predictions[known]
        found["accuracy"] = float(np.mean(said == truth))
        found["macro_f1"] = float(sklearn_metrics.f1_score(truth, said, average="macro", zero_division=0.0))
        found["matthews"] = float(sklearn_metrics.matthews_corrcoef(truth, said))
        if logits.shape[-1] == 2:
            found["f1"] = float(sklearn_metrics.f1_score(truth, said, zero_division=0.0))
        found["loss"] = float(-np.mean(log_softmax(logits[known], -1)[np.arange(len(truth)), truth]))
    if teacher_logits is not None:
        found["agreement"] = float(np.mean(predictions == finite(teacher_logits).argmax(-1)))
        found["kl"] = softmax_divergence(teacher_logits, logits)
    return found


def multi_label_metrics(
    logits: np.ndarray, labels: np.ndarray | None = None, teacher_logits: np.ndarray | None = None
) -> dict[str, float]:
    """What a model with any number of labels a row scores; a label is given where its probability is above a half.

    labels: 0 or 1 [rows, classes], a row of `IGNORED` or nan where a row has none. With labels: `micro_f1`, `macro_f1`
    (mean over the classes), `subset_accuracy` (rows whose labels are all right), `loss`, the mean binary cross-entropy.
    With a teacher: `agreement`, the share of single decisions that are the teacher's, and `kl`, the mean over rows and
    labels of the divergence of two Bernoulli distributions. Raises `InputError` for outputs that are not finite.
    """
    logits = finite(logits)
    predictions = logits > 0
    found: dict[str, float] = {}
    if labels is not None and (known := ((labels != IGNORED) & np.isfinite(labels)).all(-1)).any():
        truth, said = labels[known] > 0.5, predictions[known]
        for average in ("micro", "macro"):
            score = sklearn_metrics.f1_score(truth, said, average=average, zero_division=0.0)
            found[f"{average}_f1"] = float(score)
        found["subset_accuracy"] = float(np.mean((truth == said).all(-1)))
        found["loss"] = float(np.mean(np.logaddexp(0.0, np.where(truth, -logits[known], logits[known]))))
    if teacher_logits is not None:
        teacher_logits = finite(teacher_logits)
        found["agreement"] = float(np.mean(predictions == (teacher_logits > 0)))
        probability = expit(teacher_logits)
        # p (log p - log q) + (1 - p) (log (1 - p) - log (1 - q)), where log sigmoid(x) = -log(1 + exp(-x)).
        yes = np.logaddexp(0.0, -logits) - np.logaddexp(0.0, -teacher_logits)
        no = np.logaddexp(0.0, logits) - np.logaddexp(0.0, teacher_logits)
        found["kl"] = max(0.0, float(np.mean(probability * yes + (1 - probability) * no)))
    return found


def softmax_divergence(teacher_logits: np.ndarray, logits: np.ndarray) -> float:
    """The mean over rows of KL(teacher || model) at temperature 1; of a model to itself 0, not a rounding below."""
    teacher = log_softmax(finite(teacher_logits), -1)
    return max(0.0, float(np.mean(np.sum(np.exp(teacher) * (teacher - log_softmax(finite(logits), -1)), -1))))


def label_table(predictions: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """`label`, `precision`, `recall`, `f1` and `rows` (how many have it) of each class, in the order of `names`.

    predictions, labels: class numbers [rows], or 0 and 1 [rows, classes]; rows with an `IGNORED` label are left out.
    """
    known = labels != IGNORED if labels.ndim == 1 else (labels != IGNORED).all(-1)
    numbers = list(range(len(names)))
    precision, recall, f1, rows = sklearn_metrics.precision_recall_fscore_support(
        labels[known], predictions[known], labels=numbers, average=None, zero_division=0.0
    )
    return [
        {
            "label": names[i],
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "rows": int(rows[i]),
        }
        for i in numbers
    ]


def finite(outputs: np.ndarray) -> np.ndarray:
    """`outputs` in float64. Raises `InputError` where one of them is no finite number: a training that diverged."""
    outputs = np.asarray(outputs, np.float64)
    if not np.isfinite(outputs).all():
        raise InputError("the model's outputs are not finite; its training diverged, or its weights are damaged")
    return outputs
