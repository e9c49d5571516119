"""The tasks of the evaluation: GLUE, IMDb, SQuAD 1.1 and tab-separated ones of your own, with their metrics.

GLUE's rules (Wang et al., "GLUE", 2018): Matthews correlation for CoLA, accuracy and F1 for MRPC and QQP, Pearson and
Spearman correlation for STS-B, accuracy elsewhere; a task with two metrics scores their mean; the macro score is the
mean over tasks. All scores are per cent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from .._core import InputError
from ..metrics.scores import correlation

Kind = Literal["classification", "regression", "questions"]


@dataclass(frozen=True)
class Columns:
    """Where a row keeps its texts and label: names in the header line, or numbers where the file has none."""

    first: str | int
    second: str | int | None
    label: str | int


@dataclass(frozen=True)
class Task:
    """labels: as the files spell them, in the order of their numbers; empty for regression and questions.

    dev: the splits that are scored, each with its file. hub: data set and configuration; hub_columns: first, second
    text there. held_out: where a missing dev file is made from every tenth row of train, rather than refused.
    epochs, learning_rate, batch_size, max_length: published settings, see `finetune.published_settings`.
    """

    name: str
    title: str
    kind: Kind
    metrics: tuple[str, ...]
    folders: tuple[str, ...]
    labels: tuple[str, ...] = ()
    columns: Columns | None = None
    dev: tuple[tuple[str, str], ...] = (("dev", "dev.tsv"),)
    glue: bool = True
    hub: tuple[str, str | None] = ("nyu-mll/glue", None)
    hub_columns: tuple[str, str | None] = ("sentence1", "sentence2")
    hub_dev: tuple[str, ...] = ("validation",)
    held_out: bool = False
    ragged: bool = False
    epochs: float = 3.0
    learning_rate: float = 2e-5
    batch_size: int = 32
    max_length: int = 128


ENTAILMENT = ("entailment", "not_entailment")
PAIR = Columns("sentence1", "sentence2", "label")

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cola",
            "CoLA",
            "classification",
            ("matthews",),
            ("CoLA",),
            ("0", "1"),
            Columns(3, None, 1),
            hub=("nyu-mll/glue", "cola"),
            hub_columns=("sentence", None),
        ),
        Task(
            "sst2",
            "SST-2",
            "classification",
            ("accuracy",),
            ("SST-2", "SST2"),
            ("0", "1"),
            Columns("sentence", None, "label"),
            hub=("nyu-mll/glue", "sst2"),
            hub_columns=("sentence", None),
            held_out=True,
        ),
        Task(
            "mrpc",
            "MRPC",
            "classification",
            ("accuracy", "f1"),
            ("MRPC",),
            ("0", "1"),
            Columns("#1 String", "#2 String", "Quality"),
            hub=("nyu-mll/glue", "mrpc"),
        ),
        Task(
            "stsb",
            "STS-B",
            "regression",
            ("pearson", "spearman"),
            ("STS-B", "STSB"),
            columns=Columns("sentence1", "sentence2", "score"),
            hub=("nyu-mll/glue", "stsb"),
        ),
        Task(
            "qqp",
            "QQP",
            "classification",
            ("accuracy", "f1"),
            ("QQP",),
            ("0", "1"),
            Columns("question1", "question2", "is_duplicate"),
            hub=("nyu-mll/glue", "qqp"),
            hub_columns=("question1", "question2"),
            ragged=True,
        ),
        Task(
            "mnli",
            "MNLI",
            "classification",
            ("accuracy",),
            ("MNLI",),
            ("entailment", "neutral", "contradiction"),
            Columns("sentence1", "sentence2", "gold_label"),
            dev=(("matched", "dev_matched.tsv"), ("mismatched", "dev_mismatched.tsv")),
            hub=("nyu-mll/glue", "mnli"),
            hub_columns=("premise", "hypothesis"),
            hub_dev=("validation_matched", "validation_mismatched"),
        ),
        Task(
            "qnli",
            "QNLI",
            "classification",
            ("accuracy",),
            ("QNLI",),
            ENTAILMENT,
            Columns("question", "sentence", "label"),
            hub=("nyu-mll/glue", "qnli"),
            hub_columns=("question", "sentence"),
        ),
        Task("rte", "RTE", "classification", ("accuracy",), ("RTE",), ENTAILMENT, PAIR, hub=("nyu-mll/glue", "rte")),
        Task(
            "wnli", "WNLI", "classification", ("accuracy",), ("WNLI",), ("0", "1"), PAIR, hub=("nyu-mll/glue", "wnli")
        ),
        Task(
            "imdb",
            "IMDb",
            "classification",
            ("accuracy",),
            ("imdb", "IMDb", "aclImdb"),
            ("0", "1"),
            Columns("text", None, "label"),
            glue=False,
            hub=("stanfordnlp/imdb", None),
            hub_columns=("text", None),
            hub_dev=("test",),
            held_out=True,
            max_length=512,
        ),
        Task(
            "squad",
            "SQuAD 1.1",
            "questions",
            ("exact_match", "f1"),
            ("squad", "SQuAD", "squad1.1"),
            glue=False,
            dev=(("dev", "dev-v1.1.json"),),
            hub=("rajpurkar/squad", None),
            learning_rate=3e-5,
            epochs=3.0,
            batch_size=12,
            max_length=384,
        ),
    )
}


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(sklearn_metrics.matthews_corrcoef(labels, predictions))


def _accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(sklearn_metrics.accuracy_score(labels, predictions))


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return float(sklearn_metrics.f1_score(labels, predictions, zero_division=0.0))


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    return correlation(stats.pearsonr, labels, predictions)


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    return correlation(stats.spearmanr, labels, predictions)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "matthews": _matthews,
    "accuracy": _accuracy,
    "f1": _f1,
    "pearson": _pearson,
    "spearman": _spearman,
}


def scores(task: Task, labels: Mapping[str, Sequence[Any]], outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The task's metrics in per cent, by name; with more than one dev split, "metric split".

    labels: the truth of each split; outputs: the model's scores of each, [rows, classes] or, for regression, [rows, 1].
    Raises `InputError` for an output that is no finite number: a training run that diverged.
    """
    found = {}
    for split, truth in labels.items():
        output = np.asarray(outputs[split])
        if not np.isfinite(output).all():
            raise InputError(f"{task.title}: the model's outputs are not finite; its training diverged")
        predictions = output.reshape(len(truth)) if task.kind == "regression" else output.argmax(-1)
        for metric in task.metrics:
            name = metric if len(labels) == 1 else f"{metric} {split}"
            found[name] = 100 * METRICS[metric](np.asarray(truth), predictions)
    return found


def score(task: Task, metrics: Mapping[str, float]) -> float:
    """The task's one number in per cent: the mean of its metrics; F1 for SQuAD, as the published tables compare."""
    if task.kind == "questions":
        return metrics["f1"]
    return sum(metrics.values()) / len(metrics)
