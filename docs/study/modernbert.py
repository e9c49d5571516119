"""`python docs/study/modernbert.py CHECKOUT`: our packed batches against ModernBERT's sequence packer, in turns.

CHECKOUT is one of github.com/AnswerDotAI/ModernBERT; numba has to be installed. The rows are those of `bench batches`,
with lengths as Wikipedia has them.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from distilfast.bench.batches import MASK, Arguments, Contestant, Vocabulary, ours, race, wikipedia_like

SOURCE = Path("src") / "sequence_packer.py"


def load_packer(checkout: str) -> Any:
    """The module `src/sequence_packer.py` of a checkout.

    It takes two names from MosaicML's composer, one for an annotation and one for a batch-size warm-up that is not used
    here: an empty module stands in for composer. numba, which compiles its search for the best fit, has to be there.
    """
    path = Path(checkout) / SOURCE
    if not path.is_file():
        raise SystemExit(f"{checkout}: there is no {SOURCE}; give a checkout of AnswerDotAI/ModernBERT")
    if importlib.util.find_spec("numba") is None:
        raise SystemExit(f"{checkout}: its packer needs numba; pip install numba")
    core, kinds = types.ModuleType("composer.core"), types.ModuleType("composer.core.types")
    core.Time, kinds.Batch = object, object  # type: ignore[attr-defined]
    stand_ins = {"composer": types.ModuleType("composer"), "composer.core": core, "composer.core.types": kinds}
    for name, module in stand_ins.items():
        sys.modules.setdefault(name, module)
    spec = importlib.util.spec_from_file_location("modernbert_sequence_packer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Source:
    """Lists of `size` rows as the packer reads them: dictionaries with an array of ids each."""

    def __init__(self, column: pa.LargeListArray, size: int) -> None:
        ids, offsets = column.values.to_numpy(), np.asarray(column.offsets)
        order = np.random.default_rng(0).permutation(len(column))
        self._rows = [{"input_ids": ids[offsets[row] : offsets[row + 1]]} for row in order]
        self._size = size

    def __len__(self) -> int:
        return -(-len(self._rows) // self._size)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return (self._rows[start : start + self._size] for start in range(0, len(self._rows), self._size))


def packed_batches(packer: Any, column: pa.LargeListArray, bins: int, size: int, mask_id: int) -> Iterator[int]:
    """The number of tokens of each batch of `bins` bins of `size`, for ever."""
    batches = packer.GreedyBestFitSequencePacker(
        Source(column, 512), 512, 512, bins, size, 5120, pad_token_id=0, mask_token_id=mask_id, mask_prob=0.15
    )
    while True:
        for batch in batches:
            yield int(batch["attention_mask"].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="Our packed batches against ModernBERT's sequence packer, in turns.")
    parser.add_argument("checkout", help="a checkout of github.com/AnswerDotAI/ModernBERT")
    parser.add_argument("--rows", type=int, default=50_000, help="rows of synthetic lengths")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each; the median is shown")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    arguments = Arguments(rows=flags.rows, rounds=flags.rounds)
    packer, column = load_packer(flags.checkout), wikipedia_like(flags.rows)
    contestants = [ours("distilfast packed, uniform", column, Vocabulary(), arguments, layout="packed")[0]]
    for bins in (4, 16):
        batches = partial(packed_batches, packer, column, bins, arguments.batch_tokens, MASK)
        contestants.append(Contestant(f"ModernBERT packer, {bins} bins", batches))
    race(contestants, arguments)
    rates = {each.name: statistics.median(each.rates) for each in contestants}
    for name, rate in rates.items():
        print(f"{name:32} {rate:8.2f} M tokens/s, 1 core")
    first, *packers = rates.values()
    print(f"ours is {first / max(packers):.1f}x the packer at its better number of bins")


if __name__ == "__main__":
    main()
