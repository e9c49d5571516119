"""Which cores the threads of this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


def available_cores() -> list[int]:
    """The cores of this thread; numbers from 0 on where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def hold_to(cores: Iterable[int]) -> None:
    """Holds every thread of this process, those of pools that run already too, to `cores`, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), cores)


@contextmanager
def held_to(count: int) -> Iterator[None]:
    """Holds this process to the first `count` of its cores."""
    before = available_cores()
    hold_to(before[:count])
    try:
        yield
    finally:
        hold_to(before)
