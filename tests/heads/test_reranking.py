"""Rerankers: margins and lists of a group against their definitions, whatever a step is cut into, and refusals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tiny_rows
import torch
from distilfast import InputError
from distilfast.batches.encode import EncodedRows, encode_texts
from distilfast.batches.labelled import LabelledBatches
from distilfast.heads.choice import choose_head
from distilfast.heads.classification import Classification
from distilfast.heads.head import Predictions, Rows
from distilfast.heads.objective import Objective
from distilfast.heads.reranking import Reranking
from distilfast.train.step import DistillationStep
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification

NOTHING = Objective(alpha_ce=0, alpha_mlm=0, alpha_task=0, alpha_cos=0)


def losses(
    groups: list[int], weight: list[bool], student: torch.Tensor, teachers: list[torch.Tensor], **alphas: Any
) -> dict[str, torch.Tensor]:
    counted = [group for group, counts in zip(groups, weight, strict=True) if counts]
    number = torch.tensor(sum(counted.count(group) > 1 for group in set(counted)))
    rows = Rows(
        torch.tensor(weight), None, torch.tensor(len(groups)), torch.tensor(0), None, None, torch.tensor(groups), number
    )
    mixture = [1 / len(teachers)] * len(teachers)
    found = Reranking().soft_loss(rows, student, teachers, mixture, dataclasses.replace(NOTHING, **alphas))
    return {name: value for name, (_, value) in found.items()}


@given(st.lists(st.integers(0, 4), min_size=2, max_size=12), st.integers(1, 2), st.integers(0, 1000), st.data())
def test_margins_and_lists_are_their_definitions(groups: list[int], several: int, seed: int, data: Any) -> None:
    draws = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(several + 1, len(groups), 1, generator=draws, dtype=torch.float64)
    weight = data.draw(st.lists(st.booleans(), min_size=len(groups), max_size=len(groups)))
    student, teachers = scores[0].requires_grad_(), list(scores[1:].detach())
    found = losses(groups, weight, student, teachers, alpha_margin_mse=1.0, alpha_listnet=1.0, temperature=1.5)
    margins, lists = [], []
    for group in set(groups):
        here = [row for row, each in enumerate(groups) if each == group and weight[row]]
        if len(here) < 2:
            continue
        s = student.detach()[here, 0]
        t = torch.stack([teacher[here, 0] for teacher in teachers])
        mean = t.mean(0)
        pairs = [(i, j) for i in range(len(here)) for j in range(i)]
        margins.append(np.mean([float((s[i] - s[j] - mean[i] + mean[j]) ** 2) for i, j in pairs]))
        p, q = (t / 1.5).softmax(-1).mean(0), (s / 1.5).softmax(-1)
        lists.append(1.5**2 * float((p * (p / q).log()).sum()))
    expected = (float(np.mean(margins)), float(np.mean(lists))) if margins else (0.0, 0.0)
    assert float(found["loss_margin_mse"].detach()) == pytest.approx(expected[0], abs=1e-9)
    assert float(found["loss_listnet"].detach()) == pytest.approx(expected[1], abs=1e-9)
    sum(found.values(), start=torch.zeros(())).backward()
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    assert not student.grad[~torch.tensor(weight)].any()


@given(st.floats(-50, 50), st.integers(0, 100))
def test_a_shift_of_a_querys_scores_costs_nothing(shift: float, seed: int) -> None:
    teacher = torch.randn(5, 1, generator=torch.Generator().manual_seed(seed)).double()
    found = losses([0] * 5, [True] * 5, teacher + shift, [teacher], alpha_margin_mse=1.0, alpha_listnet=1.0)
    assert [float(value) for value in found.values()] == pytest.approx([0, 0], abs=1e-9)


def reranker(layers: int, seed: int) -> Any:
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_rows.config(layers, num_labels=1)).eval()


def passages() -> EncodedRows:
    """Eight queries with two to five passages, every third without a label."""
    draws = np.random.default_rng(0)
    sizes = draws.integers(2, 6, 8)
    queries = [" ".join(tiny_rows.words(draws, 3)) for _ in sizes]
    first = [query for query, size in zip(queries, sizes, strict=True) for _ in range(size)]
    second = [" ".join(tiny_rows.words(draws, 9)) for _ in first]
    labels = [float("nan") if row % 3 == 2 else float(row % 2) for row in range(len(first))]
    rows = encode_texts(tiny_rows.tokenizer(), first, second, labels, 40)
    return dataclasses.replace(rows, groups=np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.usefixtures("one_thread")
def test_a_step_cut_into_batches_has_the_gradient_of_one() -> None:
    objective = Objective(alpha_ce=1.0, alpha_margin_mse=0.7, alpha_listnet=0.4)
    step = DistillationStep(reranker(1, 1), [reranker(2, 0), reranker(2, 2)], objective, head=Reranking())
    rows = passages()
    total = len(rows)
    whole = LabelledBatches(rows, tiny_rows.tokenizer(), total)
    pieces = len(LabelledBatches(rows, tiny_rows.tokenizer(), 6))
    cut = LabelledBatches(rows, tiny_rows.tokenizer(), 6, pieces)
    assert (len(whole), pieces > 3) == (1, True)
    tiny_rows.assert_cut_is_whole(step, cut, whole, pieces)


def test_what_is_measured_and_which_chooses_the_best() -> None:
    head = Reranking()
    rows = dataclasses.replace(passages(), groups=np.array([0, 0, 0, 1, 1] + [2] * (len(passages()) - 5)))
    said = np.array([[3.0], [1.0], [2.0], [0.0], [1.0]])
    teacher = np.array([[3.0], [2.0], [1.0], [0.0], [5.0]])
    labels = np.array([0.0, 1.0, 0.0, 1.0, np.nan])
    found = head.metrics(Predictions(said, teacher, labels, np.arange(5), rows))
    # Of the first group the relevant row stands third; the second has a label that is not known.
    assert found["mrr@10"] == pytest.approx(1 / 3)
    assert found["ndcg@10"] == pytest.approx(0.5)
    assert found["kendall"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["groups_left_out"] == 1
    assert found["mse"] == pytest.approx(np.mean([9, 0, 4, 1]))
    assert "kendall" not in head.metrics(Predictions(said, teacher, labels))
    taught = dataclasses.replace(NOTHING, alpha_ce=1.0)
    assert [head.best_metric(taught, known) for known in (True, False)] == ["ndcg@10", "kendall"]
    assert head.best_metric(NOTHING, False) == "spearman"


def test_which_models_are_rerankers() -> None:
    assert type(choose_head(reranker(1, 0), ranks=True)) is Reranking
    assert type(choose_head(reranker(1, 0))) is Classification
    classes = BertForSequenceClassification(tiny_rows.config(1, num_labels=3))
    assert type(choose_head(classes, ranks=True)) is Classification


def test_groups_are_needed() -> None:
    objective = dataclasses.replace(NOTHING, alpha_margin_mse=1.0)
    step = DistillationStep(reranker(1, 1), reranker(2, 0), objective, head=Reranking())
    plain = LabelledBatches(dataclasses.replace(passages(), groups=None), tiny_rows.tokenizer(), 6)
    with pytest.raises(InputError, match="compare the rows of a group"):
        step(plain[0])
