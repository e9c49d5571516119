"""What is handed to the trainer in Python: answered with a sentence where it is something else than is wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, get_scheduler

from .._core import InputError
from .._files import first_line
from ..batches.loader import Batches
from .arguments import DistillationArguments


def check_models(student: Any, teachers: Sequence[Any]) -> None:
    """Raises `InputError` for models that are names, or none, and for a student that is its own teacher."""
    for whose, model, load in (
        ("student", student, "load_student"),
        *(("teacher", each, "load_teacher") for each in teachers),
    ):
        if isinstance(model, str):
            raise InputError(f"{whose} is a name, {model!r}; hand the model over: distilfast.models.{load}({model!r})")
        if not isinstance(model, nn.Module):
            raise InputError(f"{whose} is a {type(model).__name__}, not a model")
        if model is student and whose == "teacher":
            raise InputError(
                "student and teacher are the same model: training would change what is learned from; cut the student "
                "with create_student, or load the model twice"
            )


def check_batches(args: Any, batches: Batches | None) -> None:
    """Raises `InputError` for arguments that are not `DistillationArguments`, and for what are no batches or were
    planned for another number of micro-batches a step."""
    if not isinstance(args, DistillationArguments):
        raise InputError(
            f"args is a {type(args).__name__}; give a DistillationArguments, which takes the same and more"
        )
    if not all(hasattr(batches, name) for name in ("batches_per_step", "set_epoch", "state_fingerprint")):
        raise InputError(
            f"train_dataset is a {type(batches).__name__}, not batches; make them: MaskedBatches(tokens, tokenizer, "
            f"batches_per_step={args.batches_per_step})"
        )
    assert batches is not None
    if batches.batches_per_step != args.batches_per_step:
        raise InputError(
            f"the batches were planned for {batches.batches_per_step} micro-batches a step, but "
            f"{args.gradient_accumulation_steps} accumulation steps on {args.world_size} ranks make "
            f"{args.batches_per_step}; build MaskedBatches with batches_per_step={args.batches_per_step}"
        )


def refuse_ignored(given: Mapping[str, Any]) -> None:
    """Raises `InputError` for arguments of `Trainer` that would do nothing here."""
    instead = {
        "data_collator": "batches come whole from train_dataset",
        "compute_loss_func": "the losses are the head's; see DistillationArguments",
        "model_init": "hand the student over",
        "preprocess_logits_for_metrics": "compute_metrics gets the logits as they are",
    }
    for name, why in instead.items():
        if given.get(name) is not None:
            raise InputError(f"{name} would do nothing in a DistillationTrainer: {why}")


def check_optimiser(args: Any, model: nn.Module) -> None:
    """Raises `InputError` where the optimiser or the schedule that the arguments name cannot be made: a package that is
    missing, or settings that they need. Trainer would find out after everything else."""
    try:
        Trainer.get_optimizer_cls_and_kwargs(args, cast(Any, model))
    except (ImportError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(f"--optim {getattr(args.optim, 'value', args.optim)}: {first_line(error)}") from None
    name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    try:
        stand_in = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
        get_scheduler(name, stand_in, 1, 2, scheduler_specific_kwargs=args.lr_scheduler_kwargs or None)
    except (ImportError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise InputError(
            f"--lr_scheduler_type {name} with --lr_scheduler_kwargs {args.lr_scheduler_kwargs}: {first_line(error)}"
        ) from None


def check_evaluation(args: Any, held_out: Any) -> None:
    """Raises `InputError` for flags of an evaluation that never takes place, and for one with nothing to look at."""
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    if strategy != "no" or args.eval_on_start:
        if held_out is None:
            raise InputError(f"eval_strategy {strategy} needs an eval_dataset: batches of held-out text or rows")
        return
    given = {
        "save_strategy": "best" if getattr(args.save_strategy, "value", args.save_strategy) == "best" else None,
        "eval_steps": args.eval_steps and f"{args.eval_steps:g}",
        "do_eval": args.do_eval or None,
        "early_stopping_patience": args.early_stopping_patience,
    }
    for name, value in given.items():
        if value is not None:
            raise InputError(
                f"--{name} {value} does nothing without an evaluation; give --eval_strategy epoch and held-out text or "
                "rows, or leave it out"
            )
