"""The FLOP model against formulas and torch's own counter; the step profile adds up."""

from __future__ import annotations

import time

import pytest
import torch
from distilfast.models import attention
from distilfast.train.flops import device_peak, forward_flops, measured_peak, step_flops
from distilfast.train.profile import PARTS, StepProfile, table, timed
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
FAMILIES: list[PretrainedConfig] = [
    BertConfig(**SIZES),
    DistilBertConfig(vocab_size=67, dim=32, n_layers=3, n_heads=4, hidden_dim=80),
    RobertaConfig(**SIZES, pad_token_id=0),
    ElectraConfig(**SIZES, embedding_size=24),
    ModernBertConfig(**SIZES, pad_token_id=0),
]


def test_base_size_by_the_formula() -> None:
    with torch.device("meta"):
        teacher = AutoModelForMaskedLM.from_config(BertConfig())
        student = AutoModelForMaskedLM.from_config(DistilBertConfig())
    d, vocab = 768, 30522
    for model, layers in ((teacher, 12), (student, 6)):
        flops = forward_flops(model)
        assert flops.per_token == layers * 24 * d * d
        assert flops.per_pair == layers * 4 * d
        assert flops.per_head_row == 2 * d * d + 2 * d * vocab
        assert flops.pruned_per_token == 20 * d * d
    # 1000 sequences of 128 tokens, all rows: 629 MFLOP a token.
    tokens, pairs = 128_000, 1000 * 128**2
    assert step_flops(student, [teacher], tokens, pairs, tokens) / tokens == pytest.approx(628.7e6, rel=1e-3)
    spared = step_flops(student, [teacher], tokens, pairs, 0) - step_flops(student, [teacher], tokens, pairs, 0, True)
    assert spared == pytest.approx(4 * 20 * d * d * tokens)


@pytest.mark.parametrize("config", FAMILIES, ids=lambda config: config.model_type)
def test_every_family_as_torch_counts_it(config: PretrainedConfig) -> None:
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    rows, width = 3, 16
    batch = {"input_ids": torch.ones(rows, width, dtype=torch.int64), "attention_mask": torch.ones(rows, width)}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**attention.model_inputs(model, batch))
    ours = forward_flops(model).of(rows * width, rows * width**2, rows * width)
    counted = counter.get_total_flops()
    if config.model_type == "modernbert":  # its rotary angles are counted too, as a product
        assert ours <= counted <= 1.05 * ours
    else:
        assert ours == counted


def test_an_encoder_without_a_head_has_none_and_its_pooler_does_not_count() -> None:
    encoder = AutoModel.from_config(BertConfig(**SIZES))
    whole = AutoModelForMaskedLM.from_config(BertConfig(**SIZES))
    assert forward_flops(encoder).per_head_row == 0
    assert forward_flops(encoder).per_token == forward_flops(whole).per_token


def test_peak_of_a_cpu_is_measured() -> None:
    peak, source = device_peak(torch.device("cpu"), torch.float32)
    assert source == "measured"
    assert 1e8 < peak < 1e15
    state = torch.random.get_rng_state()
    assert measured_peak(torch.device("cpu"), torch.float32, size=64, seconds=0.0) > 0
    assert torch.equal(torch.random.get_rng_state(), state)  # what a run draws does not depend on this


def test_profile_adds_up() -> None:
    profile = StepProfile(torch.device("cpu"))
    for part, seconds in (("teacher", 0.02), ("student", 0.01), ("teacher", 0.02)):
        with profile.part(part):
            time.sleep(seconds)
    time.sleep(0.01)
    profile.steps = 2
    report = profile.report()
    parts = report["parts"]
    assert set(parts) == {*PARTS, "other"}
    assert parts["teacher"]["seconds"] >= 0.04
    assert parts["other"]["seconds"] >= 0.01
    assert sum(part["seconds"] for part in parts.values()) == pytest.approx(report["seconds"])
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1.0)
    lines = table(report).splitlines()
    assert lines[2].startswith("| teacher |")
    assert lines[-1].startswith("| 2 steps |")


def test_an_unknown_part_is_a_mistake_and_no_profile_costs_nothing() -> None:
    with pytest.raises(KeyError, match="no part of a step"), StepProfile(torch.device("cpu")).part("lunch"):
        pass
    with timed(None, "teacher"):
        pass


@pytest.mark.gpu
def test_cuda_parts_are_timed_on_the_device() -> None:
    device = torch.device("cuda")
    profile = StepProfile(device)
    left = torch.randn(4096, 4096, device=device)
    with profile.part("teacher"):
        for _ in range(20):
            left @ left
    assert profile.report()["parts"]["teacher"]["seconds"] > 1e-4
