"""The progress bar, with the losses on it and a line of the log above it now and then."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .profile import StepProfile

_SHOWN = ("loss", "loss_ce", "loss_mlm", "loss_cos")


class LossProgress(ProgressCallback):
    """Trainer's bar; losses beside it instead of dictionaries above it."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not state.is_world_process_zero or self.training_bar is None or not logs or "loss" not in logs:
            return
        self.training_bar.set_postfix_str(
            " ".join(f"{name.removeprefix('loss_')} {logs[name]:.3f}" for name in _SHOWN if name in logs)
        )
        self.training_bar.write(line(state.global_step, logs))


def line(step: int, logs: Mapping[str, Any]) -> str:
    """One line of the log: step, losses, speed, padding."""
    losses = [f"{name} {value:.4f}" for name, value in logs.items() if name.startswith("loss")]
    rest = [f"lr {logs['learning_rate']:.2e}"] if "learning_rate" in logs else []
    if "tokens_per_second" in logs:
        rest.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
    if "padding" in logs:
        rest.append(f"padding {logs['padding']:.1%}")
    if "model_flops_utilization" in logs:
        rest.append(f"MFU {logs['model_flops_utilization']:.1%}")
    return f"step {step}: " + ", ".join([*losses, *rest])


class ProfileOptimizer(TrainerCallback):
    """Times the optimiser's part of each step, and counts the steps."""

    def __init__(self, profile: StepProfile) -> None:
        self.profile = profile
        self._part: AbstractContextManager[None] = nullcontext()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._part = self.profile.part("optimizer")
        self._part.__enter__()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._part.__exit__(None, None, None)
        self.profile.steps += 1
