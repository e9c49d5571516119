"""`python -m distilfast.evaluate`: what share of the teacher's quality students keep, how much smaller and faster
they are; one Markdown table, one JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from .._command import REQUIRED, flag, parse, require_positive
from .._core import InputError, __version__
from .._files import may_be_folder, write_json, write_text
from ..metrics.held_out import pick_device
from ..metrics.speed import hardware, measure_size, measure_speed
from ..models.families import longest_row
from ..models.load import load_model, named_models, quiet, refuse_bare_directory
from .cells import model_fingerprint
from .finetune import refuse_other_gpus
from .finished import RowOptions, rows_report
from .idle import refuse_idle
from .merge import FORMAT, earlier_report, fits, merged, set_aside
from .pictures import draw_pictures
from .report import markdown
from .rerankers import reranker_report, scores_pairs
from .row_report import kept_lines
from .scores import SWEEP, TaskPlan, parse_tasks, task_report
from .sentences import SentenceOptions, sentence_report
from .texts import TextOptions, held_out_report

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


def describe_models(paths: dict[str, str], options: EvaluateOptions) -> dict[str, dict[str, Any]]:
    """Size, fingerprint and speed of each model by name, the teacher first."""
    models = {name: load_for_size(path) for name, path in paths.items()}
    described: dict[str, dict[str, Any]] = {
        name: {
            "class": type(models[name]).__name__,
            "fingerprint": model_fingerprint(path),
            **vars(measure_size(models[name], path)),
        }
        for name, path in paths.items()
    }
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])] if options.speed else []
    length = min([options.speed_length, *(most for each in models.values() if (most := longest_row(each)) is not None)])
    for device in devices:
        speeds = measure_speed(models, device, length, options.speed_repeats)
        for name, speed in speeds.items():
            described[name].setdefault("speed", {})[device] = vars(speed)
    return described


def load_for_size(path: str) -> Any:
    """The model that the configuration in `path` names where it is there whole, else its bare encoder."""
    try:
        return load_model(path)
    except InputError:
        return load_model(path, "hidden_states")


def labelled_report(paths: dict[str, str], teacher: str, options: EvaluateOptions, on: torch.device) -> dict[str, Any]:
    """What finished models score on each --validation_file, by its name."""
    report: dict[str, Any] = {}
    for file in options.validation_file:
        name = Path(file).stem
        if name in report:
            raise InputError(f"--validation_file: two files are called {name!r}; rename one")
        rows = RowOptions(
            file,
            tuple(options.text_column),
            tuple(options.label_column),
            options.group_column,
            options.label_separator,
            options.max_length or LONGEST,
            options.max_dev_rows,
            options.ragged,
        )
        report[name] = rows_report(paths, teacher, rows, on, progress=sys.stderr.isatty())
    return report


def text_options(options: EvaluateOptions) -> TextOptions:
    """Which held-out text masked-language models are scored on, and how."""
    return TextOptions(
        options.text,
        options.tokens,
        options.max_lines,
        options.max_length or LONGEST,
        options.batch_tokens,
        options.mask_seed,
        options.device,
        options.controls,
    )


def sentence_options(options: EvaluateOptions) -> SentenceOptions | None:
    """What sentence encoders are scored on; None where nothing is named."""
    if not (options.sts_file or options.sentences or options.retrieval_dir):
        return None
    for name in ("sts_file", "retrieval_dir"):
        names = [Path(each).stem for each in getattr(options, name)]
        if len(set(names)) < len(names):
            raise InputError(f"--{name}: two are called {max(names, key=names.count)!r}; rename one")
    return SentenceOptions(
        options.sts_file,
        options.sentences,
        options.retrieval_dir,
        tuple(options.text_column),
        tuple(options.label_column),
        options.pooling,
        options.normalize,
        options.max_lines,
        options.controls,
        options.max_length,
    )


def task_plan(options: EvaluateOptions) -> TaskPlan:
    """What the flags ask to be fine-tuned."""
    assert options.tasks is not None
    if options.sweep and options.learning_rate is not None:
        raise InputError("--sweep and --learning_rate contradict each other; give --sweep_learning_rates")
    settings = {
        "learning_rate": options.learning_rate,
        "epochs": options.epochs,
        "batch_size": options.batch_size,
        "max_length": options.task_max_length,
        "max_train_rows": options.max_train_rows,
        "max_dev_rows": options.max_dev_rows,
        "alpha_ce": options.alpha_ce,
        "alpha_task": options.alpha_task,
        "temperature": options.temperature,
        "bf16": options.bf16,
    }
    for name in ("learning_rate", "epochs", "batch_size", "max_length", "temperature"):
        if (value := settings[name]) is not None and not value > 0:
            raise InputError(f"{name} is {value}; it must be above 0")
    return TaskPlan(
        tasks=parse_tasks(options.tasks),
        seeds=options.seeds,
        settings=settings,
        learning_rates=options.sweep_learning_rates if options.sweep else (),
        distil=options.distil,
        data_dir=options.data_dir,
        shard=options.shard,
    )


def run_evaluation(options: EvaluateOptions) -> dict[str, Any]:
    """The whole report as JSON-ready values; writes `evaluate.json` and `evaluate.md` in the output directory.

    A report that is there of the same models is added to; one of other or changed models is renamed, not lost.
    """
    may_be_folder(options.output_dir)
    paths = named_models([options.teacher, *options.student])
    teacher = next(iter(paths))
    for path in paths.values():
        refuse_bare_directory(path)
    require_positive(options, "speed_length", "speed_repeats", "max_length", "batch_tokens")
    if options.text and options.tokens:
        raise InputError("--text and --tokens both name held-out text; give one of them")
    folder = Path(options.output_dir)
    earlier = earlier_report(folder)
    plan = None if options.tasks is None else task_plan(options)
    refuse_idle(options)
    on = pick_device(options.device)
    if plan is not None:
        refuse_other_gpus(on)
    report: dict[str, Any] = {
        "format": FORMAT,
        "versions": {"distilfast": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "hardware": {"cpu": hardware("cpu"), **({"cuda": hardware("cuda")} if torch.cuda.is_available() else {})},
        "device": str(on),
        "teacher": teacher,
    }
    if options.validation_file:
        report["rows"] = labelled_report(paths, teacher, options, on)
    if options.text or options.tokens:
        report["held_out"] = held_out_report(paths, teacher, text_options(options))
    if (of_sentences := sentence_options(options)) is not None:
        scored = reranker_report if scores_pairs(paths[teacher]) else sentence_report
        report |= scored(paths, teacher, of_sentences, on)
    report["models"] = describe_models(paths, options)
    if plan is not None:
        found, report["missing"] = task_report(paths, plan, folder, on)
        report |= found
    if earlier is not None and fits(earlier, report):
        report = merged(earlier, report)
    elif earlier is not None:
        kept = set_aside(folder)
        print(f"the report in {folder} is of other models or rows; it is kept as {kept}", file=sys.stderr)
    report["pictures"] = []
    if options.pictures:
        folder.mkdir(parents=True, exist_ok=True)
        report["pictures"] = draw_pictures(report, folder)
    write_json(folder / "evaluate.json", report)
    write_text(folder / "evaluate.md", markdown(report))
    return report


def evaluate_models(
    teacher: str, student: str | Sequence[str] = (), output_dir: str = "evaluation", **options: Any
) -> dict[str, Any]:
    """What share of a teacher's quality finished students keep, how much smaller and faster they are.

    teacher, student: directories, hub ids or name=directory. options: fields of `EvaluateOptions`, among them
    `validation_file` (labelled rows), `text` (held-out text), `tasks`, `speed`; a string stands for a list of one.
    Writes `evaluate.json` and `evaluate.md` to `output_dir` and returns what the first holds. Raises `InputError`.
    """
    known = {each.name: each for each in fields(EvaluateOptions)}
    for name, value in options.items():
        if name not in known:
            raise InputError(f"evaluate_models has no option {name!r}; it has {', '.join(known)}")
        if isinstance(value, str) and known[name].default_factory is not MISSING:
            options[name] = [value]
    students = [student] if isinstance(student, str) else list(student)
    return run_evaluation(EvaluateOptions(teacher=teacher, output_dir=output_dir, student=students, **options))


def main(argv: Sequence[str] | None = None) -> None:
    (options,) = parse([EvaluateOptions], argv)
    quiet()
    report = run_evaluation(options)
    print(markdown(report))
    for part in report.get("rows", {}).values():
        for line in kept_lines(part):
            print(line)
