"""Hugging Face's `tokenizers`, 0.2x or 1.x, whichever is installed, as the judge of our ids."""

from __future__ import annotations

import tempfile
from itertools import chain
from pathlib import Path

import distilfast as df
import numpy as np
import tokenizers
from distilfast import _core
from tokenizer_texts import scalar_rows


def library_of(json_text: str) -> tokenizers.Tokenizer:
    """What the installed `tokenizers` makes of a `tokenizer.json`; 1.x has no `from_str`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_text(json_text, encoding="utf-8")
        return tokenizers.Tokenizer.from_file(str(path))


def library_ids(library: tokenizers.Tokenizer, texts: list[str]) -> list[list[int]]:
    """The ids of each text, a thousand at a time; `encode_batch_fast` is what 1.x calls `encode_batch`."""
    encode = getattr(library, "encode_batch_fast", library.encode_batch)
    return [row.ids for start in range(0, len(texts), 1000) for row in encode(texts[start : start + 1000])]


def assert_every_scalar_value(ours: _core.Tokenizer, library: tokenizers.Tokenizer) -> None:
    """The ids of all 1,112,064 scalar values, alone and between letters, are those of `library`."""
    for rows in scalar_rows():
        ids = ours.encode_batch(rows).to_pylist()
        for row, wanted, found in zip(rows, library_ids(library, rows), ids, strict=True):
            assert wanted == found, [f"U+{ord(char):04X}" for char in row]


def differing(tok: df.Tokenizer, library: tokenizers.Tokenizer, texts: list[str]) -> list[str]:
    """The texts whose ids are not those of `library`."""
    found = tok.encode_batch(texts)
    values, offsets = found.values.to_numpy(), found.offsets.to_numpy()
    expected = library_ids(library, texts)
    flat = np.fromiter(chain.from_iterable(expected), values.dtype)
    lengths = np.fromiter(map(len, expected), offsets.dtype, len(expected))
    if np.array_equal(np.diff(offsets), lengths) and np.array_equal(values[offsets[0] : offsets[-1]], flat):
        return []
    return [text for text, ours, theirs in zip(texts, found.to_pylist(), expected, strict=True) if ours != theirs]
