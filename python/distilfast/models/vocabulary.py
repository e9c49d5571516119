"""A model with fewer words: the rows of its embeddings, and of a head over the vocabulary, that stay."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from .build import drop_pooler_as, new_model, train_as
from .families import encoder_of, evaluating


def keep_words(model: PreTrainedModel, teacher_ids: Sequence[int] | npt.NDArray[np.int64]) -> PreTrainedModel:
    """A copy of `model` that has the words `teacher_ids` [n] only, of its class, dtype, mode and device; word i is the
    model's word teacher_ids[i].

    All weights with an axis as long as the vocabulary are gathered, tied ones stay tied. The configuration's
    `vocab_size` and its ids of special tokens follow; an id of a token that is not kept becomes None.

    Raises `InputError` for ids that the model does not have, that come twice, and where the copy computes something
    else than `model` on the words that both have.
    """
    kept = np.asarray(teacher_ids, np.int64)
    size = int(model.config.vocab_size)
    if len(kept) == 0 or kept.min() < 0 or kept.max() >= size or len(np.unique(kept)) != len(kept):
        raise InputError(f"the words to keep must be different ids from 0 to {size - 1}, and at least one")
    config = _fewer_words(model.config, kept)
    smaller = new_model(type(model), config, model.device, model.dtype, seed=0)
    drop_pooler_as(model, smaller)
    index = torch.from_numpy(kept).to(model.device)
    needed = smaller.state_dict()
    state = {}
    for name, value in model.state_dict().items():
        wanted = needed[name].shape if name in needed else value.shape
        axes = [axis for axis, (old, new) in enumerate(zip(value.shape, wanted, strict=True)) if old != new]
        for axis in axes:
            if value.shape[axis] != size or wanted[axis] != len(kept):
                raise InputError(f"the weight {name} of a {type(model).__name__} does not follow its vocabulary")
            value = value.index_select(axis, index)
        state[name] = value
    smaller.load_state_dict(state)
    train_as(model, smaller)
    _check_same(model, smaller, index)
    return smaller


def _fewer_words(config: PreTrainedConfig, kept: npt.NDArray[np.int64]) -> PreTrainedConfig:
    places = {int(index): place for place, index in enumerate(kept)}
    fewer = copy.deepcopy(config)
    fewer.name_or_path = ""  # what lies there has other words
    fewer.vocab_size = len(kept)
    for name, value in config.to_dict().items():
        if name.endswith("_token_id") and isinstance(value, int):
            setattr(fewer, name, places.get(value))
        elif name.endswith("_token_id") and isinstance(value, list):
            setattr(fewer, name, [places[each] for each in value if each in places])
    return fewer


@torch.no_grad()
def _check_same(model: PreTrainedModel, smaller: PreTrainedModel, index: torch.Tensor) -> None:
    """Refuses a family whose hidden states hang on ids otherwise than by the rows of its embeddings, as positions that
    begin behind the id of the padding."""
    if model.device.type == "meta":
        return
    new_ids = torch.randint(len(index), (1, 6), generator=torch.Generator().manual_seed(0)).to(model.device)
    padding = smaller.config.pad_token_id
    if padding is not None:
        new_ids = torch.where(new_ids == padding, (padding + 1) % len(index), new_ids)
    states = []
    for each, ids in ((model, index[new_ids]), (smaller, new_ids)):
        with evaluating(each):
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            states.append(cast(Any, encoder_of(each))(**inputs, return_dict=True).last_hidden_state.float())
    difference = float((states[0] - states[1]).norm() / states[0].norm())
    if not difference <= 64 * torch.finfo(model.dtype).eps:
        raise InputError(
            f"a {type(model).__name__} does not stay the same with fewer words: its hidden states of the same tokens "
            f"differ by {difference:.1e} of their size; its special tokens may have to keep their ids"
        )
