"""The tasks that models are fine-tuned on: GLUE, IMDb, SQuAD 1.1 and folders of your own, with their metrics and rows.

GLUE's rules (Wang et al., "GLUE", 2018): Matthews correlation for CoLA, accuracy and F1 for MRPC and QQP, Pearson and
Spearman correlation for STS-B, accuracy elsewhere; a task with two metrics scores their mean; the macro score is the
mean over tasks. All scores are per cent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from .._core import InputError
from ..prepare.columns import Columns, Kind, find_columns
from ..prepare.labelled import load_labelled
from ..prepare.labels import is_missing, is_not_scored, match_labels, new_classes
from ..prepare.records import Rows
from ..prepare.split import choose_rows
from ..prepare.table import read_splits
from ..prepare.targets import label_kind, label_values, with_text
from ..train.labelled import task_source
from .finished import rows_fingerprint


@dataclass(frozen=True)
class Task:
    """metrics: names as in `distilfast.metrics`; none: the first of the head's. regression: labels are numbers, also
    where all of them are whole. ragged: rows cut short are left out and counted. tested: scored on the test split where
    there is no validation split. epochs, learning_rate, batch_size, max_length: the published settings.
    """

    name: str
    title: str
    metrics: tuple[str, ...] = ()
    glue: bool = True
    regression: bool = False
    ragged: bool = False
    tested: bool = False
    epochs: float = 3.0
    learning_rate: float = 2e-5
    batch_size: int = 32
    max_length: int = 128


_TASKS = (
    Task("cola", "CoLA", ("matthews",)),
    Task("sst2", "SST-2", ("accuracy",)),
    Task("mrpc", "MRPC", ("accuracy", "f1")),
    Task("stsb", "STS-B", ("pearson", "spearman"), regression=True),
    # The published QQP files hold a few rows that are cut short.
    Task("qqp", "QQP", ("accuracy", "f1"), ragged=True),
    Task("mnli", "MNLI", ("accuracy",)),
    Task("qnli", "QNLI", ("accuracy",)),
    Task("rte", "RTE", ("accuracy",)),
    Task("wnli", "WNLI", ("accuracy",)),
    Task("imdb", "IMDb", ("accuracy",), glue=False, tested=True, max_length=512),
    Task(
        "squad",
        "SQuAD 1.1",
        ("exact_match", "f1"),
        glue=False,
        learning_rate=3e-5,
        batch_size=12,
        max_length=384,
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _TASKS}


@dataclass(frozen=True)
class TaskData:
    """kind: what a row is. dev: the splits that are scored. notes: what a reader of the numbers must know. fingerprint:
    hex over every row and label."""

    task: Task
    kind: Kind
    train: Rows
    dev: Mapping[str, Rows]
    notes: tuple[str, ...]
    fingerprint: str


def load_task(
    name: str, data_dir: str | None, max_train_rows: int | None = None, max_dev_rows: int | None = None
) -> TaskData:
    """The rows of a task by its name in `TASKS` or, with `data_dir`, of a folder of your own.

    data_dir: holds the task folders, in itself or in `glue/`; None reads the hub. Rows are read and held out as those
    that `distilfast train` learns from; those without a label are left out and counted. max_train_rows, max_dev_rows:
    a fixed choice of so many. Raises `InputError` for what is not there, cannot be read, or has other labels in dev.
    """
    task = TASKS.get(name, Task(name, name, glue=False))
    source, config = task_source(name, data_dir)
    splits = read_splits(source, config, "skip" if task.ragged else "refuse")
    if "train" not in splits:
        raise InputError(f"task {name!r}: {source} has no split train; it has {', '.join(splits)}")
    dev = {
        split.removeprefix("validation").removeprefix("_") or "dev": rows
        for split, rows in splits.items()
        if split.startswith("validation")
    }
    notes: list[str] = []
    if not dev and task.tested and "test" in splits:
        dev = {"test": splits["test"]}
        notes.append("scored on the test split")
    for option, most in (("max_train_rows", max_train_rows), ("max_dev_rows", max_dev_rows)):
        if most is not None and most < 1:
            raise InputError(f"{option} is {most}; at least 1 is needed")
    read = load_labelled(splits["train"], next(iter(dev.values()), None), max_train_rows=max_train_rows)
    notes += read.notes
    if not dev and name in TASKS:
        notes.append("there is no dev file, so the score does not compare with published ones")
    kind, columns = read.train.columns.kind, read.validation.columns
    dev = {split: with_text(rows, columns) for split, rows in (dev or {"dev": read.validation.rows}).items()}
    train, dropped = _with_label(read.train.rows, read.train.columns)
    notes += [f"{dropped:,} training rows without a label left out"] if dropped else []
    for split, rows in dev.items():
        chosen, dropped = _with_label(rows, columns)
        notes += [f"{dropped:,} rows of {split} without a label left out"] if dropped else []
        if max_dev_rows is not None and len(chosen) > max_dev_rows:
            notes.append(f"scored on {max_dev_rows:,} of {len(chosen):,} rows of {split}")
            chosen = chosen.take(choose_rows(chosen, columns, max_dev_rows))
        dev[split] = chosen
        if kind == "text" and not task.regression:
            _check_classes(train, chosen, read.train.columns, columns)
    digest = hashlib.sha256(kind.encode())
    for split, rows in {"train": train, **dev}.items():
        digest.update(f"{split} {rows_fingerprint(rows, find_columns(rows, kind), 0)}".encode())
    return TaskData(task, kind, train, dev, tuple(note.replace(f"{source}/", "") for note in notes), digest.hexdigest())


def _with_label(rows: Rows, columns: Columns) -> tuple[Rows, int]:
    """The rows that have a label, and how many have none."""
    if not columns.labels:
        raise InputError(f"{rows.source}: no label to learn from or to score by; {columns.note}")
    values = label_values(rows, columns.labels[0])
    classes = label_kind(values) != "floats"
    kept = [
        number
        for number, value in enumerate(values)
        if not is_missing(value) and not (classes and is_not_scored(value))
    ]
    if not kept:
        raise InputError(f"{rows.source}: no row has a label in {columns.labels[0]!r}")
    return (rows if len(kept) == len(rows) else rows.take(kept)), len(rows) - len(kept)


def _check_classes(train: Rows, dev: Rows, train_columns: Columns, columns: Columns) -> None:
    """Raises `InputError` for labels to score by that are none of those to learn from, before any hour is spent."""
    learned = label_values(train, train_columns.labels[0])
    if label_kind(learned) in ("names", "integers"):
        classes = new_classes(learned, train.class_names.get(train_columns.labels[0]))
        try:
            match_labels(label_values(dev, columns.labels[0]), classes)
        except InputError as error:
            said = str(error).replace("the teacher's", "the training rows'").replace("the teacher", "the training rows")
            raise InputError(f"{dev.source}: {said}") from None


def score(task: Task, metrics: Mapping[str, float]) -> float:
    """The task's one number in per cent: the mean of its metrics; F1 for SQuAD, as the published tables compare."""
    if task.name == "squad":
        return metrics["f1"]
    return sum(metrics.values()) / len(metrics)
