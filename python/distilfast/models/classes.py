"""The classes of a model: what they are called, and its head put into the order in which another model has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from ..prepare.labels import match_labels
from ..prepare.records import listed
from .head import head_of


def label_names(config: PreTrainedConfig) -> list[str]:
    """The names of a configuration's classes, in their order."""
    names: Any = config.id2label or {}
    return [str(names[number]) for number in sorted(names, key=int)]


def class_order(wanted: list[str], own: list[str], name: str, whose: str = "the teacher") -> tuple[list[int], str]:
    """The class number that the model called `name`, of the classes `own`, has for each of `wanted`, those of `whose`,
    and what is to be said of it ("" where all are the same).

    They are matched by name, see `match_labels`; a single number needs none. Raises `InputError`, with both lists,
    where the names are not the same.
    """
    if own == wanted or len(own) == len(wanted) == 1:
        return list(range(len(wanted))), ""
    different = InputError(f"{name} has other classes than {whose}: {listed(own)} where {whose} has {listed(wanted)}")
    if len(own) != len(wanted):
        raise different
    try:
        mapping = match_labels(own, dict(enumerate(wanted)))
    except InputError:
        raise different from None
    places = [mapping.ids[label.strip()] for label in own]
    if sorted(places) != list(range(len(wanted))):
        raise different
    order = [places.index(number) for number in range(len(wanted))]
    return order, f"classes of {name} matched to those of {whose}: {mapping.note.partition(': ')[2]}"


def align_classes(models: Sequence[PreTrainedModel], names: Sequence[str]) -> list[str]:
    """Puts the heads of all `models`, in place, into the order that the first has of the classes; what is to be said of
    it, a line each. `names`: what the models are called.

    Only classifiers and taggers have classes. Raises `InputError`, with both lists, where one has others than the
    first.
    """
    first, notes = models[0], []
    for model, name in zip(models[1:], names[1:], strict=True):
        if head_of(model) != head_of(first) or head_of(first) not in ("classification", "tokens"):
            continue
        own, wanted = label_names(model.config), label_names(first.config)
        order, _ = class_order(wanted, own, f"the teacher {name}", names[0])
        if own != wanted:
            put_into_order(model, order, first.config)
            pairs = ", ".join(f"{own[place]} -> {label}" for place, label in zip(order, wanted, strict=True))
            notes.append(f"the teacher {name}: its classes are put into the order of {names[0]}: {pairs}")
    return notes


def put_into_order(model: PreTrainedModel, order: list[int], like: PreTrainedConfig) -> None:
    """Makes output i of the head what output `order[i]` was, and gives the classes the names that they have in
    `like`."""
    encoder = f"{model.base_model_prefix}."
    outputs = [
        module
        for key, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == len(order) and not key.startswith(encoder)
    ]
    for weight in outputs[-1].parameters():
        weight.data = weight.data[order].clone()
    config: Any = model.config
    config.id2label, config.label2id = dict(like.id2label or {}), dict(like.label2id or {})
