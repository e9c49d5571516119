"""Where the time of a training step goes: teacher, student, losses, backward, optimiser, data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

PARTS = ("data", "teacher", "student", "losses", "backward", "optimizer")


class StepProfile:
    """Adds up the seconds of each part of the step between `with profile.part(name):`.

    On CUDA each part is timed with events on the current stream, which are read when `report` is called: profiling
    makes no step wait. Elsewhere the clock is read.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.steps = 0
        self._pending: list[tuple[str, Any, Any]] = []
        self._started = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Times the block as part of `name`, one of `PARTS`. Blocks do not nest."""
        if name not in self.seconds:
            raise KeyError(f"{name!r} is no part of a step; the parts are {', '.join(PARTS)}")
        if self.device.type == "cuda" and name != "data":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            yield
            end.record()
            self._pending.append((name, start, end))
            return
        start_time = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start_time

    def report(self) -> dict[str, Any]:
        """`{"steps", "seconds", "parts": {name: {"seconds", "share"}}}` since the start; "other" is what no part holds.

        Shares are of the wall clock. With CUDA, data is prepared while the device works and may lie inside the others'
        time, so the shares may add up to more than 1 and "other" is never below 0.
        """
        if self._pending:
            torch.cuda.synchronize(self.device)
            for name, start, end in self._pending:
                self.seconds[name] += start.elapsed_time(end) / 1000.0
            self._pending.clear()
        wall = time.perf_counter() - self._started
        parts = {**self.seconds, "other": max(0.0, wall - sum(self.seconds.values()))}
        return {
            "steps": self.steps,
            "seconds": wall,
            "parts": {name: {"seconds": spent, "share": spent / wall} for name, spent in parts.items()},
        }


def timed(profile: StepProfile | None, name: str) -> AbstractContextManager[None]:
    """`profile.part(name)`, or nothing at all without a profile."""
    return nullcontext() if profile is None else profile.part(name)


def table(report: dict[str, Any]) -> str:
    """The report as a Markdown table, the largest part first."""
    lines = ["| part | seconds | share |", "|---|---|---|"]
    for name, part in sorted(report["parts"].items(), key=lambda item: -item[1]["seconds"]):
        lines.append(f"| {name} | {part['seconds']:.3f} | {part['share']:.1%} |")
    lines.append(f"| {report['steps']} steps | {report['seconds']:.3f} | 100% |")
    return "\n".join(lines)
