"""What heads share that compare logits over exclusive classes: of a text, of a word, or the positions of an answer.

Hinton et al., "Distilling the knowledge in a neural network", 2015: KL between tempered distributions times T squared.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from ..losses.definitions import IGNORED
from ..models.classes import label_names
from .head import Head, Rows
from .objective import Objective


class LogitHead(Head):
    """`Outputs.compared` are logits [K, classes], or [K, M, classes] where a row has M distributions, whose losses are
    averaged; -inf in all models at a class that is none for this row. `Rows.labels` are class numbers [K] or [K, M]
    int64, -100 for none.

    `class_weights`: what each class counts in the cross-entropy, one number a class.

    alpha_ce: T^2 KL(teachers || student). alpha_mse: squared distance of the logits, summed over classes. alpha_task:
    cross-entropy.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def soft_loss(
        self, rows: Rows, student: Tensor, teachers: Sequence[Tensor], mixture: Sequence[float], objective: Objective
    ) -> dict[str, tuple[float, Tensor]]:
        student, targets = in_float32(student), [in_float32(teacher) for teacher in teachers]
        found: dict[str, tuple[float, Tensor]] = {}
        if objective.alpha_ce != 0:
            values = self.divergence(student, targets, mixture, objective.temperature)
            found["loss_ce"] = (objective.alpha_ce, (values * rows.weight).sum() / rows.num_rows)
        if objective.alpha_mse != 0:
            values = weighted_mean([_squared_distance(student, target) for target in targets], mixture)
            found["loss_mse"] = (objective.alpha_mse, (values * rows.weight).sum() / rows.num_rows)
        return found

    def divergence(
        self, student: Tensor, teachers: Sequence[Tensor], mixture: Sequence[float], temperature: float
    ) -> Tensor:
        """[K]: how far each row of the student is from the teachers together."""
        target = weighted_mean([F.softmax(each / temperature, dim=-1) for each in teachers], mixture)
        # 0 log 0 = 0, also where the student's logit is -inf.
        ours = F.log_softmax(student / temperature, dim=-1).masked_fill(target == 0, 0.0)
        values = temperature**2 * (torch.xlogy(target, target) - target * ours).sum(-1)
        return values.flatten(1).mean(1) if values.ndim > 1 else values

    def hard_loss(self, rows: Rows, student: Tensor) -> Tensor:
        assert rows.labels is not None
        logits, labels = in_float32(student).flatten(0, -2), rows.labels.flatten()
        total = F.cross_entropy(logits, labels, weight=self.weights(logits), ignore_index=IGNORED, reduction="sum")
        return total / math.prod(student.shape[1:-1]) / rows.num_labelled.clamp(min=1)

    def weights(self, logits: Tensor) -> Tensor | None:
        """What each class counts in the cross-entropy, [classes]; None: all the same."""
        return None if self.class_weights is None else self.class_weights.to(logits.dtype)

    def check(self, student: PreTrainedModel, teachers: Sequence[PreTrainedModel], objective: Objective) -> None:
        super().check(student, teachers, objective)
        classes = len(label_names(student.config))
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise InputError(f"{len(self.class_weights)} class weights for {classes} classes; give one a class")

    def mixed(self, teachers: Sequence[Tensor], mixture: Sequence[float]) -> Tensor:
        if len(teachers) == 1:
            return teachers[0]
        return weighted_mean([F.softmax(each, dim=-1) for each in teachers], mixture).log()


def _squared_distance(student: Tensor, teacher: Tensor) -> Tensor:
    difference = torch.where(teacher.isneginf(), 0.0, student - teacher)
    return difference.square().flatten(1).sum(1) / math.prod(student.shape[1:-1])


def weighted_mean(values: Sequence[Tensor], mixture: Sequence[float]) -> Tensor:
    """The mean of tensors of one shape with the weights `mixture`, which sum to 1."""
    if len(values) == 1:
        return values[0]
    return torch.stack([weight * value for weight, value in zip(mixture, values, strict=True)]).sum(0)


def in_float32(values: Tensor) -> Tensor:
    """`values` in float32, or as they are in float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def refuse_other_classes(student: PreTrainedConfig, teacher: PreTrainedConfig) -> None:
    """Raises `InputError` where the two have other classes, or the same in another order."""
    ours, theirs = label_names(student), label_names(teacher)
    if ours != theirs and not len(ours) == len(theirs) == 1:  # a number needs no name
        raise InputError(
            f"the teacher's classes are {', '.join(theirs)} and the student's {', '.join(ours)}: they must be the "
            "same, in the same order; cut the student with create_student(teacher), and put several teachers into one "
            "order with distilfast.models.align_classes(teachers, names)"
        )
