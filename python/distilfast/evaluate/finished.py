"""Finished models as they are, scored on the rows of a file: what a student keeps of its teacher's quality.

Each model reads the rows through its own tokenizer; classes are matched by name, so that a student whose classes stand
in another order, or that has another vocabulary, is compared rightly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._core import InputError
from .._files import first_line
from ..batches.encode import EncodedRows
from ..batches.labelled import LabelledBatches
from ..heads.choice import choose_head
from ..heads.classification import problem_type_of
from ..heads.head import Head, Predictions
from ..heads.objective import Objective
from ..heads.tokens import Tokens
from ..metrics.compare import compared, comparison_of
from ..models.classes import class_order, label_names
from ..models.families import evaluating, longest_row, reads_padding
from ..models.head import head_of
from ..models.load import load_model
from ..models.sentence_folder import refuse_single_texts
from ..prepare.columns import Columns, find_columns
from ..prepare.labelled import Part
from ..prepare.records import Rows
from ..prepare.split import choose_rows
from ..prepare.table import read_rows
from ..prepare.targets import with_text
from ..tokenizer import load_transformers_tokenizer
from ..train.evaluation import predict
from ..train.labelled import encode_part, targets_of
from ..train.report import outputs_of
from ..train.step import DistillationStep
from .options import LONGEST, EvaluateOptions

BATCH = 32
HEADS = ("classification", "tokens", "questions")


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
    paths: Mapping[str, str],
    teacher: str,
    source: str | Rows,
    options: EvaluateOptions,
    device: torch.device,
    progress: bool = False,
) -> dict[str, Any]:
    """What every model scores on the rows of `source`, JSON-ready; `teacher`: its name in `paths`.

    Raises `InputError` for models of several heads or of other classes, and for rows that cannot be read.
    """
    models = {name: load_model(path) for name, path in paths.items()}
    heads = {name: labelled_head(model, name) for name, model in models.items()}
    head = heads[teacher]
    for name, other in heads.items():
        if other != head:
            raise InputError(f"{name} is a {type(models[name]).__name__}, {teacher} a {type(models[teacher]).__name__}")
    part = _part(head, source, options)
    rows, columns, config = part.rows, part.columns, models[teacher].config
    names = label_names(config)
    problem = problem_type_of(config) if head == "classification" else head
    file = Path(rows.source if isinstance(source, Rows) else source)
    if problem == "regression" and len(names) != 1:
        raise InputError(f"the teacher gives {len(names)} numbers a row; rows have one label, a number")
    if head == "classification":
        refuse_single_texts(config, columns.texts, rows.source)
    notes = [columns.note, *rows.notes, *(f"{count:,} {what}" for what, count in rows.counts.items())]
    orders: dict[str, list[int]] = {}
    if head != "questions":
        for name, model in models.items():
            orders[name], note = class_order(names, label_names(model.config), name)
            notes += [note] if note else []
            own = problem_type_of(model.config) if head == "classification" else head
            if own != problem:
                raise InputError(f"{name} is for {own}, {teacher} for {problem}")
    targets = targets_of(part, head, config, options.label_separator, None)
    notes += targets.notes
    groups = part.compared if problem == "regression" else None
    if groups is not None and columns.labels and not np.isfinite(targets.values).all():
        raise InputError(
            f"{rows.source}: a row of a group has no {columns.labels[0]!r}; a ranking needs it of each row"
        )
    most = options.max_length or LONGEST
    outputs: dict[str, Any] = {}
    for name, path in paths.items():
        model, tokenizer = models[name], load_transformers_tokenizer(path)
        longest = longest_row(model, tokenizer=tokenizer) or most
        encoded = encode_part(part, targets, head, tokenizer, min(most, longest))
        order = orders.get(name, [])
        own_head = choose_head(model, head)
        if isinstance(own_head, Tokens):
            own_head = Tokens([names[order.index(number)] for number in range(len(names))])
        said = said_of(model, own_head, tokenizer, encoded, device, progress)
        logits = said.student[:, order] if head == "classification" else said.student
        outputs[name] = outputs_of(own_head, said, logits, targets.values)
        notes += [f"{name}: {count:,} {what}" for what, count in encoded.counts.items()]
    return {
        "file": file.name,
        "fingerprint": rows_fingerprint(rows, columns, most),
        "head": head,
        "problem": problem,
        "rows": len(rows),
        # A card may carry them to the world, which the folders of this machine are no business of.
        "notes": [note.replace(str(file), file.name) for note in notes],
        **compared(comparison_of(head, problem, targets.values, names, groups), outputs, teacher),
    }


def _part(head: str, source: str | Rows, options: EvaluateOptions) -> Part:
    """The rows that are scored."""
    kind: Any = "text" if head == "classification" else head
    rows = read_rows(source, split="validation", ragged=options.ragged)
    columns = find_columns(rows, kind, options.text_column, options.label_column, options.group_column)
    rows = with_text(rows, columns)
    if options.max_dev_rows is not None:
        total, chosen = len(rows), choose_rows(rows, columns, options.max_dev_rows)
        if len(chosen) < total:
            rows = rows.take(chosen).noting(f"scored on {options.max_dev_rows:,} of {total:,} rows")
    return Part(rows, columns)


def said_of(
    model: Any, head: Head, tokenizer: Any, rows: EncodedRows, device: torch.device, progress: bool = False
) -> Predictions:
    """What a finished model says of rows, in their order.

    Raises `InputError` for token ids that the model has no embedding for, where another model's tokenizer lies beside
    it, and for a model that cannot read them.
    """
    size, most = int(model.get_input_embeddings().num_embeddings), int(rows.input_ids.flat.max(initial=0))
    if most >= size:
        raise InputError(
            f"the tokenizer beside {type(model).__name__} gives token {most}, but the model has {size} embeddings; "
            "save the tokenizer that it was trained with"
        )
    tokenizer.padding_side = "right"
    step = DistillationStep(model, objective=Objective(alpha_ce=0.0, alpha_cos=0.0), head=head)
    batches = LabelledBatches(rows, tokenizer, BATCH, shuffle=False, one_length=reads_padding(model))
    with evaluating(model, device=device), torch.inference_mode():
        try:
            return predict(step, batches, device, progress=progress)
        except InputError:
            raise
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise InputError(f"this {type(model).__name__} cannot read the rows: {first_line(error)}") from None


def rows_fingerprint(rows: Rows, columns: Columns, max_length: int) -> str:
    """sha256 of the texts, labels and groups of rows, and of how many tokens of them are read."""
    digest = hashlib.sha256(f"{max_length}".encode())
    for name in dict.fromkeys([*columns.texts, *columns.labels, *([columns.group] if columns.group else [])]):
        content = json.dumps([name, rows.column(name)], ensure_ascii=False, default=str)
        digest.update(content.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
