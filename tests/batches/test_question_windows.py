"""Questions with passages to windows of token ids: each answer where its tokens are, cuts counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distilfast._core import InputError
from distilfast.batches.encode import (
    encode_texts,
)
from distilfast.batches.labelled import LabelledBatches
from distilfast.batches.question_windows import encode_questions
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_words import NONE, VOCAB, byte_level, word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return word_tokenizer()


PASSAGE = "the cat sat on a mat and then some dog came by to see it ."


@given(
    data=st.data(),
    max_length=st.integers(10, 24),
    stride=st.sampled_from([None, 0, 2, 3]),
    side=st.sampled_from(["left", "right"]),
)
@settings(max_examples=40)
def test_windows_find_the_answer(
    data: st.DataObject, tokenizer: Any, max_length: int, stride: int | None, side: str
) -> None:
    words = PASSAGE.split()
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(words) - 1)))
    answer = " ".join(words[first : last + 1])
    start = len(" ".join([*words[:first], ""]))
    answers = [{"text": [answer], "answer_start": [start]}, {"text": [], "answer_start": []}, None]
    padder = word_tokenizer(padding_side=side)
    rows = encode_questions(tokenizer, ["who sat ?"] * 3, [PASSAGE] * 3, answers, max_length, stride)
    assert rows.offsets is not None
    lost = rows.counts.get("questions whose answer was cut off, left without label", 0)
    batches = LabelledBatches(rows, padder, 2)
    found = 0
    for number in range(len(batches)):
        batch = batches[number]
        for place, window in enumerate(batch["row_numbers"].tolist()):
            ids = batch["input_ids"][place]
            begin, end = int(batch["start_positions"][place]), int(batch["end_positions"][place])
            row = int(rows.row_numbers[window])
            cls = int((ids == tokenizer.cls_token_id).nonzero()[0, 0])
            if row == 2:
                assert (begin, end) == (NONE, NONE)
            elif row == 1:
                assert (begin, end) == (cls, cls)
            elif begin not in (NONE, cls):
                assert ids[begin : end + 1].tolist() == tokenizer(answer, add_special_tokens=False)["input_ids"]
                found += 1
            else:
                assert begin == (NONE if lost else cls)
                places = rows.offsets[window]
                passage = places[places[:, 0] >= 0]
                assert start < passage[0, 0] or start + len(answer) > passage[-1, 1]
    assert all(len(places) == length for places, length in zip(rows.offsets, rows.input_ids.lengths, strict=True))
    assert (found > 0) != lost
    if stride is None:
        assert len(rows) == 3
        assert rows.counts.get(f"passages cut to fit {max_length} tokens", 0) == (3 if max_length < 22 else 0)
    else:
        covered = np.zeros(len(PASSAGE), bool)
        for window in np.flatnonzero(rows.row_numbers == 1):
            for begin, end in rows.offsets[window]:
                covered[max(begin, 0) : max(end, 0)] = True
        assert all(covered[place] for place, letter in enumerate(PASSAGE) if letter != " ")


def test_long_questions_are_cut_and_counted(tokenizer: Any) -> None:
    rows = encode_questions(tokenizer, ["who " * 50], [PASSAGE], None, max_length=20)
    assert rows.counts["questions cut to 8 tokens"] == 1
    assert rows.input_ids[0].tolist().count(VOCAB.index("who")) == 8
    assert rows.targets == {}
    with pytest.raises(InputError, match="stride of 30"):
        encode_questions(tokenizer, ["who"], [PASSAGE], None, max_length=20, stride=30)


def test_pairs_and_questions_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    pairs = encode_texts(tokenizer, ["the cat"], ["on the mat"], max_length=64)
    assert pairs.token_type_ids is None
    assert pairs.input_ids[0].tolist() == tokenizer("the cat", "on the mat")["input_ids"]
    answers = [{"text": ["cat"], "answer_start": [4]}]
    rows = encode_questions(tokenizer, ["who sat"], ["the cat sat on the mat"], answers, max_length=64)
    begin, end = int(rows.targets["start_positions"][0]), int(rows.targets["end_positions"][0])
    assert tokenizer.decode(rows.input_ids[0][begin : end + 1]).strip() == "cat"
