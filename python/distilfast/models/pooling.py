"""From the states of tokens to the vector of a sentence: pooling, then dense layers and the norm of 1, as
sentence-transformers computes them (Reimers and Gurevych, "Sentence-BERT", 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .._core import InputError

Pooling = Literal["mean", "cls", "max", "mean_sqrt_len_tokens", "lasttoken"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.SiLU": nn.SiLU,
}
"""The activations of a dense layer by the name that its config.json has for them."""


class Dense(nn.Module):
    """A linear layer and an activation; `activation` is a key of `ACTIVATIONS`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "torch.nn.modules.linear.Identity",
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.activation_name = activation
        self.activation = ACTIVATIONS[activation]()

    def forward(self, vectors: Tensor) -> Tensor:
        # Computed in the vectors' dtype also where training runs on bfloat16 copies of the weights.
        weight = self.linear.weight.to(vectors.dtype)
        bias = None if self.linear.bias is None else self.linear.bias.to(vectors.dtype)
        made: Tensor = self.activation(F.linear(vectors, weight, bias))
        return made


class Normalize(nn.Module):
    """Vectors of length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)


class SentenceModules(nn.Module):
    """What follows the encoder of `hidden_size`: `pooling` (several are laid side by side), then `steps` in order, each
    a `Dense` or a `Normalize`.

    Raises `InputError` for a pooling that is not known, and for dense layers of other widths than what they get.
    """

    def __init__(self, hidden_size: int, pooling: Sequence[str] = ("mean",), steps: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.pooling = tuple(pooling)
        for each in self.pooling:
            if each not in POOLINGS:
                raise InputError(f"pooling {each!r} is not known; it is {', '.join(POOLINGS)}")
        self.steps = nn.ModuleList(steps)
        width = hidden_size * len(self.pooling)
        for step in steps:
            if isinstance(step, Dense):
                if step.linear.in_features != width:
                    raise InputError(
                        f"a dense layer takes vectors of {step.linear.in_features} numbers and gets {width}; the "
                        "folder's parts are of different models"
                    )
                width = step.linear.out_features
        self.width = width

    @property
    def normalizes(self) -> bool:
        """Whether the vectors have length 1."""
        return bool(len(self.steps)) and isinstance(self.steps[-1], Normalize)

    def forward(self, states: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """`states` [rows, width, hidden size] of a padded batch (`attention_mask` [rows, width]), or [1, N, hidden
        size] of a packed one (`cu_seqlens` [C + 1]) -> vectors [rows or C, `self.width`], in float32 at least."""
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        if "cu_seqlens" in batch:
            vectors = _pool_packed(states[0], batch["cu_seqlens"], self.pooling)
        else:
            vectors = _pool_padded(states, batch["attention_mask"], self.pooling)
        for step in self.steps:
            vectors = step(vectors)
        return vectors


def _pool_padded(states: Tensor, mask: Tensor, pooling: Sequence[str]) -> Tensor:
    weight = mask[..., None].to(states.dtype)
    count = weight.sum(1).clamp(min=1e-9)
    pooled = []
    for kind in pooling:
        if kind == "cls":
            pooled.append(states[:, 0])
        elif kind == "max":
            pooled.append(states.masked_fill(weight == 0, -1e9).amax(1))
        elif kind == "lasttoken":
            last = mask.shape[1] - 1 - mask.long().flip(1).argmax(1)
            pooled.append(states[torch.arange(len(states), device=states.device), last])
        else:
            pooled.append((states * weight).sum(1) / (count if kind == "mean" else count.sqrt()))
    return torch.cat(pooled, dim=-1)


def _pool_packed(states: Tensor, cu_seqlens: Tensor, pooling: Sequence[str]) -> Tensor:
    bounds = cu_seqlens.long()
    count = len(bounds) - 1
    owner = torch.searchsorted(bounds[1:], torch.arange(len(states), device=states.device), right=True)
    owner = owner.clamp(max=count - 1)
    length = (bounds[1:] - bounds[:-1]).clamp(min=1)[:, None].to(states.dtype)
    first = bounds[:-1].clamp(max=len(states) - 1)
    last = (bounds[1:] - 1).clamp(min=0)
    pooled = []
    for kind in pooling:
        if kind == "cls":
            pooled.append(states[first])
        elif kind == "lasttoken":
            pooled.append(states[last])
        elif kind == "max":
            spread = owner[:, None].expand_as(states)
            empty = states.new_full((count, states.shape[1]), -1e9)
            pooled.append(empty.scatter_reduce(0, spread, states, reduce="amax"))
        else:
            total = states.new_zeros(count, states.shape[1]).index_add(0, owner, states)
            pooled.append(total / (length if kind == "mean" else length.sqrt()))
    return torch.cat(pooled, dim=-1)
