"""Sums over the optimiser steps since the last line of the log: losses, tokens, time. Survive a resume bit for bit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Meter:
    """Adds up on the device, without waiting for it; `read` waits once.

    Losses are shares of an optimiser step's, so their sum over micro-batches and ranks divided by the number of steps
    is their mean.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Exact sums of many float32 values; MPS has no float64.
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.begun = time.perf_counter()
        self.earlier = 0.0  # seconds of the run that this one goes on with
        self.reset()

    def begin(self) -> None:
        """Starts the clock of the run, and that of the next line of the log."""
        self.begun = time.perf_counter()
        self.restart_clock()

    @property
    def seconds(self) -> float:
        """Of the whole run, before a resume too."""
        return self.earlier + time.perf_counter() - self.begun

    def reset(self) -> None:
        """Starts the next line of the log."""
        self.losses: dict[str, Tensor] = {}
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.device)
        self.positions = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        self.started = time.perf_counter()
        self.timed_tokens = self.tokens.clone()

    def add(self, losses: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        """One micro-batch: its losses (0-dim) and the batch itself."""
        for name, loss in losses.items():
            value = loss.detach().to(self.dtype)
            self.losses[name] = self.losses[name] + value if name in self.losses else value
        # A batch that only keeps a rank busy has positions to compute but no tokens to learn from.
        tokens = batch["num_tokens"] * batch["is_real"] if "is_real" in batch else batch["num_tokens"]
        self.tokens = self.tokens + tokens
        self.positions += batch["input_ids"].numel()

    def read(self, steps: int) -> dict[str, float]:
        """Means over `steps` optimiser steps and all ranks, with tokens per second and padding."""
        names = sorted(self.losses)
        counts = [self.tokens, self.tokens - self.timed_tokens]
        host = torch.tensor([self.positions], dtype=self.dtype, device=self.device)
        sums = torch.cat(
            [torch.stack([*(self.losses[name] for name in names), *(count.to(self.dtype) for count in counts)]), host]
        )
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        *losses, tokens, timed, positions = sums.tolist()
        seconds = time.perf_counter() - self.started
        logs = {name: loss / steps for name, loss in zip(names, losses, strict=True)}
        # What was added before a resume took no time of this process.
        return logs | {"tokens_per_second": timed / seconds, "padding": 1.0 - tokens / positions}

    def state(self) -> dict[str, Any]:
        """This rank's sums as JSON values; floats keep every bit."""
        return {
            "losses": {name: value.item() for name, value in sorted(self.losses.items())},
            "tokens": int(self.tokens.item()),
            "positions": self.positions,
            "seconds": self.seconds,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from the sums that `state` gave; the clock starts now."""
        self.losses = {
            name: torch.tensor(value, dtype=self.dtype, device=self.device) for name, value in state["losses"].items()
        }
        self.tokens = torch.tensor(state["tokens"], dtype=torch.int64, device=self.device)
        self.positions = int(state["positions"])
        self.earlier = float(state.get("seconds", 0.0))
        self.restart_clock()


def add_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of all ranks in one, for a resume on another number of ranks."""
    names = {name for state in states for name in state["losses"]}
    counts = ("tokens", "positions")
    return {
        "losses": {name: sum(state["losses"].get(name, 0.0) for state in states) for name in sorted(names)},
        **{count: sum(state[count] for state in states) for count in counts},
        "seconds": max(state.get("seconds", 0.0) for state in states),
    }
