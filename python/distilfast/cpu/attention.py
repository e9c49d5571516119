"""Attention for training on the CPU: four matrix products and a softmax, written out with their backward pass.

torch's flash attention has a backward pass on the CPU that takes about ten times as long as its forward pass, and with
dropout it gives way to a path that is slower still. Here scores are held, [rows, heads, queries, keys] in the dtype of
the model, as in transformers' eager attention; masks of dropout come from `dropout`.

Registered with transformers as `distilfast_cpu`. Where nothing is to be differentiated, on other devices and while a
graph is captured, it is SDPA.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .dropout import dropout_mask, has_masks

CPU_ATTENTION = "distilfast_cpu"


def cpu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it: [rows, heads, tokens, head_dim] each, `attention_mask` bool or None.

    Returns [rows, queries, heads, head_dim].
    """
    if not can_attend(query, key) or getattr(module, "is_causal", False):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    return attend(query, key, value, attention_mask, dropout, scaling).transpose(1, 2), None


def can_attend(query: Tensor, key: Tensor) -> bool:
    """Whether `attend` is the one to take: training on the CPU, outside any graph, as many heads of keys as queries."""
    return has_masks(query) and torch.is_grad_enabled() and query.requires_grad and query.shape[1] == key.shape[1]


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """softmax(query key^T scaling) value with dropout of the probabilities: [rows, heads, queries, head_dim].

    `mask`, broadcastable to [rows, heads, queries, keys]: bool, true where a query sees a key, or numbers that are
    added to the scores. A query that sees no key sees all alike.
    """
    if mask is not None and mask.dtype == torch.bool:
        smallest = torch.finfo(query.dtype).min
        mask = torch.zeros(mask.shape, dtype=query.dtype).masked_fill_(~mask, smallest)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Drawn outside the function: autograd must find the same in the backward pass.
    shape = (*query.shape[:3], key.shape[2])
    factors = dropout_mask(shape, dropout, query.dtype) if dropout else None
    return cast(Tensor, cast(Any, _Attention).apply(query * scaling, key, value, mask, factors))


class _Attention(torch.autograd.Function):
    """softmax(query key^T + mask) * factors @ value."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, factors: Tensor | None
    ) -> Tensor:
        shape = query.shape
        query, key, value = (states.reshape(-1, *states.shape[2:]) for states in (query, key, value))
        scores = torch.bmm(query, key.transpose(1, 2))
        if mask is not None:
            scores.view(*shape[:3], -1).add_(mask)
        probabilities = torch.softmax(scores, dim=-1, out=scores)
        ctx.save_for_backward(query, key, value, probabilities, factors)
        used = probabilities if factors is None else probabilities * factors.view_as(probabilities)
        return torch.bmm(used, value).view(*shape[:3], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, probabilities, factors = ctx.saved_tensors
        shape = gradients[0].shape
        gradient = gradients[0].reshape(-1, *shape[2:])
        of_used = torch.bmm(gradient, value.transpose(1, 2))
        used = probabilities
        if factors is not None:
            factors = factors.view_as(probabilities)
            used = probabilities * factors
            of_used.mul_(factors)
        of_value = torch.bmm(used.transpose(1, 2), gradient)
        of_scores = torch._softmax_backward_data(of_used, probabilities, -1, probabilities.dtype)
        of_query = torch.bmm(of_scores, key)
        of_key = torch.bmm(of_scores.transpose(1, 2), query)
        rows, heads = shape[:2]
        found = (each.view(rows, heads, *each.shape[1:]) for each in (of_query, of_key, of_value))
        return *found, None, None


AttentionInterface.register(CPU_ATTENTION, cpu_attention)
AttentionMaskInterface.register(CPU_ATTENTION, sdpa_mask)


def use_cpu_attention(model: PreTrainedModel) -> None:
    """Makes `model` train with `attend` where it would train with SDPA; another attention that was chosen stays."""
    if model.config._attn_implementation == "sdpa" and getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation(CPU_ATTENTION)
