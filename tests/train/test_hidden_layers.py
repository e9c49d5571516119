"""Losses on intermediate layers: maps, projections, both kinds, and what is refused."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from distilfast import InputError
from distilfast.train.layer_losses import HiddenLayerLoss, parse_layer_map, spread_map
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel

WIDTH, ROWS = 7, 3


def teacher(hidden: int = 16) -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(vocab_size=31, hidden_size=hidden, num_hidden_layers=4, num_attention_heads=4, intermediate_size=24)
    )


def student(hidden: int = 16) -> DistilBertForMaskedLM:
    return DistilBertForMaskedLM(DistilBertConfig(vocab_size=31, dim=hidden, n_layers=2, n_heads=4, hidden_dim=24))


def states_of(model: PreTrainedModel, layers: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (ROWS, WIDTH, int(model.config.hidden_size))
    return [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(layers + 1)]


MASK = (torch.arange(WIDTH) < torch.tensor([[7], [4], [2]])).flatten()


@pytest.mark.parametrize(
    ("layers", "expected"),
    [((6, 12), [2, 4, 6, 8, 10, 12]), ((3, 4), [1, 3, 4]), ((2, 2), [1, 2]), ((1, 5), [5])],
)
def test_spread_map(layers: tuple[int, int], expected: list[int]) -> None:
    assert spread_map(*layers) == list(enumerate(expected, start=1))


@given(st.integers(1, 24), st.integers(0, 24))
def test_spread_map_rises_to_the_last_layer(student_layers: int, more: int) -> None:
    pairs = spread_map(student_layers, student_layers + more)
    teachers = [layer for _, layer in pairs]
    assert teachers[-1] == student_layers + more
    assert all(earlier < later for earlier, later in pairwise(teachers))
    assert teachers[0] >= 1


@pytest.mark.parametrize("kind", ["cosine", "mse"])
def test_mean_over_layers_of_the_definition(kind: str) -> None:
    ours, theirs = student(), teacher()
    loss = HiddenLayerLoss(ours, theirs, [(0, 0), (2, 3)], kind=kind)  # type: ignore[arg-type]
    ours_states, theirs_states = states_of(ours, 2, 0), states_of(theirs, 4, 1)
    value = loss(ours_states, theirs_states, MASK, 20.0, impl="eager")

    expected = torch.zeros(())
    for mine, other in ((0, 0), (2, 3)):
        s, t = ours_states[mine].flatten(0, 1)[MASK], theirs_states[other].flatten(0, 1)[MASK]
        rows = 1 - F.cosine_similarity(s, t, dim=-1) if kind == "cosine" else (s - t).square().mean(-1)
        expected = expected + rows.sum() / 20.0 / 2
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)

    value.backward()
    assert all(state.grad is None for state in theirs_states)
    assert ours_states[1].grad is None
    for layer in (0, 2):
        gradient = ours_states[layer].grad
        assert gradient is not None
        assert gradient.flatten(0, 1)[~MASK].abs().max() == 0
        assert gradient.flatten(0, 1)[MASK].abs().max() > 0


def test_differing_widths_get_projections_that_learn() -> None:
    ours, theirs = student(8), teacher(16)
    loss = HiddenLayerLoss(ours, theirs, kind="mse")
    assert [tuple(projection.weight.shape) for projection in loss.projections] == [(16, 8)] * 2
    assert not {id(parameter) for parameter in loss.parameters()} & {id(parameter) for parameter in ours.parameters()}
    ours_states, theirs_states = states_of(ours, 2, 0), states_of(theirs, 4, 1)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    values = []
    for _ in range(30):
        value = loss(ours_states, theirs_states, MASK, int(MASK.sum()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


def test_equal_widths_have_nothing_to_learn() -> None:
    assert not list(HiddenLayerLoss(student(), teacher()).parameters())


def test_parse_layer_map() -> None:
    assert parse_layer_map("1:2, 3:6") == [(1, 2), (3, 6)]


@pytest.mark.parametrize("text", ["", "1", "1:", "1:2;3:4", "a:b", "1:2,"])
def test_a_bad_layer_map_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not of the form"):
        parse_layer_map(text)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "the layer map is empty"),
        ([(3, 1)], "layer 3 of the student, which has 2"),
        ([(1, 5)], "layer 5 of the teacher, which has 4"),
        ([(1, 1), (1, 2)], "layer 1 of the student twice"),
    ],
)
def test_layers_that_are_not_there_are_refused(pairs: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HiddenLayerLoss(student(), teacher(), pairs)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="'cosine' or 'mse', not 'l1'"):
        HiddenLayerLoss(student(), teacher(), kind="l1")  # type: ignore[arg-type]
