"""A sample of unmasked positions added to a batch that was not made by `MaskedBatches`."""

from __future__ import annotations

import math
from typing import Any

import torch
from distilfast.batches.masked import attended


def with_sample(batch: dict[str, Any], share: float, seed: int = 0) -> dict[str, Any]:
    """The batch and, of its attended positions that are not masked, a sample as `MaskedBatches` gives one."""
    used = batch["mlm_labels"] >= 0
    others = attended(batch).clone()
    others[batch["mlm_positions"][used]] = False
    left = others.nonzero().flatten()
    places = math.ceil(share * others.numel())
    drawn = left[torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))[:places]].sort().values
    positions, weights = torch.zeros(places, dtype=torch.int64), torch.zeros(places)
    positions[: len(drawn)] = drawn
    weights[: len(drawn)] = len(left) / len(drawn)
    return {**batch, "sampled_positions": positions, "sampled_weights": weights}
