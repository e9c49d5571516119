"""Where output distributions are compared: at all tokens, at the masked ones, or at those and a sample of the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import InputError

KL_POSITIONS = ("all", "masked", "sampled")


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


def select_positions(batch: Mapping[str, Any], kl_positions: str, share: float = 0.15, seed: int = 0) -> Selection:
    """The rows of `batch` (of `MaskedBatches`) that the MLM head is run on when not all of them are.

    `masked`: the masked rows, and the KL is their mean. `sampled`: beside them, of the others that are attended to,
    ceil(share * rows * width) drawn without replacement (all, where there are fewer), each with the weight
    (others / drawn). The expectation of the weighted sum over draws is the sum over all attended rows, so the KL and
    its gradient estimate those of `all` without bias, with `all`'s denominator. The draw is a pure function of `seed`
    and the batch's ids: no state, the same on every device and after every resume.

    The number of rows depends on the batch's shape alone. Nothing is read back from the device.
    Raises `InputError` for another `kl_positions` and a share outside (0, 1].
    """
    masked, labels = batch["mlm_positions"], batch["mlm_labels"]
    used = labels >= 0
    if kl_positions == "masked":
        return Selection(masked, used.float(), labels, batch["num_masked_in_step"])
    if kl_positions != "sampled":
        raise InputError(f"kl_positions={kl_positions!r}: rows are selected for 'masked' and 'sampled' only")
    if not 0.0 < share <= 1.0:
        raise InputError(f"the share of unmasked tokens to sample is {share}, outside (0, 1]")
    others = attended(batch)
    # Unused entries name position 0, which may be attended to: it stays among the others.
    hidden = torch.zeros_like(others, dtype=torch.int64).scatter_add(0, masked, used.long()) > 0
    others = others & ~hidden
    count = others.sum()
    draws = math.ceil(share * others.numel())
    keys = _random_keys(batch["input_ids"].reshape(-1), seed).masked_fill(~others, -1)
    drawn_keys, drawn = keys.topk(draws)
    valid = drawn_keys >= 0
    weight = (count / count.clamp(max=draws)).nan_to_num() * valid
    return Selection(
        torch.cat([masked, torch.where(valid, drawn, 0)]),
        torch.cat([used.float(), weight.float()]),
        torch.cat([labels, torch.full_like(drawn, -100)]),
        batch["num_attended_in_step"],
    )


def attended(batch: Mapping[str, Any]) -> Tensor:
    """[rows * width] bool: the tokens of the batch that are text, and not padding."""
    if "attention_mask" in batch:
        mask: Tensor = batch["attention_mask"]
        return mask.flatten().bool()
    input_ids: Tensor = batch["input_ids"]
    return torch.arange(input_ids.numel(), device=input_ids.device).lt(batch["num_tokens"])


def counted_positions(batch: Mapping[str, Any]) -> Tensor:
    """Which of the N positions the losses over all tokens count: [N] bool.

    The attended ones; none in a batch with a false `is_real`, which only keeps a rank busy while others have a batch.
    """
    counted = attended(batch)
    return counted & batch["is_real"] if "is_real" in batch else counted


def labels_of_all_positions(positions: Tensor, labels: Tensor, count: int) -> Tensor:
    """The labels [K] at `positions` [K] laid out over all positions: [count], -100 everywhere else."""
    # Unused slots share position 0; they are written to a place of their own, which is cut off.
    target = torch.where(labels == -100, count, positions)
    return labels.new_full((count + 1,), -100).scatter(0, target, labels)[:count]


def _random_keys(input_ids: Tensor, seed: int) -> Tensor:
    """[N] int64 in [0, 2^62): one pseudo-random number a position, from the seed, the position and all ids.

    The multiply-xorshift finaliser of SplitMix64 (Steele, Lea and Flood 2014) over a sum of position times id.
    """
    position = torch.arange(1, input_ids.numel() + 1, device=input_ids.device)
    content = (_mix(position) * (input_ids + 1)).sum()
    return _mix(_mix(content + seed) + position * -7046029254386353131) >> 1 & (2**62 - 1)


def _mix(state: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose multiplication wraps; logical shifts are made of arithmetic ones."""
    state = (state ^ (state >> 30 & (2**34 - 1))) * -4658895280553007687
    state = (state ^ (state >> 27 & (2**37 - 1))) * -7723592293110705685
    return state ^ (state >> 31 & (2**33 - 1))
