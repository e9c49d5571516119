"""The number of an epoch, shared with the worker processes of a `DataLoader`."""

from __future__ import annotations

from typing import Any

import torch


class SharedEpoch:
    """A counter that processes forked or spawned by torch see change.

    Workers that persist (`DataLoader(persistent_workers=True)`) keep the copy of a dataset that they were started with;
    the number here is in memory that all of them have. Pickled by hand it is a counter of its own.
    """

    def __init__(self, number: int = 0) -> None:
        self._number: Any = torch.tensor(number, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._as_numpy: Any = self._number.numpy()  # a read costs less than through torch

    @property
    def number(self) -> int:
        return int(self._as_numpy)

    @number.setter
    def number(self, number: int) -> None:
        self._as_numpy[...] = number

    def __getstate__(self) -> Any:
        return self._number

    def __setstate__(self, state: Any) -> None:
        self._number = state if state.is_shared() else state.share_memory_()
        self._as_numpy = self._number.numpy()
