"""Regression and ranking by hand-made numbers and by a plain simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from distilfast.metrics.scores import (
    are_ranked,
    chance_group_scores,
    group_rows,
    group_scores,
    ranking_metrics,
    regression_metrics,
)
from hypothesis import given
from hypothesis import strategies as st


def test_regression_by_hand() -> None:
    labels = np.array([1.0, 2.0, 3.0, np.nan])
    found = regression_metrics(np.array([1.0, 3.0, 2.0, 9.0]), labels)
    assert found["spearman"] == pytest.approx(0.5)  # 1 - 6 * 2 / (3 * 8)
    assert found["pearson"] == pytest.approx(0.5)
    assert found["mse"] == pytest.approx(2 / 3)
    assert "teacher_mse" not in found


def test_regression_beside_the_teacher_needs_no_labels() -> None:
    found = regression_metrics(np.array([1.0, 2.0, 4.0]), None, np.array([2.0, 4.0, 8.0]))
    assert found == {
        "teacher_pearson": pytest.approx(1.0),
        "teacher_spearman": pytest.approx(1.0),
        "teacher_mse": pytest.approx((1 + 4 + 16) / 3),
    }
    assert regression_metrics(np.ones(3), np.array([1.0, 2.0, 3.0]))["pearson"] == 0.0
    assert regression_metrics(np.ones(1), np.array([2.0]))["spearman"] == 0.0


def test_ranking_by_hand() -> None:
    groups = np.array(["q1", "q2", "q1", "q1", "q3", "q2"])
    labels = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    predictions = np.array([3.0, 1.0, 2.0, 1.0, 5.0, 2.0])
    assert [rows.tolist() for rows in group_rows(groups)] == [[0, 2, 3], [1, 5], [4]]
    found = ranking_metrics(predictions, labels, groups, teacher_predictions=np.array([3.0, 1.0, 1.0, 2.0, 0.0, 2.0]))
    # In q1 and in q2 the relevant row comes second; q3 has one row and nothing to rank.
    assert found["groups"] == 3.0
    assert found["groups_left_out"] == 1.0
    assert found["ndcg@10"] == pytest.approx(1 / math.log2(3))
    assert found["mrr@10"] == 0.5
    # q1: of three pairs two stand in the same order; q2: the same order.
    assert found["kendall"] == pytest.approx((1 / 3 + 1) / 2)
    assert are_ranked(labels, groups)
    assert not are_ranked(np.zeros(6), groups)
    alone = ranking_metrics(predictions, labels, np.arange(6), teacher_predictions=predictions)
    assert alone == {"groups": 6.0, "groups_left_out": 6.0}  # and no tau of what was not compared


def test_rows_of_one_score_are_not_taken_in_the_order_of_the_file() -> None:
    labels = np.array([1.0, 0.0, 0.0, 0.0])
    ndcg, reciprocal = group_scores(np.zeros(4), labels) or (0.0, 0.0)
    assert reciprocal == 0.25
    assert ndcg == pytest.approx(chance_group_scores(labels)[0])  # type: ignore[index]


def test_a_relevant_row_past_the_tenth_place_is_not_found() -> None:
    labels = np.zeros(12)
    labels[11] = 1.0
    assert group_scores(-np.arange(12.0), labels) == (0.0, 0.0)
    assert group_scores(np.arange(12.0), labels) == (1.0, 1.0)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=14), st.integers(0, 2**31))
def test_chance_is_the_mean_of_random_orders(labels: list[int], seed: int) -> None:
    relevance = np.array(labels, float)
    chance = chance_group_scores(relevance)
    if not relevance.any():
        assert chance is None
        return
    generator = np.random.default_rng(seed)
    drawn = np.array([group_scores(generator.permutation(len(labels)) * 1.0, relevance) for _ in range(300)])
    spread = drawn.std(axis=0) / math.sqrt(len(drawn))
    assert chance is not None
    assert np.all(np.abs(drawn.mean(axis=0) - chance) <= 5.5 * spread + 1e-9)
