"""Which head a model has, by its class or by the name that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from .classification import Classification, problem_type_of
from .head import Head
from .hidden_states import HiddenStates
from .masked_lm import MaskedLM

HEADS: dict[str, type[Head]] = {head.name: head for head in (MaskedLM, Classification, HiddenStates)}
"""The heads by name, in the order in which they are looked for."""


def head_name(name: str) -> str:
    """The name of a head by any of its names. Raises `InputError` for one that is none."""
    for head in HEADS.values():
        if name in (head.name, *head.other_names):
            return head.name
    raise InputError(f"--head {name}: there is no such head; there is {', '.join(HEADS)}")


def head_of_class(class_name: str) -> str:
    """The name of the head that a class of transformers has; hidden_states of one that only encodes.

    Raises `InputError` for a class with a head that is not known."""
    for head in HEADS.values():
        if head.class_endings and class_name.endswith(head.class_endings):
            return head.name
    if "For" in class_name:
        known = [ending for head in HEADS.values() for ending in head.class_endings]
        raise InputError(
            f"a {class_name} has a head that cannot be distilled; known are classes that end in {', '.join(known)}, "
            "and encoders without a head (--head hidden_states takes no notice of one)"
        )
    return HiddenStates.name


def choose_head(model: PreTrainedModel, name: str | None = None, class_weights: Sequence[float] | None = None) -> Head:
    """The head named, or the one that `model` (the teacher; the student, where there is none) has.

    Raises `InputError` for a name that is none, and for class weights with a head that has no classes.
    """
    chosen = head_of_class(type(model).__name__) if name is None else head_name(name)
    return make_head(chosen, model.config, class_weights)


def make_head(name: str, config: PreTrainedConfig, class_weights: Sequence[float] | None = None) -> Head:
    """The head of that name as the configuration of a model has it."""
    options: dict[str, Any] = {} if class_weights is None else {"class_weights": class_weights}
    if name == Classification.name:
        return Classification(problem_type_of(config), **options)
    if options:
        raise InputError(f"--class_weights: {name} has no classes to weigh; leave it out")
    return HEADS[name]()
