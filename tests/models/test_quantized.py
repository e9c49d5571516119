"""The simulation of int8 against onnxruntime's own computation, and what it does to numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_exports
import torch
import transformers
from distilfast.export import onnx as onnx_export
from distilfast.export.check import encode, outputs_of
from distilfast.models.bf16 import WeightCopies
from distilfast.models.quantized import quantized_inputs, quantized_values, quantized_weight, quantized_weights
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

NUMBERS = st.floats(-1e4, 1e4, width=32)


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=6))
def test_a_weight_has_255_steps_a_row(rows: list[list[float]]) -> None:
    weight = torch.tensor(rows)
    most = weight.abs().amax(dim=1, keepdim=True)
    held = quantized_weight(weight)
    assert ((held - weight).abs() <= most / 254 * 1.0001).all()
    steps = torch.where(most > 0, held / (most / 127), 0.0)
    torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
    again = quantized_weight(held)  # what is held exactly stays
    torch.testing.assert_close(again, held, rtol=1e-5, atol=0)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_values_have_256_steps_of_which_one_is_0(numbers: list[float]) -> None:
    values = torch.tensor(numbers)
    held = quantized_values(values)
    width = max(0.0, max(numbers)) - min(0.0, min(numbers))
    assert ((held - values).abs() <= width / 255 * 1.0001).all()  # half a step, and half for the place of 0
    assert (held[values == 0] == 0).all()
    assert len(held.unique()) <= 256
    table = torch.cat([values, torch.tensor([2e4, -3e4])])
    assert torch.equal(quantized_values(values, of=table), quantized_values(table)[:-2])


def test_gradients_pass_straight_through() -> None:
    torch.manual_seed(0)
    weight, values = torch.randn(4, 5, requires_grad=True), torch.randn(7, 5, requires_grad=True)
    factors = torch.randn(7, 4)
    (quantized_values(values) @ quantized_weight(weight).T * factors).sum().backward()
    with torch.no_grad():
        held = quantized_values(values), quantized_weight(weight)
    torch.testing.assert_close(weight.grad, factors.T @ held[0])
    torch.testing.assert_close(values.grad, factors @ held[1])


def simulated(model: Any, batches: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """What `model` computes in int8, by copies of its weights and with its layers' inputs rounded."""
    copies = WeightCopies(torch.float32)
    copies.round(quantized_weights(model))
    found = []
    with torch.no_grad(), quantized_inputs(model):
        for batch in batches:
            outputs = torch.func.functional_call(model, copies.of(model), (), {**batch}, tie_weights=False)
            found.append({name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)})
    return found


def convolutions() -> Any:
    torch.manual_seed(0)
    config = transformers.ConvBertConfig(
        vocab_size=len(tiny_exports.tokenizer()),
        hidden_size=32,
        embedding_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    return transformers.ConvBertForMaskedLM(config).eval()


@pytest.mark.parametrize(
    ("family", "head"),
    [
        *((family, "masked_lm") for family in ("bert", "distilbert", "modernbert", "convbert")),
        ("bert", "classification"),
    ],
)
def test_it_is_what_onnxruntime_computes(family: str, head: str, tmp_path: Path) -> None:
    """Closer to the outputs of the int8 file, by far, than these are to those in float: nothing that the file rounds is
    left out, and nothing else is rounded."""
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    model, tokenizer = (
        convolutions() if family == "convbert" else tiny_exports.model(family, head),
        tiny_exports.tokenizer(family),
    )
    batches = encode(tokenizer, ["the river had risen in the night", "why ?", "nothing in this film works"], model)
    # Padding is in the range of a batch, and its states are whatever attention makes of a token that sees none.
    batches = [{name: value[each["attention_mask"].all(dim=1)] for name, value in each.items()} for each in batches]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = outputs_of(model, batches)
    onnx_export.write_onnx(model, tmp_path / "model.onnx", list(batches[0]), list(plain[0]), 48)
    onnx_export.check_int8(model, tokenizer, tmp_path, batches, plain, -1.0)
    in_file = onnx_export.run_onnx(tmp_path / "model.int8.onnx", batches)
    shares = []
    for ours, theirs, exact in zip(simulated(model, batches), in_file, plain, strict=True):
        for name, value in theirs.items():
            effect = (value - exact[name]).norm()
            assert effect > 0
            shares.append(float((value - ours[name]).norm() / effect))
    # A sum that is rounded otherwise can put a number on the next step, and with it all that follows: not often.
    assert min(shares) < 1e-3, shares
    assert max(shares) < 0.5, shares
    # No trace is left.
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(
        torch.equal(again[name], exact[name])
        for again, exact in zip(outputs_of(model, batches), plain, strict=True)
        for name in exact
    )


def test_a_tied_weight_is_rounded_where_it_multiplies_alone() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(9, 4), "decoder": nn.Linear(4, 9)})
    model.decoder.weight = model.words.weight
    copies = WeightCopies(torch.float32, kept=True)
    copies.round(quantized_weights(model))
    found = copies.of(model)
    assert found.keys() == {"decoder.weight"}
    assert torch.equal(found["decoder.weight"], quantized_weight(model.words.weight))
    in_bfloat16 = WeightCopies(torch.bfloat16)
    in_bfloat16.round(quantized_weights(model))
    found = in_bfloat16.of(model)
    assert found.keys() == {"words.weight", "decoder.weight", "decoder.bias"}
    assert torch.equal(found["words.weight"], model.words.weight.bfloat16())
    assert torch.equal(found["decoder.weight"], quantized_weight(model.words.weight).bfloat16())
