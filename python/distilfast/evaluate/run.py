"""`python -m distilfast.evaluate`: what share of the teacher's quality students keep, how much smaller and faster
they are; one Markdown table, one JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
import transformers

from .._command import fitted, parse, require_positive
from .._core import InputError, __version__
from .._files import may_be_folder, write_json, write_text
from ..metrics.held_out import pick_device
from ..metrics.speed import hardware, measure_size, measure_speed
from ..models.families import longest_row
from ..models.load import existing, load_model, named_models, quiet
from .cells import model_fingerprint
from .finetune import refuse_other_gpus
from .finished import rows_report
from .merge import FORMAT, earlier_report, fits, merged, set_aside
from .options import EvaluateOptions, refuse_idle
from .pictures import draw_pictures
from .report import markdown
from .rerankers import reranker_report, scores_pairs
from .row_report import kept_lines
from .scores import check_tasks, task_report
from .sentences import sentence_report
from .texts import held_out_report


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


def check_options(options: EvaluateOptions) -> None:
    """Raises `InputError` for options that contradict each other, and for two files of one name."""
    require_positive(options, "speed_length", "speed_repeats", "max_length", "batch_tokens")
    if options.text and options.tokens:
        raise InputError("--text and --tokens both name held-out text; give one of them")
    for name in ("validation_file", "sts_file", "retrieval_dir"):
        stems = [Path(each).stem for each in getattr(options, name)]
        if len(set(stems)) < len(stems):
            raise InputError(f"--{name}: two are called {max(stems, key=stems.count)!r}; rename one")
    if options.tasks is not None:
        check_tasks(options)
    refuse_idle(options)


def run_evaluation(options: EvaluateOptions) -> dict[str, Any]:
    """The whole report as JSON-ready values; writes `evaluate.json` and `evaluate.md` in the output directory.

    A report that is there of the same models is added to; one of other or changed models is renamed, not lost.
    """
    may_be_folder(options.output_dir)
    paths = named_models([options.teacher, *options.student])
    teacher = next(iter(paths))
    for path in paths.values():
        existing(path)
    folder = Path(options.output_dir)
    earlier = earlier_report(folder)
    check_options(options)
    on = pick_device(options.device)
    if options.tasks is not None:
        refuse_other_gpus(on)
    report: dict[str, Any] = {
        "format": FORMAT,
        "versions": {"distilfast": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "hardware": {"cpu": hardware("cpu"), **({"cuda": hardware("cuda")} if torch.cuda.is_available() else {})},
        "device": str(on),
        "teacher": teacher,
    }
    if options.validation_file:
        report["rows"] = {
            Path(file).stem: rows_report(paths, teacher, file, options, on, progress=sys.stderr.isatty())
            for file in options.validation_file
        }
    if options.text or options.tokens:
        report["held_out"] = held_out_report(paths, teacher, options)
    if options.sts_file or options.sentences or options.retrieval_dir:
        scored = reranker_report if scores_pairs(paths[teacher]) else sentence_report
        report |= scored(paths, teacher, options, on)
    report["models"] = describe_models(paths, options)
    if options.tasks is not None:
        found, report["missing"] = task_report(paths, options, folder, on)
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
    options = fitted(EvaluateOptions, options)
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
