"""Rows as batches: read, their labels matched to the teacher's classes, tokenised, and what is said about it all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from ..batches.encode import EncodedRows, encode_texts, encode_words, joined
from ..batches.labelled import LabelledBatches
from ..batches.question_windows import encode_questions, passage_stride
from ..heads.classification import problem_type_of
from ..losses.definitions import IGNORED
from ..models.classes import label_names
from ..models.families import longest_row, reads_padding
from ..models.sentence_folder import refuse_single_texts
from ..prepare.columns import Kind
from ..prepare.labelled import LabelledData, Part, compared_groups, load_labelled
from ..prepare.labels import LabelMapping
from ..prepare.records import listed, rows_of_columns
from ..prepare.split import choose_rows
from ..prepare.table import is_delimited
from ..prepare.targets import Targets, answer_targets, sequence_targets, tag_targets
from ..prepare.text import read_texts
from ..tokenizer import load_transformers_tokenizer
from .row_arguments import RowArguments

KINDS: dict[str, Kind] = {"classification": "text", "tokens": "tokens", "questions": "questions"}
"""What a row is to each head that learns from rows."""

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
ON_HUB = {**dict.fromkeys(GLUE, "nyu-mll/glue"), "imdb": "stanfordnlp/imdb", "squad": "rajpurkar/squad"}
"""Where tasks are on the Hub; GLUE's names are those of configurations there."""
SHOWN_ROWS, SHOWN_TOKENS = 3, 40


@dataclass(frozen=True)
class EncodedPart:
    """The rows of one part with their labels as the head reads them."""

    part: Part
    targets: Targets
    rows: EncodedRows


@dataclass(frozen=True)
class LabelledRun:
    """What a run on rows learns from and is evaluated on. `notes`: what a reader must know, a line each."""

    train: EncodedPart
    validation: EncodedPart
    unlabelled: EncodedPart | None
    tokenizer: Any
    id2label: Mapping[int, str]
    max_length: int
    notes: tuple[str, ...]
    one_length: bool = False
    """Whether a model that padding changes is among those that read the rows."""

    @property
    def num_labelled(self) -> int:
        """Rows to train on that have a label."""
        return self.train.targets.labelled + (0 if self.unlabelled is None else self.unlabelled.targets.labelled)

    @property
    def mapping(self) -> LabelMapping | None:
        """How labels were matched to classes, those of the validation rows as well."""
        return self.validation.targets.mapping or self.train.targets.mapping

    @cached_property
    def rows(self) -> EncodedRows:
        """The rows to train on, with and without labels."""
        return joined([self.train.rows, *([self.unlabelled.rows] if self.unlabelled is not None else [])])

    def batches(self, batch_size: int, batches_per_step: int, seed: int, mixing: float = 0.0) -> LabelledBatches:
        """The rows to train on, with lengths mixed so far."""
        return LabelledBatches(self.rows, self.tokenizer, batch_size, batches_per_step, seed, mixing=mixing)

    def held_out(self, batch_size: int) -> LabelledBatches:
        """The rows to evaluate on, the same in every epoch; not padded for models that padding changes."""
        return LabelledBatches(
            self.validation.rows, self.tokenizer, batch_size, shuffle=False, one_length=self.one_length
        )

    @property
    def facts(self) -> dict[str, Any]:
        """For `train_summary.json`."""
        columns = self.train.part.columns
        return {
            "train_rows": len(self.train.part),
            "train_rows_with_label": self.train.targets.labelled,
            "validation_rows": len(self.validation.part),
            "unlabelled_rows": 0 if self.unlabelled is None else len(self.unlabelled.part),
            "text_columns": list(columns.texts),
            "label_columns": list(columns.labels),
            "labels": None if self.mapping is None else self.mapping.summary,
            "notes": list(self.notes),
        }


def source_of(rows: RowArguments) -> tuple[str | None, str | None]:
    """Where the training rows are by the flags (None where no flag says), and which configuration of a data set. Raises
    `InputError` where two flags say."""
    given = [name for name in ("train_file", "dataset_name", "task") if getattr(rows, name) is not None]
    if len(given) > 1:
        raise InputError(f"give the rows with one of {', '.join('--' + name for name in given)}, not with several")
    if rows.data_dir is not None and rows.task is None:
        raise InputError("--data_dir is where the folder of --task is; give --task, or the folder as --train_file")
    if rows.dataset_config_name is not None and rows.dataset_name is None:
        raise InputError("--dataset_config_name belongs to --dataset_name, which is not given")
    if rows.task is not None:
        return task_source(rows.task, rows.data_dir)
    return rows.train_file or rows.dataset_name, rows.dataset_config_name


def are_rows(train: Any) -> bool:
    """Whether what Python handed over can be nothing but rows: an object, or a csv or tsv file."""
    files = [train] if isinstance(train, str | Path) else train
    if isinstance(files, list | tuple) and all(isinstance(each, str | Path) for each in files):
        return any(is_delimited(Path(each)) for each in files)
    return train is not None


def task_source(task: str, data_dir: str | None) -> tuple[str, str | None]:
    """Where the rows of a task are, and which configuration: its folder in `data_dir` or in `glue` there (sst2 is
    SST-2, whatever its case), or its data set on the Hub."""
    plain = _plain(task)
    if data_dir is None:
        if plain not in ON_HUB:
            raise InputError(f"task {task!r} is none of {', '.join(ON_HUB)}; give --data_dir, the folder that holds it")
        return ON_HUB[plain], plain if plain in GLUE else None
    folder = Path(data_dir)
    if not folder.is_dir():
        raise InputError(f"--data_dir {data_dir}: there is no such directory")
    inside: dict[str, Path] = {}
    for place in (folder, *(folder / name for name in ("glue", "GLUE"))):
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            if path.is_dir():
                inside.setdefault(path.name, path)
    found = inside.get(task) or next(
        (path for name, path in inside.items() if _plain(name) in (plain, "acl" + plain)), None
    )
    if found is None:
        raise InputError(
            f"task {task!r}: neither {folder} nor its folder glue has a folder of that name; there is {listed(inside)}"
        )
    return str(found), None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def read(
    rows: RowArguments, head: str, seed: int, train: Any = None, validation: Any = None, unlabelled: Any = None
) -> LabelledData:
    """The rows of the flags, or of what Python handed over in their place, split, as `load_labelled` gives them."""
    unlabelled = rows.unlabelled_file if unlabelled is None else unlabelled
    if isinstance(unlabelled, str | Path) and Path(unlabelled).suffix.lower() in (".txt", ".text"):
        unlabelled = rows_of_columns({"text": read_texts([str(unlabelled)])}, str(unlabelled))
    if rows.min_confidence is not None and unlabelled is None:
        raise InputError("--min_confidence is for rows without labels; give them with --unlabelled_file")
    source, config = source_of(rows)
    data = load_labelled(
        source if train is None else train,
        rows.validation_file if validation is None else validation,
        unlabelled,
        kind=KINDS[head],
        text_column=rows.text_column,
        label_column=rows.label_column,
        group_column=rows.group_column,
        config_name=config,
        max_train_rows=rows.max_train_rows,
        seed=seed,
        ragged=rows.ragged,
    )
    if rows.max_eval_samples is None:
        return data
    part = data.validation
    chosen = choose_rows(part.rows, part.columns, rows.max_eval_samples, seed)
    if len(chosen) == len(part):
        return data
    note = f"evaluated on {len(chosen):,} of {len(part):,} rows (--max_eval_samples), chosen at random by seed {seed}"
    fewer = Part(part.rows.take(chosen), part.columns)
    return replace(data, validation=fewer, notes=(*data.notes, note))


def encode(
    data: LabelledData,
    head: str,
    config: PreTrainedConfig,
    models: Sequence[PreTrainedModel],
    tokenizer: Any,
    max_length: int,
    separator: str | None = None,
    compares_groups: bool = False,
) -> LabelledRun:
    """The rows as token ids, their labels as the classes of `config` (the teacher's, which is the truth).

    `models`: all that read the rows, which bound their length. `compares_groups`: a loss compares the
    rows of a group, which then stay together. Raises `InputError` for labels that fit no class, for rows that are no
    food for the head, and for such a loss where no two rows are of one group.
    """
    notes = list(data.notes)
    longest = longest_row(*models, tokenizer=tokenizer)
    if longest is not None and longest < max_length:
        notes.append(f"rows may have {longest} tokens, which the models have positions for, not {max_length}")
        max_length = longest
    id2label = dict(enumerate(label_names(config)))
    scores = head == "classification" and problem_type_of(config) == "regression"
    if compares_groups and not scores:
        raise InputError(
            "--alpha_margin_mse and --alpha_listnet compare the scores of a query's passages, and the teacher gives no "
            "single number a row; leave them out"
        )
    if separator is not None and head != "classification":
        raise InputError(f"--label_separator {separator!r} is for classifiers; leave it out")
    if head == "classification":
        refuse_single_texts(config, data.train.columns.texts, data.train.rows.source)
    if scores and len(id2label) != 1:
        raise InputError(f"the teacher gives {len(id2label)} numbers a row; rows have one label, a number")
    parts: dict[str, EncodedPart] = {}
    mapping: LabelMapping | None = None
    for name, part in (("train", data.train), ("validation", data.validation), ("unlabelled", data.unlabelled)):
        if part is None:
            continue
        targets = targets_of(part, head, config, separator, mapping)
        if mapping is not None and targets.mapping not in (None, mapping) and mapping.note in notes:
            notes.remove(mapping.note)  # the new one has all of its labels, and more
        mapping = targets.mapping or mapping
        encoded = encode_part(part, targets, head, tokenizer, max_length)
        if scores and compares_groups:
            groups, note = compared_groups(part)
            encoded = replace(encoded, groups=groups)
            notes.append(f"{name}: {note}")
        elif scores and name == "validation":
            encoded = replace(encoded, groups=part.compared)
        parts[name] = EncodedPart(part, targets, encoded)
        notes += [note for note in targets.notes if note not in notes]
        notes += [f"{name}: {count:,} {what}" for what, count in encoded.counts.items()]
        if name != "unlabelled":
            notes.append(f"{name}: {len(part):,} rows, {_with_label(targets.labelled, len(part))}")
            if head == "classification" and _all_alike(targets):
                notes.append(f"warning: {name}: all labels are the same, so that they say nothing")
        else:
            notes.append(f"{name}: {len(part):,} rows, which learn from the teacher alone")
    padded = next((model.config.model_type for model in models if reads_padding(model)), None)
    if padded is not None:
        notes.append(
            f"warning: what a model of type {padded} says of a text changes with the padding behind it: it learns from "
            "padded batches, and is evaluated without padding, as it reads a text alone"
        )
    return LabelledRun(
        parts["train"],
        parts["validation"],
        parts.get("unlabelled"),
        tokenizer,
        id2label,
        max_length,
        tuple(notes),
        one_length=padded is not None,
    )


def _with_label(labelled: int, rows: int) -> str:
    return "all with a label" if labelled == rows else f"{labelled:,} with a label" if labelled else "none with a label"


def _all_alike(targets: Targets) -> bool:
    given = [value for value in targets.values if value is not None and value != IGNORED and value == value]
    return len(given) > 1 and all(value == given[0] for value in given)


def targets_of(
    part: Part, head: str, config: PreTrainedConfig, separator: str | None, mapping: LabelMapping | None
) -> Targets:
    """The labels of a part as the head reads them."""
    id2label = dict(enumerate(label_names(config)))
    if head == "tokens":
        return tag_targets(part.rows, part.columns, id2label, mapping)
    if head == "questions":
        return answer_targets(part.rows, part.columns)
    return sequence_targets(part.rows, part.columns, problem_type_of(config), id2label, separator, mapping)


def encode_part(part: Part, targets: Targets, head: str, tokenizer: Any, max_length: int) -> EncodedRows:
    """The rows of a part as token ids, with the labels that they have."""
    labels: Any = targets.values if targets.labelled else None
    texts = part.texts
    if head == "tokens":
        return encode_words(tokenizer, texts[0], labels, max_length)
    if head == "questions":
        return encode_questions(tokenizer, texts[0], texts[1], labels, max_length, passage_stride(max_length))
    return encode_texts(tokenizer, texts[0], texts[1] if len(texts) == 2 else None, labels, max_length)


def class_weights(given: Sequence[str] | None, run: LabelledRun, head: str) -> list[float] | None:
    """The weight of each class in the loss against labels: numbers as given, or inverse to how often it occurs.

    "balanced" is rows / (classes * rows of the class), as in scikit-learn, for taggers words in the place of rows; a
    class without any counts 1.
    Raises `InputError` for other words, for another number of weights than classes, and for heads without classes.
    """
    if given is None:
        return None
    if head == "questions":
        raise InputError("--class_weights: answers are places in a passage and have no classes; leave it out")
    classes = len(run.id2label)
    if list(given) == ["balanced"]:
        values = run.train.targets.values
        flat = [tag for tags in values for tag in tags] if head == "tokens" else values
        labels = np.array([label for label in flat if isinstance(label, int) and label != IGNORED])
        if not len(labels):
            raise InputError(
                "--class_weights balanced counts labels that are one class a row or a word, and there are none"
            )
        counts = np.bincount(labels, minlength=classes)
        return [float(len(labels) / (classes * count)) if count else 1.0 for count in counts]
    try:
        weights = [float(each) for each in given]
    except ValueError:
        raise InputError(f"--class_weights {' '.join(given)}: 'balanced', or a number for each class") from None
    if len(weights) != classes or not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise InputError(
            f"--class_weights {' '.join(given)}: {classes} numbers that are not negative are needed, in the order of "
            f"the teacher's classes {listed(run.id2label.values())}"
        )
    return weights


def rows_seen(run: LabelledRun) -> list[str]:
    """The first training rows as the model sees them, and their labels."""
    lines = []
    first = list(dict.fromkeys(run.train.rows.row_numbers.tolist()))[:SHOWN_ROWS]
    for number in first:
        ids = run.train.rows.input_ids[int(np.flatnonzero(run.train.rows.row_numbers == number)[0])].tolist()
        tokens = [str(token) for token in run.tokenizer.convert_ids_to_tokens(ids[:SHOWN_TOKENS])]
        more = f" ... ({len(ids)} tokens)" if len(ids) > SHOWN_TOKENS else ""
        lines.append(f"row {number + 1}: {' '.join(tokens)}{more} -> {_label_seen(run, number)}")
    return lines


def _label_seen(run: LabelledRun, row: int) -> str:
    value = run.train.targets.values[row]
    names = run.id2label
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == IGNORED:
        return "no label"
    if isinstance(value, dict):
        return " | ".join(value["text"]) or "no answer"
    if isinstance(value, list) and all(isinstance(one, float) for one in value):
        return ", ".join(names[number] for number, one in enumerate(value) if one > 0.5) or "no class"
    if isinstance(value, list):
        return " ".join("-" if one == IGNORED else names[one] for one in value[:SHOWN_TOKENS])
    return f"{value:g}" if isinstance(value, float) else names[value]


def check_models(
    tokenizer: Any, name: str, models: Mapping[str, PreTrainedModel], tokenizers: Mapping[str, str]
) -> None:
    """Refuses models that the tokenizer `name` gives ids for which are not theirs, or have no embedding.

    `tokenizers`: {whose: where its own tokenizer is} of models that come with one; its words must be the same.
    """
    for whose, model in models.items():
        if len(tokenizer) > model.config.vocab_size:
            raise InputError(
                f"{whose} has a vocabulary of {model.config.vocab_size:,} entries, the tokenizer of {name} "
                f"{len(tokenizer):,}; give --tokenizer, the one that the models were trained with"
            )
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    for whose, path in tokenizers.items():
        others = load_transformers_tokenizer(path).get_vocab().items()
        for word, number in sorted(others, key=lambda pair: pair[1]):
            if words.get(number, word) != word:  # a vocabulary that goes on where this one ends is welcome
                raise InputError(
                    f"{whose} has another vocabulary than {name}: its id {number} is {word!r} and {words[number]!r} "
                    "here; teacher and student must read the same ids"
                )
