"""The same ids as Hugging Face's `tokenizers` 0.2x: every scalar value, arbitrary Unicode, real text.

`test_tokenizer_bulk.py` holds millions of texts against it.
"""

from __future__ import annotations

import random
from pathlib import Path

import distilfast as df
import pytest
import tokenizers
from distilfast import _core
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

TOKENIZERS = {name: df.Tokenizer(bert_json(SMALL_VOCABULARY, settings)) for name, settings in SMALL.items()}
LIBRARY = {name: library_of(tok.to_json()) for name, tok in TOKENIZERS.items()}


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_scalar_value(lowercase: bool) -> None:
    """All 1,112,064, alone and between letters; with both settings of `lowercase`, and of `strip_accents` with it."""
    text = scalar_json(lowercase, complete=NIGHTLY)
    ours = _core.Tokenizer(text)
    assert ours.engine == "wordpiece"
    expected = tokenizers.Tokenizer.from_str(text)
    del text
    assert_every_scalar_value(ours, expected)


@given(st.lists(any_text(), min_size=1, max_size=20), st.sampled_from(sorted(SMALL)))
def test_any_text(texts: list[str], name: str) -> None:
    assert TOKENIZERS[name].engine == "wordpiece"
    assert differing(TOKENIZERS[name], LIBRARY[name], texts) == []


@given(st.lists(any_text(), min_size=1, max_size=20), st.integers(2, 12))
def test_any_text_truncated_and_bare(texts: list[str], max_length: int) -> None:
    tok, expected = TOKENIZERS["uncased"], LIBRARY["uncased"]
    whole = [expected.encode(text, add_special_tokens=False).ids for text in texts]
    assert tok.encode_batch(texts, add_special_tokens=False).to_pylist() == whole
    cut = [[2, *row[: max_length - 2], 3] for row in whole]
    assert tok.encode_batch(texts, max_length=max_length).to_pylist() == cut


@pytest.mark.parametrize("simd", ["avx512", "avx2", "neon", "scalar"])
def test_every_instruction_set(simd: str, monkeypatch: pytest.MonkeyPatch, data_dir: Path) -> None:
    """Those that this machine has give the ids of its best; the others are refused by name."""
    path = data_dir / "vocab" / "bert-base-uncased.vocab.txt"
    best = df.Tokenizer.from_file(path)
    texts = list(sample(lines_of(data_dir), 0.002, [simd]))
    expected = best.encode_batch(texts)
    monkeypatch.setenv("DISTILFAST_SIMD", "none")
    with pytest.raises(df.InputError, match=r'DISTILFAST_SIMD="none".*choose among .*scalar') as refused:
        df.Tokenizer.from_file(path)
    monkeypatch.setenv("DISTILFAST_SIMD", simd)
    if simd in str(refused.value):
        assert df.Tokenizer.from_file(path).encode_batch(texts) == expected
    else:
        with pytest.raises(df.InputError, match=f'DISTILFAST_SIMD="{simd}"'):
            df.Tokenizer.from_file(path)


def test_long_rows_and_long_words() -> None:
    """Rows longer than the block of text that is worked on at a time, with and without places to cut them."""
    generator = random.Random(0)
    texts = []
    for size in (16_383, 16_384, 16_385, 40_000, 200_000):
        texts.append("a" * size)
        texts.append("é" * (size // 2))
        texts.append("本" * (size // 3))
        texts.append(" " * size + "b")
        texts.append("".join(generator.choices("ab .\n[MASK]日é", k=size)))
        texts.append("[MASK]" * (size // 6))
        texts.append("." * (size - 3) + "[MASK] a")
    for name, tok in TOKENIZERS.items():
        assert differing(tok, LIBRARY[name], texts) == []


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_vocabulary_is_read_as_hugging_face_reads_it(data_dir: Path, name: str) -> None:
    path = data_dir / "vocab" / f"bert-base-{name}.vocab.txt"
    tok = df.Tokenizer.from_file(path)
    theirs = tokenizers.models.WordPiece.read_file(str(path))
    ours = {token: index for index, token in enumerate(tok._core.tokens())}
    # Theirs takes the white space off that two tokens of `chinese` are; no word of a text is ever white space.
    assert {token.rstrip(): index for token, index in ours.items()} == theirs
    library = tokenizers.BertWordPieceTokenizer(theirs, lowercase=name in ("uncased", "chinese"))
    texts = sample(lines_of(data_dir / "multilingual"), 0.005, [name])
    assert differing(tok, library, [*texts, "The [CLS] of Österreich"]) == []


@pytest.mark.parametrize("name", VOCABULARIES)
def test_real_text(data_dir: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Real text in many languages against four vocabularies: all of it in the nightly profile, else a sample."""
    tok = df.Tokenizer.from_file(data_dir / "vocab" / f"bert-base-{name}.vocab.txt")
    expected = library_of(tok.to_json())
    count, found = 0, []
    for rows in batches(sample(lines_of(data_dir), 1.0 if NIGHTLY else 0.03, [name])):
        found += differing(tok, expected, rows)
        count += len(rows)
    with capsys.disabled():
        print(f"\n{name}: {len(found)} of {count:,} lines differ from tokenizers {tokenizers.__version__}")
    assert not found, found[:5]
