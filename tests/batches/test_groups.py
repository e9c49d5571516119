"""Groups of rows: whole in a batch, each once an epoch, as many batches in every epoch, counted over a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from distilfast._core import InputError
from distilfast.batches.encode import EncodedRows, Ragged, joined
from distilfast.batches.groups import WholeGroups, fitted
from distilfast.batches.labelled import LabelledBatches
from distilfast.batches.mixing import batch_order
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_words import word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


def grouped(sizes: list[int], seed: int = 0) -> EncodedRows:
    """Rows of one to nine tokens, the groups' rows scattered among each other's."""
    draws = np.random.default_rng(seed)
    groups = draws.permutation(np.repeat(np.arange(len(sizes)), sizes))
    ids = [[1] * length for length in draws.integers(1, 10, len(groups))]
    return EncodedRows(
        Ragged.of(ids, np.int32), None, {}, groups=groups.astype(np.int64), row_numbers=np.arange(len(ids))
    )


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=40)


@given(sizes=SIZES, room=st.integers(6, 15), per_step=st.integers(1, 3), epoch=st.integers(0, 3))
@settings(max_examples=30)
def test_groups_are_whole_once_and_counted(
    tokenizer: Any, sizes: list[int], room: int, per_step: int, epoch: int
) -> None:
    rows = grouped(sizes)
    assert rows.groups is not None
    batches = LabelledBatches(rows, tokenizer, room, per_step, seed=2)
    at_first = len(batches)
    batches.set_epoch(epoch)
    every = [batches[number] for number in range(len(batches))]
    assert len(every) == at_first
    numbers = [batch["row_numbers"].tolist() for batch in every]
    assert sorted(row for each in numbers for row in each) == list(range(sum(sizes)))
    in_batches = [rows.groups[each] for each in numbers]
    assert all(len(each) <= room for each in in_batches)
    for found, batch in zip(in_batches, every, strict=True):
        # The same rows are of one group, by the numbers that the batch has for them.
        own = batch["groups"].numpy()
        assert ((own[:, None] == own) == (found[:, None] == found)).all()
        for group in set(found.tolist()):
            assert (found == group).sum() == sizes[group]
    for start in range(0, len(every), per_step):
        members = np.concatenate(in_batches[start : start + per_step])
        compared = sum(sizes[group] > 1 for group in set(members.tolist()))
        for batch in every[start : start + per_step]:
            assert batch["num_groups_in_step"] == compared
            assert batch["num_rows_in_step"] == len(members)
    again = LabelledBatches(rows, tokenizer, room, per_step, seed=2)
    again.set_epoch(epoch)
    assert [again[number]["row_numbers"].tolist() for number in reversed(range(len(again)))] == numbers[::-1]


@given(sizes=SIZES, room=st.integers(6, 15))
def test_batches_are_filled(sizes: list[int], room: int) -> None:
    counts = {size: sizes.count(size) for size in set(sizes)}
    batches = fitted(counts, room)
    assert sorted(size for each in batches for size in each) == sorted(sizes)
    assert all(sum(each) <= room for each in batches)
    # No two batches could be one: the bound of any fit, at most twice the fewest.
    loads = sorted(map(sum, batches))
    assert len(loads) < 2 or loads[0] + loads[1] > room


def test_epochs_mix_the_groups(tokenizer: Any) -> None:
    rows = grouped([2] * 60)
    batches = LabelledBatches(rows, tokenizer, 8, seed=1)
    together = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        together.append({frozenset(batches[number]["row_numbers"].tolist()) for number in range(len(batches))})
    assert len(together[0] & together[1]) <= 1


def test_groups_of_like_length_stand_together() -> None:
    lengths = np.repeat(np.random.default_rng(0).integers(5, 200, 400), 4)
    whole = WholeGroups(np.repeat(np.arange(400), 4), lengths, 32)
    order, starts = whole.order(batch_order, 0, 0)
    widths = np.maximum.reduceat(lengths[order], starts[:-1])
    assert lengths.sum() / (widths * np.diff(starts)).sum() > 0.8


def test_a_group_of_more_rows_than_a_batch_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"a group has 5 rows and a batch 4.*--per_device_train_batch_size 5"):
        LabelledBatches(grouped([2, 5]), tokenizer, 4)


def test_evaluation_and_rows_without_groups_are_as_ever(tokenizer: Any) -> None:
    rows = grouped([2, 5])
    batch = LabelledBatches(rows, tokenizer, 4, shuffle=False)[0]
    assert "groups" not in batch
    assert batch["row_numbers"].tolist() == np.argsort(-rows.input_ids.lengths, kind="stable")[:4].tolist()


def test_joined_rows_keep_their_groups_apart(tokenizer: Any) -> None:
    both = joined([grouped([2, 2]), grouped([3])])
    assert both.groups is not None
    assert sorted(np.bincount(both.groups).tolist()) == [2, 2, 3]
    plain = EncodedRows(Ragged.of([[1]], np.int32), None, {}, row_numbers=np.arange(1))
    with pytest.raises(InputError, match="some rows are grouped"):
        joined([grouped([2]), plain])


def test_the_fingerprint_tells_groups(tokenizer: Any) -> None:
    rows = grouped([2, 2, 2])
    other = grouped([2, 2, 2])
    assert other.groups is not None
    other.groups[:] = np.roll(other.groups, 1)
    found = [LabelledBatches(each, tokenizer, 4).state_fingerprint for each in (rows, other, grouped([2, 2, 2]))]
    assert found[0] == found[2] != found[1]
    assert torch.equal(LabelledBatches(rows, tokenizer, 4)[0]["groups"], torch.tensor([0, 0, 1, 1]))
