"""What an encoder is made of, found by structure: its layers, the two halves of its masked-language-model head, and
what it takes.

An encoder is the model's `base_model`; its layers are the one list in it that is as long as its configuration says.
Only what cannot be seen from outside is listed here by family.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .._core import InputError

MASKED_LM_CLASSES = ("ForMaskedLM", "ForPreTraining", "LMHeadModel")
"""Ends of the names of classes that give logits over the vocabulary at every position, where a decoder is there."""

READS_PADDING = ("convbert", "fnet", "mobilebert", "nystromformer", "yoso")
"""Model types in whose models padding changes what is said of the text before it."""

# Why a family cannot be cut, where that is not seen from its modules.
_REFUSED = {
    "albert": "all its layers share one set of weights, so there is none to leave out",
    "funnel": "its layers shorten the text in blocks, and a layer left out changes what the next one gets",
    "reformer": "its layers are reversible and are not computed one after the other",
}


def check_family(config: PreTrainedConfig) -> None:
    """Raises `InputError` for a `config` whose models cannot be teacher or student, with the reason."""
    kind = config.model_type
    reason = _REFUSED.get(kind)
    if reason is None and getattr(config, "is_encoder_decoder", False):
        reason = "it has an encoder and a decoder"
    elif reason is None and getattr(config, "is_decoder", False):
        reason = "it is a decoder: its tokens do not see those behind them"
    elif reason is None and kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not hasattr(config, "auto_map"):
        reason = "it is no text encoder that transformers has a masked-language model for"
    if reason is not None:
        raise InputError(f"a model of type {kind!r} cannot be distilled: {reason}")


def encoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The bare encoder inside `model`, or `model` itself where it is one; it returns `last_hidden_state`."""
    return cast(PreTrainedModel, model.base_model)


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer layers of `model`, first to last. Raises `InputError` where they do not stand in one list."""
    return cast(nn.ModuleList, encoder_of(model).get_submodule(layers_path(model)))


def layers_path(model: PreTrainedModel) -> str:
    """Where the layers stand in the bare encoder, as "encoder.layer". Raises `InputError` as `layers_of` does."""
    check_family(model.config)
    depth = int(getattr(model.config, "num_hidden_layers", 0))
    found: list[str] = []
    for name, module in encoder_of(model).named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and len(module) == depth > 0 and not inside:
            found.append(name)
    if len(found) != 1:
        lists = f"in {len(found)} lists ({', '.join(found)})" if found else "in no list"
        raise InputError(
            f"a model of type {model.config.model_type!r} cannot be distilled: its {depth} layers stand {lists} of "
            "that length, and only those of one list can be cut"
        )
    return found[0]


def has_mlm_head(model: PreTrainedModel) -> bool:
    """Whether `model` has a masked-language-model head, that is, gives logits over the vocabulary."""
    # `cls` of `BertForNextSentencePrediction` and `head` of classifiers are other things: the class decides.
    return type(model).__name__.endswith(MASKED_LM_CLASSES) and isinstance(_decoder(model), nn.Linear)


def _decoder(model: Any) -> nn.Module | None:
    return cast("nn.Module | None", model.get_output_embeddings())


def mlm_transform(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """The first half of the head: hidden states [..., hidden size] -> the decoder's input [..., decoder width].

    Raises `InputError` for a head of a structure that is not known.
    """
    return _transform_of(model)(hidden)


def mlm_decoder(model: PreTrainedModel) -> nn.Linear:
    """The second half of the head: the linear layer onto the vocabulary, weight [vocabulary, decoder width]."""
    decoder = _decoder(model)
    if not isinstance(decoder, nn.Linear):
        raise InputError(f"{type(model).__name__} has no masked-language-model head with a linear layer at its end")
    return decoder


def _transform_of(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    decoder = mlm_decoder(model)
    predictions = getattr(getattr(model, "cls", None), "predictions", None)
    if predictions is not None and model.config.model_type != "mobilebert":  # there the decoder is two matrices
        if hasattr(predictions, "transform"):  # BERT and its copies
            return cast("Callable[[torch.Tensor], torch.Tensor]", predictions.transform)
        if all(hasattr(predictions, part) for part in ("dense", "activation", "LayerNorm")):  # RemBERT
            return lambda hidden: cast(
                torch.Tensor, predictions.LayerNorm(predictions.activation(predictions.dense(hidden)))
            )
    head: Any = getattr(model, "lm_head", None)
    if head is decoder and decoder.in_features == model.config.hidden_size:
        return nn.Identity()
    if getattr(head, "decoder", None) is decoder and hasattr(head, "layer_norm") and hasattr(head, "dense"):
        return lambda hidden: cast(torch.Tensor, head.layer_norm(nn.functional.gelu(head.dense(hidden))))  # RoBERTa
    if hasattr(model, "generator_predictions"):  # ELECTRA
        return cast("Callable[[torch.Tensor], torch.Tensor]", model.generator_predictions)
    if hasattr(model, "vocab_transform"):  # DistilBERT
        return lambda hidden: cast(
            torch.Tensor, model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
        )
    if hasattr(model, "head") and getattr(model, "decoder", None) is decoder:  # ModernBERT
        return cast("Callable[[torch.Tensor], torch.Tensor]", model.head)
    raise InputError(
        f"the head of {type(model).__name__} has a structure that is not known, so it cannot be taken in two halves; "
        "its encoder can be distilled (--head hidden_states)"
    )


@contextmanager
def evaluating(*models: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """`models` in evaluation mode, and on `device` (None: where they are), for the block; each of their modules as it
    was afterwards."""
    training = [module for model in models for module in model.modules() if module.training]
    homes = [(model, next(model.parameters()).device) for model in models if device is not None]
    if device is not None and device.type == "cpu":  # of which there is one, whatever its number
        homes = [(model, home) for model, home in homes if home.type != "cpu"]
    try:
        for model in models:
            model.eval()
        with torch.inference_mode(False):  # in it weights that move would come back as ones that take no gradient
            for model, _ in homes:
                model.to(device)
        yield
    finally:
        for module in training:
            module.training = True
        with torch.inference_mode(False):
            for model, home in homes:
                model.to(home)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Refuses, with `InputError`, a masked-language model whose two halves do not make its logits.

    Compared on a few random ids, in the model's own dtype and on its device.
    """
    ids = torch.randint(int(model.config.vocab_size), (1, 6), generator=torch.Generator().manual_seed(0))
    ids = ids.to(model.device)
    mask = torch.ones_like(ids)
    with evaluating(model):
        logits = cast(Any, model)(input_ids=ids, attention_mask=mask, return_dict=True).logits.float()
        hidden = encoder_of(model)(input_ids=ids, attention_mask=mask, return_dict=True).last_hidden_state
        halves = mlm_decoder(model)(mlm_transform(model, hidden)).float()
    difference = float((halves - logits).norm() / logits.norm())
    if not difference <= 64 * torch.finfo(model.dtype).eps:
        raise InputError(
            f"the head of {type(model).__name__} is not the two halves that it was taken for: the logits differ by "
            f"{difference:.1e} of their size; its encoder can be distilled (--head hidden_states)"
        )


def model_input_names(model: PreTrainedModel) -> list[str]:
    """What a tokenizer should give `model`, as a tokenizer's `model_input_names` has it.

    Token types are among it only where the model takes them and has more than one: DistilBERT has none, RoBERTa one.
    """
    taken = inspect.signature(model.forward).parameters
    names = ["input_ids", "token_type_ids", "attention_mask"]
    if getattr(model.config, "type_vocab_size", 2) < 2:
        names.remove("token_type_ids")
    return [name for name in names if name in taken]


def reads_padding(model: PreTrainedModel) -> bool:
    """Whether what the model says of a text depends on how far it is padded."""
    return model.config.model_type in READS_PADDING


def position_offset(model: PreTrainedModel) -> int:
    """What the model adds to positions counted from 0: `pad_token_id + 1` in the RoBERTa family, otherwise 0."""
    embeddings = getattr(encoder_of(model), "embeddings", None)
    padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def longest_row(*models: PreTrainedModel, tokenizer: Any = None) -> int | None:
    """The number of tokens, special ones with them, that all of `models` have positions for; None where nothing limits.

    RoBERTa's positions begin behind that of its padding, so that of 514 a row can have 512. `tokenizer`: the length
    that it was made for counts too, where it says one.
    """
    limits = []
    for model in models:
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and int(positions) > 0:
            limits.append(int(positions) - position_offset(model))
    made_for = getattr(tokenizer, "model_max_length", None)
    if made_for is not None and made_for < 1_000_000:  # "no limit" is a number of 30 digits
        limits.append(int(made_for))
    return min(limits, default=None)
