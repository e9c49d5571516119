"""Making `MaskedBatches`, before the first batch: its time against `LengthGroupedSampler`, and the memory it takes."""

from __future__ import annotations

import re
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import transformers

from ..batches.masked import MaskedBatches, TokenizerLike

TILE = 1_000_000


def wikipedia_lengths(number: int, longest: int = 512) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Log-normal lengths cut at `longest`, as chunking leaves them."""
    generator = np.random.default_rng(0)
    return np.clip(generator.lognormal(4.6, 0.9, number).astype(np.int64), 12, longest)


def length_grouped(batch_size: int, lengths: list[int]) -> Any:
    return transformers.trainer_pt_utils.LengthGroupedSampler(batch_size, lengths=lengths)


def rows_of(number: int, id_: int) -> pa.LargeListArray:
    """`number` rows of the id `id_`, the lengths of the first million again and again."""
    lengths = wikipedia_lengths(min(number, TILE))
    offsets = np.zeros(number + 1, dtype=np.int64)
    for start in range(0, number, TILE):
        part = offsets[start + 1 : start + 1 + TILE]
        np.cumsum(lengths[: len(part)], out=part)
        part += offsets[start]
    ids = np.full(offsets[-1], id_, dtype=np.uint16)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))


def measure_plan(number: int, tok: TokenizerLike, id_: int) -> dict[str, float]:
    """Seconds of CPU time on one thread, bytes per row beside the rows, batches and padding of both layouts, for rows
    of the id `id_`; printed too."""
    figures: dict[str, float] = {"rows": number}
    if number <= TILE:
        listed = wikipedia_lengths(number).tolist()
        start = time.process_time()
        list(length_grouped(256, listed))
        figures["LengthGroupedSampler, seconds"] = time.process_time() - start
    rows = rows_of(number, id_)
    layouts: tuple[Literal["padded", "packed"], ...] = ("padded", "packed")
    for layout in layouts:
        seconds = []
        # What few rows take is lost in memory that was used before.
        before = restart_peak() if number >= 10 * TILE else None
        for _ in range(3 if number <= 10 * TILE else 1):
            start = time.process_time()
            batches = MaskedBatches(rows, tok, layout=layout, threads=1)
            seconds.append(time.process_time() - start)
        figures[f"{layout}, seconds"] = statistics.median(seconds)
        if before is not None:
            figures[f"{layout}, bytes per row"] = (status_bytes("VmHWM") - before) / number
        figures[f"{layout}, batches"] = len(batches)
        figures[f"{layout}, padding"] = batches.padding
    for label, value in figures.items():
        print(f"plan: {label:36} {value:16,.4f}")
    if "LengthGroupedSampler, seconds" in figures:
        ratio = figures["LengthGroupedSampler, seconds"] / figures["padded, seconds"]
        print(f"plan: padded is {ratio:.0f}x faster than LengthGroupedSampler")
    return figures


def restart_peak() -> int | None:
    """The memory that is in use now, from which on its peak is counted; None where Linux does not count it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return status_bytes("VmRSS")


def status_bytes(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"/proc/self/status has no {name}"
    return int(found[1]) * 1024
