"""Attention over sequences laid end to end, without padding: CUDA's varlen kernel, or one SDPA call a sequence on CPU.

Registered with transformers' `AttentionInterface` as `distilfast_packed`, so BERT, DistilBERT, RoBERTa, ELECTRA and
ModernBERT run unpadded with their own code. Packing fails in silence when a model does not hand on what tells the
sequences apart, so `check_packed` compares packed with padded on the loaded model and refuses a difference.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from .._core import InputError
from ..batches.tensors import on_device, padded_batch
from ..cpu.attention import attend, can_attend
from .families import evaluating, model_input_names, position_offset

PACKED = "distilfast_packed"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each of the sequences that `cu_seq_lens_q` [C+1] int32 cuts the N packed tokens into.

    `query`, `key`, `value`: [1, heads, N, head_dim]; the result is [1, N, heads, head_dim]. `sliding_window` counts as
    in transformers: a token sees `sliding_window - 1` tokens to each side. Raises `InputError` for a batch that is not
    packed, since without its boundaries every token would see every other.
    """
    if cu_seq_lens_q is None or max_length_q is None or attention_mask is not None:
        raise InputError(
            "packed attention got a padded batch (no cu_seq_lens_q, or an attention_mask); give it the inputs that "
            "model_inputs() makes of a packed batch, or build the batches with layout='packed'"
        )
    side = -1 if sliding_window is None else sliding_window - 1
    if not query.is_cuda:
        return _attend_by_sequence(query, key, value, cu_seq_lens_q, dropout, scaling, side), None
    if dropout:
        raise InputError(
            f"packed attention on CUDA has no dropout, and this model asks for {dropout}: call use_packed(model), "
            "which turns attention dropout off"
        )
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (states.transpose(1, 2)[0] for states in (query, key, value))  # views [N, heads, head_dim]
    output = varlen_attn(
        q, k, v, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling, window_size=(side, side)
    )
    return cast(Tensor, output)[None], None


def _attend_by_sequence(
    query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor, dropout: float, scaling: float | None, side: int
) -> Tensor:
    """SDPA on every sequence by itself; torch has no varlen kernel on CPU."""
    bounds = cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(bounds) if end > start]  # without the unused tail
    outputs = []
    # Split at once: backward then joins the gradients, instead of adding one of full length for each sequence.
    for q, k, v in zip(*(torch.split(states, lengths, dim=2) for states in (query, key, value)), strict=True):
        mask = None
        if 0 <= side < q.shape[2] - 1:
            position = torch.arange(q.shape[2], device=query.device)
            mask = (position[:, None] - position[None, :]).abs() <= side
        if can_attend(q, k):
            attended = attend(q, k, v, mask, dropout, scaling)
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling)
        outputs.append(attended.transpose(1, 2))
    return torch.cat(outputs, dim=1)


AttentionInterface.register(PACKED, packed_attention)


def choose_layout(
    models: Sequence[PreTrainedModel], dtype: torch.dtype, device: torch.device
) -> tuple[Literal["padded", "packed"], str | None]:
    """The layout of batches that suits `models`, computed with in `dtype` on `device`, and what there is to say of it:
    packed on CUDA, where every model can run so; padded elsewhere."""
    if device.type != "cuda":
        return "padded", None
    try:
        for model in models:
            refuse_unless_packed(model, dtype, device)
    except InputError as error:
        return "padded", f"--layout padded: {error}"
    return "packed", "--layout packed: no padding, and attention dropout is off; --layout padded has it"


def refuse_unless_packed(
    model: PreTrainedModel, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> None:
    """Raises `InputError` for a model whose attention transformers cannot replace (DeBERTa, say), and what
    `check_packed` raises."""
    if not getattr(model, "_supports_attention_backend", False):
        raise InputError(
            f"{type(model).__name__} does not let its attention be replaced, so it cannot run unpadded; "
            "use the padded layout"
        )
    check_packed(model, dtype, device)


def use_packed(model: PreTrainedModel, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
    """Makes `model` run on packed batches, its attention dropout off (the varlen kernel has none).

    `dtype`, `device`: what it will compute in and where (None: as it is), for `check_packed`. The configuration keeps
    its dropout, so that a saved model fine-tunes as its family does. Raises what `refuse_unless_packed` raises.
    """
    refuse_unless_packed(model, dtype, device)
    model.set_attn_implementation(PACKED)
    for module in _attention_modules(model):
        if isinstance(getattr(module, "dropout", None), nn.Dropout):
            module.dropout.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), (int, float)):
            module.attention_dropout = 0.0


def _attention_modules(model: nn.Module) -> Iterator[Any]:
    """The modules that call the attention function: those whose class is named after attention and that drop out."""
    for module in model.modules():
        drops = isinstance(getattr(module, "dropout", None), nn.Dropout) or hasattr(module, "attention_dropout")
        if drops and type(module).__name__.endswith("Attention"):
            yield module


def model_inputs(model: PreTrainedModel, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `model`'s forward for a batch of `MaskedBatches`, padded or packed, or of labelled rows.

    Token types are handed on where the batch has them and the model tells them apart (`model_input_names`). Positions
    are given where the model would otherwise guess them: in a packed batch, and for the RoBERTa family in a batch of
    masked words: it counts them from the ids and would be off by one behind a [PAD] that masking drew as a random
    token. What stands in labelled rows was written there, and is counted as everyone does. Raises `InputError`
    for a packed batch and a model whose attention does not tell its sequences apart.
    """
    input_ids = batch["input_ids"]
    offset = position_offset(model)
    if "cu_seqlens" in batch:
        kind = str(model.config._attn_implementation)
        if kind != PACKED and "flash" not in kind:
            raise InputError(
                f"a packed batch for a {type(model).__name__} whose attention ({kind}) would let every text see the "
                "others; call models.adapt(..., layout='packed') first, or use the padded layout"
            )
        cu_seqlens, longest = batch["cu_seqlens"], batch["max_seqlen"]
        return {
            "input_ids": input_ids,
            "position_ids": batch["position_ids"] + offset if offset else batch["position_ids"],
            "cu_seq_lens_q": cu_seqlens,
            "cu_seq_lens_k": cu_seqlens,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    inputs = {"input_ids": input_ids, "attention_mask": batch["attention_mask"]}
    if "token_type_ids" in batch and "token_type_ids" in model_input_names(model):
        inputs["token_type_ids"] = batch["token_type_ids"]
    if offset and "mlm_positions" in batch:
        positions = torch.arange(offset, offset + input_ids.shape[1], device=input_ids.device)
        inputs["position_ids"] = positions.expand_as(input_ids)
    return inputs


@torch.no_grad()
def check_packed(
    model: PreTrainedModel,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
    lengths: tuple[int, ...] = (7, 12, 3, 10),
) -> None:
    """Refuses a model that does not compute the same unpadded as padded.

    Two comparisons on random ids, in `dtype` and on `device` (None: the model's own; a copy of its encoder is compared
    where they differ): the last hidden states packed against padded, within rounding; and the first sequence packed
    beside two different sets of neighbours, which must not change a single bit by more than rounding. Raises
    `InputError` with the size of the difference, and for float32 on CUDA, which the varlen kernel does not compute in.
    """
    encoder = cast(PreTrainedModel, model.base_model)
    dtype, device = dtype or encoder.dtype, device or encoder.device
    if device.type == "cuda" and dtype not in (torch.bfloat16, torch.float16):
        raise InputError(
            f"attention without padding computes in bfloat16 or float16 on CUDA, not in {dtype}; use --precision bf16, "
            "or the padded layout"
        )
    if (dtype, device.type) != (encoder.dtype, encoder.device.type):
        encoder = cast(Any, copy.deepcopy(encoder)).to(device=device, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    vocab_size = int(encoder.config.vocab_size)
    pad = int(getattr(encoder.config, "pad_token_id", None) or 0)
    sequences = [torch.randint(vocab_size, (length,), generator=generator) for length in lengths]
    others = [sequences[0], *(torch.randint(vocab_size, (length,), generator=generator) for length in lengths[1:])]
    # Of a few dozen operations. Attention across sequences changes far more; in bfloat16, 64 times eps would be a half.
    rounding = min(64 * torch.finfo(dtype).eps, 0.05)

    with evaluating(encoder):
        rows = padded_batch(sequences, pad)
        with _attention(encoder, "sdpa"):
            reference = encoder(**model_inputs(encoder, on_device(rows, device))).last_hidden_state
            reference = torch.cat([row[:length] for row, length in zip(reference, lengths, strict=True)]).float()
        with _attention(encoder, PACKED):
            states = [
                encoder(**model_inputs(encoder, on_device(pack(parts, pad), device))).last_hidden_state[0].float()
                for parts in (sequences, others)
            ]
    packed, beside_others = (each[: sum(lengths)] for each in states)
    scale = reference.norm()
    difference = float((packed - reference).norm() / scale)
    first = slice(0, lengths[0])
    leak = float((packed[first] - beside_others[first]).norm() / packed[first].norm())
    if not (difference <= rounding and leak <= torch.finfo(dtype).eps):
        raise InputError(
            f"{type(model).__name__} computes something else unpadded: hidden states differ by {difference:.1e} from "
            f"the padded ones (allowed {rounding:.1e}) and by {leak:.1e} with other sequences beside them (allowed "
            f"{torch.finfo(dtype).eps:.1e}); use the padded layout for this model"
        )


def pack(sequences: list[Tensor], pad_id: int, tail: int = 5) -> dict[str, Any]:
    """The sequences end to end, then a dummy one of `tail` pad tokens, as a packed batch: see `MaskedBatches`."""
    parts = [*sequences, torch.full((tail,), pad_id)]
    lengths = torch.tensor([len(part) for part in parts])
    ends = lengths.cumsum(0).tolist()
    return {
        "input_ids": torch.cat(parts)[None],
        "position_ids": torch.cat([torch.arange(len(part)) for part in parts])[None],
        # One entry more than needed, as in a batch of fixed capacity.
        "cu_seqlens": torch.tensor([0, *ends, ends[-1]], dtype=torch.int32),
        "max_seqlen": int(lengths.max()),
    }


@contextmanager
def _attention(model: PreTrainedModel, implementation: str) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
