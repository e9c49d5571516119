"""The teacher's linear layers in float8: half the bytes of bfloat16 and, on hardware that has it, twice the arithmetic.

Weights are rounded once, with a scale for each row; what comes in is rounded on the way, with a scale for each token,
so that the largest number of a row becomes the largest that e4m3 holds, 448 (Micikevicius et al. 2022, "FP8 Formats for
Deep Learning"). Everything else of the teacher, and all of the student, stays as it was. What this does to the
teacher's distributions is measured before it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._core import InputError
from ..models.attention import model_inputs
from ..models.families import encoder_of, has_mlm_head, layers_of, mlm_decoder, mlm_transform

FORMAT = torch.float8_e4m3fn
LARGEST = torch.finfo(FORMAT).max
SMALLEST_SCALE = 1e-12  # of a row of zeros
MULTIPLE = 16  # what the hardware's float8 products want of both sides of a weight
LEAST_CAPABILITY = (9, 0)  # of a GPU: scales by row came with Hopper


def round_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows` [N, K] as float8 [N, K] and float32 scales [N, 1], with rows about float8 * scale."""
    rows = rows.float()
    scale = rows.abs().amax(dim=-1, keepdim=True).div_(LARGEST).clamp_(min=SMALLEST_SCALE)
    return (rows / scale).to(FORMAT), scale


class Float8Linear(nn.Linear):
    """`nn.Linear` for inference with a float8 weight [out, in] and its `scale` [1, out], float32."""

    scale: Tensor

    def forward(self, states: Tensor) -> Tensor:
        rounded, scale = round_rows(states.flatten(0, -2))
        bias = None if self.bias is None else self.bias.to(states.dtype)
        product = torch._scaled_mm(
            rounded, self.weight.t(), scale_a=scale, scale_b=self.scale, bias=bias, out_dtype=states.dtype
        )
        return product.view(*states.shape[:-1], -1)


def _to_float8(layer: Any) -> None:
    weight, scale = round_rows(layer.weight.detach())
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.register_buffer("scale", scale.t(), persistent=False)
    layer.__class__ = Float8Linear


def _back(layer: Any, weight: Tensor, before: type) -> None:
    layer.__class__ = before
    del layer.scale
    layer.weight = weight


def _layers(teacher: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers of the encoder that float8 serves.

    Without ModernBERT's last fused projection, of which the pruned layer takes parts.
    """
    fused = getattr(getattr(layers_of(teacher)[-1], "attn", None), "Wqkv", None)
    return [
        module
        for module in encoder_of(teacher).modules()
        if isinstance(module, nn.Linear)
        and module is not fused
        and module.in_features % MULTIPLE == 0
        and module.out_features % MULTIPLE == 0
    ]


def use_float8(teacher: PreTrainedModel, batch: Mapping[str, Any], most_kl: float) -> float:
    """Puts the linear layers of `teacher`'s encoder in float8 and returns what that changes.

    The change is KL(before || after) of the teacher's distributions over the vocabulary at temperature 1, in nats, mean
    over the masked tokens of `batch`, which is one of `MaskedBatches` on the teacher's device.

    Raises `InputError` where it is above `most_kl`, with the teacher as it was; where no layer has sides that are
    multiples of 16; and for a teacher without a masked-language-model head, which has no distribution.
    """
    if not has_mlm_head(teacher):
        raise InputError(
            f"{type(teacher).__name__} has no masked-language-model head, so nothing says what float8 changes; leave "
            "--teacher_fp8 out"
        )
    layers = _layers(teacher)
    if not layers:
        raise InputError(
            f"{type(teacher).__name__} has no linear layer with sides that are multiples of {MULTIPLE}; leave "
            "--teacher_fp8 out"
        )
    before = _distributions(teacher, batch)
    kept = [(layer.weight, type(layer)) for layer in layers]
    for layer in layers:
        _to_float8(layer)
    after = _distributions(teacher, batch)
    change = float(F.kl_div(after, before, reduction="batchmean", log_target=True))
    if not change <= most_kl:
        for layer, (weight, before_it) in zip(layers, kept, strict=True):
            _back(layer, weight, before_it)
        raise InputError(
            f"in float8 the teacher's distributions are {change:.2g} nats (KL) from its own, more than "
            f"--teacher_fp8_kl {most_kl:g}; leave --teacher_fp8 out, or allow more"
        )
    return change


@torch.inference_mode()
def _distributions(teacher: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Logarithms of the probabilities at the masked tokens of `batch`: [masked, vocabulary] float32."""
    states = encoder_of(teacher)(**model_inputs(teacher, batch)).last_hidden_state.flatten(0, 1)
    masked = batch["mlm_positions"][batch["mlm_labels"] >= 0]
    return F.log_softmax(mlm_decoder(teacher)(mlm_transform(teacher, states[masked])).float(), dim=-1)


def refuse_without_float8(device: torch.device) -> None:
    """Raises `InputError` where float8 would be slower than what it replaces."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= LEAST_CAPABILITY:
        return
    least, here = ".".join(map(str, LEAST_CAPABILITY)), device.type
    if device.type == "cuda":
        here = f"{torch.cuda.get_device_name(device)}, {'.'.join(map(str, torch.cuda.get_device_capability(device)))}"
    raise InputError(f"--teacher_fp8 needs a GPU of compute capability {least} or more; here is {here}")
