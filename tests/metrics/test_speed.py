"""Sizes are exact; speeds are plausible and relative to one another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from distilfast import InputError
from distilfast.metrics import speed as speeds_of
from distilfast.metrics.speed import measure_size, measure_speed, speed_warnings
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
    # Words and positions; six layers of 12 d^2 + 13 d; the transform and the decoder's bias.
    assert size.embeddings == (30_522 + 512) * 768 + 2 * 768
    assert size.layers == 6 * (12 * 768**2 + 13 * 768)
    assert size.head == 768**2 + 768 + 2 * 768 + 30_522
    assert size.embeddings + size.layers + size.head == size.parameters


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
    assert speeds["deep"].latency_iqr_ms >= 0


def test_times_that_lie_far_apart_are_taken_again_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []

    def seconds(*_: object) -> float:
        taken.append(0.1 + 0.1 * (len(taken) // 2 % 2))  # a model's times are 0.1 and 0.2 in turn
        return taken[-1]

    monkeypatch.setattr(speeds_of, "_seconds", seconds)
    monkeypatch.setattr(speeds_of, "machine_load", lambda: 3.0)
    models = {"deep": bert(1), "flat": bert(1)}
    speeds = measure_speed(models, length=8, repeats=4, batch_size=4)
    # Warm-ups, then 4 and again 8 at batch 1, 3 and again 6 at batch 32, of two models.
    assert len(taken) == 2 * (2 + 4 + 2 + 8 + 2 + 3 + 2 + 6)
    assert speeds["deep"].taken_again
    assert speeds["deep"].repeats == 8
    assert speeds["deep"].latency_ms == pytest.approx(150)
    assert speeds["deep"].latency_iqr_ms == pytest.approx(100)
    spread, busy = speed_warnings({name: vars(speed) for name, speed in speeds.items()})
    assert "spread by 67 %" in spread or "spread by 100 %" in spread
    assert "busy before measuring (3.0" in busy

    monkeypatch.setattr(speeds_of, "_seconds", lambda *_: 0.1)
    monkeypatch.setattr(speeds_of, "machine_load", lambda: None)
    steady = measure_speed(models, length=8, repeats=4, batch_size=4)
    assert not steady["deep"].taken_again
    assert speed_warnings({name: vars(speed) for name, speed in steady.items()}) == []


def test_throughput_is_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    # A forward takes 10 ms and 1 ms a row.
    monkeypatch.setattr(speeds_of, "_seconds", lambda _, ids, *__: 0.010 + 0.001 * len(ids))
    speed = measure_speed({"model": bert(1)}, length=8, repeats=3, batch_size=30)["model"]
    assert speed.latency_ms == pytest.approx(11.0)
    assert speed.throughput == pytest.approx(30 / 0.040)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"length 600 .* 512 positions"):
        measure_speed({"model": bert(1)}, length=600)
    with pytest.raises(InputError, match="repeats is 0"):
        measure_speed({"model": bert(1)}, repeats=0)
