"""The head of a run: by the name that was asked for, or by what the teacher is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from .._core import InputError
from ..models.classes import label_names
from ..models.head import head_called, head_of
from .classification import Classification, problem_type_of
from .embedding import Embedding
from .head import Head
from .hidden_states import HiddenStates
from .masked_lm import MaskedLM
from .questions import Questions
from .reranking import Reranking
from .tokens import Tokens

HEADS: dict[str, type[Head]] = {
    head.name: head for head in (MaskedLM, Classification, Tokens, Questions, HiddenStates, Embedding)
}
"""The heads by name."""


def choose_head(
    model: PreTrainedModel,
    name: str | None = None,
    class_weights: Sequence[float] | None = None,
    ranks: bool = False,
) -> Head:
    """The head named, or the one that `model` (the teacher; the student, where there is none) has.

    `ranks`: a classifier of one number is a reranker, whose rows stand in groups.

    Raises `InputError` for a name that is none, for an embedding, which is made of more than a model, and for class
    weights where there are no classes.
    """
    chosen = head_of(model) if name is None else head_called(name)
    if chosen == Embedding.name:
        raise InputError("the head embedding is made of what follows each encoder: hand over an Embedding(...)")
    options: dict[str, Any] = {} if class_weights is None else {"class_weights": class_weights}
    if chosen == Classification.name and ranks and not options and problem_type_of(model.config) == "regression":
        return Reranking()
    if chosen == Classification.name:
        return Classification(problem_type_of(model.config), **options)
    if chosen == Tokens.name:
        return Tokens(label_names(model.config), **options)
    if options:
        raise InputError(f"--class_weights: {chosen} has no classes to weigh; leave it out")
    return HEADS[chosen]()
