"""What a run says while it goes: a bar in a terminal, a line a log step elsewhere, and how long the rest will take."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState

TIMED_STEPS = 10
"""Steps after which the rest is estimated; the first of them, which warms up, does not count."""
LONG = 3600.0
"""Seconds above which the estimate says what makes a run shorter."""

_SHOWN = ("loss", "loss_ce", "loss_mlm", "loss_task", "loss_cos")


def say_progress(trainer: Trainer, takes_rows: bool) -> None:
    """Puts what is said here in the place of what `Trainer` prints."""
    trainer.pop_callback(ProgressCallback)
    trainer.pop_callback(PrinterCallback)
    bar = sys.stderr.isatty() and not trainer.args.disable_tqdm
    trainer.add_callback(ProgressBar() if bar else ProgressLines())
    trainer.add_callback(LastStep())
    trainer.add_callback(RemainingTime(takes_rows))


class ProgressBar(ProgressCallback):
    """Trainer's bar, with the losses beside it and the lines of the log above it."""

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        said = line(state.global_step, logs or {})
        if not state.is_world_process_zero or self.training_bar is None or said is None or logs is None:
            return
        shown = [f"{name.removeprefix('loss_')} {logs[name]:.3f}" for name in _SHOWN if name in logs]
        if shown:
            self.training_bar.set_postfix_str(" ".join(shown))
        self.training_bar.write(said)


class ProgressLines(TrainerCallback):
    """A line a log step and an evaluation, where there is no terminal to draw a bar in."""

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **_: Any) -> None:
        said = line(state.global_step, logs or {})
        if state.is_world_process_zero and said is not None:
            print(said, flush=True)


class LastStep(TrainerCallback):
    """The last step is logged, wherever `logging_steps` falls."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        if state.global_step >= state.max_steps:
            control.should_log = True
        return control


class RemainingTime(TrainerCallback):
    """After ten steps, how long the rest will take."""

    def __init__(self, takes_rows: bool) -> None:
        self.takes_rows = takes_rows
        self._begun: float | None = None
        self._first = 0
        self._evaluating = 0.0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        self._evaluating += sum(value for name, value in (metrics or {}).items() if name.endswith("_runtime"))

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if self._begun is None:
            self._begun, self._first, self._evaluating = time.perf_counter(), state.global_step, 0.0
            return
        done, left = state.global_step - self._first, state.max_steps - state.global_step
        if done == TIMED_STEPS - 1 and left > 0 and state.is_world_process_zero:
            seconds = time.perf_counter() - self._begun - self._evaluating
            print(remaining(left, seconds / done, self.takes_rows), flush=True)


def remaining(steps: int, seconds_a_step: float, takes_rows: bool) -> str:
    """How long `steps` will take, in words; with what shortens them where that is long."""
    seconds = steps * seconds_a_step
    hours, minutes = divmod(round(seconds / 60), 60)
    words = f"{hours} h {minutes} min" if hours else f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
    said = f"about {words} for the other {steps:,} steps, evaluations apart ({seconds_a_step:.2f} s a step)"
    if seconds <= LONG:
        return said
    return f"{said}; {'--max_train_rows or --max_steps' if takes_rows else '--max_steps'} makes it shorter"


def line(step: int, logs: Mapping[str, Any]) -> str | None:
    """One line of the log: losses, speed and padding of a step, or the metrics of an evaluation; None of other logs."""
    if "loss" in logs:
        losses = [f"{name} {value:.4f}" for name, value in logs.items() if name.startswith("loss")]
        rest = [f"lr {logs['learning_rate']:.2e}"] if "learning_rate" in logs else []
        if "tokens_per_second" in logs:
            rest.append(f"{logs['tokens_per_second']:,.0f} tokens/s")
        if "padding" in logs:
            rest.append(f"padding {logs['padding']:.1%}")
        return f"step {step}: " + ", ".join([*losses, *rest])
    metrics = {name: value for name, value in logs.items() if name.startswith("eval_") and isinstance(value, float)}
    if not metrics:
        return None
    return f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
