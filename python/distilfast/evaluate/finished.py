"""Finished models as they are, scored on the rows of a file: what a student keeps of its teacher's quality.

Each model reads the rows through its own tokenizer; classes are matched by name, so that a student whose classes stand
in another order, or that has another vocabulary, is compared rightly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from .._core import InputError
from ..heads.classification import problem_type_of
from ..metrics.compare import Answers, Comparison, Numbers, Ranking, compared, comparison_of
from ..models.classes import class_order, label_names
from ..models.head import head_of
from ..models.load import load_model
from ..models.sentence_folder import refuse_single_texts
from ..prepare.columns import Columns, find_columns
from ..prepare.labelled import Part
from ..prepare.records import Rows
from ..prepare.table import RaggedRows, read_rows
from ..prepare.targets import answer_targets, sequence_targets, tag_targets, with_text
from ..tokenizer import load_transformers_tokenizer
from .forward import answers, sequence_logits, word_classes

HEADS = ("classification", "tokens", "questions")


@dataclass(frozen=True)
class RowOptions:
    """Where the rows are and which of their columns are read; None: by the usual names."""

    source: str | Rows
    text_column: tuple[str, ...] = ()
    label_column: tuple[str, ...] = ()
    group_column: str | None = None
    label_separator: str | None = None
    max_length: int = 512
    max_rows: int | None = None
    ragged: RaggedRows = "refuse"


def labelled_head(model: Any, name: str) -> str:
    """The head of `model`. Raises `InputError` for one that says nothing about labelled rows."""
    head = head_of(model)
    if head in HEADS:
        return head
    raise InputError(
        f"{name} is a {type(model).__name__}, which says nothing about labelled rows; --validation_file scores "
        "classifiers, taggers and question answerers; use --text for masked-language models"
    )


def rows_report(
    paths: Mapping[str, str], teacher: str, options: RowOptions, device: torch.device, progress: bool = False
) -> dict[str, Any]:
    """What every model scores on the rows, JSON-ready; `teacher`: its name in `paths`.

    Raises `InputError` for models of several heads or of other classes, and for rows that cannot be read.
    """
    models = {name: load_model(path) for name, path in paths.items()}
    heads = {name: labelled_head(model, name) for name, model in models.items()}
    head = heads[teacher]
    for name, other in heads.items():
        if other != head:
            raise InputError(f"{name} is a {type(models[name]).__name__}, {teacher} a {type(models[teacher]).__name__}")
    rows, columns = _rows(head, options)
    file = Path(rows.source if isinstance(options.source, Rows) else options.source)
    config = models[teacher].config
    if head == "classification" and problem_type_of(config) == "regression" and len(config.id2label) != 1:
        raise InputError(f"the teacher gives {len(config.id2label)} numbers a row; rows have one label, a number")
    if head == "classification":
        refuse_single_texts(config, columns.texts, rows.source)
    notes = [columns.note, *rows.notes, *(f"{count:,} {what}" for what, count in rows.counts.items())]
    orders: dict[str, list[int]] = {}
    if head != "questions":
        for name, model in models.items():
            orders[name], note = class_order(label_names(config), label_names(model.config), name)
            notes += [note] if note else []
            kinds = [problem_type_of(each) if head == "classification" else head for each in (model.config, config)]
            if kinds[0] != kinds[1]:
                raise InputError(f"{name} is for {kinds[0]}, {teacher} for {kinds[1]}")
    comparison, said = _truth(head, rows, columns, config, options.label_separator)
    notes += said
    outputs: dict[str, Any] = {}
    for name, path in paths.items():
        tokenizer = load_transformers_tokenizer(path)
        outputs[name], cut = _outputs(
            head,
            models[name],
            tokenizer,
            rows,
            columns,
            options,
            device,
            orders.get(name),
            label_names(config),
            comparison,
            progress,
        )
        notes += [f"{name}: {count:,} {what}" for what, count in cut.items()]
    return {
        "file": file.name,
        "fingerprint": rows_fingerprint(rows, columns, options.max_length),
        "head": head,
        "problem": problem_type_of(config) if head == "classification" else head,
        "rows": len(rows),
        # A card may carry them to the world, which the folders of this machine are no business of.
        "notes": [note.replace(str(file), file.name) for note in notes],
        **compared(comparison, outputs, teacher),
    }


def _rows(head: str, options: RowOptions) -> tuple[Rows, Columns]:
    kind: Any = "text" if head == "classification" else head
    rows = read_rows(options.source, split="validation", ragged=options.ragged)
    columns = find_columns(rows, kind, options.text_column, options.label_column, options.group_column)
    rows = with_text(rows, columns)
    if options.max_rows is not None and options.max_rows < 1:
        raise InputError(f"--max_dev_rows is {options.max_rows}; at least 1 is needed")
    if options.max_rows is not None and len(rows) > options.max_rows:
        total = len(rows)
        chosen = np.random.Generator(np.random.Philox(0)).permutation(total)[: options.max_rows]
        rows = rows.take(sorted(chosen.tolist())).noting(f"scored on {options.max_rows:,} of {total:,} rows")
    return rows, columns


def rows_fingerprint(rows: Rows, columns: Columns, max_length: int) -> str:
    """sha256 of the texts, labels and groups of rows, and of how many tokens of them are read."""
    digest = hashlib.sha256(f"{max_length}".encode())
    for name in dict.fromkeys([*columns.texts, *columns.labels, *([columns.group] if columns.group else [])]):
        content = json.dumps([name, rows.column(name)], ensure_ascii=False, default=str)
        digest.update(content.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _truth(head: str, rows: Rows, columns: Columns, config: Any, separator: str | None) -> tuple[Comparison, list[str]]:
    """The comparison with the rows' labels, and what reading them has to say."""
    id2label = dict(enumerate(label_names(config)))
    names, problem = list(id2label.values()), cast(Any, problem_type_of(config) if head == "classification" else "")
    if head == "tokens":
        targets = tag_targets(rows, columns, id2label)
    elif head == "questions":
        targets = answer_targets(rows, columns)
    else:
        targets = sequence_targets(rows, columns, problem, id2label, separator)
    groups = Part(rows, columns).compared if head == "classification" and problem == "regression" else None
    if groups is None:
        return comparison_of(head, problem, targets.values, names), list(targets.notes)
    numbers = np.array(targets.values, np.float64)
    if not columns.labels:
        return Ranking(None, groups), list(targets.notes)
    if not np.isfinite(numbers).all():
        raise InputError(
            f"{rows.source}: a row of a group has no {columns.labels[0]!r}; a ranking needs it of each row"
        )
    return Ranking(numbers, groups), list(targets.notes)


def _outputs(
    head: str,
    model: Any,
    tokenizer: Any,
    rows: Rows,
    columns: Columns,
    options: RowOptions,
    device: torch.device,
    order: list[int] | None,
    names: list[str],
    comparison: Comparison,
    progress: bool,
) -> tuple[Any, Mapping[str, int]]:
    """A model's outputs in the teacher's classes, and what was cut."""
    length = options.max_length
    if head == "questions":
        assert isinstance(comparison, Answers)
        first, second = (rows.column(name) for name in columns.texts)
        unanswerable = any(not truths for truths in comparison.truth)
        return answers(model, tokenizer, first, second, length, device, unanswerable, progress)
    assert order is not None
    if head == "tokens":
        classes, cut = word_classes(model, tokenizer, rows.column(columns.texts[0]), length, device, progress)
        named = {own: names[number] for number, own in enumerate(order)} | {-1: ""}
        return [[named[int(one)] for one in row] for row in classes], cut
    texts = [rows.column(name) for name in columns.texts]
    logits, cut = sequence_logits(
        model, tokenizer, texts[0], texts[1] if len(texts) == 2 else None, length, device, progress
    )
    logits = logits[:, order]
    return (logits[:, 0] if isinstance(comparison, Numbers | Ranking) else logits), cut
