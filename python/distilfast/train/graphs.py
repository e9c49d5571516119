"""What CUDA graphs ask of a training loop whose step `torch.compile` records, as it does in the mode reduce-overhead.

A recorded step writes its outputs to the same memory each time it is replayed. So the loop says where a replay begins,
keeps copies of losses that it looks at later, and has gradients added up in memory that is not the recording's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

RECORDING_MODES = ("reduce-overhead", "max-autotune")
"""Modes of `torch.compile` that record CUDA graphs."""


def records_graphs(mode: str | None, backend: str | None, device: torch.device) -> bool:
    """Whether a step that is compiled so is recorded and replayed."""
    return device.type == "cuda" and (backend == "cudagraphs" or mode in RECORDING_MODES)


def begin_replay(parameters: Iterable[nn.Parameter]) -> None:
    """Before each micro-batch: what an earlier replay wrote may be written over.

    A parameter without a gradient gets zeros: autograd would otherwise keep the recording's own memory as its gradient,
    and the next micro-batch write over that.
    """
    cast(Any, torch.compiler).cudagraph_mark_step_begin()
    for parameter in parameters:
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def kept(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the losses, detached, that outlive the next replay."""
    return {name: loss.detach().clone() for name, loss in losses.items()}
