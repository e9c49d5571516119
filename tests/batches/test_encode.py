"""Texts, pairs and words to token ids: as the library does it, each tag at its word's first token, cuts counted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilfast._core import InputError
from distilfast.batches.encode import (
    encode_texts,
    encode_words,
    fast_tokenizer,
    joined,
)
from distilfast.batches.labelled import LabelledBatches
from distilfast.batches.question_windows import encode_questions
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_words import NONE, WORDS, byte_level, word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


SENTENCE = st.lists(st.sampled_from([*WORDS, "cats", "playing", "strange", "[SEP]", "?"]), max_size=12).map(" ".join)


@given(texts=st.lists(SENTENCE, min_size=1, max_size=8), max_length=st.integers(3, 9), pairs=st.booleans())
def test_texts_are_encoded_and_cut_as_the_library_does(
    tokenizer: Any, texts: list[str], max_length: int, pairs: bool
) -> None:
    max_length += 2 * pairs
    second = [text[::-1] for text in texts] if pairs else None
    rows = encode_texts(tokenizer, texts, second, max_length=max_length)
    expected = tokenizer(texts, second, truncation=True, max_length=max_length)
    whole = tokenizer(texts, second)["input_ids"]
    assert [ids.tolist() for ids in map(rows.input_ids.__getitem__, range(len(texts)))] == expected["input_ids"]
    assert rows.token_type_ids is not None
    types = [rows.token_type_ids[row].tolist() for row in range(len(texts))]
    assert types == expected["token_type_ids"]
    cut = sum(len(ids) > max_length for ids in whole)
    assert rows.counts == ({f"rows cut to {max_length} tokens": cut} if cut else {})


def test_single_texts_go_through_the_fast_tokenizer(tokenizer: Any) -> None:
    assert fast_tokenizer(tokenizer, ["the cat"]) is not None
    assert fast_tokenizer(word_tokenizer(truncation_side="left"), ["a"]) is None


def test_labels_of_every_kind(tokenizer: Any) -> None:
    texts = ["the cat", "a dog", "it"]
    one = encode_texts(tokenizer, texts, labels=[1, NONE, 0]).targets["labels"]
    assert (one.dtype, one.tolist()) == (np.int64, [1, NONE, 0])
    number = LabelledBatches(encode_texts(tokenizer, texts, labels=[0.5, math.nan, 2.0]), tokenizer, shuffle=False)
    assert number[0]["labels"].dtype == torch.float32
    assert number[0]["num_labelled_in_step"] == 2
    several = LabelledBatches(encode_texts(tokenizer, texts, labels=[[1.0, 0.0], None, [0.0, 0.0]]), tokenizer)
    batch = several[0]
    by_row = dict(zip(batch["row_numbers"].tolist(), batch["labels"].tolist(), strict=True))
    assert by_row == {0: [1, 0], 1: [NONE, NONE], 2: [0, 0]}
    assert batch["num_labelled_in_step"] == 2


def test_unlabelled_rows_beside_labelled(tokenizer: Any) -> None:
    labelled = encode_texts(tokenizer, ["the cat", "a dog"], labels=[1, 0])
    unlabelled = encode_texts(tokenizer, ["it sat on the mat"])
    both = LabelledBatches([labelled, unlabelled], tokenizer, shuffle=False)
    batch = both[0]
    assert dict(zip(batch["row_numbers"].tolist(), batch["labels"].tolist(), strict=True)) == {0: 1, 1: 0, 2: NONE}
    assert (both.num_labelled, len(both.rows)) == (2, 3)
    several = encode_texts(tokenizer, ["the cat"], labels=[[1.0, 0.0]])
    assert joined([several, unlabelled]).targets["labels"].tolist() == [[1, 0], [NONE, NONE]]
    with pytest.raises(InputError, match="do not go together"):
        joined([labelled, encode_words(tokenizer, [["the"]])])


@pytest.mark.parametrize("limits", [{}, {"truncation": True, "max_length": 7, "padding": "max_length"}])
def test_the_tokenizer_cuts_and_pads_as_it_did_and_is_quiet(limits: dict[str, Any]) -> None:
    """Who saves it afterwards, as a trainer does that it is handed to, saves it as it was."""
    tokenizer = word_tokenizer(model_max_length=5)
    tokenizer("the cat", **limits)
    before = tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding
    assert (before[0] is None, before[1] is None) == (not limits, not limits)
    texts = ["the cat sat on the mat", "a dog"]
    encode_texts(tokenizer, texts, max_length=4)
    encode_texts(tokenizer, texts, texts, max_length=6)
    encode_words(tokenizer, [text.split() for text in texts], max_length=4)
    encode_questions(tokenizer, ["the dog the dog"], texts[:1], max_length=9, stride=1)
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == before
    # Where transformers notes that it has warned of texts longer than 5, whose cutting is counted and said here.
    assert not any("longer-than" in name for name in tokenizer.deprecation_warnings)


WORD = st.sampled_from([*WORDS, "cats", "playing", "sats", "", "​"])
SENTENCES = st.lists(st.lists(WORD, min_size=1, max_size=10), min_size=1, max_size=6)


@given(words=SENTENCES, max_length=st.integers(3, 12), side=st.sampled_from(["left", "right"]))
@settings(max_examples=30)
def test_tags_stand_at_the_first_token_of_each_word(
    tokenizer: Any, words: list[list[str]], max_length: int, side: str
) -> None:
    tags = [[number % 5 for number in range(len(row))] for row in words]
    rows = encode_words(tokenizer, words, tags, max_length)
    padder = word_tokenizer(padding_side=side)
    batches = LabelledBatches(rows, padder, 4, batches_per_step=2)
    kept = 0
    for number in range(len(batches)):
        batch = batches[number]
        assert batch["labels"].shape == batch["word_starts"].shape == batch["input_ids"].shape
        assert torch.equal(batch["word_starts"], batch["labels"] != NONE)
        for place, row in enumerate(batch["row_numbers"].tolist()):
            starts = batch["word_starts"][place]
            # Words one at a time, as they come to the model: those without a token have none.
            pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words[row]]
            spans, at = [], 1
            for tag, piece in zip(tags[row], pieces, strict=True):
                if piece and at < max_length - 1:
                    spans.append((at, tag))
                at += len(piece)
            shift = int((batch["attention_mask"][place] == 0).sum()) if side == "left" else 0
            assert starts.nonzero()[:, 0].tolist() == [shift + first for first, _ in spans]
            assert batch["labels"][place][starts].tolist() == [tag for _, tag in spans]
            kept += len(spans)
    assert kept == sum(map(len, words)) - rows.counts.get("words cut off", 0) - rows.counts.get(
        "words without a token", 0
    )
    steps = [batches[number] for number in range(0, len(batches), 2)]
    assert sum(int(step["num_rows_in_step"]) for step in steps) == kept
    assert sum(int(step["num_labelled_in_step"]) for step in steps) == kept


def test_words_without_tags_still_have_rows(tokenizer: Any) -> None:
    batch = LabelledBatches(encode_words(tokenizer, [["the", "cats"]], [[NONE, 1]]), tokenizer)[0]
    assert batch["word_starts"].tolist() == [[False, True, True, False, False]]
    assert batch["labels"].tolist() == [[NONE, NONE, 1, NONE, NONE]]
    assert (batch["num_rows_in_step"], batch["num_labelled_in_step"]) == (2, 1)


def test_words_in_a_list_are_those_of_a_text(tmp_path: Path) -> None:
    """RoBERTa's tokenizer gives words in a list no blank before them unless it is told to."""
    rows = encode_words(byte_level(tmp_path), [["the", "cat", "sat"]], [[1, 2, 0]])
    tokenizer = byte_level(tmp_path)
    assert rows.input_ids[0].tolist() == tokenizer(" the cat sat")["input_ids"]
    assert tokenizer(["the", "cat"], is_split_into_words=True)["input_ids"] != tokenizer(" the cat")["input_ids"]
    assert rows.word_labels is not None
    assert [label for label in rows.word_labels[0].tolist() if label != NONE] == [1, 2, 0]


def test_a_length_without_room_for_a_text_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="leaves no room for text"):
        encode_texts(tokenizer, ["the"], max_length=2)
