"""Batches of whole texts: every text once, as it is, with what the teachers make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from distilfast import InputError, Tokenizer
from distilfast.batches.encode import Ragged
from distilfast.batches.sentences import SentenceBatches
from hypothesis import given
from hypothesis import strategies as st
from tiny_sentence import encoder_folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_pretrained(encoder_folder(tmp_path_factory.mktemp("tokenizer")))


def ids_of(lengths: list[int]) -> list[list[int]]:
    """Rows of ids that name themselves: no two are the same."""
    return [[2, *(5 + (row + place) % 20 for place in range(length)), 3] for row, length in enumerate(lengths)]


def texts_of(batch: dict[str, Any]) -> list[list[int]]:
    """The ids of each text of a batch, padded or packed."""
    if "cu_seqlens" in batch:
        bounds, count = batch["cu_seqlens"].tolist(), int((batch["row_numbers"] >= 0).sum())
        return [batch["input_ids"][0, bounds[i] : bounds[i + 1]].tolist() for i in range(count)]
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def test_the_texts_of_a_step_are_counted_anew_in_every_epoch(tokenizer: Tokenizer) -> None:
    rows = pa.array(ids_of([number % 13 for number in range(60)]), pa.list_(pa.int32()))
    batches = SentenceBatches(rows, tokenizer, batch_tokens=32, max_length=16, seed=1, batches_per_step=2)
    told = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        first, second = batches[0], batches[1]
        here = sum(int((batch["row_numbers"] >= 0).sum()) for batch in (first, second))
        assert int(first["num_rows_in_step"]) == int(second["num_rows_in_step"]) == here
        told.append(here)
    assert len(set(told)) > 1


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=40),
    st.sampled_from(["padded", "packed"]),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_every_text_is_there_once_as_it_is(
    tokenizer: Tokenizer, lengths: list[int], layout: Any, per_step: int, epoch: int
) -> None:
    rows = ids_of(lengths)
    own = Ragged.of([[7] * (row + 1) for row in range(len(rows))], np.int32)
    vectors = np.arange(len(rows), dtype=np.float16)[:, None].repeat(3, axis=1)
    batches = SentenceBatches(
        pa.array(rows, pa.list_(pa.int32())),
        tokenizer,
        batch_tokens=32,
        max_length=16,
        layout=layout,
        seed=1,
        batches_per_step=per_step,
        teachers=[None, (own, 9)],
        vectors=vectors,
    )
    batches.set_epoch(epoch)
    seen: list[int] = []
    in_batch = []
    for number in range(len(batches)):
        batch = batches[number]
        assert not [name for name in batch if name.startswith("mlm_")]
        numbers = batch["row_numbers"][batch["row_numbers"] >= 0].tolist()
        assert texts_of(batch) == [rows[row] for row in numbers]
        assert batch["teacher_vectors"][: len(numbers), 0].tolist() == numbers
        theirs = batch["teacher_1_input_ids"]
        assert batch["teacher_1_attention_mask"].sum(1).tolist() == [row + 1 for row in numbers]
        assert bool((theirs[batch["teacher_1_attention_mask"] == 0] == 9).all())
        assert "teacher_0_input_ids" not in batch
        seen += numbers
        in_batch.append((len(numbers), int(batch["num_rows_in_step"])))
    assert sorted(seen) == list(range(len(rows)))
    for start in range(0, len(in_batch), per_step):
        step = in_batch[start : start + per_step]
        assert {told for _, told in step} == {sum(count for count, _ in step)}


def test_batches_are_pure_and_their_fingerprint_tells_them_apart(tokenizer: Tokenizer) -> None:
    rows = pa.array(ids_of([3, 5, 7, 2, 9, 4] * 5), pa.list_(pa.int32()))

    def made(**changes: Any) -> SentenceBatches:
        return SentenceBatches(rows, tokenizer, **{"batch_tokens": 32, "max_length": 16, **changes})

    one, other = made(), made()
    assert one.state_fingerprint == other.state_fingerprint
    last = {name: value for name, value in one[len(one) - 1].items() if isinstance(value, torch.Tensor)}
    assert all(torch.equal(other[-1][name], value) for name, value in last.items())
    vectors = np.ones((30, 2), np.float16)
    different = [made(seed=1), made(vectors=vectors), made(vectors=vectors * 2), made(batch_tokens=40)]
    different.append(made(teachers=[(Ragged.of([[1]] * 30, np.int32), 0)]))
    prints = [each.state_fingerprint for each in (one, *different)]
    assert len(set(prints)) == len(prints)


def test_refusals(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = pa.array(ids_of([3, 5]), pa.list_(pa.int32()))
    with pytest.raises(InputError, match="2 texts, and what the teacher makes of 3"):
        SentenceBatches(rows, tokenizer, vectors=np.zeros((3, 2)))
    with pytest.raises(InputError, match="more than max_length=4"):
        SentenceBatches(rows, tokenizer, max_length=4)
