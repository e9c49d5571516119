"""How the train bench measures: contenders in turns, peaks of memory, and what losses and batches take alone."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import losses
from ..batches.masked import MaskedBatches
from ..cpu.matmul import multiply

Step = Callable[[], int]
"""Trains on the next micro-batch; its number of tokens of text."""


class PeakMemory:
    """Within `with`: the most memory in use above what was in use at the start, in `.bytes`; 0 where the system does
    not count it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        self._before: int | None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        else:
            self._before = restart_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            on_gpu = self.device.type == "cuda"
            peak = torch.cuda.max_memory_allocated(self.device) if on_gpu else status_bytes("VmHWM")
            self.bytes = max(self.bytes, peak - self._before)


def restart_peak() -> int | None:
    """The memory of this process that is in use now, from which on its peak is counted (`status_bytes("VmHWM")`); None
    where Linux does not count it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return status_bytes("VmRSS")


def status_bytes(name: str) -> int:
    """What Linux counts of this process under a name."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"/proc/self/status has no {name}"
    return int(found[1]) * 1024


def measure(
    contenders: Mapping[str, Callable[[], Step]],
    device: torch.device,
    batches: int,
    rounds: int,
    told: Callable[[dict[str, dict[str, Any]]], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
    """Tokens per second (median over rounds), tokens a batch and peak memory of each contender; they take turns.

    A contender that fails, while it is made or at any turn, has an "error" instead, and the others go on without it.
    `told` gets the results so far after every turn.
    """
    results: dict[str, dict[str, Any]] = {name: {} for name in contenders}
    steps: dict[str, Step] = {}
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    peaks = {name: PeakMemory(device) for name in contenders}
    for name, make in contenders.items():
        with said_errors(results[name], device):
            step = make()
            step()  # compiles, plans, allocates
            steps[name] = step
    for _ in range(rounds):
        for name, step in steps.items():
            if "error" in results[name]:
                continue
            with said_errors(results[name], device):
                with peaks[name]:
                    synchronize(device)
                    start = time.perf_counter()
                    tokens = sum(step() for _ in range(batches))
                    synchronize(device)
                    speeds[name].append(tokens / (time.perf_counter() - start))
                results[name] = {
                    "tokens_per_second": statistics.median(speeds[name]),
                    "tokens_per_batch": tokens / batches,
                    "peak_memory_mb": peaks[name].bytes / 2**20,
                }
            told(results)
    return results


@contextmanager
def said_errors(result: dict[str, Any], device: torch.device) -> Iterator[None]:
    """An exception within leaves its first line as `result`'s only "error", and the memory that it held to others."""
    try:
        yield
    except Exception as error:  # of any library: others are measured all the same
        result["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
        result.pop("tokens_per_second", None)
    if "error" in result and device.type == "cuda":
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def loss_seconds(device: torch.device, rows: int, vocab_size: int, dtype: torch.dtype) -> float:
    """Seconds of the losses on ready logits [rows, vocab_size] of `dtype`, gradient included; the best of three."""
    student, teacher = (torch.randn(rows, vocab_size, device=device).to(dtype) for _ in range(2))
    student.requires_grad_()
    labels = torch.randint(vocab_size, (rows,), device=device)
    labels[torch.rand(rows, device=device) > 0.15] = losses.definitions.IGNORED
    times = []
    for _ in range(3):
        synchronize(device)
        start = time.perf_counter()
        torch.autograd.grad(losses.distillation_loss(student, teacher, labels).total, student)
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def loader_seconds(batches: MaskedBatches, count: int = 32) -> float:
    """Seconds that a batch takes to be made, one after the other, with nothing else to do."""
    numbers = range(min(count, len(batches)))
    start = time.perf_counter()
    for number in numbers:
        batches[number]
    return (time.perf_counter() - start) / len(numbers)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The fastest that `device` multiplied two [2048, 2048] matrices of `dtype` within half a second, in FLOP/s.

    By the kernel that training multiplies with there.
    """
    size = 2048
    left, right = torch.linspace(-1, 1, 2 * size * size, device=device).to(dtype).view(2, size, size).unbind()
    best = float("inf")
    stop = time.perf_counter() + 0.5
    while best == float("inf") or time.perf_counter() < stop:
        synchronize(device)
        start = time.perf_counter()
        multiply(left, right)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best
