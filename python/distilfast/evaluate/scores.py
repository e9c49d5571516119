"""Task scores of teacher and students: which cells to run, and what the finished ones say."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .._command import require_positive
from .._core import InputError
from ..metrics.kept import share_of
from ..tokenizer import load_transformers_tokenizer
from .cells import Cell, Runner, model_fingerprint
from .finetune import published_settings
from .options import EvaluateOptions
from .tasks import TaskData, load_task

DISTILLED = " (D)"


# Options that change the published settings, where they are not None.
_CHANGES = (
    *("learning_rate", "epochs", "batch_size", "max_train_rows", "max_dev_rows"),
    *("alpha_ce", "alpha_task", "temperature", "bf16"),
)


def parse_tasks(names: str) -> list[str]:
    """The names in a comma-separated list."""
    tasks = [name.strip() for name in names.split(",") if name.strip()]
    if not tasks or len(set(tasks)) < len(tasks):
        raise InputError(f"--tasks {names!r} names {'a task twice' if tasks else 'no task'}")
    return tasks


def check_tasks(options: EvaluateOptions) -> None:
    """Raises `InputError` for what cannot be fine-tuned with."""
    parse_tasks(str(options.tasks))
    if options.sweep and options.learning_rate is not None:
        raise InputError("--sweep and --learning_rate contradict each other; give --sweep_learning_rates")
    require_positive(options, "learning_rate", "epochs", "batch_size", "task_max_length", "temperature")
    if options.seeds < 1:
        raise InputError(f"--seeds is {options.seeds}; at least 1 is needed")


def task_report(
    paths: Mapping[str, str], options: EvaluateOptions, folder: Path, device: torch.device
) -> tuple[dict[str, Any], list[str]]:
    """Runs what is missing into `folder`; then the scores by task and row, and the names of cells still missing.

    paths: models by name, the teacher first.
    """
    check_tasks(options)
    data = {
        task: load_task(task, options.data_dir, options.max_train_rows, options.max_dev_rows)
        for task in parse_tasks(str(options.tasks))
    }
    for path in paths.values():
        load_transformers_tokenizer(path)  # named now rather than after the first task
    runner = Runner(folder, data, {path: model_fingerprint(path) for path in paths.values()}, device)
    cells = planned_cells(paths, options, data)
    runner.run(cells, options.shard)
    return collect(cells, runner, next(iter(paths)))


def planned_cells(paths: Mapping[str, str], options: EvaluateOptions, data: Mapping[str, TaskData]) -> list[Cell]:
    """Every cell, task by task and seed by seed, so that whole rows of the table come early."""
    teacher = next(iter(paths))
    changes = {name: getattr(options, name) for name in _CHANGES} | {"max_length": options.task_max_length}
    cells: list[Cell] = []
    for task, of_task in data.items():
        settings = published_settings(of_task.task, **changes)
        rates = options.sweep_learning_rates if options.sweep else [settings.learning_rate]
        for seed in range(options.seeds):
            for rate in rates:
                tuned = replace(settings, learning_rate=rate)
                alone = {name: Cell(name, path, task, seed, tuned) for name, path in paths.items()}
                cells += alone.values()
                if options.distil:
                    cells += [
                        replace(cell, row=name + DISTILLED, teacher=alone[teacher])
                        for name, cell in alone.items()
                        if name != teacher
                    ]
    return cells


def collect(cells: Sequence[Cell], runner: Runner, teacher: str) -> tuple[dict[str, Any], list[str]]:
    """{"tasks": ..., "macro": ...} from the finished cells, and the names of the others."""
    missing = [cell.name() for cell in cells if runner.finished(cell) is None]
    tasks: dict[str, Any] = {}
    for name in dict.fromkeys(cell.task for cell in cells):
        data = runner.data[name]
        here = [cell for cell in cells if cell.task == name]
        tasks[name] = {
            "title": data.task.title,
            "glue": data.task.glue,
            "metrics": list(data.task.metrics),
            "train_rows": len(data.train),
            "dev_rows": {split: len(rows) for split, rows in data.dev.items()},
            "notes": list(data.notes),
            "settings": {
                **vars(here[0].settings),
                "learning_rate": sorted({cell.settings.learning_rate for cell in here}),
            },
            "rows": _rows(here, runner, teacher),
        }
    rows = list(dict.fromkeys(cell.row for cell in cells))
    return {"tasks": tasks, "macro": macro_scores(tasks, rows, teacher)}, missing


def _rows(cells: Sequence[Cell], runner: Runner, teacher: str) -> dict[str, Any]:
    """Median and spread of each row over seeds, at its best learning rate; rows with a cell missing are left out."""
    rows: dict[str, Any] = {}
    for row in dict.fromkeys(cell.row for cell in cells):
        by_rate: dict[float, list[dict[str, Any]]] = {}
        own = [cell for cell in cells if cell.row == row]
        for cell in own:
            found = runner.finished(cell)
            if found is not None:
                by_rate.setdefault(cell.settings.learning_rate, []).append(found)
        if sum(map(len, by_rate.values())) < len(own):
            continue
        rate = max(by_rate, key=lambda rate: statistics.median(found["score"] for found in by_rate[rate]))
        best = by_rate[rate]
        values = [found["score"] for found in best]
        rows[row] = {
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "seeds": {str(found["seed"]): found["score"] for found in best},
            "metrics": {key: statistics.median(found["scores"][key] for found in best) for key in best[0]["scores"]},
            "learning_rate": rate,
            "seconds": statistics.median(found["seconds"] for found in best),
            "losses": best[0]["losses"],
        }
    for row in rows.values():
        row["kept"] = share_of(row["median"], rows.get(teacher, {}).get("median"))
    return rows


def macro_scores(tasks: Mapping[str, Any], rows: Sequence[str], teacher: str) -> dict[str, Any]:
    """Mean of the medians over the GLUE tasks run, with and without WNLI, and the share of the teacher's."""
    kinds: dict[str, Callable[[str], bool]] = {"with_wnli": lambda _: True, "without_wnli": lambda name: name != "wnli"}
    macro: dict[str, Any] = {}
    for kind, counts in kinds.items():
        over = [name for name, task in tasks.items() if task["glue"] and counts(name)]
        means: dict[str, float | None] = {}
        for row in rows:
            medians = [tasks[name]["rows"][row]["median"] for name in over if row in tasks[name]["rows"]]
            means[row] = statistics.fmean(medians) if over and len(medians) == len(over) else None
        macro[kind] = {
            "over": over,
            "rows": {row: {"score": means[row], "kept": share_of(means[row], means.get(teacher))} for row in rows},
        }
    return macro
