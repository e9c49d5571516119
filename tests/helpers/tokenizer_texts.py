"""Texts to hold a tokeniser against: every scalar value, arbitrary Unicode, real lines, and real lines mutated."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
SCALARS = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARIES = ["uncased", "cased", "multilingual-cased", "chinese"]
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


# What has rules of its own: controls, spaces, marks, what decomposes, what lower-cases to several, what is deleted.
ODD = (
    "\x00\x0b\x0c\r\n\t\x1c\x7f\x85\xa0\xad\u0130\u0131\u017f\u0301\u0344\u0378\u09cb\u1b44\u1e9e\u2028\u200b\u200d\u212b"
    "\u2260\u226e\u1fef\u302e\u302f\u3000\ua953\ufb01\ufeff\ufffd\U0001d15f\U0001d165\U0001d16e"
)
SPANS = [(0x21, 0x7F), (0x20, 0x21), (0, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x590), (0x600, 0x3400)]
SPANS += [(0x3400, 0xD800), (0xE000, 0xFFFF), (0x10000, 0x32000), (0x32000, 0x10FFFE)]
WEIGHTS = [34, 15, 4, 10, 7, 8, 10, 4, 1, 5, 2]


def any_text() -> st.SearchStrategy[str]:
    """Arbitrary Unicode, mixed with what has rules of its own."""
    fixed = st.sampled_from([*SPECIALS, "[mask]", "[ MASK]", "##ing", "e\u0301" * 25, "a" * 20, "a" * 21, "가" * 12])
    parts = st.one_of(
        st.text(),
        st.text(alphabet=ODD + "ab ."),
        st.text(alphabet=st.characters(min_codepoint=0x300, max_codepoint=0x1200, exclude_categories=["Cs"])),
        st.text(alphabet="".join(PIECES)),
        fixed,
    )
    return st.lists(parts, max_size=6).map("".join)


def scalar_rows(rows_at_once: int = 1000) -> Iterator[list[str]]:
    """Every scalar value alone and between letters, 50 to a row: what a character does ends at the next space."""
    for start in range(0, len(SCALARS), 50 * rows_at_once):
        chars = SCALARS[start : start + 50 * rows_at_once]
        yield ["".join(f" {char} a{char}b" for char in chars[place : place + 50]) for place in range(0, len(chars), 50)]


def random_code_points(generator: np.random.Generator, count: int) -> npt.NDArray[np.uint32]:
    """`count` code points from all over Unicode, printable ASCII and spaces the most."""
    low, high = np.array(SPANS).T
    span = generator.choice(len(SPANS), count, p=np.array(WEIGHTS) / sum(WEIGHTS))
    drawn = low[span] + (generator.random(count) * (high - low)[span]).astype(np.int64)
    odd = generator.random(count) < 0.05
    drawn[odd] = generator.choice([ord(char) for char in ODD], int(odd.sum()))
    return drawn.astype(np.uint32)


def mutated_code_points(
    generator: np.random.Generator, real: npt.NDArray[np.uint32], count: int
) -> npt.NDArray[np.uint32]:
    """`count` code points, or somewhat fewer, of a stretch of real text in which some are other ones and some gone."""
    start = int(generator.integers(max(1, len(real) - count)))
    text = real[start : start + count].copy()
    changed = generator.random(len(text)) < 0.04
    text[changed] = random_code_points(generator, int(changed.sum()))
    return text[generator.random(len(text)) >= 0.02]


def bulk(seed: int, count: int, real: str, batch: int = 50_000, mean_length: int = 20) -> Iterator[list[str]]:
    """At least `count` strings in batches: by turns random Unicode, and stretches of `real` with random changes.

    Seeded, and made a batch at a time, so that millions take little longer than what is done with them.
    """
    generator = np.random.default_rng(seed)
    end = 0x10FFFE  # ends a string; a code point that no text has and that `scalar_rows` has
    points = np.frombuffer(real.encode("utf-32-le"), np.uint32)
    made = 0
    while made < count:
        size = batch * mean_length
        draw = random_code_points(generator, size), mutated_code_points(generator, points, size)
        for text in draw:
            text[generator.random(len(text)) < 1 / mean_length] = end
            rows = text.tobytes().decode("utf-32-le").split(chr(end))
            made += len(rows)
            yield rows


def lines_of(folder: Path) -> Iterable[str]:
    """Every line of every text under `folder`; bytes that are not UTF-8 become U+FFFD."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "vocab" not in path.parts and path.name not in ("MANIFEST.tsv", "README.md"):
            yield from path.read_text(encoding="utf-8", errors="replace").split("\n")


def batches(lines: Iterable[str], size: int = 50_000) -> Iterator[list[str]]:
    batch = []
    for line in lines:
        batch.append(line)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch


def sample(lines: Iterable[str], share: float, seed: Sequence[object]) -> Iterator[str]:
    """About `share` of the lines; all where it is 1."""
    generator = random.Random(repr(seed))
    return (line for line in lines if share >= 1 or generator.random() < share)


def scalar_json(lowercase: bool, complete: bool) -> str:
    """A `tokenizer.json` whose vocabulary holds scalar values alone and as continuations.

    `complete`: all of them but NUL. Else those of the planes that have characters: of the others it then shows that
    they are kept, deleted, spaced or alone, and not what they become, which takes a fifth of the time.
    """
    chars = [char for char in SCALARS[1:] if complete or char < "\U00032400" or "\U000e0000" <= char < "\U000e0200"]
    pieces = [piece for char in chars for piece in (char, "##" + char)]
    normalizer = {"strip_accents": None, "lowercase": lowercase}
    return bert_json(["[UNK]", *pieces], normalizer, added=[], max_chars=100)


def bert_json(
    vocab: Sequence[str],
    normalizer: dict[str, bool | None],
    added: Sequence[dict[str, Any]] | None = None,
    max_chars: int = 20,
) -> str:
    """A `tokenizer.json` of BERT's kind; the id of a token is its place in `vocab`.

    `added`: None for BERT's special tokens; `lowercase`, `strip_accents` and so on of `normalizer` over BERT's own.
    """
    ids = {token: index for index, token in enumerate(dict.fromkeys(vocab))}
    if added is None:
        added = [added_token(token, special=True) for token in SPECIALS]
    last = len(ids)
    content = []
    for token in added:
        known = ids.get(token["content"], last)
        content.append({"id": known, **token})
        last += known == last
    ends = {"type": "BertProcessing", "sep": ["[SEP]", ids.get("[SEP]")], "cls": ["[CLS]", ids.get("[CLS]")]}
    usual = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": content,
            "normalizer": {"type": "BertNormalizer", **usual, **normalizer},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": ends if "[SEP]" in ids else None,
            "decoder": None,
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": max_chars,
                "vocab": ids,
            },
        },
        ensure_ascii=False,
    )


def added_token(content: str, **flags: bool) -> dict[str, Any]:
    """An added token of a `tokenizer.json`, all flags False but those given."""
    usual = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"content": content, **usual, **flags}


SMALL = {
    "uncased": {"lowercase": True},
    "cased": {"lowercase": False},
    "cased, stripped": {"lowercase": False, "strip_accents": True},
    "uncased, accents kept": {"lowercase": True, "strip_accents": False},
    "uncased, Chinese not split": {"lowercase": True, "handle_chinese_chars": False},
}
"""Settings of a normaliser by name."""
SMALL_VOCABULARY = [*SPECIALS, *PIECES, *("##" + piece for piece in PIECES)]
"""A few letters, so that words have pieces and are unknown about equally often."""
