"""Padding on a GPU: one mask for all layers and models of a batch, made without waiting for the device.

transformers looks whether a batch has padding at all before it makes a mask, once for each mask and model: on a GPU
each look waits until all that was launched is done, so that the student cannot be launched while the teacher runs. And
its masks are bool: the attention of every layer makes numbers of them, in a copy whose rows start at whole 16 bytes.

Registered with transformers as `distilfast_padded`: SDPA, with masks that are those numbers already. A model that uses
it takes every input that it takes with SDPA.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import bidirectional_mask_function, sdpa_mask

PADDED = "distilfast_padded"
ALIGNED = 16  # numbers: attention kernels read biases whose rows start at multiples of it as they lie


class _Latest:
    """The masks of the latest padding, which teachers and student share."""

    def __init__(self) -> None:
        self.padding: weakref.ref[Tensor] | None = None
        self.version = 0
        self.masks: dict[Any, Tensor] = {}

    def of(self, padding: Tensor) -> dict[Any, Tensor]:
        """The masks made of `padding` as it is now, by what else they depend on."""
        if self.padding is None or self.padding() is not padding or self.version != padding._version:
            self.padding, self.version, self.masks = weakref.ref(padding), padding._version, {}
        return self.masks


_latest = _Latest()


def padding_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    *,
    attention_mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    allow_is_bidirectional_skip: bool = False,
    **options: Any,
) -> Tensor | None:
    """As `transformers.masking_utils.sdpa_mask`, but for numbers of `dtype` that are added to the scores: 0 where a
    query sees a key, else the least of `dtype`; [rows, 1, 1, keys] where all queries of a row see the same keys.

    `attention_mask` [rows, keys] bool: the tokens that are text. Masks of the same tensor are the same tensor.
    """
    sizes: dict[str, Any] = {"batch_size": batch_size, "q_length": q_length, "kv_length": kv_length}
    if attention_mask is None or not allow_is_bidirectional_skip:
        found: Tensor | None = sdpa_mask(
            **sizes, attention_mask=attention_mask, allow_is_bidirectional_skip=allow_is_bidirectional_skip, **options
        )
        return found
    if torch.compiler.is_compiling() or attention_mask.is_inference():
        return _added(_visible(attention_mask, sizes, options), dtype)
    masks = _latest.of(attention_mask)
    key = *sizes.values(), dtype, options.get("local_size") or options.get("mask_function")
    if key not in masks:
        # A teacher runs in inference mode, and the student's backward pass cannot keep what was made there.
        with torch.inference_mode(False), torch.no_grad():
            masks[key] = _added(_visible(attention_mask, sizes, options), dtype)
    return masks[key]


def _visible(padding: Tensor, sizes: dict[str, Any], options: dict[str, Any]) -> Tensor:
    """[rows, 1, queries, keys] bool: which keys a query sees; [rows, 1, 1, keys] where the padding alone says so."""
    if options.get("mask_function") is bidirectional_mask_function and padding.shape[1] == sizes["kv_length"]:
        return padding[:, None, None, :]
    return cast(Tensor, sdpa_mask(**sizes, attention_mask=padding, **options))


def _added(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """`visible` as numbers to add, in rows that start at multiples of `ALIGNED`."""
    keys = visible.shape[-1]
    room = torch.zeros((*visible.shape[:-1], -(-keys // ALIGNED) * ALIGNED), dtype=dtype, device=visible.device)
    return room[..., :keys].masked_fill_(~visible, torch.finfo(dtype).min)


AttentionInterface.register(PADDED, sdpa_attention_forward)
AttentionMaskInterface.register(PADDED, padding_mask)


def use_padding_mask(model: PreTrainedModel) -> None:
    """Makes `model` use these masks where it would use those of SDPA; another attention that was chosen stays."""
    if model.config._attn_implementation == "sdpa" and getattr(model, "_supports_attention_backend", False):
        model.set_attn_implementation(PADDED)


def with_shared_padding(batch: Mapping[str, Any], models: Sequence[PreTrainedModel]) -> Mapping[str, Any]:
    """`batch` with an `attention_mask` that all `models` take as it is, so that they share the masks made of it; as it
    was where there is none, or one of them has masks of its own."""
    if "attention_mask" not in batch or any(model.config._attn_implementation != PADDED for model in models):
        return batch
    return {**batch, "attention_mask": batch["attention_mask"].bool()}
