"""ModernBERT's sequence packer, out of a checkout of github.com/AnswerDotAI/ModernBERT, as a contestant."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .._core import InputError

SOURCE = Path("src") / "sequence_packer.py"


def load_packer(checkout: str) -> Any:
    """The module `src/sequence_packer.py` of a checkout.

    It takes two names from MosaicML's composer, one for an annotation and one for a batch-size warm-up that is not used
    here: an empty module stands in for composer. numba, which compiles its search for the best fit, has to be there.
    """
    path = Path(checkout) / SOURCE
    if not path.is_file():
        raise InputError(f"--modernbert {checkout}: there is no {SOURCE}; give a checkout of AnswerDotAI/ModernBERT")
    if importlib.util.find_spec("numba") is None:
        raise InputError(f"--modernbert {checkout}: its packer needs numba; pip install numba")
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
