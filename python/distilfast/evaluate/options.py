"""What an evaluation is told; flags of a part of it that nobody asked for are refused, where they would do nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from .. import _command as command
from .._command import REQUIRED, flag
from .._core import InputError
from ..models.pooling import POOLINGS

SWEEP = (2e-5, 3e-5, 5e-5)
LONGEST = 512
"""Tokens of a held-out example or row, if nothing is said."""


@dataclass
class EvaluateOptions:
    """Flags of `python -m distilfast.evaluate`."""

    teacher: str = flag(REQUIRED, "Teacher: a directory, a hub id, or name=directory.")
    output_dir: str = flag(REQUIRED, "Where evaluate.md and evaluate.json go; finished parts in it are kept.")
    student: list[str] = flag([], "Students, like --teacher; may be given more than once.", action="extend")
    validation_file: list[str] = flag(
        [],
        "Labelled rows (csv, tsv, jsonl, json, parquet, a folder) on which finished classifiers, taggers and question "
        "answerers are scored as they are; several are scored apart.",
    )
    text_column: list[str] = flag([], "Column of the text, two for pairs. Default: the usual names.")
    label_column: list[str] = flag([], "Column of the label; several: one a class. none: no labels.")
    label_separator: str | None = flag(None, "What stands between several labels in one cell, as in 'sport|news'.")
    group_column: str | None = flag(None, "Column of the query whose rows are ranked together, for one-score models.")
    ragged: Literal["refuse", "skip"] = flag(
        "refuse", "Rows with more or fewer cells than the header: skip leaves out and counts."
    )
    text: list[str] = flag(
        [],
        "Held-out text files, UTF-8, one example a line, for masked-LM loss and agreement; several, also as "
        "name=file, are scored apart.",
    )
    tokens: str | None = flag(None, "Held-out text as a directory of python -m distilfast.prepare, instead of --text.")
    max_length: int | None = flag(
        None,
        "Longest held-out example or row in tokens; longer ones are cut. Default: 512, for sentence encoders what each "
        "reads.",
    )
    max_lines: int | None = flag(None, "Use this many lines of --text at most.")
    batch_tokens: int = flag(8192, "Token budget of a held-out batch.")
    mask_seed: int = flag(0, "Seed of the held-out masks; same for every model.")
    device: str = flag("auto", "Where quality is evaluated: auto, cpu, cuda, cuda:1.")
    sts_file: list[str] = flag(
        [], "Sentence encoders: rows of two sentences and how alike people find them (csv, tsv, jsonl)."
    )
    sentences: list[str] = flag([], "Sentence encoders: text files, for neighbours and cosines to the teacher.")
    retrieval_dir: list[str] = flag(
        [], "Sentence encoders, rerankers: folders with corpus.jsonl, queries.jsonl, qrels/, as BEIR's."
    )
    pooling: str | None = flag(None, "How bare encoders among the models are pooled: mean, cls or max.")
    normalize: bool | None = flag(None, "Whether vectors of bare encoders have length 1. Default: yes.")
    controls: bool = flag(
        True, "Also score the teacher's layers as they are cut and, but for masked words, random weights."
    )
    tasks: str | None = flag(
        None,
        "Tasks to fine-tune on, comma-separated: cola,sst2,mrpc,stsb,qqp,mnli,qnli,rte,wnli,imdb,squad, or folders of "
        "your own in --data_dir.",
    )
    data_dir: str | None = flag(None, "Folder with task folders (CoLA/train.tsv ...); without it, the hub.")
    seeds: int = flag(5, "Seeds a model and task; tables show the median.")
    shard: str = flag("1/1", "i/n: run the i-th of n parts of the cells.")
    distil: bool = flag(False, "Also tune each student beside the task-tuned teacher, a row of its own.")
    sweep: bool = flag(False, "Try --sweep_learning_rates and keep the best median.")
    sweep_learning_rates: list[float] = flag(list(SWEEP), "Learning rates of --sweep.")
    learning_rate: float | None = flag(None, "Of fine-tuning; else 2e-5, SQuAD 3e-5.")
    epochs: float | None = flag(None, "Of fine-tuning; else 3.")
    batch_size: int | None = flag(None, "Of fine-tuning; else 32, SQuAD 12.")
    task_max_length: int | None = flag(None, "Tokens an example; else 128, IMDb 512, SQuAD 384.")
    max_train_rows: int | None = flag(None, "Fine-tune on this many rows at most.")
    max_dev_rows: int | None = flag(None, "Score on this many rows at most.")
    alpha_ce: float = flag(0.5, "--distil: weight of the KL to the tuned teacher.")
    alpha_task: float = flag(0.5, "--distil: weight of the task's own loss.")
    temperature: float = flag(2.0, "--distil: temperature of the KL.")
    bf16: bool = flag(False, "Fine-tune in bfloat16.")
    speed: bool = flag(True, "Measure latency and throughput on the CPU and a GPU, if any.")
    pictures: bool = flag(True, "Draw pictures; left out where matplotlib is missing.")
    speed_length: int = flag(128, "Tokens a sequence when measuring speed, or what the models have positions for.")
    speed_repeats: int = flag(30, "Timed forwards a model at batch 1.")


_OF_TASKS = ("data_dir", "seeds", "shard", "distil", "sweep", "learning_rate", "epochs", "batch_size")
PARTS: command.Parts = (
    (("tasks",), (*_OF_TASKS, "task_max_length", "max_train_rows", "bf16")),
    (("distil",), ("alpha_ce", "alpha_task", "temperature")),
    (("sweep",), ("sweep_learning_rates",)),
    (("tasks", "validation_file"), ("max_dev_rows",)),
    (("validation_file",), ("label_separator", "group_column", "ragged")),
    (("validation_file", "sts_file"), ("text_column", "label_column")),
    (("text", "sentences"), ("max_lines",)),
    (("text", "tokens"), ("batch_tokens", "mask_seed")),
    (("sts_file", "sentences", "retrieval_dir"), ("pooling", "normalize")),
    (("text", "tokens", "sts_file", "sentences", "retrieval_dir"), ("controls",)),
    (("validation_file", "text", "tokens", "sts_file", "sentences", "retrieval_dir"), ("max_length",)),
    (("speed",), ("speed_length", "speed_repeats")),
)


def refuse_idle(options: EvaluateOptions) -> None:
    """Raises `InputError` for a field of `options` that is not its default and whose part is not asked for, and for a
    pooling that is none."""
    if options.pooling is not None and options.pooling not in POOLINGS:
        raise InputError(f"--pooling {options.pooling!r} is none of {', '.join(POOLINGS)}")
    command.refuse_idle(command.changed(options), PARTS, partial(getattr, options))
