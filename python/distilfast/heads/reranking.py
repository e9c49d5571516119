"""Rerankers: one score a row, compared within the passages of a query as well as row by row.

Margins as Hofstätter et al., "Improving efficient neural ranking models with cross-architecture knowledge
distillation", 2020 (MarginMSE); lists as Cao et al., "Learning to rank: from pairwise approach to listwise approach",
2007 (ListNet).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from .._core import InputError
from ..metrics.scores import ranking_metrics
from .classification import Classification
from .head import Predictions, Rows
from .logits import in_float32, weighted_mean
from .objective import Objective


class Reranking(Classification):
    """A classifier of one number ("regression") whose rows stand in groups.

    Beside the losses of `Classification`, against what the teachers score, the mean over the groups of two rows or more
    of the optimiser step:
    alpha_margin_mse: (s_i - s_j - (t_i - t_j))^2, the mean over all pairs of the group. Hofstätter et al. take pairs of
    a relevant and another passage; here no label is needed.
    alpha_listnet: T^2 KL(softmax(t / T) || softmax(s / T)) over the rows of the group: ListNet's cross-entropy of the
    probabilities of being first, less what does not depend on the student, with the temperature of Hinton et al. 2015;
    of several teachers the weighted mean of the probabilities.

    A batch has `groups` and `num_groups_in_step` (see `LabelledBatches`) where one of these is asked for.
    """

    soft_alphas: ClassVar[tuple[str, ...]] = (*Classification.soft_alphas, "alpha_margin_mse", "alpha_listnet")

    def __init__(self) -> None:
        super().__init__("regression")

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        return "ndcg@10" if has_labels else "kendall" if self.teacher_needed(objective) else "spearman"

    def rows(self, batch: Mapping[str, Any], objective: Objective) -> Rows:
        found = super().rows(batch, objective)
        return found._replace(groups=batch.get("groups"), num_groups=batch.get("num_groups_in_step"))

    def soft_loss(
        self, rows: Rows, student: Tensor, teachers: Sequence[Tensor], mixture: Sequence[float], objective: Objective
    ) -> dict[str, tuple[float, Tensor]]:
        found = super().soft_loss(rows, student, teachers, mixture, objective)
        if not _compares_groups(objective):
            return found
        if rows.groups is None or rows.num_groups is None:
            raise InputError(
                "alpha_margin_mse and alpha_listnet compare the rows of a group, and the batches have none; give "
                "LabelledBatches rows with groups"
            )
        ours, theirs = in_float32(student).flatten(), [in_float32(teacher).flatten() for teacher in teachers]
        together = (rows.groups[:, None] == rows.groups[None, :]) & (rows.weight[:, None] & rows.weight[None, :])
        count = rows.num_groups.clamp(min=1)
        if objective.alpha_margin_mse != 0:
            margins = _margin_distance(ours, weighted_mean(theirs, mixture), together)
            found["loss_margin_mse"] = (objective.alpha_margin_mse, margins / count)
        if objective.alpha_listnet != 0:
            lists = _list_divergence(ours, theirs, mixture, together, objective.temperature)
            found["loss_listnet"] = (objective.alpha_listnet, lists / count)
        return found

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Those of numbers, and `ranking_metrics` of the groups that the data have."""
        found = super().metrics(predictions)
        data, numbers = predictions.data, predictions.row_numbers
        if data is None or data.groups is None or numbers is None:
            return found
        labels, teacher = predictions.labels, predictions.teacher
        return found | ranking_metrics(
            predictions.student.reshape(-1),
            None if labels is None else labels.reshape(-1),
            data.groups[numbers],
            None if teacher is None else teacher.reshape(-1),
        )

    def check(self, student: PreTrainedModel, teachers: Sequence[PreTrainedModel], objective: Objective) -> None:
        super().check(student, teachers, objective)
        if student.config.num_labels != 1:
            raise InputError(f"rows are ranked by one number, and the student gives {student.config.num_labels}")


def _compares_groups(objective: Objective) -> bool:
    return objective.alpha_margin_mse != 0 or objective.alpha_listnet != 0


def _margin_distance(student: Tensor, teacher: Tensor, together: Tensor) -> Tensor:
    """0-dim: the mean squared difference of margins over the pairs of each group, summed over groups.

    student, teacher: scores [rows]; together: bool [rows, rows], whether two rows are of one group.
    """
    errors = student - teacher
    size = together.sum(1).to(errors.dtype)
    of_pair = together.triu(1) / (size * (size - 1) / 2).clamp(min=1)[:, None]
    return ((errors[:, None] - errors[None, :]).square() * of_pair).sum()


def _list_divergence(
    student: Tensor, teachers: Sequence[Tensor], mixture: Sequence[float], together: Tensor, temperature: float
) -> Tensor:
    """0-dim: T^2 KL of the softmaxes over each group, summed over groups; arguments as those of `_margin_distance`."""
    first = together & ~together.tril(-1).any(1)[:, None]  # one line a group, that of its first row
    outside = torch.finfo(student.dtype).min
    target = weighted_mean([_softmax(each / temperature, first, outside) for each in teachers], mixture)
    ours = F.log_softmax((student / temperature).expand_as(first).masked_fill(~first, outside), dim=-1)
    divergence = torch.xlogy(target, target) - target * ours.masked_fill(~first, 0.0)
    return temperature**2 * divergence.masked_fill(~first, 0.0).sum()


def _softmax(scores: Tensor, inside: Tensor, outside: float) -> Tensor:
    return F.softmax(scores.expand_as(inside).masked_fill(~inside, outside), dim=-1)
