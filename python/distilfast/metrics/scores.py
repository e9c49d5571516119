"""Scores of models that give numbers: regression, and relevance within groups (rerankers).

Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", 2002 (nDCG). The sums are scipy's and
scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from sklearn.metrics import ndcg_score

from .classification import finite

CUTOFF = 10


def regression_metrics(
    predictions: np.ndarray, labels: np.ndarray | None = None, teacher_predictions: np.ndarray | None = None
) -> dict[str, float]:
    """What a model with a number a row scores.

    predictions, labels, teacher_predictions: [rows]; a label that is nan is none. With labels: `pearson`, `spearman`,
    `mse`. With a teacher: `teacher_pearson`, `teacher_spearman`, `teacher_mse`, the same against the teacher's numbers.
    A constant correlates with nothing: 0. Raises `InputError` for outputs that are not finite.
    """
    predictions = finite(predictions)
    found: dict[str, float] = {}
    if labels is not None and (known := np.isfinite(labels)).any():
        found |= _compared(predictions[known], np.asarray(labels, np.float64)[known], "")
    if teacher_predictions is not None:
        found |= _compared(predictions, finite(teacher_predictions), "teacher_")
    return found


def _compared(predictions: np.ndarray, truth: np.ndarray, prefix: str) -> dict[str, float]:
    return {
        f"{prefix}pearson": correlation(stats.pearsonr, truth, predictions),
        f"{prefix}spearman": correlation(stats.spearmanr, truth, predictions),
        f"{prefix}mse": float(np.mean((predictions - truth) ** 2)),
    }


def correlation(function: Callable[..., Any], first: np.ndarray, second: np.ndarray) -> float:
    """`function` of scipy.stats on two arrays; 0 where one of them is constant or there are fewer than two rows."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(function(first, second).statistic)


def ranking_metrics(
    predictions: np.ndarray,
    labels: np.ndarray | None,
    groups: np.ndarray,
    teacher_predictions: np.ndarray | None = None,
) -> dict[str, float]:
    """What a model that ranks the rows of each group (the passages of a query) scores, the mean over groups.

    predictions: [rows]; labels: relevance, 0 for none [rows]; groups: the group of each row [rows]. With labels:
    `ndcg@10` (gains are the labels; rows of one score share theirs), `mrr@10` (the first row of a label above 0; rows
    of the same score count as before it). With a teacher: `kendall`, tau-b of both orders. Each is there where
    a group has it. `groups` is their number; `groups_left_out`: those without two rows or, for the labels, without one
    above 0.
    """
    predictions = finite(predictions)
    rows = group_rows(groups)
    found: dict[str, float] = {"groups": float(len(rows))}
    if labels is not None:
        per_group = [group_scores(predictions[here], labels[here]) for here in rows]
        ranked = [scores for scores in per_group if scores is not None]
        found["groups_left_out"] = float(len(rows) - len(ranked))
        if ranked:
            found["ndcg@10"], found["mrr@10"] = (float(value) for value in np.mean(ranked, axis=0))
    if teacher_predictions is not None:
        teacher = finite(teacher_predictions)
        orders = [correlation(stats.kendalltau, teacher[here], predictions[here]) for here in rows if len(here) > 1]
        if orders:
            found["kendall"] = float(np.mean(orders))
    return found


def are_ranked(labels: np.ndarray, groups: np.ndarray) -> bool:
    """Whether `ranking_metrics` has a group whose labels rank its rows."""
    return any(group_scores(np.zeros(len(here)), labels[here]) is not None for here in group_rows(groups))


def group_rows(groups: np.ndarray) -> list[np.ndarray]:
    """The row numbers of each group, groups in the order of their first rows."""
    _, first, numbers = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    pieces = np.split(order, np.cumsum(np.bincount(numbers))[:-1])
    return [pieces[i] for i in np.argsort(first)]


def group_scores(predictions: np.ndarray, labels: np.ndarray) -> tuple[float, float] | None:
    """nDCG@10 and reciprocal rank of one group; None where there is nothing to rank, or a label is not known (nan)."""
    if len(labels) < 2 or not np.isfinite(labels).all() or not (labels > 0).any():
        return None
    labels = np.maximum(labels, 0)
    best = predictions[labels > 0].max()
    rank = int((predictions > best).sum() + ((predictions == best) & (labels <= 0)).sum()) + 1
    ndcg = float(ndcg_score(labels[None], predictions[None], k=CUTOFF))
    return ndcg, 1.0 / rank if rank <= CUTOFF else 0.0


def chance_group_scores(labels: np.ndarray) -> tuple[float, float] | None:
    """What a random order of one group scores on average, in the same two measures; None where there is none.

    A random order's expected gain at every place is the mean label. The first of r relevant rows among n stands at
    place p with probability C(n - p, r - 1) / C(n, r).
    """
    number, relevant = len(labels), int((labels > 0).sum())
    if number < 2 or relevant == 0 or not np.isfinite(labels).all():
        return None
    labels = np.maximum(labels, 0)
    discounts = 1 / np.log2(np.arange(2, min(number, CUTOFF) + 2))
    best = np.sort(labels)[::-1][: len(discounts)] @ discounts
    reciprocal, none_before = 0.0, 1.0
    for place in range(1, min(CUTOFF, number - relevant + 1) + 1):
        here = relevant / (number - place + 1)
        reciprocal += none_before * here / place
        none_before *= 1 - here
    return float(np.mean(labels) * discounts.sum() / best), reciprocal
