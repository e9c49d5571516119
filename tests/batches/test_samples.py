"""Positions that are sampled beside the masked ones: distinct, text, as likely, and worth as much as all."""

from __future__ import annotations

import math
from typing import Any

import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
import torch
from distilfast.batches.masked import attended
from distilfast.heads.positions import select_positions

LENGTHS = (9, 17, 4, 12, 12, 30)


class Tokenizer:
    vocab_size, pad_id, mask_id, special_ids, fingerprint = 60, 0, 4, range(5), "small"
    word_starts = np.arange(60) % 3 != 0


def make(share: float, layout: str = "padded", **more: Any) -> df.MaskedBatches:
    generator = np.random.default_rng(0)
    rows = [[2, *generator.integers(5, 60, size=length - 2).tolist(), 3] for length in LENGTHS]
    column = pa.array(rows, pa.list_(pa.uint16()))
    return df.MaskedBatches(column, Tokenizer(), batch_tokens=60, layout=layout, kl_sample_share=share, **more)


def masked_positions(batch: dict[str, Any]) -> set[int]:
    return set(batch["mlm_positions"][batch["mlm_labels"] >= 0].tolist())


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_they_are_distinct_text_and_weigh_as_much_as_all(layout: str, share: float) -> None:
    batches = make(share, layout)
    for epoch in range(5):
        batches.set_epoch(epoch)
        for batch in batches:
            size, masked = batch["input_ids"].numel(), masked_positions(batch)
            drawn, weight = batch["sampled_positions"], batch["sampled_weights"]
            assert (drawn.dtype, weight.dtype) == (torch.int64, torch.float32)
            assert len(drawn) == len(weight) == math.ceil(share * size)
            chosen = drawn[weight > 0]
            assert chosen.diff().gt(0).all()
            others = int(batch["num_tokens"]) - len(masked)
            assert len(chosen) == min(len(drawn), others)
            assert attended(batch)[chosen].all()
            assert not set(chosen.tolist()) & masked
            assert weight.sum().item() == pytest.approx(others)
            assert (drawn[weight == 0] == 0).all()
            selection = select_positions(batch, "sampled")
            assert selection.kl_weight.sum().item() == pytest.approx(int(batch["num_tokens"]))
            assert selection.positions.tolist() == batch["mlm_positions"].tolist() + drawn.tolist()
            assert (selection.labels[len(batch["mlm_labels"]) :] == -100).all()
            assert selection.num_kl_rows == batch["num_attended_in_step"]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_every_position_is_as_likely(layout: str) -> None:
    """A sum over the sample, with its weights, is on average the sum over all text."""
    batches = make(0.1, layout)
    errors = []
    for epoch in range(2000):
        batches.set_epoch(epoch)
        batch = batches[0]
        values = torch.arange(batch["input_ids"].numel(), dtype=torch.float64)
        values = torch.sin(values) + values / 10
        selection = select_positions(batch, "sampled")
        estimate = (values[selection.positions] * selection.kl_weight).sum().item()
        errors.append(estimate - values[attended(batch)].sum().item())
    sample = torch.tensor(errors, dtype=torch.float64)
    # Five standard errors: a deviation by chance once in two million runs of this test.
    assert abs(sample.mean().item()) < 5 * sample.std().item() / len(errors) ** 0.5
    assert sample.std() > 0.1


def test_a_sample_changes_nothing_else_and_belongs_to_seed_epoch_and_number() -> None:
    batches, plain = make(0.3), make(0.0)
    assert batches.state_fingerprint != plain.state_fingerprint
    for batch, other in zip(batches, plain, strict=True):
        assert "sampled_positions" not in other
        assert all(torch.equal(batch[name], value) for name, value in other.items())
    again = make(0.3)
    assert all(
        torch.equal(batch["sampled_positions"], again[i]["sampled_positions"]) for i, batch in enumerate(batches)
    )
    draws = {tuple(make(0.3, seed=seed)[0]["sampled_positions"].tolist()) for seed in range(8)}
    assert len(draws) > 4


def test_what_cannot_be_selected_is_refused() -> None:
    batch = make(0.0)[0]
    with pytest.raises(df.InputError, match="kl_positions='some'"):
        select_positions(batch, "some")
    with pytest.raises(df.InputError, match="kl_sample_share"):
        select_positions(batch, "sampled")
