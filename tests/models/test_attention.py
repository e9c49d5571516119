"""Unpadded attention: every family computes packed what it computes padded, forward and backward."""

from __future__ import annotations

import pytest
import torch
from distilfast import InputError
from distilfast.batches.tensors import padded_batch
from distilfast.models import attention
from small_families import FAMILIES, VOCAB
from torch import Tensor
from transformers import AutoModelForMaskedLM, DebertaV2Config

LENGTHS = (7, 23, 3, 12)


def build(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(FAMILIES[family], attn_implementation="sdpa")


def sequences() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(5, VOCAB, (length,), generator=generator) for length in LENGTHS]


def loss_of(logits: Tensor) -> Tensor:
    weights = torch.sin(torch.arange(logits.numel(), dtype=logits.dtype)).view_as(logits)
    return (logits * weights).sum()


def rows_of(logits: Tensor, packed: bool) -> Tensor:
    """The logits of the real tokens, in order: [tokens, vocabulary]."""
    if packed:
        return logits[0, : sum(LENGTHS)]
    return torch.cat([row[:length] for row, length in zip(logits, LENGTHS, strict=True)])


def run(model: torch.nn.Module, batch: dict[str, object], packed: bool) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    logits = rows_of(model(**attention.model_inputs(model, batch)).logits, packed)
    loss_of(logits).backward()
    return logits.detach(), [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_forward_and_backward(family: str) -> None:
    model = build(family).eval()
    pad = FAMILIES[family].pad_token_id
    padded_logits, padded_gradients = run(model, padded_batch(sequences(), pad), packed=False)
    attention.use_packed(model)
    packed_logits, packed_gradients = run(model, attention.pack(sequences(), pad), packed=True)

    torch.testing.assert_close(packed_logits, padded_logits, rtol=1e-5, atol=1e-5 * padded_logits.abs().max().item())
    norm = torch.stack([gradient.norm() for gradient in padded_gradients]).norm()
    for packed, padded in zip(packed_gradients, padded_gradients, strict=True):
        assert (packed - padded).norm() <= 1e-5 * norm


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_alone_would_let_sequences_see_each_other(family: str) -> None:
    """What the packed attention is for: SDPA over the same packed batch is silently wrong, and so refused."""
    model = build(family).eval()
    pad = FAMILIES[family].pad_token_id
    inputs = attention.pack(sequences(), pad)
    with pytest.raises(InputError, match=r"attention \(sdpa\) would let every text see the others"):
        attention.model_inputs(model, inputs)
    inputs["position_ids"] = inputs["position_ids"] + attention.position_offset(model)
    with torch.no_grad():
        padded = rows_of(model(**attention.model_inputs(model, padded_batch(sequences(), pad))).logits, False)
        wrong = rows_of(model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"]).logits, True)
    assert (wrong - padded).norm() / padded.norm() > 0.01


def test_self_test_refuses_a_model_that_drops_the_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("bert").eval()
    honest = attention._attend_by_sequence

    def one_sequence(query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, *rest: object) -> Tensor:
        return honest(query, key, value, cu_seqlens[[0, -1]], *rest)

    attention.check_packed(model)
    monkeypatch.setattr(attention, "_attend_by_sequence", one_sequence)
    with pytest.raises(InputError, match="BertForMaskedLM computes something else unpadded"):
        attention.use_packed(model)
    assert model.config._attn_implementation == "sdpa"


def test_self_test_refuses_wrong_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("roberta").eval()
    monkeypatch.setattr(attention, "position_offset", lambda _: 0)
    with pytest.raises(InputError, match="use the padded layout"):
        attention.check_packed(model)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_self_test_passes_in_bfloat16_and_leaves_the_model_as_it_was(family: str) -> None:
    model = build(family).to(torch.bfloat16).train()
    attention.check_packed(model)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_a_padded_batch_is_refused() -> None:
    model = build("bert").eval()
    attention.use_packed(model)
    with pytest.raises(InputError, match="packed attention got a padded batch"):
        model(**attention.model_inputs(model, padded_batch(sequences(), 0)))


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_dropout_is_off_and_the_configuration_keeps_it(family: str) -> None:
    model = build(family)
    attention.use_packed(model)
    dropped = list(attention._attention_modules(model))
    assert len(dropped) == 3
    for module in dropped:
        rate = module.attention_dropout if family == "modernbert" else module.dropout.p
        assert rate == 0.0
    config = model.config.to_dict()
    kept = config.get("attention_probs_dropout_prob", config.get("attention_dropout"))
    assert kept == pytest.approx(0.1)


def test_padded_roberta_keeps_its_positions_behind_a_pad_token_in_the_text() -> None:
    model = build("roberta").eval()
    batch = padded_batch(sequences(), 1)
    plain = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(
        rows_of(model(**attention.model_inputs(model, batch)).logits, False), rows_of(plain, False)
    )
    assert "position_ids" not in attention.model_inputs(model, batch)  # of rows, which are read as everyone reads them
    batch["mlm_positions"] = torch.tensor([3])
    batch["input_ids"][1, 3] = 1  # masking drew [PAD] as a random token
    positions = attention.model_inputs(model, batch)["position_ids"]
    assert positions[1].tolist() == list(range(2, 2 + max(LENGTHS)))


def test_packed_is_chosen_on_cuda_where_every_model_can_run_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, bert = torch.device("cuda"), build("bert")
    assert attention.choose_layout([bert], torch.bfloat16, torch.device("cpu")) == ("padded", None)
    layout, note = attention.choose_layout([bert], torch.float32, cuda)
    assert layout == "padded"
    assert note is not None
    assert "in bfloat16 or float16 on CUDA, not in torch.float32" in note
    monkeypatch.setattr(attention, "check_packed", lambda *_: None)
    layout, note = attention.choose_layout([bert, build("modernbert")], torch.bfloat16, cuda)
    assert layout == "packed"
    assert note is not None
    assert "attention dropout is off" in note
    layout, note = attention.choose_layout([bert, small_deberta()], torch.bfloat16, cuda)
    assert layout == "padded"
    assert note is not None
    assert "DebertaV2ForMaskedLM does not let its attention be replaced" in note


def small_deberta() -> torch.nn.Module:
    config = DebertaV2Config(vocab_size=9, hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
    return AutoModelForMaskedLM.from_config(config)


@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_cuda_varlen_equals_padded(family: str) -> None:
    model = build(family).to("cuda", torch.bfloat16)
    attention.use_packed(model)  # runs the comparison on the device
    query = torch.randn(1, 4, 8, 16, device="cuda", dtype=torch.bfloat16)
    bounds = torch.tensor([0, 8], dtype=torch.int32, device="cuda")
    with pytest.raises(InputError, match="has no dropout"):
        attention.packed_attention(model, query, query, query, None, 0.1, None, None, bounds, bounds, 8, 8)
