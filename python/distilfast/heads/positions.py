"""Where output distributions are compared: at all tokens, at the masked ones, or at those and a sample of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import InputError
from ..batches.masked import attended
from ..losses.definitions import IGNORED


class Selection(NamedTuple):
    """Rows of a batch and what they count."""

    positions: Tensor
    """[K] int64, flat indices into rows * width; unused entries are 0."""
    kl_weight: Tensor
    """[K] float32, the weight of each row in the KL; 0 for unused entries."""
    labels: Tensor
    """[K] int64, the original id at masked rows, otherwise -100."""
    num_kl_rows: Tensor
    """0-dim, the KL's denominator: its rows in the whole optimiser step."""


def select_positions(batch: Mapping[str, Any], kl_positions: str) -> Selection:
    """The rows of `batch` (of `MaskedBatches`) that the MLM head is run on when not all of them are.

    `masked`: the masked rows, and the KL is their mean. `sampled`: beside them the batch's sample of the others, each
    with the weight (others / drawn). The expectation of the weighted sum over draws is the sum over all attended rows,
    so the KL and its gradient estimate those of `all` without bias, with `all`'s denominator.

    The number of rows depends on the batch's shape alone. Nothing is read back from the device.
    Raises `InputError` for another `kl_positions`, and for `sampled` where the batch holds no sample.
    """
    masked, labels = batch["mlm_positions"], batch["mlm_labels"]
    used = (labels >= 0).float()
    if kl_positions == "masked":
        return Selection(masked, used, labels, batch["num_masked_in_step"])
    if kl_positions != "sampled":
        raise InputError(f"kl_positions={kl_positions!r}: rows are selected for 'masked' and 'sampled' only")
    if "sampled_positions" not in batch:
        raise InputError("kl_positions='sampled': the batches hold no sample; make them with a kl_sample_share above 0")
    sampled, weights = batch["sampled_positions"], batch["sampled_weights"]
    return Selection(
        torch.cat([masked, sampled]),
        torch.cat([used, weights]),
        torch.cat([labels, torch.full_like(sampled, IGNORED)]),
        batch["num_attended_in_step"],
    )


def counted_positions(batch: Mapping[str, Any]) -> Tensor:
    """Which of the N positions the losses over all tokens count: [N] bool.

    The attended ones; none in a batch with a false `is_real`, which only keeps a rank busy while others have a batch.
    """
    counted = attended(batch)
    return counted & batch["is_real"] if "is_real" in batch else counted


def labels_of_all_positions(positions: Tensor, labels: Tensor, count: int) -> Tensor:
    """The labels [K] at `positions` [K] laid out over all positions: [count], -100 everywhere else."""
    # Unused slots share position 0; they are written to a place of their own, which is cut off.
    target = torch.where(labels == IGNORED, count, positions)
    return labels.new_full((count + 1,), IGNORED).scatter(0, target, labels)[:count]
