"""Ready-made batches behind a `DataLoader` that Accelerate can cut up between ranks without touching a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from .._core import InputError
from ..prepare.targets import IGNORED


class Batches(Protocol):
    """What a trainer needs of `MaskedBatches`: batch number -> dict of tensors, a pure function of seed and epoch."""

    @property
    def batches_per_step(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> dict[str, Any]: ...
    def set_epoch(self, epoch: int, /) -> None: ...
    @property
    def state_fingerprint(self) -> str: ...


class RankBatches(Dataset[dict[str, Any]]):
    """`batches` made divisible by the number of ranks, so that in every micro-step each rank has one.

    Where the last round has fewer batches than ranks, the others get the epoch's last batch again with nothing in it
    that a loss counts (`is_real` false, every masked-language-model label -100): they take part and add nothing. With
    one rank the batches are as they were.
    """

    def __init__(self, batches: Batches, ranks: int) -> None:
        self.batches = batches
        self.ranks = ranks

    def __len__(self) -> int:
        return -(-len(self.batches) // self.ranks) * self.ranks

    def __getitem__(self, number: int) -> dict[str, Any]:
        last = len(self.batches) - 1
        batch = self.batches[min(number, last)]
        if self.ranks > 1:
            batch = {**batch, "is_real": torch.tensor(number <= last)}
            if number > last and "mlm_labels" in batch:
                batch["mlm_labels"] = torch.full_like(batch["mlm_labels"], IGNORED)
        return batch


class _Numbers(Sampler[list[int]]):
    """The lists [0], [1], ...: one ready-made batch a time."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[list[int]]:
        return ([number] for number in range(self.count))

    def __len__(self) -> int:
        return self.count


def _only(batches: list[dict[str, Any]]) -> dict[str, Any]:
    (batch,) = batches
    return batch


def batch_loader(batches: Batches, ranks: int, pin_memory: bool) -> DataLoader[dict[str, Any]]:
    """All batches in order; `Accelerator.prepare` gives rank r of R the numbers r, r + R, ...

    A map-style dataset with a batch sampler of single numbers: skipping on a resume then walks over numbers, not data.
    Iterable datasets would be cut and joined anew by Accelerate, losing tokens. Raises `InputError` for more ranks than
    batches, where some would never have anything to do.
    """
    if ranks > len(batches):
        raise InputError(
            f"{ranks} ranks are more than the {len(batches)} batches of an epoch; use fewer ranks, more data, or a "
            "smaller batch_tokens"
        )
    dataset = RankBatches(batches, ranks)
    return DataLoader(
        dataset, batch_sampler=_Numbers(len(dataset)), collate_fn=_only, num_workers=0, pin_memory=pin_memory
    )
