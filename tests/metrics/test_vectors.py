"""Sentence vectors by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from distilfast import InputError
from distilfast.metrics import vectors
from distilfast.metrics.vectors import (
    neighbour_agreement,
    pair_similarities,
    sts_metrics,
    uniformity,
    vector_metrics,
)

CIRCLE = np.array([[math.cos(angle), math.sin(angle)] for angle in (0.0, 0.1, 1.0, 1.2, 3.0)])


def test_similarities_and_their_order_by_hand() -> None:
    first, second = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 5.0], [1.0, 1.0], [1.0, 1.0]])
    assert pair_similarities(first, second) == pytest.approx([0.0, math.sqrt(0.5), 0.0])
    found = sts_metrics(np.array([0.1, 0.3, 0.2]), np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    assert found["spearman"] == pytest.approx(0.5)
    assert found["teacher_spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(0.5)


def test_neighbours_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nearest of the five on the circle: 1, 0, 3, 2, 3. Exchanging 1 and 2 in the second set: 2, 3, 0, 1, 3.
    assert neighbour_agreement(CIRCLE, CIRCLE, 1) == 1.0
    assert neighbour_agreement(CIRCLE, CIRCLE[[0, 2, 1, 3, 4]], 1) == pytest.approx(1 / 5)
    assert neighbour_agreement(CIRCLE, -3 * CIRCLE, 4) == 1.0
    monkeypatch.setattr(vectors, "BLOCK", 2)
    assert neighbour_agreement(CIRCLE, CIRCLE[[0, 2, 1, 3, 4]], 1) == pytest.approx(1 / 5)
    with pytest.raises(InputError, match="5 neighbours"):
        neighbour_agreement(CIRCLE, CIRCLE, 5)


def test_uniformity_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uniformity(np.array([[1.0, 0.0], [2.0, 0.0]])) == pytest.approx(0.0)
    assert uniformity(np.array([[1.0, 0.0], [-1.0, 0.0]])) == pytest.approx(-8.0)
    three = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    expected = math.log((1 + 2 * math.exp(-8)) / 3)
    assert uniformity(three) == pytest.approx(expected)
    monkeypatch.setattr(vectors, "BLOCK", 2)
    assert uniformity(three) == pytest.approx(expected)


def test_what_is_kept_of_the_teachers_vectors() -> None:
    generator = np.random.default_rng(0)
    teacher = generator.normal(size=(40, 6))
    found = vector_metrics(2 * teacher, teacher)
    assert found["teacher_cosine"] == pytest.approx(1.0)
    assert found["neighbours@10"] == 1.0
    assert found["norm"] == pytest.approx(2 * np.linalg.norm(teacher, axis=1).mean())
    narrow = vector_metrics(teacher[:, :3], teacher)
    assert "teacher_cosine" not in narrow
    assert 0 < narrow["neighbours@10"] < 1
    assert "neighbours@10" not in vector_metrics(teacher[:8], teacher[:8])
    with pytest.raises(InputError, match="40 vectors"):
        vector_metrics(teacher, teacher[:3])
