"""`python -m distilfast.task_distillation`: a fine-tuned classifier teaches a smaller one, also on text without labels.

The loss of a row is alpha_ce T^2 KL(teacher || student) + alpha_task times the task's own loss (Hinton et al. 2015).
Text without labels gets the teacher's most probable class as its label (Bucila et al. 2006), beside the soft one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ._command import parse, run
from ._core import InputError
from ._files import refuse_occupied, whole_directory, write_json
from .evaluate.finetune import encode_split, evaluate_task, fine_tune, load_for_task, predict, published_settings
from .evaluate.forward import room_for
from .evaluate.task_data import Split, TaskData, load_task
from .evaluate.tasks import Task, score
from .models.saved_tokenizer import save_tokenizer
from .models.student import create_student
from .prepare.text import read_texts
from .tokenizer import load_transformers_tokenizer


@dataclass
class TaskDistillation:
    """What to distil."""

    teacher: str = field(metadata={"help": "Directory or Hub id of a classifier fine-tuned for the task."})
    task: str = field(metadata={"help": "A GLUE task, imdb, or the name of a folder of your own in --data_dir."})
    output_dir: str = field(metadata={"help": "Where the student, its tokenizer and task_summary.json go."})
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder of task folders with train.tsv and dev.tsv. Default: the Hub."}
    )
    student: str | None = field(
        default=None,
        metadata={
            "help": "Directory or Hub id of the encoder that learns. Default: cut from the teacher, half as deep."
        },
    )
    unlabelled: str | None = field(
        default=None, metadata={"help": "A UTF-8 text file; each line is a row for the teacher to label."}
    )
    min_confidence: float = field(
        default=0.0, metadata={"help": "Leave out lines whose most probable class is less probable than this."}
    )
    alpha_ce: float = field(default=0.5, metadata={"help": "Weight of the KL to the teacher's tempered classes."})
    alpha_task: float = field(default=0.5, metadata={"help": "Weight of the loss on the labels."})
    temperature: float = field(default=2.0, metadata={"help": "Temperature of both softmaxes in the KL."})
    num_train_epochs: float | None = field(default=None, metadata={"help": "Default: the task's published number."})
    learning_rate: float | None = field(default=None, metadata={"help": "Default: the task's published rate."})
    batch_size: int | None = field(default=None, metadata={"help": "Rows of a step. Default: as published."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens of a row. Default: as published."})
    max_train_rows: int | None = field(default=None, metadata={"help": "Train on a random choice of so many rows."})
    seed: int = field(default=42, metadata={"help": "Of order and dropout."})
    precision: Literal["fp32", "bf16"] = field(default="fp32", metadata={"help": "bf16: on copies of float32 weights."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what --output_dir holds."})


def read_unlabelled(path: str | Path) -> list[str]:
    """The texts of a file as `distilfast.prepare` reads them.

    Raises `InputError` for a file that is missing, empty or not UTF-8 (naming the byte).
    """
    return read_texts([path])


def pseudo_labels(
    teacher: Any,
    tokenizer: Any,
    task: Task,
    texts: list[str],
    max_length: int,
    device: torch.device,
    min_confidence: float = 0.0,
) -> Split:
    """`texts` as rows of `task` with the teacher's labels: its most probable class, or its value for regression.

    Rows whose class has a probability below `min_confidence` are left out. Raises `InputError` for a task of pairs or
    questions, which a line of text is not, and where no row is left.
    """
    if task.kind == "questions" or (task.columns is not None and task.columns.second is not None):
        raise InputError(f"--unlabelled gives single texts, but rows of {task.title} have two; leave it out")
    if not 0.0 <= min_confidence <= 1.0:
        raise InputError(f"--min_confidence {min_confidence} is no probability")
    bare = Split(texts, None, [0] * len(texts))
    columns = encode_split(tokenizer, task, bare, room_for(teacher, tokenizer, max_length))
    (logits,) = predict(teacher, tokenizer, columns, device)
    if task.kind == "regression":
        return Split(texts, None, logits[:, 0].astype(float).tolist())
    probability = np.exp(logits - logits.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)
    kept = np.flatnonzero(probability.max(axis=1) >= min_confidence)
    if not len(kept):
        raise InputError(f"the teacher is nowhere as sure as --min_confidence {min_confidence}; lower it")
    return Split([texts[row] for row in kept], None, logits.argmax(axis=1)[kept].tolist())


def with_rows(data: TaskData, more: Split, note: str) -> TaskData:
    """`data` with `more` rows to train on."""
    train = data.train
    second = None if train.second is None or more.second is None else [*train.second, *more.second]
    joined = Split([*train.first, *more.first], second, [*train.labels, *more.labels])
    digest = hashlib.sha256(data.fingerprint.encode())
    for text, label in zip(more.first, more.labels, strict=True):
        digest.update(f"{label}\t{text}\n".encode())
    return dataclasses.replace(data, train=joined, notes=(*data.notes, note), fingerprint=digest.hexdigest())


def distil_task(arguments: TaskDistillation) -> dict[str, Any]:
    """Trains and saves the student; gives what `task_summary.json` says."""
    reads = [arguments.teacher, arguments.student, arguments.unlabelled, arguments.data_dir]
    refuse_occupied(arguments.output_dir, arguments.overwrite, reads)
    if not (arguments.alpha_ce >= 0 and arguments.alpha_task >= 0 and arguments.alpha_ce + arguments.alpha_task > 0):
        raise InputError("--alpha_ce and --alpha_task must not be negative, and one of them must be above 0")
    if not arguments.temperature > 0:
        raise InputError(f"--temperature {arguments.temperature}: must be greater than 0")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    texts = None if arguments.unlabelled is None else read_unlabelled(arguments.unlabelled)
    data = load_task(arguments.task, arguments.data_dir, arguments.max_train_rows)
    settings = published_settings(
        data.task,
        learning_rate=arguments.learning_rate,
        epochs=arguments.num_train_epochs,
        batch_size=arguments.batch_size,
        max_length=arguments.max_length,
        alpha_ce=arguments.alpha_ce,
        alpha_task=arguments.alpha_task,
        temperature=arguments.temperature,
        bf16=arguments.precision == "bf16",
    )
    teacher = load_for_task(arguments.teacher, data.task, arguments.seed)
    tokenizer = load_transformers_tokenizer(arguments.teacher)
    labelled = len(data.train)
    if texts is not None:
        rows = pseudo_labels(
            teacher, tokenizer, data.task, texts, settings.max_length, device, arguments.min_confidence
        )
        data = with_rows(
            data, rows, f"{len(rows)} rows of {Path(str(arguments.unlabelled)).name} with the teacher's labels"
        )
    taught = evaluate_task(teacher, tokenizer, data, settings.max_length, device, settings.bf16)
    with whole_directory(arguments.output_dir, arguments.overwrite, reads) as folder:
        student = arguments.student
        if student is None:
            student = str(folder)
            cut = create_student(teacher)
            cut.save_pretrained(folder)
            save_tokenizer(tokenizer, cut, folder)
        tuned = fine_tune(student, data, arguments.seed, settings, device, teacher=arguments.teacher, save_to=folder)
        summary = {
            "task": data.task.name,
            "teacher": {"path": arguments.teacher, "scores": taught, "score": score(data.task, taught)},
            "student": {"path": arguments.student, "scores": tuned.scores, "score": tuned.score},
            "rows": {"labelled": labelled, "unlabelled": len(data.train) - labelled},
            "settings": dataclasses.asdict(settings),
            "steps": tuned.steps,
            "seconds": tuned.seconds,
            "losses": tuned.losses,
            "notes": list(data.notes),
        }
        write_json(folder / "task_summary.json", summary)
    return summary


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([TaskDistillation], argv)
    summary = distil_task(arguments)
    print(
        f"{summary['task']}: teacher {summary['teacher']['score']:.1f}, student {summary['student']['score']:.1f} "
        f"after {summary['steps']} steps on {summary['rows']['labelled']} labelled and "
        f"{summary['rows']['unlabelled']} unlabelled rows; saved in {arguments.output_dir}"
    )


if __name__ == "__main__":
    run(main)
