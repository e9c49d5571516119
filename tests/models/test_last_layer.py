"""The last layer at selected positions equals the whole layer there."""

from __future__ import annotations

import copy

import pytest
import torch
from distilfast import InputError
from distilfast.batches.tensors import padded_batch
from distilfast.heads.positions import select_positions
from distilfast.models import attention
from distilfast.models.last_layer import can_stop_early, encode, let_last_layer_stop, spread_rows
from small_families import LAST_LAYER_FAMILIES as FAMILIES
from small_families import LAST_LAYER_SIZES as SIZES
from torch import Tensor
from transformers import AutoModelForMaskedLM, DebertaV2Config, PretrainedConfig

LENGTHS = (9, 17, 4)


def build(config: PretrainedConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa").double().eval()


def batch_of(layout: str, pad: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(5, 53, (length,), generator=generator) for length in LENGTHS]
    return attention.pack(sequences, pad) if layout == "packed" else padded_batch(sequences, pad)


def outcome(model: torch.nn.Module, states: Tensor) -> list[Tensor]:
    """Gradients of every parameter of the encoder under a loss that weighs each number differently."""
    weights = torch.sin(torch.arange(states.numel(), dtype=states.dtype)).view_as(states)
    model.zero_grad()
    (states * weights).sum().backward()
    return [parameter.grad for parameter in model.base_model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_picked_rows_are_those_of_the_whole_layer_forward_and_backward(family: str, layout: str) -> None:
    config = FAMILIES[family]
    model = build(config)
    if layout == "packed":
        attention.use_packed(model)
    batch = batch_of(layout, config.pad_token_id)
    # Position 0 fills unused slots, and here a position is wanted twice.
    positions = torch.tensor([3, 20, 8, 0, 20, 0, 0, 1])

    whole = encode(model, batch, positions, every=False)
    assert whole.every is not None  # nobody has let the layer stop
    torch.testing.assert_close(whole.picked, encode(model, batch).picked[positions], rtol=0, atol=0)
    full_gradients = outcome(model, whole.picked)
    let_last_layer_stop(model)
    stopped = encode(model, batch, positions, every=False)
    assert stopped.picked.shape == (len(positions), 32)
    assert stopped.every is None
    torch.testing.assert_close(stopped.picked, whole.picked, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(outcome(model, stopped.picked), full_gradients, strict=True):
        assert (ours - theirs).norm() <= 1e-12 * theirs.norm().clamp(min=1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_other_rows_and_inner_layers_are_there_if_they_are_asked_for(family: str) -> None:
    model = build(FAMILIES[family])
    batch = batch_of("padded", FAMILIES[family].pad_token_id)
    let_last_layer_stop(model)
    positions = torch.tensor([3, 20])
    encoded = encode(model, batch, positions, layers=True)
    assert encoded.every is not None
    assert encoded.every.shape == (len(LENGTHS) * max(LENGTHS), 32)
    torch.testing.assert_close(encoded.picked, encoded.every[positions], rtol=0, atol=0)
    assert encoded.layers is not None
    assert [layer.shape for layer in encoded.layers] == [(3, 17, 32)] * 3
    assert encode(model, batch, positions, every=False, layers=True).layers is not None
    assert encode(model, batch, positions, every=False).every is None


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_selection_the_model_is_as_it_was(family: str) -> None:
    model = build(FAMILIES[family])
    inputs = attention.model_inputs(model, batch_of("padded", FAMILIES[family].pad_token_id))
    before = model(**inputs).logits
    names = list(model.state_dict())
    let_last_layer_stop(model)
    let_last_layer_stop(model)  # twice is once
    assert can_stop_early(model)
    assert torch.equal(model(**inputs).logits, before)
    assert torch.equal(copy.deepcopy(model)(**inputs).logits, before)
    assert list(model.state_dict()) == names
    selected = torch.arange(4)
    states = model.base_model(**inputs, selected_positions=selected, output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states[:2]] == [max(LENGTHS)] * 2


def test_an_unknown_family_is_refused() -> None:
    model = AutoModelForMaskedLM.from_config(DebertaV2Config(**SIZES))
    assert not can_stop_early(model)
    with pytest.raises(InputError, match="last layer of DebertaV2ForMaskedLM cannot stop"):
        let_last_layer_stop(model)


def test_a_repeated_row_is_written_once() -> None:
    values = torch.arange(6.0).view(3, 2).requires_grad_()
    spread = spread_rows(values, torch.tensor([4, 1, 4]), 5)
    assert spread.tolist() == [[0, 0], [2, 3], [0, 0], [0, 0], [0, 1]]
    spread.sum().backward()
    assert values.grad is not None
    assert values.grad[:, 0].tolist() == [1, 1, 0]


def masked_batch(layout: str = "padded") -> dict[str, object]:
    """Rows of 9, 17 and 4 tokens, three of them masked, two unused slots."""
    batch = batch_of(layout, 0)
    batch["mlm_positions"] = torch.tensor([2, 5, 8, 0, 0])
    batch["mlm_labels"] = torch.tensor([11, 12, 13, -100, -100])
    batch["num_tokens"] = torch.tensor(sum(LENGTHS))
    batch["num_attended_in_step"] = torch.tensor(2 * sum(LENGTHS))
    batch["num_masked_in_step"] = torch.tensor(6)
    return batch


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_masked_positions_alone(layout: str) -> None:
    batch = masked_batch(layout)
    selection = select_positions(batch, "masked")
    assert torch.equal(selection.positions, batch["mlm_positions"])
    assert torch.equal(selection.labels, batch["mlm_labels"])
    assert selection.kl_weight.tolist() == [1, 1, 1, 0, 0]
    assert selection.num_kl_rows == 6
