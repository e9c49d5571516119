"""Trainers in turns: tokens of text a second and peak memory of whole epochs, ours beside the usual one."""

from __future__ import annotations

import ctypes
import gc
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import Trainer, TrainerCallback

from .._core import InputError
from ..metrics.speed import device_name
from ..train.stopped import TrainingInterruptedError
from ..train.trainer import DistillationTrainer
from .measure import PeakMemory, synchronize

OPTIMISER: dict[str, Any] = {
    "learning_rate": 1e-5,
    "lr_scheduler_type": "constant",
    "optim": "adamw_torch_fused",
    "max_grad_norm": 1.0,
    "num_train_epochs": 1,
    "logging_steps": 10_000,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": not torch.cuda.is_available(),
    "dataloader_pin_memory": torch.cuda.is_available(),
}
"""What every trainer of the contest is told."""

Make = Callable[[Path], Trainer]
"""A trainer of one epoch, made anew, with a folder of its own."""


class Contest(NamedTuple):
    """What is compared: loss of the first batch by ours and by the usual way, and trainers by name: "ours" first, then
    others of ours ("ours, ..."), then the usual ones, the best of which counts."""

    losses: tuple[float, float]
    contenders: Mapping[str, Make]
    facts: Mapping[str, Any]
    """What stands in the result beside the numbers, JSON values."""


class Clock(TrainerCallback):
    """The time at the end of every step, and the tokens of text in each batch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.ends: list[float] = []
        self._counts: list[Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        synchronize(self.device)
        self.ends.append(time.perf_counter())

    def watch(self, trainer: Trainer) -> None:
        """Counts what `trainer` trains on."""
        trainer.add_callback(self)
        train = trainer.training_step

        def counted(model: Any, inputs: Any, *rest: Any, **options: Any) -> Tensor:
            masks = [value for name, value in inputs.items() if name.endswith("attention_mask")]
            self._counts.append(torch.stack([mask.sum() for mask in masks]).sum())  # read when it is over
            return train(model, inputs, *rest, **options)

        cast(Any, trainer).training_step = counted

    @property
    def tokens(self) -> list[int]:
        """Of text, in each batch."""
        return [int(count) for count in self._counts]

    @property
    def tokens_per_second(self) -> float:
        """From the end of the first step, which warms up, to that of the last."""
        return sum(self.tokens[1:]) / (self.ends[-1] - self.ends[0])


def run(contest: Contest, device: torch.device, rounds: int) -> dict[str, Any]:
    """The contest as JSON values: contenders take turns at an epoch each, after one that does not count.

    Raises `InputError` for so few rows that an epoch has less than two steps, and `AssertionError` where the losses of
    the first batch differ by more than 1e-4, or a contender trains on other tokens than the first.
    """
    mine, theirs = contest.losses
    assert abs(mine - theirs) <= 1e-4 * abs(theirs), f"losses differ: ours {mine}, the usual way's {theirs}"
    speeds: dict[str, list[float]] = {name: [] for name in contest.contenders}
    peaks = {name: PeakMemory(device) for name in contest.contenders}
    expected = None
    for turn in range(rounds + 1):
        for name, make in contest.contenders.items():
            clock = Clock(device)
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
                trainer = make(Path(folder))
                clock.watch(trainer)
                give_back()
                with peaks[name]:
                    trainer.train()
            if isinstance(trainer, DistillationTrainer) and trainer.interrupted:
                raise TrainingInterruptedError("stopped; nothing was measured", trainer.interruption.signal, False)
            if len(clock.ends) < 2:
                raise InputError("an epoch has one step; give more --rows, or a smaller --per_device_train_batch_size")
            expected = sum(clock.tokens) if expected is None else expected
            assert sum(clock.tokens) == expected, f"{name} trained on {sum(clock.tokens)} tokens, not {expected}"
            if turn > 0:
                speeds[name].append(clock.tokens_per_second)
    measured = {
        name: {
            "tokens_per_second": statistics.median(found),
            "lowest": min(found),
            "highest": max(found),
            "peak_memory_mb": peaks[name].bytes / 2**20,
        }
        for name, found in speeds.items()
    }
    ours, *others = [name for name in speeds if not name.startswith("ours, ")]
    best = max(others, key=lambda name: measured[name]["tokens_per_second"])
    ratios = (np.array(speeds[ours]) / np.array(speeds[best])).tolist()
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **contest.facts,
        "tokens_per_epoch": expected,
        "loss": {"ours": mine, "usual": theirs},
        "contenders": measured,
        "best": best,
        "ratio_to_best": statistics.median(ratios),
        "ratios": ratios,
    }


def give_back() -> None:
    """Gives memory that is free back to the system, so that the next peak is of what is used from here on."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # not the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)


def table(result: Mapping[str, Any]) -> str:
    """The result for the screen."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"{result['device']}, {result['threads']} threads, {versions}",
        f"head {result['head']}, size {result['size']}, {result['rows']:,} rows of {result['source']} with "
        f"{result['tokens_per_epoch']:,} tokens, {result['batch']}",
        f"loss of the first batch in float32: ours {result['loss']['ours']:.6f}, the usual way "
        f"{result['loss']['usual']:.6f}",
        "",
        "| trainer | tokens/s | lowest to highest | peak memory above the models, MB |",
        "|---|---|---|---|",
    ]
    for name, numbers in result["contenders"].items():
        spread = f"{numbers['lowest']:,.0f} to {numbers['highest']:,.0f}"
        lines.append(f"| {name} | {numbers['tokens_per_second']:,.0f} | {spread} | {numbers['peak_memory_mb']:,.0f} |")
    ratios = _spread(result["ratios"])
    lines += ["", f"ours is {result['ratio_to_best']:.2f} times {result['best']} (median of {ratios})"]
    return "\n".join(lines)


def _spread(ratios: Sequence[float]) -> str:
    return f"{len(ratios)} rounds, {min(ratios):.2f} to {max(ratios):.2f}"
