"""The profile `hf-1.0` against `tokenizers` 1.x: every scalar value, arbitrary Unicode, real text.

Needs that release in front of the usual one, which `transformers` asks for:

    pip install --no-deps --target FOLDER tokenizers==1.0.0rc3
    PYTHONPATH=FOLDER pytest tests/test_tokenizer_hf_1_0.py tests/test_tokenizer_bulk.py
"""

from __future__ import annotations

from pathlib import Path

import distilfast as df
import pytest
import tokenizers
from distilfast import _core
from distilfast.tokenizer import installed_unicode
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_oracle import assert_every_scalar_value, differing, library_of
from tokenizer_texts import (
    NIGHTLY,
    SMALL,
    SMALL_VOCABULARY,
    VOCABULARIES,
    any_text,
    batches,
    bert_json,
    lines_of,
    sample,
    scalar_json,
)


@pytest.fixture(scope="module", autouse=True)
def release() -> str:
    if tokenizers.__version__.startswith("0."):
        pytest.skip(f"needs tokenizers 1.x, not {tokenizers.__version__}: see the head of this file")
    return tokenizers.__version__


def test_the_profile_is_that_of_the_installed_release() -> None:
    assert installed_unicode() == "hf-1.0"
    tok = df.Tokenizer(bert_json(SMALL_VOCABULARY, SMALL["uncased"]))
    assert (tok.unicode, tok.engine) == ("hf-1.0", "wordpiece")


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_scalar_value(lowercase: bool) -> None:
    """All 1,112,064, alone and between letters."""
    text = scalar_json(lowercase, complete=True)
    ours, expected = _core.Tokenizer(text, "hf-1.0"), library_of(text)
    assert ours.engine == "wordpiece"
    assert_every_scalar_value(ours, expected)


@given(st.lists(any_text(), min_size=1, max_size=20), st.sampled_from(sorted(SMALL)))
def test_any_text(texts: list[str], name: str) -> None:
    tok, library = pair(name)
    assert differing(tok, library, texts) == []


KNOWN: dict[str, tuple[df.Tokenizer, tokenizers.Tokenizer]] = {}


def pair(name: str) -> tuple[df.Tokenizer, tokenizers.Tokenizer]:
    """Our tokenizer with the settings of that name, and theirs."""
    if name not in KNOWN:
        text = bert_json(SMALL_VOCABULARY, SMALL[name])
        KNOWN[name] = df.Tokenizer(text, unicode="hf-1.0"), library_of(text)
    return KNOWN[name]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_real_text(data_dir: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All of the text in the nightly profile, else a sample."""
    tok = df.Tokenizer.from_file(data_dir / "vocab" / f"bert-base-{name}.vocab.txt")
    assert tok.unicode == "hf-1.0"
    expected = library_of(tok.to_json())
    count, found = 0, []
    for rows in batches(sample(lines_of(data_dir), 1.0 if NIGHTLY else 0.05, [name])):
        found += differing(tok, expected, rows)
        count += len(rows)
    with capsys.disabled():
        print(f"\n{name}: {len(found)} of {count:,} lines differ from tokenizers {tokenizers.__version__}")
    assert not found, found[:5]
