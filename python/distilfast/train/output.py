"""The student's directory: refused where it cannot be, filled whole, and what is said about the run."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import _files as files
from .._core import InputError, __version__
from ..batches.masked import MaskedBatches
from .arguments import DataArguments, DistillationArguments, ModelArguments
from .checkpoint import find_checkpoint
from .trainer import DistillationTrainer

SUMMARY = "train_summary.json"


def prepare(args: DistillationArguments) -> None:
    """Refuses an output directory with something in it, unless the run goes on in it or replaces it."""
    assert args.output_dir is not None
    if args.resume_from_checkpoint:
        find_checkpoint(args.resume_from_checkpoint, args.output_dir)  # refuses where there is none
        return
    folder = files.refuse_occupied(args.output_dir, args.overwrite)
    refuse_unwritable(folder)


def refuse_unwritable(folder: Path) -> None:
    """Refuses a place that nothing can be written to, before hours of work."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise InputError(f"--output_dir {folder}: {parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--output_dir {folder}: {parent} cannot be written to")


@contextmanager
def nothing_left_if_refused(args: DistillationArguments, first: bool) -> Iterator[None]:
    """Removes what was prepared here where the arguments turn out wrong: the next attempt finds an empty place."""
    folder = Path(str(args.output_dir))
    was_there = folder.is_dir(), (folder / "tokens").exists()
    try:
        yield
    except InputError:
        if first and not was_there[1]:
            shutil.rmtree(folder / "tokens", ignore_errors=True)
        if first and not was_there[0] and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def describe(trainer: DistillationTrainer, batches: MaskedBatches) -> str:
    """What is about to happen, in a few lines."""
    args, step = trainer.args, trainer.step
    student = f"student: {type(step.student).__name__}, {step.student.num_parameters():,} parameters"
    lines = [f"head: {step.head.name}", student]
    for teacher in reversed(step.teachers):
        lines.insert(1, f"teacher: {type(teacher).__name__}, {teacher.num_parameters():,} parameters")
    lines.append(
        f"data: {batches.num_tokens:,} tokens, {len(batches):,} batches an epoch, {args.batches_per_step} a step on "
        f"{args.world_size} rank{'s' * (args.world_size > 1)}, padding {batches.padding:.1%}"
    )
    lines.append(f"computing in {str(args.compute_dtype).removeprefix('torch.')} on {args.device}")
    return "\n".join(lines)


def summarise(
    models: ModelArguments, data: DataArguments, trainer: DistillationTrainer, batches: MaskedBatches, seconds: float
) -> dict[str, Any]:
    """What `train_summary.json` holds: first what a reader looks for, then all of it."""
    args, step, state = trainer.args, trainer.step, trainer.state
    lines = [entry for entry in state.log_history if "loss" in entry]
    return {
        "teacher": " and ".join(models.teacher or []) or None,
        "head": step.head.name,
        "init": models.init if models.teacher else "random",
        **{name: value for name, value in dataclasses.asdict(step.objective).items() if name != "impl"},
        "kl_sample_share": args.kl_sample_share if args.kl_positions == "sampled" else 0.0,
        "mlm_mask_prop": data.mlm_mask_prop,
        "mlm_smoothing": data.mlm_smoothing,
        "batch_tokens": data.batch_tokens,
        "batches_per_step": args.batches_per_step,
        "learning_rate": args.learning_rate,
        "steps": state.global_step,
        "epochs": state.epoch,
        "seconds": seconds,
        "tokens_per_epoch": batches.num_tokens,
        "batches_per_epoch": len(batches),
        "padding": batches.padding,
        "data_fingerprint": batches.state_fingerprint,
        "ranks": args.world_size,
        "computing_dtype": str(args.compute_dtype).removeprefix("torch."),
        "student_parameters": step.student.num_parameters(),
        "teacher_parameters": [teacher.num_parameters() for teacher in step.teachers],
        "last_log": lines[-1] if lines else None,
        "log": lines,
        "evaluations": [entry for entry in state.log_history if "eval_runtime" in entry],
        "best_step": state.best_global_step,
        "best_metric": state.best_metric,
        "run": trainer.describe_run(),
        "versions": {
            "distilfast": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def save_student(trainer: DistillationTrainer, summary: dict[str, Any]) -> None:
    """The student and its tokenizer in the output directory, each file whole, and the summary as the last; then, with
    --push_to_hub, on the Hub."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    folder = Path(str(trainer.args.output_dir))
    beside = folder / ".student.partial"
    trainer.save_model(str(beside), _internal_call=True)  # else it would push what is there so far
    if trainer.args.process_index == 0:
        files.open_to_umask(beside)
        for path in sorted(beside.iterdir()):
            path.replace(folder / path.name)
        beside.rmdir()
        files.write_json(folder / SUMMARY, summary)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def evaluated_last(trainer: DistillationTrainer) -> bool:
    """Whether the student was evaluated as it is now."""
    steps = [entry["step"] for entry in trainer.state.log_history if "eval_runtime" in entry]
    return bool(steps) and steps[-1] == trainer.state.global_step
