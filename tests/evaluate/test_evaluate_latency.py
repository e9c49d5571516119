"""Sizes are exact; speeds are plausible and relative to one another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distilfast import InputError
from distilfast.evaluate.speed import measure_size, measure_speed
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM


def bert(layers: int) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=100, hidden_size=64, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=256
    )
    return BertForMaskedLM(config)


def test_the_published_parameter_counts() -> None:
    with torch.device("meta"):
        model = DistilBertForMaskedLM(DistilBertConfig())
        model.tie_weights()
        size = measure_size(model)
    assert size.encoder_parameters == 66_362_880
    assert size.parameters == 66_985_530
    assert size.bytes == 4 * 66_985_530


def test_bytes_are_those_on_disk(tmp_path: Path) -> None:
    model = bert(1)
    model.save_pretrained(tmp_path)
    size = measure_size(model, tmp_path)
    assert size.bytes == (tmp_path / "model.safetensors").stat().st_size
    assert 4 * size.parameters < size.bytes < 4 * size.parameters + 20_000


def test_more_layers_take_longer() -> None:
    deep, flat = bert(12).train(), bert(1)
    speeds = measure_speed({"deep": deep, "flat": flat}, length=32, repeats=5, batch_size=4)
    assert speeds["flat"].latency_ms < speeds["deep"].latency_ms
    assert speeds["flat"].throughput > speeds["deep"].throughput
    assert deep.training


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"length 600 .* 512 positions"):
        measure_speed({"model": bert(1)}, length=600)
    with pytest.raises(InputError, match="repeats is 0"):
        measure_speed({"model": bert(1)}, repeats=0)
