"""One micro-batch through student and teacher to scalar losses: the module that is trained.

Logits never leave it. Each loss is this micro-batch's share of the whole optimiser step's: a sum over its rows divided
by the number of rows in the step, which comes with the batch. So the gradients of micro-batches and ranks add up to
the gradient of one big batch, however it is cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from . import losses
from ._core import InputError
from .attention import model_inputs
from .families import encoder_of, has_mlm_head, mlm_decoder, mlm_transform
from .models import freeze

IGNORED = -100  # the label of a position that the masked-language-model loss does not count

KLPositions = Literal["all", "masked"]


@dataclass(frozen=True)
class Objective:
    """L = alpha_ce KL + alpha_mlm MLM + alpha_cos (1 - cosine) + alpha_mse MSE of logits; defaults as published.

    `kl_positions`: the rows of KL and MSE, "all" that are attended (the original's default) or the "masked" ones alone.
    `impl`: which implementation of the losses, see `distilfast.losses`.
    """

    alpha_ce: float = 5.0
    alpha_mlm: float = 2.0
    alpha_cos: float = 1.0
    alpha_mse: float = 0.0
    temperature: float = 2.0
    kl_positions: KLPositions = "all"
    impl: str = "auto"

    @property
    def teacher_logits(self) -> bool:
        """Whether a loss compares logits with the teacher's."""
        return self.alpha_ce != 0 or self.alpha_mse != 0

    @property
    def teacher_needed(self) -> bool:
        return self.teacher_logits or self.alpha_cos != 0

    @property
    def student_logits(self) -> bool:
        """Whether the student's head has anything to learn."""
        return self.teacher_logits or self.alpha_mlm != 0


class DistillationStep(nn.Module):
    """`forward(batch)` of a `MaskedBatches` batch -> `{"loss": total, "loss_ce", "loss_mlm", "loss_cos", ...}`.

    "loss" carries the gradient; the parts are unweighted and detached, 0-dim each, and there only if their alpha is
    not 0. `student` is trained; `teacher` is frozen, put in evaluation mode, and no part of the module: it is
    neither saved, broadcast nor moved with it. `compute_dtype` bfloat16 runs the student on bfloat16 copies of its
    float32 weights, made anew for each micro-batch, so that gradients and updates stay in float32.

    Raises `InputError` where the models do not fit together or lack what a loss compares.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None = None,
        objective: Objective | None = None,
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = Objective() if objective is None else objective
        self.compute_dtype = compute_dtype
        # A tuple, so that torch does not see a submodule.
        self._outside = (None if teacher is None else freeze(teacher),)
        check_models(student, teacher, self.objective)

    @property
    def teacher(self) -> PreTrainedModel | None:
        return self._outside[0]

    @property
    def config(self) -> PreTrainedConfig:
        """The student's configuration: what Trainer's integrations read from a model."""
        return self.student.config

    def forward(self, batch: Mapping[str, Any], cast_weights: bool = True) -> dict[str, Tensor]:
        if cast_weights and self.compute_dtype is not None:
            weights = {
                name: parameter.to(self.compute_dtype) if parameter.is_floating_point() else parameter
                for name, parameter in self.named_parameters()
            }
            called = torch.func.functional_call(self, weights, (batch, False))
            return cast("dict[str, Tensor]", called)
        return self.compute_losses(batch)

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses with the weights that the student has at this moment."""
        objective = self.objective
        counted = counted_rows(batch)
        student_hidden = last_hidden_rows(self.student, batch)
        teacher_hidden = None
        if self.teacher is not None and objective.teacher_needed:
            with torch.no_grad():
                teacher_hidden = last_hidden_rows(self.teacher, batch)

        parts: dict[str, Tensor] = {}
        total = student_hidden.new_zeros((), dtype=torch.promote_types(student_hidden.dtype, torch.float32))
        if objective.student_logits:
            logits_total, logits_parts = self.logits_losses(batch, student_hidden, teacher_hidden, counted)
            total = total + logits_total
            parts |= logits_parts
        if objective.alpha_cos != 0:
            assert teacher_hidden is not None
            cosine = losses.hidden_cosine(
                student_hidden,
                teacher_hidden,
                mask=counted,
                num_rows=batch["num_attended_in_step"],
                impl=objective.impl,
            )
            total = total + objective.alpha_cos * cosine
            parts["loss_cos"] = cosine.detach()
        return {"loss": total, **parts}

    def logits_losses(
        self, batch: Mapping[str, Any], student_hidden: Tensor, teacher_hidden: Tensor | None, counted: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The losses on logits, in one pass over them: on every row, or on the masked rows where no loss asks for more.

        `student_hidden`, `teacher_hidden`: [N, hidden size]; `counted`: [N] bool.
        """
        objective = self.objective
        positions, masked_labels = batch["mlm_positions"], batch["mlm_labels"]
        if objective.teacher_logits and objective.kl_positions == "all":
            labels = labels_of_all_rows(positions, masked_labels, len(student_hidden))
            num_kl_rows = batch["num_attended_in_step"]
        else:
            student_hidden = student_hidden.index_select(0, positions)
            teacher_hidden = None if teacher_hidden is None else teacher_hidden.index_select(0, positions)
            labels, counted = masked_labels, masked_labels != IGNORED
            num_kl_rows = batch["num_masked_in_step"]

        student_decoder = mlm_decoder(self.student)
        student_features = mlm_transform(self.student, student_hidden)
        if not objective.teacher_logits:
            mlm = losses.masked_ce(
                student_decoder(student_features), labels, num_rows=batch["num_masked_in_step"], impl=objective.impl
            )
            return objective.alpha_mlm * mlm, {"loss_mlm": mlm.detach()}

        assert self.teacher is not None
        assert teacher_hidden is not None
        teacher_decoder = mlm_decoder(self.teacher)
        with torch.no_grad():
            teacher_features = mlm_transform(self.teacher, teacher_hidden)
        result = losses.linear_distillation_loss(
            student_features,
            student_decoder.weight,
            student_decoder.bias,
            teacher_features,
            teacher_decoder.weight,
            teacher_decoder.bias,
            labels,
            temperature=objective.temperature,
            alpha_ce=objective.alpha_ce,
            alpha_mlm=objective.alpha_mlm,
            alpha_mse=objective.alpha_mse,
            mask=counted,
            num_kl_rows=num_kl_rows,
            num_mlm_rows=batch["num_masked_in_step"],
            impl=objective.impl,
        )
        parts = {"loss_ce": result.kl, "loss_mlm": result.mlm, "loss_mse": result.mse}
        weights = {"loss_ce": objective.alpha_ce, "loss_mlm": objective.alpha_mlm, "loss_mse": objective.alpha_mse}
        return result.total, {name: part for name, part in parts.items() if weights[name] != 0}


def last_hidden_rows(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """The encoder's last hidden states, one row a position: [N, hidden size]."""
    hidden = encoder_of(model)(**model_inputs(model, batch)).last_hidden_state
    return cast(Tensor, hidden).flatten(0, 1)


def counted_rows(batch: Mapping[str, Any]) -> Tensor:
    """Which of the N positions the losses over all tokens count: [N] bool.

    The attended ones; none in a batch with a false `is_real`, which only keeps a rank busy while others have a batch.
    """
    if "attention_mask" in batch:
        counted = cast(Tensor, batch["attention_mask"]).bool().flatten()
    else:
        ids = batch["input_ids"]
        counted = torch.arange(ids.numel(), device=ids.device) < batch["num_tokens"]
    return counted & batch["is_real"] if "is_real" in batch else counted


def labels_of_all_rows(positions: Tensor, labels: Tensor, rows: int) -> Tensor:
    """The labels [K] at `positions` [K] laid out over all rows: [rows], -100 everywhere else."""
    # Unused slots share position 0; they are written to a row of their own, which is cut off.
    target = torch.where(labels == IGNORED, rows, positions)
    return labels.new_full((rows + 1,), IGNORED).scatter(0, target, labels)[:rows]


def check_models(student: PreTrainedModel, teacher: PreTrainedModel | None, objective: Objective) -> None:
    """Refuses, with `InputError`, models that the objective cannot be computed from."""
    if not (objective.student_logits or objective.alpha_cos != 0):
        raise InputError("every alpha is 0, so there is nothing to learn; give at least one loss a weight")
    if objective.student_logits and not has_mlm_head(student):
        raise InputError(
            f"the student {type(student).__name__} has no masked-language-model head, which alpha_ce, alpha_mlm and "
            "alpha_mse need; set them to 0 and keep alpha_cos"
        )
    if not objective.teacher_needed:
        return
    if teacher is None:
        raise InputError(
            "there is no teacher, but alpha_ce, alpha_cos or alpha_mse is not 0; give a teacher, or set all three to 0 "
            "to pretrain with the masked-language-model loss alone"
        )
    if objective.teacher_logits and not has_mlm_head(teacher):
        raise InputError(
            f"the teacher {type(teacher).__name__} has no masked-language-model head to take logits from; set alpha_ce "
            "and alpha_mse to 0 (alpha_cos compares hidden states and still works), or take a teacher with a head"
        )
    if teacher.config.vocab_size != student.config.vocab_size:
        raise InputError(
            f"the teacher's vocabulary has {teacher.config.vocab_size} entries and the student's "
            f"{student.config.vocab_size}; both must read the same ids"
        )
    if objective.alpha_cos != 0 and teacher.config.hidden_size != student.config.hidden_size:
        raise InputError(
            f"the cosine loss compares hidden states, but the teacher's are {teacher.config.hidden_size} wide and the "
            f"student's {student.config.hidden_size}; set alpha_cos to 0 or take a student as wide as the teacher"
        )
