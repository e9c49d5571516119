"""How much of the batches is padding, on lengths like Wikipedia's and on WikiText-2: bounds that users count on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from distilfast import MaskedBatches, Tokenizer
from distilfast._core import plan_lengths
from distilfast.batches.masked import MAX_SHAPES
from distilfast.bench.batches_plan import wikipedia_lengths


def share_of_padding(lengths: np.ndarray, batch_tokens: int, packed: bool) -> float:
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
    return 1 - plan_lengths(offsets, batch_tokens, 512, packed, MAX_SHAPES)[1]


@pytest.mark.parametrize(
    ("rows", "padded", "packed"), [(20_000, 0.02, 0.006), (50_000, 0.02, 0.006), (500_000, 0.015, 0.001)]
)
def test_padding_of_lengths_like_wikipedias(rows: int, padded: float, packed: float) -> None:
    lengths = wikipedia_lengths(rows)
    assert share_of_padding(lengths, 16384, packed=False) < padded
    assert share_of_padding(lengths, 16384, packed=True) < packed


@pytest.mark.parametrize("batch_tokens", [512, 1024, 4096])
def test_small_bins_are_filled_too(batch_tokens: int) -> None:
    """Bins of few rows each, down to one that the longest row fills alone."""
    assert share_of_padding(wikipedia_lengths(50_000), batch_tokens, packed=True) < 0.006


@pytest.mark.parametrize(("layout", "most"), [("padded", 0.02), ("packed", 0.006)])
def test_padding_of_wikitext(data_dir: Path, tmp_path: Path, layout: str, most: float) -> None:
    (tmp_path / "vocab.txt").write_bytes((data_dir / "vocab" / "bert-base-uncased.vocab.txt").read_bytes())
    tok = Tokenizer.from_pretrained(str(tmp_path))
    lines = (data_dir / "wikitext-2" / "wiki.train.tokens").read_text(encoding="utf-8").splitlines()
    ids = tok.encode_batch([line for line in lines if len(line) > 60], max_length=512)
    batches = MaskedBatches(pa.table({"input_ids": ids}), tok, batch_tokens=16384, layout=layout)
    assert len(batches.shapes) <= MAX_SHAPES + 1
    assert batches.padding < most
