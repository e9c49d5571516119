"""Rows that are compared with each other, as the passages of a query, whole in a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import InputError

Order = Callable[[NDArray[np.int64], int, int, int], NDArray[np.int64]]
"""Of (lengths, batch size, seed, epoch): all rows once, those of like length together."""


class WholeGroups:
    """Batches of at most `batch_size` rows in which every group is whole.

    groups: int64 [rows], the group of each row; lengths: int64 [rows], its tokens. How many rows a batch takes of
    groups of each size is settled once, so that every epoch has the same number of batches; which groups these are, an
    epoch draws. Raises `InputError` for a group of more rows than a batch.
    """

    def __init__(self, groups: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int) -> None:
        order = np.argsort(groups, kind="stable")
        _, starts = np.unique(groups[order], return_index=True)
        self.members = np.split(order, starts[1:])
        sizes = np.array([len(rows) for rows in self.members])
        if sizes.max() > batch_size:
            raise InputError(
                f"a group has {sizes.max()} rows and a batch {batch_size}; a group stays whole in a batch: give "
                f"--per_device_train_batch_size {sizes.max()} or more, or fewer rows of each group"
            )
        self.longest = np.array([lengths[rows].max() for rows in self.members])
        self.of_size = {int(size): np.flatnonzero(sizes == size) for size in np.unique(sizes)[::-1]}
        self.batch_size = batch_size
        self.batches = fitted({size: len(found) for size, found in self.of_size.items()}, batch_size)

    @property
    def compared(self) -> NDArray[np.int64]:
        """[rows]: 1 at the first row of each group of two rows or more, 0 elsewhere; its sum is their number."""
        marks = np.zeros(sum(len(rows) for rows in self.members), np.int64)
        marks[[rows[0] for rows in self.members if len(rows) > 1]] = 1
        return marks

    def order(self, arrange: Order, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The rows in the order of the batches, and [batches + 1] where each begins."""
        waiting: dict[int, Any] = {}
        for size, found in self.of_size.items():
            placed = arrange(self.longest[found], max(1, self.batch_size // size), seed, epoch)
            waiting[size] = iter(found[placed].tolist())
        made = [np.concatenate([self.members[next(waiting[size])] for size in sizes]) for sizes in self.batches]
        # Of another stream than the groups' order, which begins at the counter 0.
        draws = np.random.Philox(key=np.array([seed, epoch], np.uint64), counter=1 << 64)
        places = np.argsort(draws.random_raw(len(made)), kind="stable")
        made = [made[place] for place in places]
        return np.concatenate(made), np.cumsum([0, *map(len, made)])


def fitted(counts: dict[int, int], room: int) -> list[list[int]]:
    """The sizes of the groups in each batch: `counts[size]` groups of each size, at most `room` rows together.

    Best fit, the largest first (Johnson, "Near-optimal bin packing algorithms", 1973).
    """
    by_room: dict[int, list[list[int]]] = {}
    batches: list[list[int]] = []
    for size in sorted(counts, reverse=True):
        for _ in range(counts[size]):
            left = min((each for each, found in by_room.items() if each >= size and found), default=None)
            if left is None:
                batch: list[int] = []
                batches.append(batch)
                left = room
            else:
                batch = by_room[left].pop()
            batch.append(size)
            by_room.setdefault(left - size, []).append(batch)
    return batches
