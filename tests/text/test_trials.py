"""Regular expressions of a `tokenizer.json` that other engines read otherwise: the ids of the installed library."""

from __future__ import annotations

import json

import distilfast as df
import pytest
import tokenizers

TEXTS = ["10 m² ½", "café — €5", "a \nb \nc", "ß ss SS", "a\x85b \u00a0c", "x\r\ny"]
PATTERNS = [
    *(r"\w+|[^\w\s]+", r"\b", r"[[:punct:]]", r"[[:cntrl:]]", r"[[:alpha:]]+", r"\s+$", r"^.", r"(?i)ss", r"(?m).+"),
    *(r"\R", r"\p{L}+|\p{N}", r"\s+(?!\S)|\s+", r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+", r"\h+", r"\X"),
]
VOCABULARY = {"[UNK]": 0}
for text in TEXTS:
    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            VOCABULARY.setdefault(text[start:end], len(VOCABULARY))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("part", ["Split", "Replace"])
def test_a_pattern_matches_what_it_does_there(part: str, pattern: str) -> None:
    regex = {"Regex": pattern}
    split = {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}
    content = json.dumps(
        {
            "version": "1.0",
            "added_tokens": [],
            "normalizer": {"type": "Replace", "pattern": regex, "content": "a"} if part == "Replace" else None,
            "pre_tokenizer": split if part == "Split" else {"type": "WhitespaceSplit"},
            "post_processor": None,
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "[UNK]"},
        }
    )
    theirs, ours = tokenizers.Tokenizer.from_str(content), df.Tokenizer(content)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text).ids
