"""`--quantize int8`: in the last stretch of a run the student computes as the int8 file that is made of it will."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerState

from .arguments import DistillationArguments
from .step import DistillationStep


def int8_steps(args: DistillationArguments, steps: int) -> int:
    """How many optimiser steps, the last ones of a run of `steps`, are computed in int8."""
    return max(1, round(args.quantize_last * steps)) if args.quantize else 0


class QuantizeLastSteps(TrainerCallback):
    """Lets `step` compute in int8 from a step on that the length of the run alone decides.

    The best model is one of the stretch: what evaluations before it found is forgotten when it begins.
    """

    def __init__(self, step: DistillationStep) -> None:
        self.step = step

    def on_step_begin(self, args: DistillationArguments, state: TrainerState, control: Any, **_: Any) -> None:  # type: ignore[override]
        first = state.max_steps - int8_steps(args, state.max_steps)
        self.step.computes_int8 = state.global_step >= first
        if state.global_step == first:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None
