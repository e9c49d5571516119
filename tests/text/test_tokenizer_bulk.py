"""Strings in bulk against the installed `tokenizers`: random Unicode and real lines with random changes.

In the nightly profile 20 million of them, else a few thousand. The strings of a seed are always the same.
"""

from __future__ import annotations

from pathlib import Path

import distilfast as df
import pytest
import tokenizers
from tokenizer_oracle import differing, library_of
from tokenizer_texts import NIGHTLY, SMALL, SMALL_VOCABULARY, VOCABULARIES, bert_json, bulk

COUNT = 20_000_000 if NIGHTLY else 60_000
BATCH = 50_000 if NIGHTLY else 3_000


def test_bulk(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each batch goes to the next of nine tokenizers: four real vocabularies, five settings of a small one."""
    toks = [df.Tokenizer.from_file(data_dir / "vocab" / f"bert-base-{name}.vocab.txt") for name in VOCABULARIES]
    toks += [df.Tokenizer(bert_json(SMALL_VOCABULARY, settings)) for settings in SMALL.values()]
    libraries = [library_of(tok.to_json()) for tok in toks]
    paths = sorted((data_dir / "multilingual").rglob("*.txt"))
    real = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
    assert real
    count, found = 0, []
    for number, rows in enumerate(bulk(1, COUNT, real, BATCH)):
        # Two batches in a row, one of each kind, go to the same tokenizer.
        place = number // 2 % len(toks)
        found += differing(toks[place], libraries[place], rows)
        count += len(rows)
    with capsys.disabled():
        print(f"\n{len(found)} of {count:,} strings differ from tokenizers {tokenizers.__version__}")
    assert not found, found[:5]
