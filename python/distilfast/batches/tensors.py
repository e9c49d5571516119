"""Lists of ids as the tensors that a model takes, and batches brought to a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def padded_batch(rows: Sequence[Any], pad_id: int) -> dict[str, Tensor]:
    """`input_ids` and `attention_mask` [rows, width] int64: `rows`, lists of ids, filled up behind with `pad_id`."""
    ids = [torch.from_numpy(np.asarray(row, np.int64)) for row in rows]
    filled = pad_sequence(ids, batch_first=True, padding_value=pad_id)
    lengths = torch.tensor([len(row) for row in ids])
    return {"input_ids": filled, "attention_mask": (torch.arange(filled.shape[1]) < lengths[:, None]).long()}


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
