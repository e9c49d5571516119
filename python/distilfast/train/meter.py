"""Sums over the optimiser steps since the last line of the log: losses, tokens, time. Survive a resume bit for bit."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor


class Work(NamedTuple):
    """What all ranks together computed in a second."""

    tokens: float
    pairs: float
    """Pairs of tokens that attend to each other."""
    head_rows: float


class Meter:
    """Adds up on the device, without waiting for it; `read` waits once.

    Losses are shares of an optimiser step's, so their sum over micro-batches and ranks divided by the number of steps
    is their mean.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # Exact sums of many float32 values; MPS has no float64.
        self.dtype = torch.float32 if device.type == "mps" else torch.float64
        self.reset()

    def reset(self) -> None:
        """Starts the next line of the log."""
        self.losses: dict[str, Tensor] = {}
        self.tokens = torch.zeros((), dtype=torch.int64, device=self.device)
        self.pairs = torch.zeros_like(self.tokens)
        self.positions = 0
        self.head_rows = 0
        self.restart_clock()

    def restart_clock(self) -> None:
        self.started = time.perf_counter()
        self.timed_tokens = self.tokens.clone()

    def add(self, losses: Mapping[str, Tensor], batch: Mapping[str, Any], head_rows: int) -> None:
        """One micro-batch: its losses (0-dim), the batch itself, and how many rows the heads ran on."""
        for name, loss in losses.items():
            value = loss.detach().to(self.dtype)
            self.losses[name] = self.losses[name] + value if name in self.losses else value
        # A batch that only keeps a rank busy has positions to compute but no tokens to learn from.
        tokens = batch["num_tokens"] * batch["is_real"] if "is_real" in batch else batch["num_tokens"]
        self.tokens = self.tokens + tokens
        self.pairs = self.pairs + _pairs(batch)
        self.positions += batch["input_ids"].numel()
        self.head_rows += head_rows

    def read(self, steps: int) -> tuple[dict[str, float], Work]:
        """Means over `steps` optimiser steps and all ranks, with tokens per second and padding; and the work."""
        names = sorted(self.losses)
        counts = [self.tokens, self.tokens - self.timed_tokens, self.pairs]
        host = torch.tensor([self.positions, self.head_rows], dtype=self.dtype, device=self.device)
        sums = torch.cat(
            [torch.stack([*(self.losses[name] for name in names), *(count.to(self.dtype) for count in counts)]), host]
        )
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
        *losses, tokens, timed, pairs, positions, head_rows = sums.tolist()
        seconds = time.perf_counter() - self.started
        logs = {name: loss / steps for name, loss in zip(names, losses, strict=True)}
        logs |= {"tokens_per_second": timed / seconds, "padding": 1.0 - tokens / positions}
        # What was added before a resume took no time of this process.
        share = timed / tokens / seconds if tokens else 0.0
        return logs, Work(tokens * share, pairs * share, head_rows * share)

    def state(self) -> dict[str, Any]:
        """This rank's sums as JSON values; floats keep every bit."""
        return {
            "losses": {name: value.item() for name, value in sorted(self.losses.items())},
            "tokens": int(self.tokens.item()),
            "pairs": int(self.pairs.item()),
            "positions": self.positions,
            "head_rows": self.head_rows,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from the sums that `state` gave; the clock starts now."""
        self.losses = {
            name: torch.tensor(value, dtype=self.dtype, device=self.device) for name, value in state["losses"].items()
        }
        self.tokens = torch.tensor(state["tokens"], dtype=torch.int64, device=self.device)
        self.pairs = torch.tensor(state["pairs"], dtype=torch.int64, device=self.device)
        self.positions, self.head_rows = int(state["positions"]), int(state["head_rows"])
        self.restart_clock()


def add_states(states: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums of all ranks in one, for a resume on another number of ranks."""
    names = {name for state in states for name in state["losses"]}
    counts = ("tokens", "pairs", "positions", "head_rows")
    return {
        "losses": {name: sum(state["losses"].get(name, 0.0) for state in states) for name in sorted(names)},
        **{count: sum(state[count] for state in states) for count in counts},
    }


def _pairs(batch: Mapping[str, Any]) -> Tensor:
    """The pairs of tokens that attend to each other: [] int64, of n^2 a sequence."""
    lengths = batch["cu_seqlens"].diff() if "cu_seqlens" in batch else batch["attention_mask"].sum(dim=1)
    return cast(Tensor, lengths.long().square().sum())
