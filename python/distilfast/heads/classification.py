"""Classifiers of sequences and pairs: one class a row, any number of labels a row, or numbers (regression, scores)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from ..losses.definitions import IGNORED
from ..metrics.classification import multi_label_metrics, single_label_metrics
from ..metrics.scores import regression_metrics
from .head import Predictions, Rows
from .logits import LogitHead, in_float32, refuse_other_classes, weighted_mean
from .objective import Objective

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]
PROBLEM_TYPES: tuple[ProblemType, ...] = get_args(ProblemType)


class Classification(LogitHead):
    """Rows are sequences; `Outputs.compared` are their logits [rows, classes].

    `problem_type`, as in a configuration of transformers, says what `labels` of a batch are:
    "single_label_classification": class numbers [rows] int64, -100 for none; "multi_label_classification": 0 or 1 for
    each class, [rows, classes] floating, a row of -100 for none; "regression": numbers [rows] or [rows, 1] floating,
    nan for none.

    Against the teacher, alpha_ce: T^2 KL of the classes; T^2 times the mean over labels of the KL of two Bernoulli
    distributions, both tempered; the squared error of the numbers. Against labels, alpha_task: cross-entropy (weighted
    by `class_weights`); binary cross-entropy, the mean over labels; the squared error.

    Raises `InputError` for another problem type, and for class weights where classes are not exclusive.
    """

    name = "classification"
    title = "sequence-classification head"
    class_endings: ClassVar[tuple[str, ...]] = ("ForSequenceClassification",)
    class_weights: Tensor | None

    def __init__(
        self,
        problem_type: ProblemType = "single_label_classification",
        class_weights: Sequence[float] | None = None,
    ) -> None:
        if problem_type not in PROBLEM_TYPES:
            raise InputError(f"problem_type {problem_type!r} is not known; it is one of {', '.join(PROBLEM_TYPES)}")
        if class_weights is not None and problem_type != "single_label_classification":
            raise InputError(f"class weights are for one class a row, and this is {problem_type}; leave them out")
        super().__init__(class_weights)
        self.problem_type = problem_type

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        if self.problem_type == "regression":
            return "spearman" if has_labels else "teacher_spearman"
        if not has_labels:
            return "agreement"
        return "accuracy" if self.problem_type == "single_label_classification" else "micro_f1"

    def no_label(self, labels: Tensor) -> float:
        return float("nan") if self.problem_type == "regression" else IGNORED

    def divergence(
        self, student: Tensor, teachers: Sequence[Tensor], mixture: Sequence[float], temperature: float
    ) -> Tensor:
        if self.problem_type == "single_label_classification":
            return super().divergence(student, teachers, mixture, temperature)
        if self.problem_type == "regression":
            return (student - self.mixed(teachers, mixture)).square().flatten(1).mean(1)
        target = weighted_mean([torch.sigmoid(each / temperature) for each in teachers], mixture)
        entropy = -(torch.xlogy(target, target) + torch.xlogy(1 - target, 1 - target))
        crossed = F.binary_cross_entropy_with_logits(student / temperature, target, reduction="none")
        return temperature**2 * (crossed - entropy).mean(-1)

    def hard_loss(self, rows: Rows, student: Tensor) -> Tensor:
        assert rows.labels is not None
        if self.problem_type == "single_label_classification":
            return super().hard_loss(rows, student)
        student = in_float32(student)
        if self.problem_type == "multi_label_classification":
            labels = rows.labels.to(student.dtype)
            known = (labels != IGNORED).all(-1, keepdim=True)
            values = F.binary_cross_entropy_with_logits(student, labels.clamp(min=0), reduction="none")
            total = (values * known).sum() / student.shape[-1]
        else:
            labels = rows.labels.to(student.dtype).view(len(student), -1)
            known = labels.isfinite()
            values = (student - labels.nan_to_num()).square() * known
            total = values.mean(-1).sum()
        return total / rows.num_labelled.clamp(min=1)

    def mixed(self, teachers: Sequence[Tensor], mixture: Sequence[float]) -> Tensor:
        if len(teachers) == 1 or self.problem_type == "single_label_classification":
            return super().mixed(teachers, mixture)
        if self.problem_type == "regression":
            return weighted_mean(teachers, mixture)
        return torch.logit(weighted_mean([torch.sigmoid(each) for each in teachers], mixture), eps=1e-7)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        student, teacher, labels = predictions.student, predictions.teacher, predictions.labels
        if self.problem_type == "single_label_classification":
            return single_label_metrics(student, labels, teacher)
        if self.problem_type == "multi_label_classification":
            return multi_label_metrics(student, labels, teacher)
        found = regression_metrics(
            student.reshape(-1),
            None if labels is None else labels.reshape(-1),
            None if teacher is None else teacher.reshape(-1),
        )
        return found | ({"loss": found["mse"]} if "mse" in found else {})

    def check(self, student: PreTrainedModel, teachers: Sequence[PreTrainedModel], objective: Objective) -> None:
        super().check(student, teachers, objective)
        if objective.alpha_mse != 0 and self.problem_type == "regression":
            raise InputError("alpha_mse beside alpha_ce: for numbers both are the squared error; leave alpha_mse out")

    def check_teacher(self, student: PreTrainedModel, teacher: PreTrainedModel, objective: Objective) -> None:
        super().check_teacher(student, teacher, objective)
        if not self.compares_teacher(objective):
            return
        refuse_other_classes(student.config, teacher.config)
        kinds = [problem_type_of(model.config) for model in (student, teacher)]
        if kinds != [self.problem_type] * 2:
            raise InputError(
                f"the head compares {self.problem_type}, the student is made for {kinds[0]} and the teacher for "
                f"{kinds[1]} (problem_type in their configurations)"
            )


def problem_type_of(config: PreTrainedConfig) -> ProblemType:
    """What a configuration says that its model predicts; where it is silent, numbers of one output, else classes.

    Raises `InputError` for a problem type that transformers does not know."""
    said: Any = getattr(config, "problem_type", None)
    if said is None:
        return "regression" if config.num_labels == 1 else "single_label_classification"
    if said not in PROBLEM_TYPES:
        raise InputError(f"the configuration's problem_type is {said!r}; known are {', '.join(PROBLEM_TYPES)}")
    kind: ProblemType = said
    return kind
