"""Masked batches against their definition: every row once, the right denominators, the right shapes."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import datasets
import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
import torch
from distilfast.batches.loader import batch_loader
from hypothesis import given
from hypothesis import strategies as st

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 60


@dataclasses.dataclass
class SmallTokenizer:
    """A vocabulary of 60 ids: five special tokens, then words and pieces."""

    vocab_size: int = VOCABULARY
    pad_id: int = PAD
    mask_id: int = MASK
    special_ids: tuple[int, ...] = (PAD, UNK, CLS, SEP, MASK)
    fingerprint: str = "small"

    @property
    def word_starts(self) -> np.ndarray:
        return np.arange(self.vocab_size) % 3 != 0


TOK = SmallTokenizer()


def column(rows: list[list[int]], chunk: int = 7, type_: pa.DataType | None = None) -> pa.ChunkedArray:
    type_ = type_ or pa.list_(pa.uint16())
    return pa.chunked_array([rows[start : start + chunk] for start in range(0, len(rows), chunk)], type=type_)


def rows_of_lengths(lengths: list[int], seed: int = 0) -> list[list[int]]:
    """Rows [CLS] ... [SEP] whose ids say which row they are, as far as a row of that length can."""
    generator = np.random.default_rng(seed)
    return [[CLS, *generator.integers(5, VOCABULARY, size=length - 2).tolist(), SEP] for length in lengths]


def originals(batch: dict[str, Any]) -> list[list[int]]:
    """The rows of a batch as they were before masking."""
    ids = batch["input_ids"].clone().view(-1)
    known = batch["mlm_labels"] >= 0
    ids[batch["mlm_positions"][known]] = batch["mlm_labels"][known]
    if "attention_mask" in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        return [row[:length].tolist() for row, length in zip(ids.view_as(batch["input_ids"]), lengths, strict=True)]
    ends = [end for end in batch["cu_seqlens"].tolist() if end <= int(batch["num_tokens"])]
    return [ids[start:end].tolist() for start, end in itertools.pairwise(ends) if end > start]


lengths_lists = st.lists(st.integers(2, 40), min_size=1, max_size=120)
layouts = st.sampled_from(["padded", "packed"])


@given(lengths_lists, layouts, st.integers(0, 2**64 - 1), st.integers(0, 3), st.integers(1, 5), st.integers(40, 300))
def test_every_row_once_and_denominators_of_the_step(lengths, layout, seed, epoch, per_step, batch_tokens):
    rows = rows_of_lengths(lengths)
    batches = df.MaskedBatches(
        column(rows), TOK, batch_tokens=batch_tokens, layout=layout, seed=seed, batches_per_step=per_step
    )
    number = len(batches)
    batches.set_epoch(epoch)
    assert len(batches) == number
    seen: list[list[int]] = []
    tokens, masked = [], []
    for index in range(number):
        batch = batches[index]
        seen += originals(batch)
        assert tuple(batch["input_ids"].shape) in batches.shapes
        tokens.append(int(batch["num_tokens"]))
        masked.append(int((batch["mlm_labels"] != -100).sum()))
        maskable = sum(id_ > MASK for row in originals(batch) for id_ in row)
        assert masked[-1] == min(math.ceil(0.15 * tokens[-1]), maskable)
        assert len(batch["mlm_positions"]) == math.ceil(0.15 * batch["input_ids"].numel())
        assert "labels" not in batch
    assert sorted(seen) == sorted(rows)
    elements = sum(batches[index]["input_ids"].numel() for index in range(number))
    assert batches.padding == pytest.approx(1 - sum(tokens) / elements)
    for index in range(number):
        step = slice(index - index % per_step, index - index % per_step + per_step)
        assert int(batches[index]["num_attended_in_step"]) == sum(tokens[step])
        assert int(batches[index]["num_masked_in_step"]) == sum(masked[step])


def test_the_tensors_of_a_padded_batch():
    rows = rows_of_lengths([5, 6, 7, 8] * 10)
    batches = df.MaskedBatches(column(rows), TOK, batch_tokens=64, masking=df.Masking(mask=1.0, keep=0.0, random=0.0))
    for index in range(len(batches)):
        batch = batches[index]
        ids, mask = batch["input_ids"], batch["attention_mask"]
        assert {value.dtype for value in batch.values()} == {torch.int64}
        assert (ids[mask == 0] == PAD).all()
        assert int(batch["num_tokens"]) == int(mask.sum())
        positions, labels = batch["mlm_positions"], batch["mlm_labels"]
        used = labels != -100
        assert (ids.view(-1)[positions[used]] == MASK).all()
        assert (labels[used] > MASK).all()
        assert (positions[~used] == 0).all()
        assert positions[used].diff().gt(0).all()
        assert int((ids == MASK).sum()) == int(used.sum())


def test_the_tensors_of_a_packed_batch():
    rows = rows_of_lengths([5, 9, 13, 40] * 10)
    batches = df.MaskedBatches(column(rows), TOK, batch_tokens=128, layout="packed")
    sequences = {len(batches[index]["cu_seqlens"]) for index in range(len(batches))}
    assert len(sequences) == 1
    assert batches.shapes == [(1, 128)]
    for index in range(len(batches)):
        batch = batches[index]
        ends = batch["cu_seqlens"]
        assert ends.dtype == torch.int32
        assert ends[0] == 0
        assert ends[-1] == 128
        assert ends.diff().ge(0).all()
        assert int(ends.diff().max()) <= batch["max_seqlen"] == 40
        assert int(batch["num_tokens"]) in ends.tolist()
        assert (batch["input_ids"][0, int(batch["num_tokens"]) :] == PAD).all()
        expected = torch.cat([torch.arange(n) for n in ends.diff().tolist()])
        assert torch.equal(batch["position_ids"][0], expected)


def test_sources_of_every_kind_give_the_same_batches(tmp_path):
    rows = rows_of_lengths([4, 8, 15, 16, 23, 40] * 5)
    padded = [[CLS, SEP], *rows, [CLS, SEP]]
    dataset = datasets.Dataset.from_dict({"input_ids": rows})
    dataset.save_to_disk(tmp_path / "saved", num_shards=3)
    sources = [column(rows, chunk=4)]
    sources += [column(rows, type_=pa.list_(value)) for value in (pa.uint32(), pa.int32(), pa.int64())]
    sources += [column(rows, type_=pa.large_list(pa.uint16()))]
    sources += [pa.table({"input_ids": column(rows), "other": list(range(len(rows)))})]
    sources += [column(padded, chunk=5).slice(1, len(rows)), pa.array(padded, pa.list_(pa.int32()))[1:-1]]
    sources += [datasets.load_from_disk(tmp_path / "saved")]
    sources += [datasets.concatenate_datasets([dataset.select(range(10)), dataset.select(range(10, len(rows)))])]
    backwards = datasets.Dataset.from_dict({"input_ids": rows[::-1]})
    sources += [backwards.select(range(len(rows) - 1, -1, -1))]
    expected = df.MaskedBatches(sources[0], TOK, batch_tokens=80)
    for source in sources[1:]:
        batches = df.MaskedBatches(source, TOK, batch_tokens=80)
        assert batches.state_fingerprint == expected.state_fingerprint
        assert len(batches) == len(expected)
        for index in range(len(expected)):
            for key, value in expected[index].items():
                assert torch.equal(value, batches[index][key])


ROWS = rows_of_lengths([5, 6, 7])


@pytest.mark.parametrize(
    ("tokens", "arguments", "words"),
    [
        (column([*ROWS, [CLS, 60, SEP]]), {}, ["row 3", "60", "position 1", "0 to 59"]),
        (column([*ROWS, [CLS, -7, SEP]], type_=pa.list_(pa.int32())), {}, ["row 3", "-7"]),
        (column([*ROWS, [CLS, 9, 9, SEP]]), {"max_length": 6}, ["row 2", "7 tokens", "max_length=6"]),
        (column([*ROWS, []]), {}, ["row 3", "no token"]),
        (column([]), {}, ["empty"]),
        (column([*ROWS, None], chunk=2), {}, ["row 3", "null"]),
        (column([*ROWS, [CLS, 9, None, SEP]], chunk=3), {}, ["row 3", "null", "position 2"]),
        (column(ROWS), {"batch_tokens": 6}, ["row 2", "batch_tokens=6", "7 tokens"]),
        (column(ROWS), {"kl_sample_share": 1.5}, ["kl_sample_share=1.5"]),
        (column(ROWS), {"batch_tokens": 6, "layout": "packed"}, ["row 2", "batch_tokens=6", "7 tokens"]),
        (column(ROWS), {"layout": "ragged"}, ["'ragged'", "packed"]),
        (column(ROWS), {"batch_tokens": 0}, ["batch_tokens=0"]),
        (column(ROWS), {"seed": -1}, ["seed=-1"]),
        (column(ROWS), {"token_counts": np.zeros(3, dtype=np.int64)}, ["token_counts", "(3,)", "(60,)"]),
        (column(ROWS), {"token_counts": np.arange(60) - 1}, ["token_counts[0]", "-1"]),
        (pa.table({"ids": column(ROWS)}), {}, ["input_ids", "ids"]),
    ],
)
def test_bad_input_is_named(tokens, arguments, words):
    with pytest.raises(df.InputError) as caught:
        df.MaskedBatches(tokens, TOK, **arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mask": 0.8, "keep": 0.1, "random": 0.2}, ["0.8", "0.1", "0.2", "1.1"]),
        ({"prob": 0.0}, ["prob=0.0"]),
        ({"prob": 1.5}, ["prob=1.5"]),
        ({"prob": math.nan}, ["prob=nan"]),
        ({"mask": 1.2, "keep": -0.2, "random": 0.0}, ["mask=1.2"]),
        ({"smoothing": -0.5}, ["smoothing=-0.5"]),
        ({"count": "about"}, ["'about'"]),
        ({"compat": "bert"}, ["'bert'"]),
        ({"count": "bernoulli", "smoothing": 0.7}, ["0.7", "bernoulli"]),
    ],
)
def test_masking_that_makes_no_sense_is_named(arguments, words):
    with pytest.raises(df.InputError) as caught:
        df.Masking(**arguments)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "tokens",
    [ROWS, column(ROWS, type_=pa.list_(pa.float32())), pa.array([1, 2]), datasets.DatasetDict({"train": ROWS})],
)
def test_columns_of_the_wrong_type_are_refused(tokens):
    with pytest.raises(TypeError, match=r"list|DatasetDict|Dataset"):
        df.MaskedBatches(tokens, TOK)


def test_batches_beyond_the_last_are_index_errors():
    batches = df.MaskedBatches(column(ROWS), TOK)
    assert len(list(batches)) == len(batches) == 1
    with pytest.raises(IndexError):
        batches[1]
    with pytest.raises(TypeError):
        batches["0"]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("lengths", [[2], [512], [512] * 7, [2] * 5, [511, 512, 2]])
@pytest.mark.parametrize("batch_tokens", [512, 513, 1023, 1024])
def test_rows_and_budgets_at_their_limits(layout, lengths, batch_tokens):
    rows = [[CLS, *[7] * (length - 2), SEP] for length in lengths]
    tokens = pa.chunked_array([[], rows[:1], [], rows[1:]], type=pa.large_list(pa.uint32()))
    batches = df.MaskedBatches(tokens, TOK, batch_tokens=batch_tokens, layout=layout, max_length=512)
    assert sum(int(batch["num_tokens"]) for batch in batches) == sum(lengths)
    for index in (0, len(batches) - 1, -1):
        batch = batches[index]
        assert batch["input_ids"].numel() <= batch_tokens
        if layout == "packed":
            assert int(batch["cu_seqlens"][-1]) == batch_tokens


def test_more_ranks_than_batches_are_refused():
    batches = df.MaskedBatches(column(ROWS), TOK)
    with pytest.raises(df.InputError, match=f"{len(batches) + 1} ranks.*{len(batches)} batches"):
        batch_loader(batches, len(batches) + 1, pin_memory=False)
