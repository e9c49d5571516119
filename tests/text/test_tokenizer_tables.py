"""The engine against its tables, read and applied one character at a time: every scalar value.

The tables are what a release of `tokenizers` was seen to do (`generate_unicode_tables.py`), so this holds `hf-1.0` to
its release where another one is installed; `test_tokenizer_exact.py` holds the installed one to itself.
"""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path

import pytest
from distilfast import _core
from tokenizer_texts import SCALARS, scalar_json, scalar_rows

RUST = Path(__file__).parents[2] / "rust"
TABLES = {"hf-0.23": "unicode_tables.rs", "hf-1.0": "unicode_tables_hf_1_0.rs"}
SPACE = (" ", False)

Piece = tuple[str, bool]
"""A normalised character, and whether it is a word of its own; `SPACE` ends a word."""


class Tables:
    """What each character becomes, by the definition of `BertNormalizer` and `BertPreTokenizer`."""

    def __init__(self, profile: str, lowercase: bool) -> None:
        text = (RUST / "text" / TABLES[profile]).read_text(encoding="utf-8")
        self.blocks = dict(re.findall(r"pub const (\w+): .*? = &\[\n(.*?)\n\];", text, re.S))
        self.deleted, self.spaces, self.chinese, self.punctuation = map(
            self.characters, ("DELETED", "SPACES", "CHINESE", "PUNCTUATION")
        )
        stripped, lower = self.mapping("STRIPPED"), self.mapping("LOWER")
        self.stripped, self.lower = (stripped, lower) if lowercase else ({}, {})
        for code in range(0xAC00, 0xD7A4) if lowercase else ():
            self.stripped[chr(code)] = hangul(code - 0xAC00)

    def characters(self, name: str) -> set[str]:
        spans = re.findall(r"\((0x[\dA-F_]+), (0x[\dA-F_]+)\)", self.blocks[name])
        return {chr(code) for first, last in spans for code in range(int(first, 16), int(last, 16) + 1)}

    def mapping(self, name: str) -> dict[str, str]:
        pairs = re.findall(r'\((0x[\dA-F_]+), "((?:\\u\{[\dA-F]+\})*)"\)', self.blocks[name])
        return {
            chr(int(code, 16)): "".join(chr(int(one, 16)) for one in re.findall(r"\{([\dA-F]+)\}", result))
            for code, result in pairs
        }

    def changed(self) -> set[str]:
        """All characters that the tables name."""
        return {*self.deleted, *self.spaces, *self.chinese, *self.punctuation, *self.stripped, *self.lower}

    def pieces(self, char: str) -> list[Piece]:
        if char in self.deleted:
            return []
        if char in self.spaces:
            return [SPACE]
        result = "".join(self.lower.get(one, one) for one in self.stripped.get(char, char))
        pieces = [(one, one in self.punctuation) for one in result]
        return [SPACE, *pieces, SPACE] if char in self.chinese else pieces


def hangul(index: int) -> str:
    tail = index % 28
    return chr(0x1100 + index // 588) + chr(0x1161 + index % 588 // 28) + (chr(0x11A7 + tail) if tail else "")


def words_of(pieces: list[Piece]) -> list[str]:
    words = [""]
    for char, alone in pieces:
        if (char, alone) == SPACE:
            words.append("")
        elif alone:
            words += [char, ""]
        else:
            words[-1] += char
    return [word for word in words if word]


def ids_of(word: str, vocab: dict[str, int]) -> list[int]:
    """The vocabulary has single characters only; a word that holds another is unknown."""
    ids = [vocab.get(word[0]), *(vocab.get("##" + char) for char in word[1:])]
    return [vocab["[UNK]"]] if None in ids else [index for index in ids if index is not None]


@pytest.mark.parametrize("lowercase", [True, False])
def test_every_scalar_value(lowercase: bool) -> None:
    """Alone and between letters; with both settings of `lowercase`, and of `strip_accents` with it."""
    text = scalar_json(lowercase, complete=False)
    ours = _core.Tokenizer(text, "hf-1.0")
    assert ours.engine == "wordpiece"
    vocab: dict[str, int] = json.loads(text)["model"]["vocab"]
    tables = Tables("hf-1.0", lowercase)
    a, b = vocab["a"], vocab["##b"]
    unknown = [vocab["[UNK]"]] * 2
    expected = {char: [vocab[char], a, vocab["##" + char], b] if char in vocab else unknown for char in SCALARS}
    for char in tables.changed():
        pieces = tables.pieces(char)
        words = [*words_of(pieces), *words_of([("a", False), *pieces, ("b", False)])]
        expected[char] = [index for word in words for index in ids_of(word, vocab)]
    start = 0
    for rows in scalar_rows():
        ids = ours.encode_batch(rows).values.to_pylist()
        chars = SCALARS[start : start + 50 * len(rows)]
        start += len(chars)
        if ids != list(chain.from_iterable(expected[char] for char in chars)):
            found = ours.encode_batch([f" {char} a{char}b" for char in chars]).to_pylist()
            differing = [char for char, row in zip(chars, found, strict=True) if row != expected[char]]
            raise AssertionError([f"U+{ord(char):04X}" for char in differing])
    assert start == len(SCALARS)


def test_the_profiles_differ_in_164_characters() -> None:
    """141 more marks of punctuation in 1.0, two fewer, and 21 characters that it takes apart."""
    old, new = Tables("hf-0.23", lowercase=True), Tables("hf-1.0", lowercase=True)
    differing = [char for char in old.changed() | new.changed() if old.pieces(char) != new.pieces(char)]
    assert len(differing) == 164
    assert len(new.punctuation - old.punctuation) == 141
    assert old.punctuation - new.punctuation == {"\u166d", "\U000111c9"}
    assert "\u061d" in new.punctuation
