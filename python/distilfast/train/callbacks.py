"""What accompanies the loop: the epoch told to the batches, int8 in its last stretch, what ends a run early.

A run ends early at a SIGTERM or Ctrl-C, after a checkpoint, and at a loss that is not finite, before one.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from ..batches.loader import Batches
from .arguments import DistillationArguments
from .step import DistillationStep


class SetEpoch(TrainerCallback):
    """Tells the batches which epoch begins."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Mapping[str, Any]) -> None:
        # A whole number at an epoch's begin; with a part behind the point on a resume within it.
        self.batches.set_epoch(int(state.epoch or 0))


class BeforeFirstStep(TrainerCallback):
    """Calls what is to be done before the first step, once models and state are those of the checkpoint."""

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self._called = False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._called = False

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self._called:
            self._called = True
            self.call()


def int8_steps(args: DistillationArguments, steps: int) -> int:
    """How many optimiser steps, the last ones of a run of `steps`, are computed in int8."""
    return max(1, round(args.quantize_last * steps)) if args.quantize else 0


class QuantizeLastSteps(TrainerCallback):
    """`--quantize int8`: lets `step` compute in int8, as the file that is made of the student will, from a step on that
    the length of the run alone decides.

    The best model is one of the stretch: what evaluations before it found is forgotten when it begins.
    """

    def __init__(self, step: DistillationStep) -> None:
        self.step = step

    def on_step_begin(self, args: DistillationArguments, state: TrainerState, control: Any, **_: Any) -> None:  # type: ignore[override]
        first = state.max_steps - int8_steps(args, state.max_steps)
        self.step.computes_int8 = state.global_step >= first
        if state.global_step == first:
            state.best_metric = state.best_model_checkpoint = state.best_global_step = None


class NonFiniteLossError(RuntimeError):
    """A loss became NaN or infinite; the message says at which step, and which."""

    exit_code = 1  # of the command


class Interruption(TrainerCallback):
    """Asked after every optimiser step whether to go on; all ranks get one answer.

    Losses are watched without waiting for the device: on CUDA they are read one step late, when they have long been
    computed. Nothing is saved in between: `check_losses` waits for the latest.
    """

    def __init__(self) -> None:
        self.requested = False
        """Whether the run is to end, which all ranks know at the same moment."""
        self._asked = False
        """Whether a signal asked this rank for it, perhaps while the others were being asked."""
        self.signal = signal.SIGTERM
        """The signal that asked for the end."""
        self._sums: dict[str, Tensor] = {}
        self._pending: list[tuple[int, list[str], Tensor, Any]] = []
        self._group: Any = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        self.requested = self._asked = False
        # Python allows signal handlers in the main thread only; elsewhere signals keep their usual meaning.
        if threading.current_thread() is threading.main_thread():
            self._previous = {each: signal.signal(each, self._note) for each in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._asked:
                raise KeyboardInterrupt
            if os.environ.get("RANK", "0") == "0":
                os.write(2, b"\nsaving a checkpoint after this step; press Ctrl-C again to stop without one\n")
        self.signal = signal.Signals(number)
        self._asked = True

    def asked_on_any_rank(self) -> bool:
        """Whether a signal has asked any rank for the end; all ranks call it, and get one answer."""
        self.requested, _ = self._agree(False)
        return self.requested

    def watch(self, losses: Mapping[str, Tensor]) -> None:
        """Adds a micro-batch's losses (0-dim) to the step's."""
        for name, loss in losses.items():
            value = loss.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        names = list(self._sums)
        values = torch.stack([self._sums[name] for name in names])
        self._sums = {}
        event = None
        if values.is_cuda:
            copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            copy.copy_(values, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            values = copy
        self._pending.append((state.global_step, names, values, event))
        self._judge(keep=1 if event is not None else 0)
        if self.requested:
            control.should_evaluate = False  # save at once; it is made up for when the run goes on
            control.should_save = control.should_training_stop = True
        return control

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        if self.requested:  # the checkpoint is written
            control.should_evaluate = control.should_save = False
        return control

    def check_losses(self) -> None:
        """Raises `NonFiniteLossError` if any loss up to this step was not finite, on any rank."""
        self._judge(keep=0)

    def _judge(self, keep: int) -> None:
        """Reads all but the latest `keep` steps' losses and agrees with the other ranks on what to do."""
        bad = None
        while len(self._pending) > keep:
            step, names, values, event = self._pending.pop(0)
            if event is not None:
                event.synchronize()
            found = {
                name: value for name, value in zip(names, values.tolist(), strict=True) if not math.isfinite(value)
            }
            if found and bad is None:
                bad = (step, found)
        self.requested, bad_ranks = self._agree(bad is not None)
        if bad is not None:
            step, found = bad
            losses = ", ".join(f"{name} is {value}" for name, value in found.items())
            raise NonFiniteLossError(f"at optimiser step {step} {losses}")
        if bad_ranks:
            raise NonFiniteLossError("a loss is not finite on another rank, which says which")

    def _agree(self, bad: bool) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether any has found a bad loss."""
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return self._asked, bad
        if self._group is None:
            # Through the host, so that no rank waits for its GPU.
            self._group = dist.new_group(backend="gloo")
        flags = torch.tensor([int(self._asked), int(bad)])
        dist.all_reduce(flags, group=self._group)
        return bool(flags[0] > 0), bool(flags[1] > 0)
