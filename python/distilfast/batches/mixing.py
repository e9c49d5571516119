"""How far a batch may be of rows of one length: as far as its rows say different things.

Rows of like length together save padding. Where what a row is labelled follows its length, such a batch says one thing
alone, its gradient is that of few rows, and training was seen to learn nothing from it. So lengths are mixed as much as
the rows' labels ask for, which for most data is not at all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

POOL = 50
"""The most batches whose rows are sorted by length together, and `FEWEST_POOLS` the pools that there are at least, so
that the rows of a batch are others in every epoch (the numbers of `group_by_length` in `transformers`)."""
FEWEST_POOLS = 4

STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The mixings that are tried, least first."""
MOST_ALIKE = 3.0
"""A batch of n rows must say as much as n / 3 rows drawn at random: those of GLUE, sorted by length, do."""
SAMPLE = 4096
"""Rows that are looked at."""


def batch_order(
    lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int, mixing: float = 0.0
) -> NDArray[np.int64]:
    """All rows once, in the order in which batches of `batch_size` take them; rows of like length together.

    Rows are shuffled, sorted by length within pools of up to 50 batches, and the batches shuffled; the one that is not
    full comes last. `mixing`: the weight of chance in the sorting, from 0 (by length alone) to 1 (none by length). The
    numbers are those of Philox 4x64 keyed by seed and epoch: the same on every machine, for every number of ranks, and
    after a resume.
    """
    rows = len(lengths)
    draws = np.random.Philox(key=np.array([seed, epoch], np.uint64))
    order = np.argsort(draws.random_raw(rows), kind="stable")
    size = batch_size * max(1, min(POOL, rows // (FEWEST_POOLS * batch_size)))
    for start in range(0, rows, size):
        pool = order[start : start + size]
        ranked = pool[np.argsort(-lengths[pool], kind="stable")]
        if mixing > 0:
            chance = draws.random_raw(len(pool)) / 2.0**64
            ranked = ranked[np.argsort((1 - mixing) * np.linspace(0, 1, len(pool)) + mixing * chance, kind="stable")]
        order[start : start + size] = ranked
    full = rows // batch_size
    places = np.argsort(draws.random_raw(full), kind="stable")
    whole = order[: full * batch_size].reshape(full, batch_size)[places].ravel()
    return np.concatenate([whole, order[full * batch_size :]])


def alikeness(said: NDArray[np.float64], batch_size: int) -> float:
    """By how much the mean over a batch varies more than that over as many rows at random: 1 for such a batch, n for n
    rows that say the same. The largest over the columns.

    said: [rows, k] in the order of the batches. This is the design effect of Kish ("Survey sampling", 1965), 1 + (n -
    1) times the intraclass correlation, from the mean squares between and within batches.
    """
    batches = len(said) // batch_size
    if batches < 2 or batch_size < 2:
        return 1.0
    groups = said[: batches * batch_size].reshape(batches, batch_size, -1)
    means = groups.mean(1)
    between = batch_size * np.square(means - means.mean(0)).sum(0) / (batches - 1)
    within = np.square(groups - means[:, None]).sum((0, 1)) / (batches * (batch_size - 1))
    total = between + (batch_size - 1) * within
    correlation = np.where(total > 0, (between - within) / np.where(total > 0, total, 1), 0)
    return float(1 + (batch_size - 1) * correlation.max())


def choose_mixing(lengths: NDArray[np.int64], said: NDArray[np.float64], batch_size: int, seed: int) -> float:
    """The least mixing of `STEPS` with which batches are no more alike than `MOST_ALIKE`.

    said: [rows, k], what the rows are labelled, or what their teacher says of them, in numbers."""
    for mixing in STEPS[:-1]:
        if alikeness(said[batch_order(lengths, batch_size, seed, 0, mixing)], batch_size) <= MOST_ALIKE:
            return mixing
    return STEPS[-1]
