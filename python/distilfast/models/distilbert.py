"""A BERT's weights as a DistilBERT of fewer layers (Sanh et al., "DistilBERT, a distilled version of BERT", 2019).

DistilBERT has the same layers under other names, no pooler and no token types: the row of type 0, which is what BERT
adds to a text by itself, is folded into the position embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from .._core import InputError
from .families import encoder_of
from .head import HeadName

logger = logging.getLogger(__name__)

CLASSES: Mapping[HeadName, Any] = {
    "masked_lm": DistilBertForMaskedLM,
    "classification": DistilBertForSequenceClassification,
    "tokens": DistilBertForTokenClassification,
    "questions": DistilBertForQuestionAnswering,
    "hidden_states": DistilBertModel,
}

_OF_A_LAYER = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}
_OF_A_HEAD = {
    "cls.predictions.transform.dense": "vocab_transform",
    "cls.predictions.transform.LayerNorm": "vocab_layer_norm",
    "cls.predictions.decoder": "vocab_projector",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
}


def can_be_distilbert(config: PreTrainedConfig) -> bool:
    """Whether DistilBERT computes what a BERT of this `config` does, but for its token types and pooler."""
    return config.model_type == "bert" and getattr(config, "position_embedding_type", "absolute") == "absolute"


def distilbert_config(config: PreTrainedConfig, layers: int) -> DistilBertConfig:
    """The DistilBERT configuration of `layers` layers and otherwise the sizes, labels and dropout of a BERT `config`.

    Raises `InputError` for a model that DistilBERT cannot follow.
    """
    if not can_be_distilbert(config):
        raise InputError(
            f"a model of type {config.model_type!r} cannot become a DistilBERT, which follows BERT with absolute "
            "positions alone; take student_type 'same'"
        )
    if config.layer_norm_eps != 1e-12:
        logger.warning(
            "the teacher's layer norms add %g to the variance, DistilBERT's always 1e-12", config.layer_norm_eps
        )
    labels: dict[str, Any] = {"id2label": config.id2label, "label2id": config.label2id} if config.id2label else {}
    dropout = getattr(config, "classifier_dropout", None)
    return DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        n_layers=layers,
        n_heads=config.num_attention_heads,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        seq_classif_dropout=config.hidden_dropout_prob if dropout is None else dropout,
        activation=config.hidden_act,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
        problem_type=config.problem_type,
        **labels,
    )


def distilbert_state(
    state: Mapping[str, torch.Tensor], teacher: PreTrainedModel, chosen: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The teacher's weights `state` under the names that DistilBERT has for them, `chosen` layers alone.

    Of a classifier's head only the output layer has a counterpart.
    """
    bare = encoder_of(teacher) is teacher
    encoder, student = ("", "") if bare else ("bert.", "distilbert.")
    embeddings = f"{encoder}embeddings."
    cut = {
        f"{student}embeddings.word_embeddings.weight": state[f"{embeddings}word_embeddings.weight"],
        f"{student}embeddings.position_embeddings.weight": state[f"{embeddings}position_embeddings.weight"]
        + state[f"{embeddings}token_type_embeddings.weight"][0],
        f"{student}embeddings.LayerNorm.weight": state[f"{embeddings}LayerNorm.weight"],
        f"{student}embeddings.LayerNorm.bias": state[f"{embeddings}LayerNorm.bias"],
    }
    names = {
        f"{encoder}encoder.layer.{layer}.{theirs}": f"{student}transformer.layer.{position}.{ours}"
        for position, layer in enumerate(chosen)
        for theirs, ours in _OF_A_LAYER.items()
    }
    for theirs, ours in {**names, **_OF_A_HEAD}.items():
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in state:
                cut[f"{ours}.{kind}"] = state[f"{theirs}.{kind}"]
    return cut
