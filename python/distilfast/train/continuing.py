"""A run that goes on from a checkpoint: how many steps it has, more than it was to have, and what was left undone."""

from __future__ import annotations

import math
import re
from typing import Any

from transformers import TrainerState

from .._core import InputError
from .arguments import DistillationArguments

LENGTHS = ("max_steps", "num_train_epochs")
"""The arguments that say how long a run is."""

# Schedules whose learning rate at a step does not depend on how many there will be; with a warm-up of so many steps,
# and not of a share of them.
ENDLESS = ("constant", "reduce_lr_on_plateau")
ENDLESS_WITH_WARMUP = ("constant_with_warmup", "inverse_sqrt")


def steps_an_epoch(args: DistillationArguments, batches: int) -> int:
    """The optimiser steps of an epoch of so many batches, over all ranks, as `Trainer` counts them."""
    assert args.batches_per_step is not None
    return max(1, math.ceil(batches / args.batches_per_step))


def steps_to_come(args: DistillationArguments, batches: int) -> int:
    """The optimiser steps of a run on so many batches an epoch."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * steps_an_epoch(args, batches))


def lengthened(args: DistillationArguments, state: TrainerState, steps: int) -> str | None:
    """What is to be said of a run that now has more steps than it was to have; None where it has as many.

    `state`: that of the checkpoint. Raises `InputError` where it has fewer.
    """
    if steps == state.max_steps:
        return None
    if steps < state.max_steps:
        raise InputError(
            f"cannot resume: the run was to have {state.max_steps:,} steps and would now have {steps:,}; give as many "
            "with --num_train_epochs or --max_steps, or more"
        )
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    counted = args.warmup_steps == 0 or args.warmup_steps >= 1
    said = f"goes on from step {state.global_step:,} to {steps:,}, where it was to end at {state.max_steps:,}"
    if args.quantize:
        return (
            f"{said}: the last stretch, in int8, is at the end of all steps, and may have begun before, so the weights "
            f"are not those of a run that was to have {steps:,} from its beginning"
        )
    if schedule in ENDLESS or (schedule in ENDLESS_WITH_WARMUP and counted):
        return f"{said}: the steps are those of a run that was to have {steps:,} from its beginning"
    return (
        f"{said}: the learning rate is from here on that of a {schedule} schedule of {steps:,} steps, and was before "
        f"that of {state.max_steps:,}, so the weights are not those of a run that was to have {steps:,} from its "
        "beginning (with --lr_scheduler_type constant they are)"
    )


def follow_schedule(optimizer: Any, scheduler: Any) -> None:
    """Gives the optimiser the learning rates of `scheduler` at its step: those that it saved are of the schedule that
    it had."""
    scheduler = getattr(scheduler, "scheduler", scheduler)  # as Accelerate wraps it
    if not hasattr(scheduler, "lr_lambdas"):
        return
    rates = [
        rate * factor(scheduler.last_epoch)
        for rate, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates  # what the log says


def evaluations(state: TrainerState) -> list[dict[str, Any]]:
    """What the log says of each evaluation, of one or of several held-out sets."""
    return [entry for entry in state.log_history if any(re.fullmatch(r"eval_(.*_)?runtime", name) for name in entry)]


def evaluation_due(args: DistillationArguments, state: TrainerState, batches: int, sets: int = 1) -> bool:
    """Whether the checkpoint that `state` is of was written where an evaluation on so many held-out sets was due, and
    before it: by Ctrl-C, or at the last step of an epoch."""
    step = state.global_step
    done = [entry for entry in evaluations(state) if entry["step"] == step]
    if step == 0 or len(done) >= sets:
        return False
    strategy = str(getattr(args.eval_strategy, "value", args.eval_strategy))
    if strategy == "epoch":
        epochs, rest = divmod(step, steps_an_epoch(args, batches))
        return rest == 0 and args.eval_delay <= epochs
    return strategy == "steps" and step % state.eval_steps == 0 and args.eval_delay <= step
