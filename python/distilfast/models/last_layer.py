"""The last layer computed only where a loss looks: exact, and a sixth of a six-layer student's work saved.

In the last layer keys and values are needed of every token, but queries, the output projection and the feed-forward
block only at the selected positions. `encode` takes that way where it can: `let_last_layer_stop` gives the last layer
of a model the ability by swapping its class for one below; weights, names and files, and every other call, stay as they
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertLayer, eager_attention_forward
from transformers.models.distilbert.modeling_distilbert import TransformerBlock
from transformers.models.electra.modeling_electra import ElectraLayer
from transformers.models.modernbert.modeling_modernbert import ModernBertEncoderLayer, apply_rotary_pos_emb
from transformers.models.roberta.modeling_roberta import RobertaLayer

from .._core import InputError
from .attention import model_inputs
from .families import encoder_of, layers_of

SELECTED = "selected_positions"


class Encoded(NamedTuple):
    """What an encoder made of a batch of N positions (rows * width)."""

    picked: Tensor
    """[K, hidden size]: the last layer at the K positions asked for, or at all N where none were named."""
    every: Tensor | None
    """[N, hidden size]: the last layer at every position; None where only the picked ones were computed."""
    layers: tuple[Tensor, ...] | None
    """The embeddings' output and that of every layer, [rows, width, hidden size] each, if they were asked for."""


def encode(
    model: PreTrainedModel,
    batch: Mapping[str, Any],
    positions: Tensor | None = None,
    *,
    every: bool = True,
    layers: bool = False,
) -> Encoded:
    """Runs the encoder of `model` on `batch` (see `model_inputs`) and picks rows of its last layer.

    `positions` [K] int64: flat indices into rows * width, which may repeat; None for all. `every` False says that no
    other row is looked at, and `layers` True that those of all layers are. Where only the picked rows are wanted and
    `let_last_layer_stop` was called for `model`, the last layer is computed at those alone, with the same result.
    """
    encoder, inputs = encoder_of(model), model_inputs(model, batch)
    if positions is not None and not every and not layers and stops_early(model):
        stopped = encoder(**inputs, **{SELECTED: positions}, return_dict=True).last_hidden_state
        return Encoded(stopped.flatten(0, 1), None, None)
    outputs = encoder(**inputs, output_hidden_states=layers, return_dict=True)
    last = outputs.last_hidden_state.flatten(0, 1)
    picked = last if positions is None else last.index_select(0, positions)
    return Encoded(picked, last, outputs.hidden_states if layers else None)


def _attend(attention: Any, query: Tensor, key: Tensor, value: Tensor, selected: Tensor, **kwargs: Any) -> Tensor:
    function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    attended, _ = function(attention, query, key, value, **kwargs)
    rows: Tensor = attended.flatten(2).flatten(0, 1).index_select(0, selected)
    return rows


def spread_rows(values: Tensor, selected: Tensor, size: int) -> Tensor:
    """[size, D] with `values` [K, D] at the rows `selected` and zeros elsewhere.

    Of equal entries in `selected` the first one is written and the others get no gradient, so that a position selected
    twice is still one token.
    """
    slots = torch.arange(selected.numel(), device=selected.device)
    first = torch.full((size,), selected.numel(), dtype=torch.int64, device=selected.device)
    first = first.scatter_reduce(0, selected, slots, reduce="amin")
    # Repeats go to a row of their own behind the end, which is cut off again.
    target = torch.where(first[selected] == slots, selected, size)
    return values.new_zeros(size + 1, values.shape[1]).index_copy(0, target, values)[:size]


def by_heads(states: Tensor, head_dim: int) -> Tensor:
    """[rows, width, heads * head_dim] to [rows, heads, width, head_dim]."""
    return states.view(*states.shape[:2], -1, head_dim).transpose(1, 2)


def _attend_at(
    attention: Any,
    linear: tuple[nn.Linear, nn.Linear, nn.Linear],
    states: Tensor,
    selected: Tensor,
    attention_mask: Tensor | None,
    given: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """The states of the `selected` tokens, and what their queries attend to: [K, heads * head_dim] each.

    `states` [rows, width, heads * head_dim] of all tokens; `linear`: the layers of queries, keys and values; `selected`
    [K] int64: flat indices into rows * width, which may repeat; `given`: what else the layer was called with. The
    queries are spread over a zero tensor of full width, so that any attention function serves, padded or packed;
    attention itself is a few per cent of a layer.
    """
    rows, width, _ = states.shape
    query, key, value = linear
    head_dim = attention.attention_head_size
    chosen = states.flatten(0, 1).index_select(0, selected)
    spread = spread_rows(query(chosen), selected, rows * width).view(rows, width, -1)
    attended = _attend(
        attention,
        by_heads(spread, head_dim),
        by_heads(key(states), head_dim),
        by_heads(value(states), head_dim),
        selected,
        attention_mask=attention_mask,
        dropout=attention.dropout.p if attention.training else 0.0,
        scaling=attention.scaling,
        **_attention_arguments(given),
    )
    return chosen, attended


class _StoppingBert:
    """The BERT layer and its copies: attention, projection and norm, feed-forward and norm."""

    attention: Any
    feed_forward_chunk: Any

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        selected = kwargs.pop(SELECTED, None)
        if selected is None:
            return super().forward(hidden_states, attention_mask, *args, **kwargs)  # type: ignore[misc,no-any-return]
        attention = self.attention.self
        linear = attention.query, attention.key, attention.value
        chosen, attended = _attend_at(attention, linear, hidden_states, selected, attention_mask, kwargs)
        output: Tensor = self.feed_forward_chunk(self.attention.output(attended, chosen))
        return output[None]


class StoppingBertLayer(_StoppingBert, BertLayer):  # type: ignore[no-untyped-call]
    """`BertLayer` that can stop at the selected positions."""


class StoppingRobertaLayer(_StoppingBert, RobertaLayer):  # type: ignore[no-untyped-call]
    """`RobertaLayer` that can stop at the selected positions."""


class StoppingElectraLayer(_StoppingBert, ElectraLayer):  # type: ignore[no-untyped-call]
    """`ElectraLayer` that can stop at the selected positions."""


class StoppingDistilBertBlock(TransformerBlock):  # type: ignore[no-untyped-call]
    """DistilBERT's `TransformerBlock` that can stop at the selected positions."""

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Tensor:
        selected = kwargs.pop(SELECTED, None)
        if selected is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        attention = self.attention
        linear = attention.q_lin, attention.k_lin, attention.v_lin
        chosen, attended = _attend_at(attention, linear, hidden_states, selected, attention_mask, kwargs)
        mixed = self.sa_layer_norm(attention.out_lin(attended) + chosen)
        output: Tensor = self.output_layer_norm(self.ffn(mixed[None]) + mixed)
        return output


class StoppingModernBertLayer(ModernBertEncoderLayer):  # type: ignore[no-untyped-call]
    """`ModernBertEncoderLayer` that can stop at the selected positions."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        selected = kwargs.pop(SELECTED, None)
        if selected is None or position_embeddings is None:
            return super().forward(hidden_states, attention_mask, position_embeddings, **kwargs)
        attention = self.attn
        rows, width, size = hidden_states.shape
        normed = self.attn_norm(hidden_states)
        # Wqkv holds the three projections one under the other.
        projection = attention.Wqkv
        q_weight, kv_weight = projection.weight[:size], projection.weight[size:]
        q_bias, kv_bias = (None, None) if projection.bias is None else (projection.bias[:size], projection.bias[size:])
        query = nn.functional.linear(normed.flatten(0, 1).index_select(0, selected), q_weight, q_bias)
        key, value = (
            by_heads(states, attention.head_dim)
            for states in nn.functional.linear(normed, kv_weight, kv_bias).chunk(2, dim=-1)
        )
        spread = by_heads(spread_rows(query, selected, rows * width).view(rows, width, size), attention.head_dim)
        cos, sin = position_embeddings
        spread, key = apply_rotary_pos_emb(spread, key, cos, sin, unsqueeze_dim=1)
        attended = _attend(
            attention,
            spread,
            key,
            value,
            selected,
            attention_mask=attention_mask,
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.head_dim**-0.5,
            sliding_window=attention.sliding_window,
            **_attention_arguments(kwargs),
        )
        chosen = hidden_states.flatten(0, 1).index_select(0, selected)
        chosen = chosen + attention.out_drop(attention.Wo(attended))
        output: Tensor = chosen + self.mlp(self.mlp_norm(chosen))
        return output[None]


def _attention_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Of what a layer is called with, what the attention functions read: the bounds of a packed batch."""
    return {name: kwargs[name] for name in kwargs if name.startswith(("cu_seq_lens", "max_length"))}


_STOPPING: dict[type, type] = {
    BertLayer: StoppingBertLayer,
    RobertaLayer: StoppingRobertaLayer,
    ElectraLayer: StoppingElectraLayer,
    TransformerBlock: StoppingDistilBertBlock,
    ModernBertEncoderLayer: StoppingModernBertLayer,
}


def can_stop_early(model: PreTrainedModel) -> bool:
    """Whether `let_last_layer_stop` knows the last layer of `model`."""
    return type(layers_of(model)[-1]) in _STOPPING or stops_early(model)


def stops_early(model: PreTrainedModel) -> bool:
    """Whether `let_last_layer_stop` was called for `model`."""
    return type(layers_of(model)[-1]) in _STOPPING.values()


def let_last_layer_stop(model: PreTrainedModel) -> None:
    """Lets `model` be called with `selected_positions` [K] int64, flat indices into the batch's rows * width.

    The encoder's `last_hidden_state` is then [1, K, hidden], at those positions alone, and equals the rows that the
    full layer would have given there. Raises `InputError` for a family that is not listed.
    """
    if not can_stop_early(model):
        known = ", ".join(sorted(known.__name__ for known in _STOPPING))
        raise InputError(
            f"the last layer of {type(model).__name__} cannot stop at selected positions; only {known} can"
        )
    layer: Any = layers_of(model)[-1]
    layer.__class__ = _STOPPING.get(type(layer), type(layer))
