"""The same ids as Hugging Face's `tokenizers`: every scalar value, arbitrary Unicode, mutated real lines, real text."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import distilfast as df
import pytest
import tokenizers
from distilfast import _core
from distilfast.tokenizer import installed_unicode
from hypothesis import given
from hypothesis import strategies as st

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
SCALARS = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [
    *"abcdeijklosß.,!?'-#[]$_日本ー東가ᄀαςσаé\u0301\u302e\u09c7\u09be0123",
    "the",
    "mask",
    "pad",
    "cls",
    "unk",
    "sep",
    "ing",
]


def differing(tok: df.Tokenizer, expected: tokenizers.Tokenizer, texts: list[str]) -> list[str]:
    """The texts whose ids are not those of `expected`."""
    ours = tok.encode_batch(texts)
    values, offsets = ours.values.to_numpy(), ours.offsets.to_numpy()
    found = []
    for start in range(0, len(texts), 1000):
        for row, encoding in enumerate(expected.encode_batch_fast(texts[start : start + 1000]), start):
            if values[offsets[row] : offsets[row + 1]].tolist() != encoding.ids:
                found.append(texts[row])
    return found


def with_library(tok: df.Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(tok.to_json())


def small_tokenizer(lowercase: bool, **normalizer: bool) -> df.Tokenizer:
    """A vocabulary of a few letters, so that words have pieces and are unknown about equally often."""
    vocab = {token: index for index, token in enumerate([*SPECIALS, *PIECES, *("##" + piece for piece in PIECES)])}
    model = tokenizers.models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=20)
    expected = tokenizers.Tokenizer(model)
    expected.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=lowercase, **normalizer)
    expected.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    expected.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    expected.add_special_tokens(SPECIALS)
    tok = df.Tokenizer(expected.to_str())
    assert tok.engine == "wordpiece"
    return tok


SMALL = {
    "uncased": small_tokenizer(True),
    "cased": small_tokenizer(False),
    "cased, stripped": small_tokenizer(False, strip_accents=True),
    "uncased, accents kept": small_tokenizer(True, strip_accents=False),
    "uncased, Chinese not split": small_tokenizer(True, handle_chinese_chars=False),
}
LIBRARY = {name: with_library(tok) for name, tok in SMALL.items()}


@pytest.fixture(scope="module")
def every_scalar() -> dict[str, object]:
    """A `tokenizer.json` whose vocabulary holds scalar values alone and as continuations.

    All of them in the nightly profile. Else those of the planes that have characters: of the others it then shows that
    they are kept, deleted, spaced or alone, and not what they become, which takes a fifth of the time.
    """
    vocab = {"[UNK]": 0}
    for char in SCALARS[1:]:
        if NIGHTLY or char < "\U00032400" or "\U000e0000" <= char < "\U000e0200":
            vocab[char] = len(vocab)
            vocab["##" + char] = len(vocab)
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": vocab,
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": model,
    }


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_scalar_value(every_scalar: dict, lowercase: bool) -> None:
    """All 1,112,064, alone and between letters; with both settings of `lowercase`, and of `strip_accents` with it."""
    every_scalar["normalizer"] |= {"strip_accents": None, "lowercase": lowercase}
    text = json.dumps(every_scalar, ensure_ascii=False)
    ours = _core.Tokenizer(text, installed_unicode())
    assert ours.engine == "wordpiece"
    expected = tokenizers.Tokenizer.from_str(text)
    del text
    for start in range(0, len(SCALARS), 50_000):
        chars = SCALARS[start : start + 50_000]
        # 50 to a row: far fewer calls. What a character does reaches no further than the next space.
        rows = [
            "".join(f" {char} a{char}b" for char in chars[place : place + 50]) for place in range(0, len(chars), 50)
        ]
        ids = ours.encode_batch(rows).to_pylist()
        for row, encoding, found in zip(rows, expected.encode_batch_fast(rows), ids, strict=True):
            assert encoding.ids == found, [f"U+{ord(char):04X}" for char in row]


def any_text() -> st.SearchStrategy[str]:
    """Arbitrary Unicode, mixed with what has rules of its own."""
    odd = (
        "\x00\x0b\x0c\r\n\t\x1c\x7f\x85\xa0\xad\u0130\u0131\u017f\u0344\u0378\u09cb\u1b44\u1e9e\u2028\u200b\u200d\u212b"
    )
    odd += "\u2260\u226e\u1fef\u302e\u302f\u3000\ua953\ufb01\ufeff\ufffd\U0001d15f\U0001d165\U0001d16e"
    fixed = st.sampled_from([*SPECIALS, "[mask]", "[ MASK]", "##ing", "e\u0301" * 25, "a" * 20, "a" * 21, "가" * 12])
    parts = st.one_of(
        st.text(),
        st.text(alphabet=odd + "ab ."),
        st.text(alphabet=st.characters(min_codepoint=0x300, max_codepoint=0x1200, exclude_categories=["Cs"])),
        st.text(alphabet="".join(PIECES)),
        fixed,
    )
    return st.lists(parts, max_size=6).map("".join)


@given(st.lists(any_text(), min_size=1, max_size=20), st.sampled_from(sorted(SMALL)))
def test_any_text(texts: list[str], name: str) -> None:
    assert differing(SMALL[name], LIBRARY[name], texts) == []


@given(st.lists(any_text(), min_size=1, max_size=20), st.integers(2, 12))
def test_any_text_truncated_and_bare(texts: list[str], max_length: int) -> None:
    tok, expected = SMALL["uncased"], LIBRARY["uncased"]
    whole = [expected.encode(text, add_special_tokens=False).ids for text in texts]
    assert tok.encode_batch(texts, add_special_tokens=False).to_pylist() == whole
    cut = [[2, *row[: max_length - 2], 3] for row in whole]
    assert tok.encode_batch(texts, max_length=max_length).to_pylist() == cut


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
    for name, tok in SMALL.items():
        assert differing(tok, LIBRARY[name], texts) == []


def random_unicode(generator: random.Random, count: int) -> Iterator[str]:
    """Strings of 1 to 199 characters from all over Unicode, printable ASCII and spaces the most."""
    spans = [(0x21, 0x7F), (0x20, 0x21), (0, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x590), (0x600, 0x3400)]
    spans += [(0x3400, 0xD800), (0xE000, 0xFFFF), (0x10000, 0x32000)]
    weights = [35, 15, 5, 10, 7, 8, 10, 4, 1, 5]
    for _ in range(count):
        chosen = generator.choices(spans, weights, k=generator.randrange(1, 200))
        yield "".join(chr(generator.randrange(*span)) for span in chosen)


def test_random_unicode(data_dir: Path) -> None:
    tok = df.Tokenizer.from_file(data_dir / "vocab" / "bert-base-multilingual-cased.vocab.txt", lowercase=True)
    texts = list(random_unicode(random.Random(1), 100_000 if NIGHTLY else 2_000))
    assert differing(tok, with_library(tok), texts) == []


def lines_of(folder: Path) -> Iterable[str]:
    """Every line of every text under `folder`; bytes that are not UTF-8 become U+FFFD."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "vocab" not in path.parts and path.name not in ("MANIFEST.tsv", "README.md"):
            yield from path.read_text(encoding="utf-8", errors="replace").split("\n")


VOCABULARIES = ["uncased", "cased", "multilingual-cased", "chinese"]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_real_text(data_dir: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Real text in many languages against four vocabularies: all of it in the nightly profile, else a sample."""
    tok = df.Tokenizer.from_file(data_dir / "vocab" / f"bert-base-{name}.vocab.txt")
    expected = with_library(tok)
    share = 1.0 if NIGHTLY else 0.01
    generator = random.Random(name)
    count, batch, found = 0, [], []
    for line in lines_of(data_dir):
        if generator.random() < share:
            batch.append(line)
        if len(batch) == 50_000:
            found += differing(tok, expected, batch)
            count += len(batch)
            batch = []
    found += differing(tok, expected, batch)
    count += len(batch)
    with capsys.disabled():
        print(f"\n{name}: {len(found)} of {count:,} lines differ from tokenizers {tokenizers.__version__}")
    assert not found, found[:5]


def test_mutated_real_lines(data_dir: Path) -> None:
    """Real lines with characters of any kind put in, taken out, doubled and swapped."""
    generator = random.Random(2)
    lines = [line for line in lines_of(data_dir / "multilingual") if line.strip()]
    lines = generator.sample(lines, 1000 if not NIGHTLY else len(lines))
    texts = []
    for line in lines:
        chars = list(line[:300])
        for _ in range(generator.randrange(1, 12)):
            place = generator.randrange(len(chars) + 1)
            match generator.randrange(4):
                case 0:
                    chars.insert(place, generator.choice(SCALARS))
                case 1:
                    chars.insert(place, generator.choice(["[MASK]", "\u0301", "\u302e", "\x0b", "\xa0", "[", "##"]))
                case 2:
                    del chars[place : place + 1]
                case _:
                    chars[place:place] = chars[place : place + 2][::-1]
        texts.append("".join(chars))
    for name in VOCABULARIES:
        tok = df.Tokenizer.from_file(data_dir / "vocab" / f"bert-base-{name}.vocab.txt")
        assert differing(tok, with_library(tok), texts) == []
