"""Writes `unicode_tables.rs` from the installed `tokenizers`: `python rust/text/generate_unicode_tables.py`.

`tokenizers` mixes Unicode versions: old categories, newer decompositions, the newest lower-casing. So its tables are
not computed from a Unicode database but read off what it does, for every scalar value: a WordPiece vocabulary that
holds every scalar value alone and as a continuation makes the ids of a text spell out its normalised words.
"""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

# NUL is left out: it cannot be a key of a vocabulary in tokenizers 1.0, and no text keeps it.
SCALARS = [chr(code) for code in range(1, 0x110000) if not 0xD800 <= code <= 0xDFFF]
SURVIVING_CLASS_9, SURVIVING_CLASS_224 = "\u1b44", "\u302e"
SETTINGS = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")

Words = list[str]


class Probe:
    """A tokenizer whose ids spell out the words that `BertNormalizer`, one setting on, and `BertPreTokenizer` make."""

    def __init__(self, vocab: dict[str, int], *on: str) -> None:
        content: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {"type": "BertNormalizer"} | {setting: setting in on for setting in SETTINGS},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": vocab,
            },
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tokenizer.json"
            path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            self.tokenizer = tokenizers.Tokenizer.from_file(str(path))

    def words(self, texts: list[str]) -> Iterator[Words]:
        """The normalised words of each text."""
        for start in range(0, len(texts), 20_000):
            encodings = self.tokenizer.encode_batch(texts[start : start + 20_000])
            for encoding in encodings:
                ids = encoding if isinstance(encoding, list) else encoding.ids
                words: Words = []
                for index in ids:
                    assert index, "an unknown word"
                    char = SCALARS[(int(index) - 1) // 2]
                    if (int(index) - 1) % 2:
                        words[-1] += char
                    else:
                        words.append(char)
                yield words


def between_letters(probe: Probe, chars: list[str]) -> Iterator[tuple[str, Words]]:
    yield from zip(chars, probe.words([f"a{char}b" for char in chars]), strict=True)


def combining_classes(probe: Probe, deleted: set[str], single: list[str]) -> dict[str, int]:
    """The canonical combining class of every nonstarter; of a deleted one only that it is no starter (1).

    `single`: the characters that stay one character. Order shows the class: of two nonstarters the lower comes first.
    """
    after = zip(single, probe.words([f"a{char}{SURVIVING_CLASS_9}" for char in single]), strict=True)
    before = zip(single, probe.words([f"a{SURVIVING_CLASS_224}{char}" for char in single]), strict=True)
    nonstarters = {char for char, words in after if words[0][1:2] == SURVIVING_CLASS_9 and char != SURVIVING_CLASS_9}
    nonstarters |= {char for char, words in before if words[0][-1:] == SURVIVING_CLASS_224 and len(words[0]) == 3}
    nonstarters -= {SURVIVING_CLASS_224}
    nonstarters |= {SURVIVING_CLASS_9, SURVIVING_CLASS_224}
    known = {unicodedata.combining(char): char for char in sorted(nonstarters) if unicodedata.combining(char)}
    classes = {}
    for char in sorted(nonstarters):
        others = sorted(known.items())
        pairs = [text for _, other in others for text in (f"a{char}{other}", f"a{other}{char}")]
        kept = [words == [text] for text, words in zip(pairs, probe.words(pairs), strict=True)]
        same = [value for number, (value, _) in enumerate(others) if kept[2 * number] and kept[2 * number + 1]]
        # One that Python's database does not know yet goes above those that come before it: only the order counts.
        below = [value for number, (value, _) in enumerate(others) if kept[2 * number + 1]]
        classes[char] = same[0] if same else max(below) + 1
    gone = sorted(deleted)
    between = probe.words([f"a{SURVIVING_CLASS_224}{char}{SURVIVING_CLASS_9}" for char in gone])
    for char, words in zip(gone, between, strict=True):
        if words == ["a" + SURVIVING_CLASS_9 + SURVIVING_CLASS_224]:
            classes[char] = 1
    return classes


def ranges(chars: set[str]) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    for code in sorted(map(ord, chars)):
        if spans and spans[-1][1] == code - 1:
            spans[-1] = (spans[-1][0], code)
        else:
            spans.append((code, code))
    return spans


def wrap(name: str, doc: str, kind: str, entries: list[str]) -> str:
    lines, line = [], "   "
    for entry in entries:
        if len(line) + len(entry) + 2 > 118:
            lines.append(line)
            line = "   "
        line += f" {entry},"
    lines.append(line)
    body = "\n".join(lines)
    return f"/// {doc}\n#[rustfmt::skip]\npub const {name}: &[{kind}] = &[\n{body}\n];\n"


def hexadecimal(code: int) -> str:
    return f"0x{code:04X}" if code < 0x100000 else f"0x{code >> 16:04X}_{code & 0xFFFF:04X}"


def main() -> None:
    version = importlib.metadata.version("tokenizers")
    vocab = {"[UNK]": 0}
    for number, char in enumerate(SCALARS):
        vocab[char] = 1 + 2 * number
        vocab["##" + char] = 2 + 2 * number

    plain = Probe(vocab)
    spaces_alone = {char for char, words in between_letters(plain, SCALARS) if words == ["a", "b"]}
    punctuation = {char for char, words in between_letters(plain, SCALARS) if words == ["a", char, "b"]}
    del plain
    clean = Probe(vocab, "clean_text")
    cleaned = dict(between_letters(clean, SCALARS))
    deleted = {char for char, words in cleaned.items() if words == ["ab"]}
    spaces = {char for char, words in cleaned.items() if words == ["a", "b"]}
    assert spaces < spaces_alone
    del clean, cleaned
    chinese_probe = Probe(vocab, "handle_chinese_chars")
    chinese = {
        char for char, words in between_letters(chinese_probe, SCALARS) if words == ["a", char, "b"]
    } - punctuation
    del chinese_probe
    strip = Probe(vocab, "strip_accents")
    stripped = {}
    for char, words in between_letters(strip, SCALARS):
        if char in spaces_alone:
            continue
        result = "".join(words)[1:-1]
        if result != char and not "\uac00" <= char <= "\ud7a3":
            stripped[char] = result
    marks = {char for char, result in stripped.items() if not result}
    single = [char for char in SCALARS if char not in stripped and char not in spaces_alone and char not in punctuation]
    single = [char for char in single if not "\uac00" <= char <= "\ud7a3"]
    classes = combining_classes(strip, marks, single)
    del strip
    lower_probe = Probe(vocab, "lowercase")
    lower = {}
    for char, words in between_letters(lower_probe, SCALARS):
        result = "".join(words)[1:-1]
        if result != char and char not in spaces_alone:
            lower[char] = result

    def spans(chars: set[str]) -> list[str]:
        return [f"({hexadecimal(first)}, {hexadecimal(last)})" for first, last in ranges(chars)]

    def mapping(table: dict[str, str]) -> list[str]:
        escaped = {char: "".join(f"\\u{{{ord(c):X}}}" for c in result) for char, result in table.items()}
        return [f'({hexadecimal(ord(char))}, "{result}")' for char, result in sorted(escaped.items())]

    parts = [
        f"//! Generated by `generate_unicode_tables.py` from what tokenizers {version} does; do not edit.\n",
        wrap("DELETED", "What `clean_text` deletes, NUL included.", "(u32, u32)", spans(deleted | {"\0"})),
        wrap("SPACES", "What `clean_text` turns into a space.", "(u32, u32)", spans(spaces)),
        wrap("CHINESE", "What `handle_chinese_chars` puts spaces round.", "(u32, u32)", spans(chinese)),
        wrap("PUNCTUATION", "What `BertPreTokenizer` isolates.", "(u32, u32)", spans(punctuation)),
        wrap(
            "STRIPPED",
            "What `strip_accents` changes, Hangul syllables aside, and into what.",
            "(u32, &str)",
            mapping(stripped),
        ),
        wrap(
            "COMBINING_CLASSES",
            "Nonstarters and their canonical combining classes; 1 for any that `strip_accents` deletes.",
            "(u32, u8)",
            [f"({hexadecimal(ord(char))}, {value})" for char, value in sorted(classes.items())],
        ),
        wrap("LOWER", "What `lowercase` changes, and into what.", "(u32, &str)", mapping(lower)),
    ]
    path = Path(__file__).parent / "unicode_tables.rs"
    path.write_text("\n".join(parts), encoding="utf-8")
    print(
        f"{path}: {len(deleted)} deleted, {len(spaces)} spaces, {len(chinese)} Chinese, "
        f"{len(punctuation)} punctuation, {len(stripped)} stripped, "
        f"{len(classes)} nonstarters, {len(lower)} lower-cased"
    )


if __name__ == "__main__":
    main()
