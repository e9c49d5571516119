"""New models of a configuration, with weights drawn from a seed."""

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
