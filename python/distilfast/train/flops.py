"""How much arithmetic a distillation step takes, and what share of the device's peak it reaches.

Counted are matrix products alone, two operations a multiply-add: every linear layer of the encoders and heads, and
attention's two products. A backward pass counts twice its forward. Padding is not counted, so a batch with more padding
shows a lower utilisation.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from ..cpu.matmul import multiply
from ..models.families import encoder_of, has_mlm_head, layers_of

# Dense bfloat16 (float16 where there is no bfloat16) peaks in FLOP/s, from the makers' data sheets, by a part of the
# name that the driver reports; the first that fits counts.
KNOWN_PEAKS: tuple[tuple[str, float], ...] = (
    ("B200", 2250e12),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("A100", 312e12),
    ("A10G", 70e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("RTX 4090", 165e12),
    ("V100", 125e12),
    ("T4", 65e12),
)


@dataclass(frozen=True)
class ForwardFlops:
    """The forward pass of one model."""

    per_token: float
    """FLOP per token of text in the encoder's linear layers."""
    per_pair: float
    """FLOP per pair of tokens that attend to each other: a sequence of n tokens has n^2 pairs."""
    per_head_row: float
    """FLOP per row that the MLM head is run on; 0 without one."""
    pruned_per_token: float
    """FLOP per token left out where the last layer stops at the selected rows."""

    def of(self, tokens: float, pairs: float, head_rows: float, pruned: bool = False) -> float:
        """FLOP of a forward pass over `tokens` tokens; with `pruned` the last layer runs on `head_rows` rows alone."""
        spared = self.pruned_per_token * (tokens - head_rows) if pruned else 0.0
        return self.per_token * tokens + self.per_pair * pairs + self.per_head_row * head_rows - spared


def forward_flops(model: PreTrainedModel) -> ForwardFlops:
    """Counted from the linear layers that `model` holds, so right for every family."""
    layers = layers_of(model)
    encoder = encoder_of(model)
    in_encoder = {id(module) for module in encoder.modules()}
    pooler = getattr(encoder, "pooler", None)
    left_out = {id(module) for module in pooler.modules()} if isinstance(pooler, nn.Module) else set()
    encoder_weights = sum(_weights(module) for module in encoder.modules() if id(module) not in left_out)
    head = sum(_weights(module) for module in model.modules() if id(module) not in in_encoder)
    if not has_mlm_head(model):
        head = 0
    hidden = int(model.config.hidden_size)
    # Keys and values are still needed of every token; queries, output projection and feed-forward are not.
    last = sum(_weights(module) for module in layers[-1].modules()) - 2 * hidden * hidden
    return ForwardFlops(2.0 * encoder_weights, 4.0 * hidden * len(layers), 2.0 * head, 2.0 * last)


def _weights(module: nn.Module) -> int:
    return module.weight.numel() if isinstance(module, nn.Linear) else 0


def step_flops(
    student: PreTrainedModel,
    teachers: Sequence[PreTrainedModel],
    tokens: float,
    pairs: float,
    head_rows: float,
    pruned: bool = False,
) -> float:
    """FLOP of the teachers' forward and the student's forward and backward pass; arguments as `ForwardFlops.of`."""
    forward = sum(forward_flops(teacher).of(tokens, pairs, head_rows, pruned) for teacher in teachers)
    return forward + 3.0 * forward_flops(student).of(tokens, pairs, head_rows, pruned)


def known_peak(device: torch.device) -> float | None:
    """The data sheet's bfloat16 peak of a CUDA device in FLOP/s; None where it is not known, as for every CPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in KNOWN_PEAKS if part in name), None)


def measured_peak(device: torch.device, dtype: torch.dtype, size: int = 1024, seconds: float = 0.5) -> float:
    """The fastest that `device` multiplied two [size, size] matrices of `dtype` within `seconds`, in FLOP/s.

    By the kernel that training multiplies with there.
    """
    # Not drawn from torch's generator: what a run draws must not depend on whether this was measured before it.
    left, right = torch.linspace(-1, 1, 2 * size * size, device=device).to(dtype).view(2, size, size).unbind()
    best = float("inf")
    stop = time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < stop:
        _synchronize(device)
        start = time.perf_counter()
        multiply(left, right)
        _synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def device_peak(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[float, str]:
    """The peak in FLOP/s and where it comes from: "known" (data sheet) or "measured" (a product of large matrices)."""
    peak = known_peak(device)
    if peak is not None:
        return peak, "known"
    return measured_peak(device, dtype), "measured"


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
