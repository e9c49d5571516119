"""What the encoder families call their parts: layers, and the masked-language-model head in its two halves."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError


@dataclass(frozen=True)
class Family:
    """One family of encoders, by the names its modules have in `transformers`.

    `layers` and `transform`, `decoder` are attribute paths: of the list of layers from the bare encoder, and of the
    two halves of the head from the masked-language model. `transform` takes hidden states [..., hidden size] to the
    decoder's input; `decoder` is the linear layer onto the vocabulary.
    """

    layers: str
    transform: Callable[[Any, torch.Tensor], torch.Tensor]
    decoder: str
    layer_norm_eps: str | None = "layer_norm_eps"


def _bert_transform(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, model.cls.predictions.transform(hidden))


def _roberta_transform(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    head = model.lm_head
    return cast(torch.Tensor, head.layer_norm(nn.functional.gelu(head.dense(hidden))))


def _electra_transform(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, model.generator_predictions(hidden))


def _modernbert_transform(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, model.head(hidden))


def _distilbert_transform(model: Any, hidden: torch.Tensor) -> torch.Tensor:
    return cast(torch.Tensor, model.vocab_layer_norm(model.activation(model.vocab_transform(hidden))))


_ROBERTA = Family("encoder.layer", _roberta_transform, "lm_head.decoder")

FAMILIES: dict[str, Family] = {
    "bert": Family("encoder.layer", _bert_transform, "cls.predictions.decoder"),
    "camembert": _ROBERTA,
    "distilbert": Family("transformer.layer", _distilbert_transform, "vocab_projector", layer_norm_eps=None),
    "electra": Family("encoder.layer", _electra_transform, "generator_lm_head"),
    "modernbert": Family("layers", _modernbert_transform, "decoder", layer_norm_eps="norm_eps"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}


def family_of(model: PreTrainedModel | PreTrainedConfig) -> Family:
    """The family of a model or of its configuration. Raises `InputError` for one that is not supported."""
    config = model if isinstance(model, PreTrainedConfig) else model.config
    try:
        return FAMILIES[config.model_type]
    except KeyError:
        raise InputError(
            f"a model of type {config.model_type!r} cannot be distilled; supported are {', '.join(sorted(FAMILIES))}"
        ) from None


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The bare encoder inside `model`, or `model` itself where it is one; it returns `last_hidden_state`."""
    return cast(PreTrainedModel, model.base_model)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of `model`, first to last."""
    layers = encoder_of(model).get_submodule(family_of(model).layers)
    assert isinstance(layers, nn.ModuleList)
    return layers


def has_mlm_head(model: PreTrainedModel) -> bool:
    """Whether `model` has a masked-language-model head, that is, gives logits over the vocabulary."""
    head = family_of(model).decoder.partition(".")[0]
    # `cls` of `BertForNextSentencePrediction` and `head` of classifiers are other things: the class decides.
    return hasattr(model, head) and type(model).__name__.endswith(("ForMaskedLM", "ForPreTraining", "LMHeadModel"))


def mlm_transform(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """The first half of the head: hidden states [..., hidden size] -> the decoder's input [..., decoder width]."""
    return family_of(model).transform(model, hidden)


def mlm_decoder(model: PreTrainedModel) -> nn.Linear:
    """The second half of the head: the linear layer onto the vocabulary, weight [vocabulary, decoder width]."""
    decoder = model.get_submodule(family_of(model).decoder)
    assert isinstance(decoder, nn.Linear)
    return decoder


def model_input_names(model: PreTrainedModel) -> list[str]:
    """What a tokenizer should give `model`, as a tokenizer's `model_input_names` has it.

    Token types are among it only where the model takes them and has more than one: DistilBERT has none, RoBERTa one.
    """
    taken = inspect.signature(model.forward).parameters
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 2) < 2:
        names.remove("token_type_ids")
    return [name for name in names if name in taken]
