"""The share that is kept, its interval, and what is said beside it."""

from __future__ import annotations

import numpy as np
import pytest
from distilfast.metrics.kept import Kept, share_kept, share_of, warnings


def means(values: np.ndarray):  # type: ignore[no-untyped-def]
    return lambda rows: float(values[rows].mean())


def test_the_interval_is_that_of_the_difference_and_the_same_every_time() -> None:
    generator = np.random.default_rng(0)
    teacher = (generator.uniform(size=2000) < 0.9).astype(float)
    student = np.where(generator.uniform(size=2000) < 0.05, 0.0, teacher)
    kept = share_kept(means(student), means(teacher), 2000)
    assert kept.share == pytest.approx(student.mean() / teacher.mean())
    assert kept.low is not None
    assert kept.high is not None
    # The share of a teacher's right rows that the student has right too is a proportion: its normal interval.
    rows = teacher.sum()
    error = 1.96 * np.sqrt(kept.share * (1 - kept.share) / rows)
    assert kept.low == pytest.approx(kept.share - error, abs=0.002)
    assert kept.high == pytest.approx(kept.share + error, abs=0.002)
    assert share_kept(means(student), means(teacher), 2000) == kept
    assert share_kept(means(student), means(teacher), 2000, seed=1) != kept


def test_a_copy_keeps_all_for_sure() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0] * 30)
    assert share_kept(means(values), means(values), 120) == Kept(1.0, 1.0, 1.0, 120)


def test_shares_of_nothing_are_not_made_up() -> None:
    assert share_of(None, 1.0) is None
    assert share_of(10.0, -3.0) is None
    assert share_kept(means(np.ones(3)), means(np.zeros(3)), 3) == Kept(None, None, None, 3)
    assert share_kept(means(np.ones(0)), means(np.ones(0)), 0).share is None
    # A teacher that is right once in twenty rows scores 0 in a third of the draws: no interval.
    rare = np.eye(1, 20)[0]
    assert share_kept(means(rare), means(rare), 20) == Kept(1.0, None, None, 20)


def test_few_rows_are_told_as_an_interval_alone() -> None:
    assert Kept(0.98, 0.95, 1.01, 99).text() == "95.0 to 101.0 %"
    assert Kept(0.98, 0.95, 1.01, 100).text() == "98.0 % (95.0 to 101.0)"
    assert Kept(0.98, None, None, 20).text() == "98.0 %"
    assert Kept(None, None, None, 20).text() == "-"


def test_what_a_reader_must_know_is_said() -> None:
    assert warnings(Kept(0.9, 0.8, 0.95, 200), "s", "t", 0.8, 0.5, "accuracy") == []
    (no_better,) = warnings(Kept(0.9, 0.8, 0.95, 200), "s", "t", 0.5, 0.5, "accuracy")
    assert "no more than 50.0 without looking" in no_better
    (noise,) = warnings(Kept(1.02, 0.98, 1.05, 200), "s", "t", 0.8, 0.5, "accuracy")
    assert "s scores above t in accuracy, within what" in noise
    (sure,) = warnings(Kept(1.05, 1.01, 1.09, 200), "s", "t", 0.8, None, "accuracy")
    assert "s scores above t in accuracy, more than" in sure
