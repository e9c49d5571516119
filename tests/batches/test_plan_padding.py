"""How much of the batches is padding, on lengths like Wikipedia's and on WikiText-2: bounds that users count on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from distilfast import MaskedBatches, Tokenizer
from distilfast.bench.batches import Vocabulary, rows_of

MOST_WIDTHS = 80


def share_of_padding(rows: int, batch_tokens: int, layout: str) -> float:
    batches = MaskedBatches(rows_of(rows, 999), Vocabulary(), batch_tokens=batch_tokens, layout=layout)
    assert len(batches.shapes) <= MOST_WIDTHS + 1
    return batches.padding


@pytest.mark.parametrize(
    ("rows", "padded", "packed"), [(20_000, 0.02, 0.006), (50_000, 0.02, 0.006), (500_000, 0.015, 0.001)]
)
def test_padding_of_lengths_like_wikipedias(rows: int, padded: float, packed: float) -> None:
    assert share_of_padding(rows, 16384, "padded") < padded
    assert share_of_padding(rows, 16384, "packed") < packed


@pytest.mark.parametrize("batch_tokens", [512, 1024, 4096])
def test_small_bins_are_filled_too(batch_tokens: int) -> None:
    """Bins of few rows each, down to one that the longest row fills alone."""
    assert share_of_padding(50_000, batch_tokens, "packed") < 0.006


@pytest.mark.parametrize(("layout", "most"), [("padded", 0.02), ("packed", 0.006)])
def test_padding_of_wikitext(data_dir: Path, tmp_path: Path, layout: str, most: float) -> None:
    (tmp_path / "vocab.txt").write_bytes((data_dir / "vocab" / "bert-base-uncased.vocab.txt").read_bytes())
    tok = Tokenizer.from_pretrained(str(tmp_path))
    lines = (data_dir / "wikitext-2" / "wiki.train.tokens").read_text(encoding="utf-8").splitlines()
    ids = tok.encode_batch([line for line in lines if len(line) > 60], max_length=512)
    batches = MaskedBatches(pa.table({"input_ids": ids}), tok, batch_tokens=16384, layout=layout)
    assert len(batches.shapes) <= MOST_WIDTHS + 1
    assert batches.padding < most
