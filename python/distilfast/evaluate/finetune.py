"""Fine-tuning one model on one task with one seed, alone or beside a task-tuned teacher: a run of `distil`, scored."""

from __future__ import annotations

import dataclasses
import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._core import InputError
from ..models.load import load_model
from ..train.labelled import KINDS
from ..train.run import distil
from .finished import rows_report
from .options import EvaluateOptions
from .tasks import Task, TaskData, score

LOG_LINES = 50
"""Training losses that are kept of a run."""


@dataclass(frozen=True)
class FineTuneSettings:
    """What a score depends on beside model, data and seed; kept with every score.

    The defaults are the recipe of BERT (Devlin et al. 2018) that DistilBERT was evaluated with: AdamW, 3 epochs, batch
    32, linear decay after 10 % warm-up, weight decay 0.01. alpha_ce, alpha_task, temperature: of the loss with a
    teacher, alpha_ce T^2 KL(teacher || student) + alpha_task times the task's own; unused without one.
    """

    learning_rate: float = 2e-5
    epochs: float = 3.0
    batch_size: int = 32
    max_length: int = 128
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_train_rows: int | None = None
    max_dev_rows: int | None = None
    alpha_ce: float = 0.5
    alpha_task: float = 0.5
    temperature: float = 2.0
    bf16: bool = False


def published_settings(task: Task, **changes: Any) -> FineTuneSettings:
    """The published settings of `task` with the `changes` that are not None."""
    settings = FineTuneSettings(task.learning_rate, task.epochs, task.batch_size, task.max_length)
    return dataclasses.replace(settings, **{key: value for key, value in changes.items() if value is not None})


@dataclass(frozen=True)
class FineTuned:
    """scores: the task's metrics in per cent, "metric split" where there are several; score: its one number; losses:
    (step, training loss); seconds: of training; notes: what was cut or left out, a line each."""

    scores: dict[str, float]
    score: float
    losses: list[tuple[int, float]]
    steps: int
    seconds: float
    notes: list[str]


def fine_tune(
    path: str,
    data: TaskData,
    seed: int,
    settings: FineTuneSettings,
    device: torch.device,
    folder: Path,
    teacher: str | None = None,
) -> FineTuned:
    """Fine-tunes the model in `path` (a directory or hub id) on `data` into the empty `folder`, and scores, in float32,
    what was saved there.

    teacher: the directory of a model tuned for the same task, whose outputs are then part of the loss. Raises
    `InputError` as `distil` does, and for another GPU than the first.
    """
    refuse_other_gpus(device)
    head = {kind: head for head, kind in KINDS.items()}[data.kind]
    optimiser: dict[str, Any] = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0}
    losses: dict[str, Any] = {}
    if teacher is not None:
        losses = {name: getattr(settings, name) for name in ("alpha_ce", "alpha_task", "temperature")}
        losses["alpha_cos"] = 0.0
    with redirect_stdout(io.StringIO()):  # one line a cell is said instead, and the notes are kept
        summary = distil(
            teacher,
            data.train,
            folder,
            validation=next(iter(data.dev.values())),
            student=path if teacher is not None else with_new_head(path, data, head, seed),
            report=False,
            head=head,
            seed=seed,
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            max_length=settings.max_length,
            warmup_steps=settings.warmup,  # a share of all steps, as any value below 1
            weight_decay=settings.weight_decay,
            precision="bf16" if settings.bf16 else "fp32",
            use_cpu=device.type == "cpu",
            logging_steps=max(1, round(settings.epochs * len(data.train) / settings.batch_size / LOG_LINES)),
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **optimiser,
            **losses,
        )
    metrics = scores_of(folder, data, settings.max_length, device)
    said = [(int(entry["step"]), float(entry["loss"])) for entry in summary["log"]]
    notes = summary["data"]["notes"]
    return FineTuned(metrics, score(data.task, metrics), said, int(summary["steps"]), summary["seconds"], notes)


def with_new_head(path: str, data: TaskData, head: str, seed: int) -> Any:
    """The student that `distil` is to train: the encoder in `path`, in float32 however it is stored, with a head drawn
    from `seed` where the rows' labels do not say which; elsewhere `path`, and `distil` does that."""
    changes: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"} if data.task.regression else {}
    if not changes and head != "questions":
        return path
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_model(path, head, new_head=True, **changes).train()


def scores_of(folder: Path, data: TaskData, max_length: int, device: torch.device) -> dict[str, float]:
    """The task's metrics in per cent of the finished model in `folder` on each dev split."""
    options = EvaluateOptions(teacher=str(folder), output_dir=str(folder), max_length=max_length)
    found = {}
    for split, rows in data.dev.items():
        part = rows_report({"tuned": str(folder)}, "tuned", rows, options, device)
        for metric in data.task.metrics or part["main"][:1]:
            name = metric if len(data.dev) == 1 else f"{metric} {split}"
            found[name] = 100 * part["models"]["tuned"]["metrics"][metric]
    return found


def refuse_other_gpus(device: torch.device) -> None:
    """Raises `InputError` for a GPU that the Trainer would not take: it trains on the first one that it sees."""
    if device.type == "cuda" and device.index not in (None, 0):
        raise InputError(
            f"device {device}: fine-tuning takes the first GPU that is visible; set CUDA_VISIBLE_DEVICES={device.index}"
        )
