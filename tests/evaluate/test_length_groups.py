"""Batches run as narrower ones: every row once, no more padding than before, logits and gradients of the whole."""

from __future__ import annotations

import pytest
import torch
from distilfast.evaluate.length_groups import PASS_TOKENS, length_groups, logits_by_length
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification


@given(st.lists(st.integers(1, 512), min_size=1, max_size=70))
def test_each_row_is_in_one_group_and_splitting_never_costs_more_than_it_saves(lengths: list[int]) -> None:
    groups = length_groups(lengths)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    flat = [lengths[row] for group in groups for row in group]
    assert flat == sorted(lengths, reverse=True)
    padded = sum(len(group) * max(lengths[row] for row in group) for group in groups)
    assert padded + PASS_TOKENS * (len(groups) - 1) <= len(lengths) * max(lengths)


def test_rows_of_one_length_stay_together_and_mixed_ones_part() -> None:
    assert len(length_groups([100] * 32)) == 1
    assert len(length_groups([9, 8] * 16)) == 1
    assert len(length_groups([120] * 8 + [20] * 24)) == 4
    assert len(length_groups(list(range(4, 132, 4)))) == 4
    assert len(length_groups([512] * 4 + [256] * 4 + list(range(20, 500, 20)))) == 8


@pytest.mark.parametrize("lengths", [[17, 3, 40, 40, 5, 9, 33, 2], [6], [30] * 5, [40, 2, 2]])
def test_logits_and_gradients_are_those_of_the_whole_batch(lengths: list[int]) -> None:
    torch.manual_seed(len(lengths))
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        num_labels=3,
    )
    model = BertForSequenceClassification(config).double().train()
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    tokens = torch.randint(5, 50, mask.shape) * mask
    inputs = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": (tokens > 25).long()}
    weights = torch.randn(len(lengths), 3, dtype=torch.float64)
    found = []
    widths: list[int] = []

    def run(narrow: dict[str, torch.Tensor]) -> torch.Tensor:
        widths.append(narrow["input_ids"].shape[1])
        return model(**narrow).logits

    for logits in (model(**inputs).logits, logits_by_length(run, inputs)):
        model.zero_grad()
        (logits * weights).sum().backward()
        found.append((logits.detach(), [p.grad.clone() for p in model.parameters()]))
    (whole, whole_gradients), (parts, parts_gradients) = found
    assert widths == [max(lengths[row] for row in group) for group in length_groups(lengths)]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    for mine, expected in zip(parts_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-11)


def test_rows_padded_on_the_left_are_run_as_they_are() -> None:
    mask = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1]])
    shapes = []

    def run(narrow: dict[str, torch.Tensor]) -> torch.Tensor:
        shapes.append(tuple(narrow["attention_mask"].shape))
        return torch.zeros(2, 1)

    logits_by_length(run, {"attention_mask": mask})
    assert shapes == [(2, 4)]
