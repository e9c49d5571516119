"""The student's directory: refused where it cannot be, filled whole, and what is said about the run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from .. import _files as files
from .._core import InputError, __version__
from ..heads.embedding import Embedding
from ..models.sentence import SentenceEncoder
from .arguments import DistillationArguments
from .callbacks import int8_steps
from .checkpoint import SEAL, checkpoints, find_checkpoint
from .continuing import LENGTHS, evaluations, steps_to_come
from .inputs import Arguments
from .labelled import rows_seen
from .material import Material
from .sentence_material import check_saved
from .trainer import DistillationTrainer

SUMMARY = "train_summary.json"


def prepare(args: DistillationArguments, reads: Sequence[str]) -> None:
    """Refuses an output directory with something in it, unless the run goes on in it or replaces it; and, whatever is
    said, one that is or holds something of what the run `reads`."""
    assert args.output_dir is not None
    if args.resume_from_checkpoint:
        find_checkpoint(args.resume_from_checkpoint, args.output_dir)  # refuses where there is none
        return
    whole = [each.name for each in checkpoints(args.output_dir) if (each / SEAL).is_file()]
    if whole and not args.overwrite:
        finished = (Path(args.output_dir) / SUMMARY).is_file()
        longer = f", with more steps than it had ({' or '.join(f'--{name}' for name in LENGTHS)})" if finished else ""
        raise InputError(
            f"{args.output_dir} holds a {'finished ' if finished else ''}run with {whole[0]}; go on with it by "
            f"--resume_from_checkpoint last{longer}, name another directory, or pass --overwrite to replace it"
        )
    files.refuse_occupied(args.output_dir, args.overwrite, reads)


@contextmanager
def nothing_left_if_refused(args: DistillationArguments, first: bool) -> Iterator[None]:
    """Removes what was prepared here where the arguments turn out wrong, and after a dry run: the next attempt finds an
    empty place."""
    folder = Path(str(args.output_dir))
    was_there = folder.is_dir(), (folder / "tokens").exists()
    keep = False
    try:
        yield
        keep = not args.dry_run
    except Exception as error:
        keep = not isinstance(error, InputError)
        raise
    finally:
        if first and not keep and not was_there[1]:
            shutil.rmtree(folder / "tokens", ignore_errors=True)
        if first and not keep and not was_there[0] and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def remove_replaced_run(args: DistillationArguments, cache: str | None) -> None:
    """Removes what the output directory holds of the run that is replaced, checkpoints and all; prepared text and the
    teacher's `cache` stay.

    Files that the new student has none of the same name for would be taken for a part of it.
    """
    folder = Path(str(args.output_dir))
    kept = [folder / "tokens", *([] if cache is None else [Path(cache)])]
    for path in folder.iterdir():
        if any(each.resolve().is_relative_to(path.resolve()) for each in kept):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


FEW_STEPS = 300
"""Below so many optimiser steps little is learned, and the description says what to change."""


def describe(trainer: DistillationTrainer, material: Material) -> str:
    """What is about to happen, a line each: models, data, rows as the model sees them, steps to come."""
    args, step, batches = trainer.args, trainer.step, material.batches
    kind = getattr(step.head, "problem_type", None)
    lines = [f"head: {step.head.name}" + (f" ({kind})" if kind else "")]
    for teacher in step.teachers:
        lines.append(f"teacher: {type(teacher).__name__}, {teacher.num_parameters():,} parameters")
    lines.append(f"student: {type(step.student).__name__}, {step.student.num_parameters():,} parameters")
    if material.labelled is not None:
        names = ", ".join(material.labelled.id2label.values())
        lines += [f"classes: {names}"] if kind != "regression" and step.head.name != "questions" else []
        lines += [*material.labelled.notes, *rows_seen(material.labelled)]
    lines += material.notes
    lines.append(
        f"data: {batches.num_tokens:,} tokens, {len(batches):,} batches an epoch, {args.batches_per_step} a step on "
        f"{args.world_size} rank{'s' * (args.world_size > 1)}, padding {batches.padding:.1%}"
    )
    steps = steps_to_come(args, len(batches))
    lines.append(f"steps: {steps:,}" + ("" if args.max_steps > 0 else f" in {args.num_train_epochs:g} epochs"))
    if args.quantize:
        lines.append(f"quantize: the last {int8_steps(args, steps):,} steps in int8; the student stays float")
    if steps < FEW_STEPS:
        takes_rows = step.head.takes_rows
        smaller = "--per_device_train_batch_size" if takes_rows else "--batches_per_step or --batch_tokens"
        longer = "--max_steps" if args.max_steps > 0 else "--num_train_epochs"
        more = "--train_file or --unlabelled_file" if takes_rows else "--text"
        lines.append(
            f"warning: only {steps:,} optimiser steps, in which a student learns little: raise {longer}, lower "
            f"{smaller}, or give more with {more}"
        )
    lines.append(f"computing in {str(args.compute_dtype).removeprefix('torch.')} on {args.device}")
    return "\n".join(lines)


def summarise(arguments: Arguments, trainer: DistillationTrainer, material: Material, seconds: float) -> dict[str, Any]:
    """What `train_summary.json` holds: first what a reader looks for, then all of it."""
    args, step, state = trainer.args, trainer.step, trainer.state
    models, data, batches = arguments.models, arguments.data, material.batches
    lines = [entry for entry in state.log_history if "loss" in entry]
    if material.labelled is None:
        of_data: dict[str, Any] = {"notes": list(material.notes)} if material.notes else {}
        of_data |= {
            "kl_sample_share": args.kl_sample_share if args.kl_positions == "sampled" else 0.0,
            "mlm_mask_prop": data.mlm_mask_prop,
            "mlm_smoothing": data.mlm_smoothing,
            "batch_tokens": data.batch_tokens,
            "text_shares": material.text_shares,
        }
    else:
        weights = getattr(step.head, "class_weights", None)
        of_data = {
            "problem_type": getattr(step.head, "problem_type", None),
            "per_device_train_batch_size": args.per_device_train_batch_size,
            "max_length": material.labelled.max_length,
            "class_weights": None if weights is None else weights.tolist(),
            "data": material.labelled.facts,
        }
    return {
        "teacher": " and ".join(models.teacher or []) or None,
        "head": step.head.name,
        "init": models.init if models.teacher else "random" if models.student is None else None,
        **step.objective.settings(step.head.name == "masked_lm"),
        **of_data,
        "batches_per_step": args.batches_per_step,
        "learning_rate": args.learning_rate,
        "quantize": args.quantize,
        "int8_steps": int8_steps(args, steps_to_come(args, len(batches))),
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
        "evaluations": evaluations(trainer.state),
        "best_step": state.best_global_step,
        "best_metric": state.best_metric,
        "metric_for_best_model": None if state.best_metric is None else args.metric_for_best_model,
        "run": trainer.describe_run(),
        "versions": {
            "distilfast": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def save_student(trainer: DistillationTrainer, summary: dict[str, Any], material: Material) -> None:
    """The student and its tokenizer in the output directory, each file whole, and summary and card as the last. A
    sentence encoder is read back and compared first."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    folder = Path(str(trainer.args.output_dir))
    beside = folder / ".student.partial"
    trainer.save_model(str(beside), _internal_call=True)  # else it would push what is there so far
    if trainer.args.process_index == 0:
        if isinstance(trainer.step.head, Embedding):
            summary["read_back_difference"] = read_back(trainer, trainer.step.head, beside, material)
        files.open_to_umask(beside)
        for path in sorted(beside.iterdir()):
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            path.replace(folder / path.name)
        beside.rmdir()
        write_summary(trainer, summary)


def read_back(trainer: DistillationTrainer, head: Embedding, folder: Path, material: Material) -> float:
    """How far the vectors of what `folder` holds are from those of the student that was trained."""
    if getattr(material.batches, "layout", "padded") == "packed":
        trainer.student.set_attn_implementation("sdpa")
    trained = SentenceEncoder(trainer.student, head.sentence, head.settings, material.tokenizer)
    return check_saved(folder, trained, material.sample)


def write_summary(trainer: DistillationTrainer, summary: dict[str, Any]) -> None:
    """Writes the summary, and the card, which tells of it."""
    folder = Path(str(trainer.args.output_dir))
    files.write_json(folder / SUMMARY, summary)
    trainer.create_model_card(model_name=folder.absolute().name)


def whole_checkpoint(args: DistillationArguments) -> Path | None:
    """The latest checkpoint that was written to its end."""
    return next((each for each in checkpoints(str(args.output_dir)) if (each / SEAL).is_file()), None)


def how_to_train_on(checkpoint: Path) -> str:
    return (
        f"to train on from {checkpoint.name}: the same command with --resume_from_checkpoint last and a larger "
        f"{' or '.join(f'--{name}' for name in reversed(LENGTHS))}"
    )


def evaluated_last(trainer: DistillationTrainer) -> bool:
    """Whether the student was evaluated as it is now."""
    steps = [entry["step"] for entry in evaluations(trainer.state)]
    return bool(steps) and steps[-1] == trainer.state.global_step
