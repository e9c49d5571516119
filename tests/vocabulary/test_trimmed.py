"""Trimmed tokenizers: their ids are those of the definition over the kept tokens, on any text."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
from distilfast import InputError
from distilfast.vocabulary import choose_tokens, count_tokens, measure, read_vocabulary, trim_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, SPECIALS, by_definition, names, tiny_tokenizer
from tokenizer_texts import any_text
from tokenizers import Tokenizer

PLAIN = ["Größe", "ab", "the", "tokenizer", "token", "holds", "北京", "αβ", "🙂", "file", "éé", "x_y", "가나"]


def plain_text() -> st.SearchStrategy[str]:
    """Any text in which no special token stands."""
    parts = st.one_of(any_text(), st.lists(st.sampled_from(PLAIN)).map(" ".join))
    return parts.filter(lambda text: not any(special in text for special in SPECIALS))


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 1000), share=st.floats(0, 1), text=plain_text())
def test_ids_are_those_of_the_definition(kind: str, seed: int, share: float, text: str) -> None:
    whole = tiny_tokenizer(kind)
    counts = np.random.default_rng(seed).integers(0, 4, whole.vocab_size)
    always = len(choose_tokens(whole, counts, 1e-12))
    size = round(always + share * (whole.vocab_size - always))
    vocabulary = trim_tokenizer(whole, choose_tokens(whole, counts, size))
    trimmed = vocabulary.tokenizer
    assert size - 8 <= trimmed.vocab_size <= size  # a token whose halves no longer fit is passed over
    assert trimmed.tokens() == names(whole, vocabulary.teacher_ids)
    expected = by_definition(whole, set(trimmed.tokens()), text)
    assert names(trimmed, trimmed.encode(text, add_special_tokens=False)) == expected
    assert Tokenizer.from_str(trimmed.to_json()).encode(text).ids == trimmed.encode(text)
    # Around the text stand the same tokens as before.
    ids = trimmed.encode(text)
    assert vocabulary.teacher_ids[[ids[0], ids[-1]]].tolist() == [whole.cls_id, whole.sep_id]


@pytest.mark.parametrize("kind", KINDS)
@given(texts=st.lists(any_text(), min_size=1, max_size=5), other=any_text())
def test_on_the_text_that_it_is_made_for_ids_are_the_whole_tokenizers(kind: str, texts: list[str], other: str) -> None:
    whole = tiny_tokenizer(kind)
    texts = [*texts, "text"]
    vocabulary = df.Vocabulary.from_texts(whole, texts, 1.0)
    for text in texts:
        assert vocabulary.teacher_ids[vocabulary.tokenizer.encode(text)].tolist() == whole.encode(text)
    measured = measure(whole, vocabulary, [pa.array(texts), pa.array([other])])
    assert measured.texts_same >= len(texts)
    assert measured.words == sum(len(text.split()) for text in [*texts, other])
    new = vocabulary.teacher_ids[vocabulary.tokenizer.encode(other)].tolist()
    assert (measured.texts_same == len(texts) + 1) == (new == whole.encode(other))


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_of_full_size_is_the_same_tokenizer(kind: str) -> None:
    whole = tiny_tokenizer(kind)
    vocabulary = df.Vocabulary.from_texts(whole, ["some text"], whole.vocab_size)
    assert vocabulary.teacher_ids.tolist() == list(range(whole.vocab_size))
    assert vocabulary.tokenizer.fingerprint == whole.fingerprint
    assert pickle.loads(pickle.dumps(vocabulary)).tokenizer.fingerprint == whole.fingerprint


def test_the_most_frequent_tokens_are_kept_with_the_halves_of_their_merges() -> None:
    whole = tiny_tokenizer("bytes")
    model = json.loads(whole.to_json())["model"]
    counts = np.zeros(whole.vocab_size, np.int64)
    left, right = model["merges"][-1]
    counts[model["vocab"][left + right]] = 7
    kept = set(names(whole, choose_tokens(whole, counts, 1.0)))
    assert {left, right, left + right} <= kept
    assert {*SPECIALS} <= kept
    assert sum(len(token) == 1 for token in kept) == 256


def test_characters_of_the_text_alone() -> None:
    whole = tiny_tokenizer("wordpiece")
    counts = count_tokens(whole, [pa.array(["αβγ text"])])
    every, some = (set(names(whole, choose_tokens(whole, counts, 1.0, which))) for which in ("all", "text"))
    assert "##в" in every
    assert every > some
    assert {"α", "##β", "a", "##z", *SPECIALS} <= some
    assert "##в" not in some
    # Bytes are no characters: without one of them text would be lost without a word.
    counts = count_tokens(tiny_tokenizer("bytes"), [pa.array(["a"])])
    assert len(choose_tokens(tiny_tokenizer("bytes"), counts, 1.0, "text")) == 256 + len(SPECIALS)


def test_what_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    whole = tiny_tokenizer("wordpiece")
    counts = count_tokens(whole, [pa.array(["the text"])])
    cases: list[tuple[Any, str]] = [
        (5, "too small"),
        (10**6, "the model's has"),
        (0.0, "above 0 %"),
        (1.5, "above 0 %"),
    ]
    for size, message in cases:
        with pytest.raises(InputError, match=message):
            choose_tokens(whole, counts, size)
    with pytest.raises(InputError, match="no token"):
        count_tokens(whole, [pa.array(["", "  "])])
    file = tmp_path / "words.txt"
    for lines, message in [
        (["the"], "lacks the special tokens </s>, <mask>, <pad>, <s>, <unk>"),
        ([*SPECIALS, "nowhere", "the"], "1 of its tokens are not in the model's vocabulary, the first 'nowhere'"),
    ]:
        file.write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            read_vocabulary(whole, file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        read_vocabulary(whole, file)


def test_words_from_a_file(tmp_path: Path) -> None:
    whole = tiny_tokenizer("bytes")
    file = tmp_path / "words.txt"
    merge = json.loads(whole.to_json())["model"]["merges"][-1]
    file.write_text("\r\n".join([*SPECIALS, "".join(merge)]) + "\r\n", encoding="utf-8")
    kept, added = read_vocabulary(whole, file)
    assert added == len(kept) - len(SPECIALS) - 1 >= 256
    assert {*SPECIALS, *merge, "".join(merge)} <= set(names(whole, kept))


LANGUAGES = {"en": "xquad/en.txt", "hi": "xquad/hi.txt", "el": "xquad/el.txt", "ko": "ud/UD_Korean-PUD.txt"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_multilingual_vocabulary_of_one_language_is_exact_on_its_text(data_dir: Path, language: str) -> None:
    whole = df.Tokenizer.from_file(data_dir / "vocab" / "bert-base-multilingual-cased.vocab.txt")
    lines = (data_dir / "multilingual" / LANGUAGES[language]).read_text(encoding="utf-8").splitlines()
    vocabulary = trim_tokenizer(
        whole, choose_tokens(whole, count_tokens(whole, [pa.array(lines)]), 1.0, characters="text")
    )
    measured = measure(whole, vocabulary, [pa.array(lines)])
    assert measured.texts_same == measured.texts == len(lines)
    assert measured.coverage == 1
    assert measured.tokens_after == measured.tokens_before
    assert measured.unknown_after == measured.unknown_before
    assert vocabulary.tokenizer.vocab_size < 20_000
