"""Lengths are mixed in a batch where labels follow them, and not elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from distilfast.batches.mixing import MOST_ALIKE, STEPS, alikeness, batch_order, choose_mixing
from hypothesis import given
from hypothesis import strategies as st

LENGTHS = np.random.default_rng(0).integers(3, 100, 4000)


def padding(mixing: float, lengths: np.ndarray = LENGTHS) -> float:
    batches = lengths[batch_order(lengths, 32, 0, 0, mixing)][: len(lengths) // 32 * 32].reshape(-1, 32)
    return float(1 - batches.sum() / (batches.max(1) * 32).sum())


def test_more_mixing_pads_more() -> None:
    found = [padding(mixing) for mixing in STEPS]
    assert found == sorted(found)
    assert found[0] < 0.05
    shuffled = LENGTHS[np.random.default_rng(1).permutation(4000)][:4000].reshape(-1, 32)
    assert found[-1] == pytest.approx(1 - shuffled.sum() / (shuffled.max(1) * 32).sum(), abs=0.03)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=150),
    size=st.integers(1, 9),
    mixing=st.floats(0, 1),
    epoch=st.integers(0, 3),
)
def test_an_order_with_mixing_has_each_row_once(lengths: list[int], size: int, mixing: float, epoch: int) -> None:
    order = batch_order(np.array(lengths), size, 1, epoch, mixing)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert batch_order(np.array(lengths), size, 1, epoch, mixing).tolist() == order.tolist()


def test_alikeness_is_the_design_effect() -> None:
    draws = np.random.default_rng(0)
    at_random = draws.integers(0, 2, (32 * 200, 1)).astype(float)
    assert alikeness(at_random, 32) == pytest.approx(1, abs=0.3)
    one_thing = np.repeat(draws.integers(0, 2, 200), 32)[:, None].astype(float)
    assert alikeness(one_thing, 32) == pytest.approx(32)
    assert alikeness(np.hstack([at_random, one_thing]), 32) == pytest.approx(32)  # the worst column
    # Rows that share a part: correlation within a batch of a half.
    shared = np.repeat(draws.normal(size=2000), 8)[:, None] + draws.normal(size=(16000, 1))
    assert alikeness(shared, 8) == pytest.approx(1 + 7 * 0.5, rel=0.1)
    assert alikeness(np.ones((64, 2)), 32) == 1  # all rows say the same, in every batch


@pytest.mark.parametrize(
    ("label", "mixed"),
    [
        (lambda length, draws: draws.integers(0, 3, len(length)), False),
        (lambda length, draws: length > 50, True),
        (lambda length, draws: length / 10 + draws.normal(size=len(length)), True),
        (lambda length, draws: draws.random(len(length)) < 0.45 + 0.1 * (length > 50), False),
    ],
)
def test_lengths_are_mixed_where_labels_follow_them(label: object, mixed: bool) -> None:
    said = np.asarray(label(LENGTHS, np.random.default_rng(1)), float)[:, None]  # type: ignore[operator]
    mixing = choose_mixing(LENGTHS, said, 32, 0)
    assert (mixing > 0) == mixed
    # As alike as is allowed in epochs that were not looked at, too.
    assert alikeness(said[batch_order(LENGTHS, 32, 0, 7, mixing)], 32) < 1.5 * MOST_ALIKE


@pytest.mark.parametrize(("task", "text"), [("SST-2", "sentence"), ("STS-B", "sentence1"), ("MRPC", "#1 String")])
def test_real_labels_do_not_follow_lengths(data_dir: Path, task: str, text: str) -> None:
    from distilfast.prepare.table import read_rows

    rows = read_rows(data_dir / "glue" / task)
    labels = rows.column({"SST-2": "label", "STS-B": "score", "MRPC": "Quality"}[task])
    lengths = np.array([len(str(each).split()) for each in rows.column(text)])[:4096]
    said = np.array([float(each) for each in labels[:4096]])[:, None]
    assert choose_mixing(lengths, said, 32, 0) == 0
