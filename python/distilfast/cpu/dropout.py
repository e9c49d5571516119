"""Dropout: none at all, or on the CPU with masks from our own generator, several times as fast as torch's.

A mask is a function of one number drawn from torch's generator, so `torch.manual_seed` and the random state in a
checkpoint fix it, whatever the number of threads. On other devices, and while a graph is captured, torch's own dropout
runs.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _core

LEVELS = 1 << 16  # chances are multiples of 1 / LEVELS
_BITS = {2: torch.uint16, 4: torch.uint32}


def dropout_mask(shape: tuple[int, ...] | torch.Size, dropout: float, dtype: torch.dtype) -> Tensor:
    """A tensor of `shape` on the CPU: 0 with probability `dropout`, to within 2^-17, otherwise 1 / (1 - `dropout`).

    `dtype` is float32, bfloat16 or float16; `dropout` is below 1. Draws one number from torch's default generator.
    """
    mask = torch.empty(shape, dtype=dtype)
    seed = int(torch.randint(2**63 - 1, ()).item())
    bits = mask.view(-1).view(_BITS[dtype.itemsize]).numpy()
    dropped = round(dropout * LEVELS)
    _core.fill_dropout_mask(bits, seed, dropped, _bits_of(1.0 / (1.0 - dropout), dtype), torch.get_num_threads())
    return mask


@functools.lru_cache(maxsize=64)
def _bits_of(value: float, dtype: torch.dtype) -> int:
    return int(torch.tensor([value], dtype=dtype).view(_BITS[dtype.itemsize]).item())


def has_masks(states: Tensor) -> bool:
    """Whether `dropout_mask` serves `states`: real numbers on the CPU that it has a format for, outside any graph."""
    if torch.compiler.is_compiling():
        return False
    return states.device.type == "cpu" and states.dtype in (torch.float32, torch.bfloat16, torch.float16)


class CPUDropout(nn.Dropout):
    """`nn.Dropout` with `dropout_mask` where that can be used."""

    def forward(self, states: Tensor) -> Tensor:
        if not self.training or not 0.0 < self.p < 1.0 or not has_masks(states):
            return F.dropout(states, self.p, self.training, self.inplace)
        return states * dropout_mask(states.shape, self.p, states.dtype)


def use_cpu_dropout(model: nn.Module) -> None:
    """Gives `model`'s dropout layers the faster masks; their probabilities and everything else stay."""
    for module in model.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CPUDropout


def remove_dropout(model: nn.Module) -> None:
    """Makes `model` compute in training as in evaluation.

    Its configuration keeps its dropout, so that a saved model fine-tunes as its family does.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]
