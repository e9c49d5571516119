"""New models of a configuration, with weights drawn from a seed, and such that take after another model."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel


def new_model(
    model_class: Any, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype, seed: int
) -> PreTrainedModel:
    """A model of `config` with weights drawn from `seed`, leaving torch's own generators as they were.

    model_class: a class of `transformers`, an `AutoModel...` among them.
    """
    config = copy.deepcopy(config)
    config.dtype = dtype
    if str(config._attn_implementation).startswith("distilfast_"):
        config._attn_implementation = None  # a teacher that runs packed does not make its student so
    on = torch.device("meta") if device.type == "meta" else torch.device("cpu")
    make = getattr(model_class, "from_config", model_class)
    with torch.random.fork_rng(devices=[]), on:
        torch.manual_seed(seed)
        model = make(config)
    return cast(PreTrainedModel, model.to(device=device, dtype=dtype))


def drop_pooler_as(model: PreTrainedModel, smaller: PreTrainedModel) -> None:
    """Takes the pooler out of `smaller` where `model` has none, although its class does: its file has none."""
    bare: Any = smaller.base_model
    if getattr(model.base_model, "pooler", True) is None and hasattr(bare, "pooler"):
        bare.pooler = None


def train_as(model: PreTrainedModel, smaller: PreTrainedModel) -> None:
    """Puts `smaller` into the mode of `model`, and lets the parameters of the same names be trained."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(name in trained)
    smaller.train(model.training)
