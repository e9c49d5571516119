"""Batches made ahead of the one asked for, in buffers that are used again."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._core import BatchEpoch, BatchPlan, BatchPrefetcher

if TYPE_CHECKING:
    from numpy.typing import NDArray


class BatchesAhead:
    """The buffers of batches, the next ones of which are under way.

    A rank reads i, i + W, i + 2W: two batch numbers show the stride, and the next `depth` in that stride are made while
    the caller is busy. At most `depth` batches wait at a time. After a fork the child starts a thread of its own.

    filled_on_demand: how many batches were not under way when they were asked for, in this process.
    """

    def __init__(self, plan: BatchPlan, depth: int) -> None:
        self._plan = plan
        self._depth = depth
        self._size = max(plan.layout(rows, width)[5] for rows, width, _ in plan.shapes())
        self._start()

    def _start(self) -> None:
        self._process = os.getpid()
        self.filled_on_demand = 0
        self._lock = threading.Lock()
        self._buffers = Buffers(self._depth + 3, self._size)
        self._prefetcher = BatchPrefetcher(self._plan)
        self._last: tuple[int, int] | None = None

    def get(self, epoch: BatchEpoch, index: int) -> tuple[NDArray[np.int64], torch.Tensor]:
        """The buffer of batch `index`, as an array and as a tensor: int64, laid out as `BatchPlan.layout` says."""
        if self._process != os.getpid():
            # A forked child has neither the thread nor, for certain, the lock; both were the parent's.
            self._start()
        array = self._prefetcher.take(epoch.number, index) if self._depth else None
        if array is None:
            with self._lock:
                array = self._buffers.array()
            self.filled_on_demand += 1
            self._plan.fill(epoch, index, array)
        if self._depth:
            with self._lock:
                self._go_ahead(epoch, index)
        return array, self._buffers.tensor(array)

    def _go_ahead(self, epoch: BatchEpoch, index: int) -> None:
        last, self._last = self._last, (epoch.number, index)
        stride = index - last[1] if last is not None and last[0] == epoch.number else 0
        if stride == 0:
            return
        number = len(self._plan)
        steps = range(1, self._depth + 1)
        following = [index + stride * step for step in steps if 0 <= index + stride * step < number]
        under_way = set(self._prefetcher.keep(epoch.number, following))
        for ahead in following:
            if ahead not in under_way:
                self._prefetcher.submit(self._plan, epoch, ahead, self._buffers.array())


class Buffers:
    """int64 arrays of one size for batches, and tensors over them.

    With CUDA they are pinned, and torch's own allocator knows when the copy to the GPU is over and they are free again.
    Without, an array is free again when no tensor, view or batch under way refers to it, which its reference count
    tells. Memory that was written before saves the page faults of memory fresh from the kernel.
    """

    def __init__(self, most: int, size: int) -> None:
        self._most = most
        self._size = size
        self._pinned = torch.cuda.is_available()
        self._arrays = [np.empty(size if not self._pinned else 0, dtype=np.int64)]
        # How many references this interpreter counts where there are none but the list's.
        self._idle = self._references(0)

    def array(self) -> NDArray[np.int64]:
        """An array that nothing else refers to."""
        if self._pinned:
            pinned: NDArray[np.int64] = torch.empty(self._size, dtype=torch.int64, pin_memory=True).numpy()
            return pinned
        for place in range(len(self._arrays)):
            if self._references(place) == self._idle:
                return self._arrays[place]
        array = np.empty(self._size, dtype=np.int64)
        self._arrays.append(array)
        if len(self._arrays) > self._most:
            self._arrays.pop(0)
        return array

    def tensor(self, array: NDArray[np.int64]) -> torch.Tensor:
        """The tensor over an array of these; it keeps the array from being used again."""
        return array.base if isinstance(array.base, torch.Tensor) else torch.from_numpy(array)

    def _references(self, place: int) -> int:
        return sys.getrefcount(self._arrays[place])
