"""`--layers auto`: which of the teacher's layers the student takes, by what the teacher says without the others.

Greedy: of the layers that are still there the one goes whose loss costs least on a few batches, until as many are left
as are asked for; the first layer always stays. The choice is kept only where it is better than the even spread on other
batches. Losing layers one by one is how Sajjad et al., "On the effect of dropping layers of pre-trained transformer
models", 2023, and Fan et al., 2020, choose them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._core import InputError
from ..heads.classification import problem_type_of
from ..models.attention import model_inputs
from ..models.families import evaluating, layers_of
from ..models.head import head_of
from ..models.student import choose_layers

CHOSEN_ON = 2
"""So many of the batches choose, the others judge."""
MASKED = 0.15

Vectors = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""What follows a sentence encoder."""


class LayerChoice(NamedTuple):
    """The layers that are taken, the greedy and the even choice, and the loss of each on the batches that judge."""

    taken: list[int]
    greedy: list[int]
    even: list[int]
    greedy_loss: float
    even_loss: float
    measured: str

    def note(self) -> str:
        which = "chosen" if self.taken == self.greedy else "even"
        losses = f"chosen {self.greedy}: {self.greedy_loss:.4g}, even {self.even}: {self.even_loss:.4g}"
        return f"layers ({self.measured} to the teacher, held-out sample): {losses}; the {which} ones are taken"


@torch.inference_mode()
def choose_by_loss(
    teacher: PreTrainedModel,
    layers: int | None,
    batches: Sequence[Mapping[str, Tensor]],
    seed: int = 0,
    mask_id: int | None = None,
    vectors: Vectors | None = None,
) -> LayerChoice:
    """`layers` of the teacher's layers (None: half). Compared are the logits, as KL (at 15 % of the tokens, masked by
    `seed`, where `mask_id` is given); where there are no logits, last hidden states or `vectors`, as 1 - cos.

    Raises `InputError` for fewer than 3 batches: some choose, others judge.
    """
    even = choose_layers(len(layers_of(teacher)), layers)
    if len(batches) <= CHOSEN_ON:
        raise InputError(
            f"--layers auto needs more data to choose on: {len(batches)} batches of it are too few; name the layers"
        )
    with evaluating(teacher):
        generator = torch.Generator().manual_seed(seed)
        seen = [_masked(batch, mask_id, generator) for batch in batches]
        said = [_outputs(teacher, *each, vectors) for each in seen]
        problem = problem_type_of(teacher.config) if head_of(teacher) == "classification" else ""

        def loss(kept: Sequence[int], numbers: range) -> float:
            with _only(teacher, kept):
                values = [
                    _difference(_outputs(teacher, *seen[number], vectors), said[number], problem) for number in numbers
                ]
            return sum(values) / len(values)

        kept = list(range(len(layers_of(teacher))))
        while len(kept) > len(even):
            losses = {gone: loss([each for each in kept if each != gone], range(CHOSEN_ON)) for gone in kept[1:]}
            kept.remove(min(losses, key=lambda gone: losses[gone]))
        judged = [loss(each, range(CHOSEN_ON, len(batches))) for each in (kept, even)]
    measured = "1 - cos" if {"states", "vectors"} & said[0].keys() else "MSE" if problem == "regression" else "KL"
    return LayerChoice(kept if judged[0] < judged[1] else even, kept, even, judged[0], judged[1], measured)


def _masked(
    batch: Mapping[str, Tensor], mask_id: int | None, generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """The batch with some tokens masked, at least one, and which places count; without `mask_id` all that there are."""
    counts = batch["attention_mask"].bool()
    if mask_id is None:
        return dict(batch), counts
    draws = torch.rand(counts.shape, generator=generator).masked_fill(~counts, 2.0)
    chosen = (draws < MASKED) | (draws == draws.min())
    return {**batch, "input_ids": batch["input_ids"].masked_fill(chosen, mask_id)}, chosen


def _outputs(
    model: PreTrainedModel, batch: Mapping[str, Tensor], counts: Tensor, vectors: Vectors | None
) -> dict[str, Tensor]:
    """What the model says, [places or rows, n] each, by what it is."""
    inputs = {name: value.to(model.device) for name, value in batch.items()}
    counts = counts.to(model.device)
    found = cast(Any, model)(**model_inputs(model, inputs), return_dict=True)
    if "start_logits" in found:
        return {
            name: found[name].float().masked_fill(inputs["attention_mask"] == 0, -1e4)
            for name in ("start_logits", "end_logits")
        }
    if "logits" in found:
        return {"logits": found.logits[counts].float() if found.logits.dim() == 3 else found.logits.float()}
    if vectors is not None:
        return {"vectors": vectors(found.last_hidden_state, inputs)}
    return {"states": found.last_hidden_state[counts].float()}


def _difference(student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], problem: str) -> float:
    """The mean over places or rows, summed over what is said (starts and ends)."""
    total = 0.0
    for name, theirs in teacher.items():
        ours = student[name]
        if name in ("states", "vectors"):
            values = 1 - F.cosine_similarity(ours, theirs, dim=-1)
        elif problem == "regression":
            values = (ours - theirs).square()
        elif problem == "multi_label_classification":
            shares = theirs.sigmoid()
            values, least = (
                F.binary_cross_entropy_with_logits(each, shares, reduction="none").sum(-1) for each in (ours, theirs)
            )
            values = values - least
        else:
            values = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True).sum(-1)
        total += float(values.mean())
    return total


@contextmanager
def _only(model: PreTrainedModel, kept: Sequence[int]) -> Iterator[None]:
    """`model` with all layers but those `kept` handing on what they get."""

    def skip(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    with ExitStack() as stack:
        for number, layer in enumerate(layers_of(model)):
            if number not in kept:
                stack.callback(layer.register_forward_hook(skip, with_kwargs=True).remove)
        yield
