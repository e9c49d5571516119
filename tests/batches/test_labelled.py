"""Batches of labelled rows: each row once, pure in (seed, epoch), and denominators that add up."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilfast._core import InputError
from distilfast.batches.encode import (
    EncodedRows,
    Ragged,
    encode_texts,
    encode_words,
)
from distilfast.batches.labelled import LabelledBatches
from distilfast.batches.mixing import batch_order
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_words import NONE, word_tokenizer
from transformers import BertTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


def some_rows(lengths: list[int], labels: list[int] | None = None) -> EncodedRows:
    """Rows whose ids say which row they are."""
    ids = [[row % 7 + 1] * length for row, length in enumerate(lengths)]
    targets = {} if labels is None else {"labels": np.array(labels, np.int64)}
    return EncodedRows(Ragged.of(ids, np.int32), None, targets, row_numbers=np.arange(len(lengths)))


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=200)


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_order_has_each_row_once_and_is_pure(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    array = np.array(lengths)
    order = batch_order(array, size, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    np.random.seed(seed + epoch + 1)
    torch.manual_seed(seed + epoch + 1)
    random.seed(epoch)
    assert batch_order(array, size, seed, epoch).tolist() == order.tolist()


def test_the_order_is_the_same_on_every_machine() -> None:
    # Written down when it was made; another order would not go on with a run that was begun before.
    assert batch_order(np.arange(24) % 7, 3, 7, 3).tolist() == EXPECTED_ORDER


EXPECTED_ORDER = [3, 17, 9, 16, 7, 0, 8, 22, 21, 20, 13, 11, 2, 23, 15, 5, 19, 18, 10, 1, 14, 6, 12, 4]


def test_few_rows_meet_others_in_every_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 96)
    batches = [
        {frozenset(batch_order(lengths, 8, 0, epoch)[at : at + 8].tolist()) for at in range(0, 96, 8)}
        for epoch in (0, 1)
    ]
    assert not batches[0] & batches[1]


def test_rows_of_like_length_go_together_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 5000)
    orders = [batch_order(lengths, 16, 0, epoch) for epoch in range(2)]
    assert (orders[0] != orders[1]).mean() > 0.9
    spreads = [np.ptp(lengths[order[:4992].reshape(-1, 16)], axis=1).mean() for order in orders]
    # Pools of 800 rows sorted by length: neighbours differ by 200 / 50 on average, rows drawn at random by 176.
    assert max(spreads) < 8
    firsts = lengths[orders[0]][:4992:16]
    # Batches are shuffled: their lengths neither rise nor fall along the epoch.
    assert abs(np.corrcoef(np.arange(len(firsts)), firsts)[0, 1]) < 0.2


@given(
    lengths=LENGTHS,
    size=st.integers(1, 9),
    per_step=st.integers(1, 5),
    epoch=st.integers(0, 2),
    unlabelled=st.randoms(),
)
@settings(max_examples=20)
def test_batches_have_each_row_once_and_denominators_add_up(
    tokenizer: Any, lengths: list[int], size: int, per_step: int, epoch: int, unlabelled: random.Random
) -> None:
    labels = [NONE if unlabelled.random() < 0.3 else number % 3 for number in range(len(lengths))]
    batches = LabelledBatches(some_rows(lengths, labels), tokenizer, size, per_step, seed=1)
    batches.set_epoch(epoch)
    every = [batches[number] for number in range(len(batches))]
    seen = torch.cat([batch["row_numbers"] for batch in every]).tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / size)
    elements = sum(batch["input_ids"].numel() for batch in every)
    assert batches.padding == pytest.approx(1 - sum(lengths) / elements)
    for start in range(0, len(every), per_step):
        step = every[start : start + per_step]
        for batch in step:
            assert batch["num_attended_in_step"] == sum(int(each["attention_mask"].sum()) for each in step)
            assert batch["num_rows_in_step"] == sum(len(each["input_ids"]) for each in step)
            assert batch["num_labelled_in_step"] == sum(int((each["labels"] != NONE).sum()) for each in step)
    for batch in every:
        rows = batch["row_numbers"].tolist()
        assert batch["labels"].tolist() == [labels[row] for row in rows]
        assert batch["attention_mask"].sum(1).tolist() == [lengths[row] for row in rows]
        assert batch["num_tokens"] == sum(lengths[row] for row in rows)
        assert batch["input_ids"].shape[1] == max(lengths[row] for row in rows)
        for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], rows, strict=True):
            assert set(ids[mask == 1].tolist()) == {row % 7 + 1}
            assert ids[mask == 0].tolist() == [0] * int((mask == 0).sum())


def test_batches_are_asked_for_in_any_order_and_again(tokenizer: Any) -> None:
    rows = some_rows([3, 9, 4, 4, 8, 1, 2], [0, 1, 0, 1, 0, 1, 0])
    batches = LabelledBatches(rows, tokenizer, 2)
    batches.set_epoch(2)
    forward = [batches[number]["input_ids"] for number in range(len(batches))]
    batches.set_epoch(0)
    _ = batches[1]
    other = LabelledBatches(rows, tokenizer, 2)
    other.set_epoch(2)
    for number in reversed(range(len(other))):
        assert torch.equal(other[number]["input_ids"], forward[number])
    assert torch.equal(other[-1]["input_ids"], forward[-1])
    with pytest.raises(IndexError):
        other[len(other)]


def test_evaluation_keeps_every_row_longest_first(tokenizer: Any) -> None:
    batches = LabelledBatches(some_rows([3, 9, 4, 4]), tokenizer, 3, shuffle=False)
    assert [batches[number]["row_numbers"].tolist() for number in range(2)] == [[1, 2, 3], [0]]
    assert "labels" not in batches[0]
    assert batches[0]["num_labelled_in_step"] == 0


def test_the_fingerprint_tells_what_changes_a_batch(tokenizer: Any) -> None:
    def fingerprint(lengths: tuple[int, ...] = (3, 4), labels: tuple[int, ...] = (0, 1), **settings: Any) -> str:
        return LabelledBatches(some_rows(list(lengths), list(labels)), tokenizer, **settings).state_fingerprint

    same = fingerprint()
    assert fingerprint() == same
    others = [
        fingerprint((4, 3)),
        fingerprint(labels=(1, 0)),
        fingerprint(seed=1),
        fingerprint(batch_size=2),
        fingerprint(batches_per_step=2),
        fingerprint(pad_to_multiple_of=8),
        fingerprint(shuffle=False),
        fingerprint(mixing=0.5),
    ]
    assert len({same, *others}) == len(others) + 1


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"batches_per_step": 0}])
def test_sizes_below_one_are_refused(tokenizer: Any, sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LabelledBatches(some_rows([1]), tokenizer, **sizes)
    with pytest.raises(InputError, match="no rows"):
        LabelledBatches(some_rows([]), tokenizer)


def real_tokenizer(data_dir: Path) -> Any:
    return BertTokenizer(vocab=str(data_dir / "vocab" / "bert-base-uncased.vocab.txt"))


@pytest.mark.parametrize(("task", "labels"), [("SST-2", 67349), ("MRPC", 3668), ("STS-B", 5749)])
def test_real_rows(data_dir: Path, task: str, labels: int) -> None:
    from distilfast.prepare.columns import find_columns
    from distilfast.prepare.table import read_rows
    from distilfast.prepare.targets import sequence_targets

    rows = read_rows(data_dir / "glue" / task)
    columns = find_columns(rows)
    problem = "regression" if task == "STS-B" else "single_label_classification"
    targets = sequence_targets(rows, columns, problem, {0: "LABEL_0", 1: "LABEL_1"})
    tokenizer = real_tokenizer(data_dir)
    texts = [rows.column(name) for name in columns.texts]
    encoded = encode_texts(tokenizer, *texts, labels=targets.values, max_length=32)
    batches = LabelledBatches(encoded, tokenizer, 32)
    assert batches.num_labelled == labels
    assert encoded.counts["rows cut to 32 tokens"] > 0
    # Rows of like length together: drawn at random, 20 to 45 % of a batch would be padding.
    assert batches.padding < 0.04
    for row in range(0, len(rows), len(rows) // 50):
        expected = tokenizer(*[column[row] for column in texts], truncation=True, max_length=32)
        assert encoded.input_ids[row].tolist() == expected["input_ids"]


@pytest.mark.parametrize("name", ["wnut17.dev.conll", "ewt_ner.train.iob2", "gum_pos.train.tsv"])
def test_real_tags(data_dir: Path, name: str) -> None:
    from distilfast.prepare.columns import find_columns
    from distilfast.prepare.labels import new_classes
    from distilfast.prepare.table import read_rows
    from distilfast.prepare.targets import tag_targets

    rows = read_rows(data_dir / "tagging" / name)
    columns = find_columns(rows)
    id2label = new_classes(tag for tags in rows.column("tags") for tag in tags)
    targets = tag_targets(rows, columns, id2label)
    tokenizer = real_tokenizer(data_dir)
    words = rows.column("tokens")
    encoded = encode_words(tokenizer, words, targets.values, 64)
    batches = LabelledBatches(encoded, tokenizer, 32)
    lost = encoded.counts.get("words cut off", 0) + encoded.counts.get("words without a token", 0)
    assert batches.num_labelled == sum(map(len, words)) - lost
    assert lost < 0.05 * sum(map(len, words))
