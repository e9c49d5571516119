"""Regular expressions of a `tokenizer.json` that other engines read otherwise: the ids of the installed library."""

from __future__ import annotations

import json
from pathlib import Path

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


@pytest.mark.parametrize("name", ["BertTokenizer", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("setting", ["do_lower_case", "strip_accents", "tokenize_chinese_chars", "none"])
def test_a_file_and_its_folder_agree_or_it_is_said(
    setting: str, name: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the The cafe caf\u00e9 \u4e2d \u6587 \u4e2d\u6587"
    (tmp_path / "words.txt").write_text("\n".join(words.split()) + "\n")
    made = df.Tokenizer.from_file(tmp_path / "words.txt", lowercase=True)
    made.save_pretrained(tmp_path / "folder")
    content = json.loads((tmp_path / "folder" / "tokenizer.json").read_text())
    content["normalizer"]["strip_accents"] = True
    (tmp_path / "folder" / "tokenizer.json").write_text(json.dumps(content))
    config = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
    config = {**config, setting: False, "tokenizer_class": name} if setting != "none" else config
    (tmp_path / "folder" / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None})
    )
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    caplog.clear()
    file = df.Tokenizer.from_file(tmp_path / "folder" / "tokenizer.json")
    said = f"has {setting}=False" in caplog.text
    folder = df.Tokenizer.from_pretrained(tmp_path / "folder")
    text = "The caf\u00e9 \u4e2d\u6587"
    assert said == (file.encode(text) != folder.encode(text))
