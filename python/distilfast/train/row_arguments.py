"""Which labelled rows a run reads, and how: the flags of the heads that learn from rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._command import flag

COLUMNS = ("text_column", "label_column", "label_separator", "group_column")
"""The flags that say what the columns of rows are; `evaluate` has them too."""


@dataclass
class RowArguments:
    """Rows with or without labels, for classifiers, taggers and models that answer questions."""

    _argument_group_name = "rows"

    train_file: str | None = flag(None, "Rows to train on: csv, tsv, jsonl, json, parquet, CoNLL, or a folder of such.")
    validation_file: str | None = flag(
        None, "Rows to evaluate on; else the split beside the training rows, or a tenth of them."
    )
    unlabelled_file: str | None = flag(
        None, "More rows, whose labels are not read: the teacher alone teaches. Also .txt, one a line."
    )
    dataset_name: str | None = flag(None, "A data set of the Hub (or its directory), instead of --train_file.")
    dataset_config_name: str | None = flag(None, "The configuration of --dataset_name.")
    task: str | None = flag(None, "The name of a task (sst2, mrpc, stsb, ...), instead of --train_file.")
    data_dir: str | None = flag(None, "Where the folder of --task is, with train and dev files. Default: the Hub.")
    text_column: list[str] | None = flag(
        None,
        "Column of the text, two for pairs; else found by the usual names. Of --text in jsonl and parquet: 'text' by "
        "default.",
        aliases=["--column"],
    )
    label_column: list[str] | None = flag(
        None, "Column of the label, or one of 0/1 for each class; none: labels are not read."
    )
    label_separator: str | None = flag(None, "What stands between several labels in one cell, as in 'sport|news'.")
    group_column: str | None = flag(None, "Rows with one value here stay on one side when rows are held out.")
    ragged: Literal["refuse", "skip"] = flag(
        "refuse", "Rows of csv and tsv with more or fewer cells than the header: skip leaves out and counts."
    )
    class_weights: list[str] | None = flag(
        None, "Weights of the classes in the loss against labels: 'balanced', or a number for each."
    )
    min_confidence: float | None = flag(
        None,
        "Unlabelled rows get the teacher's class for a label where it is at least so probable, and are left out "
        "elsewhere. Default: no label.",
    )
    max_train_rows: int | None = flag(None, "Train on a fixed random choice of the rows.")
    max_eval_samples: int | None = flag(None, "Evaluate on a fixed random choice of the validation rows.")
