"""Rows held out by a hash of their text, chosen at random, and counted where two sets share them.

Everything here is a function of the rows' content, not of their order or the machine.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._core import InputError
from .columns import Columns
from .records import Rows

HELD_OUT_SHARE = 0.1

LARGEST_CLUSTER = 0.05
"""The share of rows above which texts that pairs share no longer keep all those pairs together."""


@dataclass(frozen=True)
class Split:
    """Row numbers, ascending, and what was done, a sentence."""

    train: list[int]
    validation: list[int]
    note: str


def hold_out(rows: Rows, columns: Columns, share: float = HELD_OUT_SHARE) -> Split:
    """A `share` of the rows for validation, by a hash.

    Rows stay together that have the same text (case and blanks apart), pairs that share one of their texts, and rows
    of one group. So none of the texts that are validated on was trained on, and a row that is added to the file moves
    no other from one side to the other, unless it ties two of them together. Where texts tie more than a twentieth of
    the rows together, groups stay together alone, or pairs by their first text, which the note says.

    Raises `InputError` where all rows belong together, or there are fewer than two.
    """
    place, by = _clusters(rows, columns)
    if len(np.unique(place)) < 2:
        raise InputError(
            f"{rows.source}: its {len(rows)} rows belong together ({by}), so none can be held out; give a validation "
            "file"
        )
    # 2^64 rounds up to a float, which no hash reaches.
    held = place < np.uint64(min(int(share * 2.0**64), 2**64 - 1))
    if not held.any() or held.all():  # so few rows that no hash fell, or all fell, on one side
        held = place == (place.min() if not held.any() else place.max())
    validation = np.flatnonzero(held)
    note = (
        f"{rows.source}: no validation rows given, so {len(validation)} of {len(rows)} rows "
        f"({len(validation) / len(rows):.1%}) are held out by a hash of their text, {by}"
    )
    return Split(np.flatnonzero(~held).tolist(), validation.tolist(), note)


def shared_rows(train: Rows, train_columns: Columns, other: Rows, other_columns: Columns) -> list[int]:
    """The rows of `other`, by number, whose texts (all of them, case and blanks apart, pairs in either order) are those
    of a row of `train`."""
    seen = {tuple(sorted(key)) for key in row_keys(train, train_columns)}
    return [number for number, key in enumerate(row_keys(other, other_columns)) if tuple(sorted(key)) in seen]


def choose_rows(rows: Rows, columns: Columns, most: int, seed: int = 0) -> list[int]:
    """`most` rows at random, ascending by number: those with the smallest hashes of seed and text.

    Which texts these are does not depend on the order of the rows; rows with equal texts are told apart by how many
    came before. With a larger `most` the smaller choice is among it. Raises `InputError` for `most` below 1.
    """
    if most < 1:
        raise InputError(f"{most} rows are not to be chosen; at least 1 is needed")
    if most >= len(rows):
        return list(range(len(rows)))
    occurrences: dict[tuple[int, ...], int] = {}
    places = np.empty(len(rows), np.uint64)
    for number, key in enumerate(row_keys(rows, columns)):
        occurrence = occurrences.get(key, 0)
        occurrences[key] = occurrence + 1
        places[number] = hash_of(f"{seed} {occurrence} {' '.join(map(str, key))}")
    return sorted(np.argsort(places, kind="stable")[:most].tolist())


def row_keys(rows: Rows, columns: Columns) -> list[tuple[int, ...]]:
    """The hashes of each row's texts, one or two."""
    parts = [[_text_hash(text) for text in rows.column(name)] for name in columns.texts]
    return list(zip(*parts, strict=True))


def hash_of(text: str) -> int:
    """64 bits that are the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _text_hash(text: Any) -> int:
    words = text if isinstance(text, list) else str(text).split()
    return hash_of(" ".join(str(word).casefold() for word in words))


def _clusters(rows: Rows, columns: Columns) -> tuple[NDArray[np.uint64], str]:
    """A hash for each row, the same for rows that stay together, and which these are."""
    keys = np.array(row_keys(rows, columns), np.uint64).reshape(len(rows), len(columns.texts))
    apart, by = keys[:, 0], "equal texts together"
    if len(columns.texts) == 2:
        by = "pairs with the same first text together (second texts occur on both sides)"
    together = "pairs that share a text together" if len(columns.texts) == 2 else by
    if columns.group is not None:
        # A row without a group is one by itself: its texts.
        groups = [
            hash_of(f"group {value}") if value is not None else key
            for value, key in zip(rows.column(columns.group), keys[:, 0].tolist(), strict=True)
        ]
        apart = np.array(groups, np.uint64)
        keys = np.column_stack([keys, apart])
        by = f"rows of one {columns.group!r} together (equal texts of different ones may be on both sides)"
        together = f"rows of one {columns.group!r} or with a text in common together"
    elif keys.shape[1] == 1:
        return apart, by
    tied = _tied(keys)
    if len(rows) >= 100 and np.unique(tied, return_counts=True)[1].max() > LARGEST_CLUSTER * len(rows):
        return apart, by
    return tied, together


def _tied(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash for each row of `keys` [rows, n], the same for rows that keys in common tie together, directly or not."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    values, numbers = np.unique(keys, return_inverse=True)
    numbers = numbers.reshape(keys.shape)
    first = np.repeat(numbers[:, 0], keys.shape[1] - 1)
    edges = coo_array((np.ones(len(first), np.int8), (first, numbers[:, 1:].ravel())), shape=(len(values),) * 2)
    _, component = connected_components(edges, directed=False)
    smallest = np.full(component.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, component, values)
    # Hashed once more: the smallest of many hashes is small, and would be held out too often.
    hashed = np.array([hash_of(str(value)) for value in smallest.tolist()], np.uint64)
    tied: NDArray[np.uint64] = hashed[component[numbers[:, 0]]]
    return tied
