"""One micro-batch through student and teacher to scalar losses: the module that is trained, for every head.

Logits never leave it. Each loss is this micro-batch's share of the whole optimiser step's: a sum over its rows divided
by the number of rows in the step, which comes with the batch. So the gradients of micro-batches and ranks add up to
the gradient of one big batch, however it is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .. import losses
from .._core import InputError
from ..heads.head import Head, Outputs, Rows
from ..heads.masked_lm import MaskedLM
from ..heads.objective import Objective
from ..heads.positions import counted_positions
from ..losses.arguments import mixture_of
from ..models.bf16 import WeightCopies, untied_embeddings
from ..models.padding_mask import with_shared_padding
from ..models.quantized import quantized_inputs, quantized_weights
from .layer_losses import HiddenLayerLoss, RelationLoss

EXPORTED = ("student.", "head.sentence.")
"""What of a step an exported file computes."""


class DistillationStep(nn.Module):
    """`forward(batch)` -> `{"loss": total, "loss_ce", "loss_cos", ...}`, the parts as the head and the objective have
    them.

    "loss" carries the gradient; the parts are unweighted and detached, 0-dim each, and there only if their alpha is
    not 0. `student` is trained; `teacher`, one or several, is no part of the module: it is neither saved, broadcast nor
    moved with it. Nothing is changed in any of them here: `models.adapt` makes them ready. `head` (default: `MaskedLM`)
    says what is compared, and what a batch is. Several teachers give the mean of their tempered probabilities, and of
    the losses on hidden states the mean, weighted by `teacher_weights` (made to sum to 1; default: equal).
    `compute_dtype` bfloat16 runs the student on bfloat16 copies of its float32 weights (`copies`: made anew for each
    micro-batch, or kept until they are forgotten), so that gradients and updates stay in float32; float32, that
    `computes_int8` can be set: then the student, and what is saved with it, computes as onnxruntime will in int8.

    Raises `InputError` where the models do not fit together or lack what a loss compares.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | Sequence[PreTrainedModel] | None = None,
        objective: Objective | None = None,
        compute_dtype: torch.dtype | None = None,
        teacher_weights: Sequence[float] | None = None,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.head = MaskedLM() if head is None else head
        self.objective = Objective() if objective is None else objective
        self.copies = None if compute_dtype is None else WeightCopies(compute_dtype, table=untied_embeddings(student))
        self._outside = as_teachers(teacher)  # a tuple, so that torch does not see submodules
        self.teacher_weights = mixture_of(teacher_weights, len(self.teachers))
        self.head.check(student, self.teachers, self.objective)
        self.hidden_losses, self.relation_losses = nn.ModuleList(), nn.ModuleList()
        for each in self.teachers:
            if self.objective.alpha_hidden != 0:
                pairs, kind = self.objective.hidden_map, self.objective.hidden_kind
                self.hidden_losses.append(HiddenLayerLoss(student, each, pairs, kind, self.objective.seed))
            if self.objective.alpha_rel != 0:
                layers = self.objective.relation_layers or (None, None)
                self.relation_losses.append(RelationLoss(student, each, self.objective.relation_heads, *layers))

    @property
    def teachers(self) -> tuple[PreTrainedModel, ...]:
        return self._outside

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The first teacher."""
        return self._outside[0] if self._outside else None

    @property
    def needed_teachers(self) -> tuple[PreTrainedModel, ...]:
        """The teachers that are run."""
        return self.teachers if self.head.teacher_needed(self.objective) else ()

    @property
    def computes_int8(self) -> bool:
        """Whether the forward pass computes what the int8 file of the student will (`models.quantized`)."""
        return self.copies is not None and bool(self.copies.rounded)

    @computes_int8.setter
    def computes_int8(self, wanted: bool) -> None:
        assert self.copies is not None
        if wanted != self.computes_int8:
            self.copies.round(quantized_weights(self, EXPORTED) if wanted else ())

    @property
    def config(self) -> PreTrainedConfig:
        """The student's configuration: what Trainer's integrations read from a model."""
        return self.student.config

    def forward(self, batch: Mapping[str, Any], cast_weights: bool = True) -> dict[str, Tensor]:
        if cast_weights and self.copies is not None:
            as_int8 = self.computes_int8
            with quantized_inputs(self, EXPORTED) if as_int8 else nullcontext(), self.copies.casting_rows():
                called = torch.func.functional_call(self, self.copies.of(self), (batch, False), tie_weights=not as_int8)
            return cast("dict[str, Tensor]", called)
        return self.compute_losses(batch)

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses with the weights that the student has at this moment."""
        objective, head = self.objective, self.head
        batch = with_shared_padding(batch, (self.student, *self.needed_teachers))
        rows = head.rows(batch, objective)
        targets = [self.target(number, batch, rows) for number in range(len(self.needed_teachers))]
        student = head.outputs(self.student, batch, rows, objective)
        parts: dict[str, Tensor] = {}
        total = student.compared.new_zeros((), dtype=torch.promote_types(student.compared.dtype, torch.float32))
        if head.reads_student(objective):
            head_total, parts = head.losses(rows, student, targets, self.teacher_weights, objective)
            total = total + head_total
        if objective.alpha_cos != 0:
            cosine = self.cosine_loss(batch, rows, student, targets)
            total = total + objective.alpha_cos * cosine
            parts["loss_cos"] = cosine.detach()
        if objective.inner_states:
            for name, alpha, loss in self.inner_losses(batch, student, targets):
                total = total + alpha * loss
                parts[name] = loss.detach()
        return {"loss": total, **parts}

    def target(self, number: int, batch: Mapping[str, Any], rows: Rows) -> Outputs:
        """What a teacher makes of the batch, without a graph: run, or as it comes with the batch, where it is kept."""
        teacher = self.teachers[number]
        if (kept := batch.get(f"teacher_{number}_outputs")) is not None:
            return Outputs(teacher, self.head.from_kept(kept, batch), None, None)
        if teacher.training:
            raise InputError(
                f"the teacher {type(teacher).__name__} is in training mode and would drop what it says; call "
                "models.adapt(student, teacher) before the first step"
            )
        with _without_graph():
            outputs = self.head.outputs(teacher, batch, rows, self.objective)
        # Copies, because what inference mode made cannot be kept for a backward pass.
        every = outputs.compared.clone() if outputs.every is outputs.compared else None
        return Outputs(
            teacher,
            outputs.compared.clone() if every is None else every,
            every if every is not None or outputs.every is None else outputs.every.clone(),
            None if outputs.layers is None else tuple(layer.clone() for layer in outputs.layers),
        )

    def cosine_loss(self, batch: Mapping[str, Any], rows: Rows, student: Outputs, targets: Sequence[Outputs]) -> Tensor:
        """1 - cosine of the last hidden states, over all attended positions or those of the KL (masked_lm), averaged
        over teachers."""
        at_kl = self.objective.cos_positions == "kl" and self.head.compares_teacher(self.objective)
        if at_kl:
            mask, num_rows = rows.weight, rows.num_rows
        else:
            mask, num_rows = counted_positions(batch), batch["num_attended_in_step"]
        picked = [cast(Tensor, each.compared if at_kl else each.every) for each in (student, *targets)]
        return self._mean_over_teachers(
            [
                losses.hidden_cosine(picked[0], target, mask=mask, num_rows=num_rows, impl=self.objective.impl)
                for target in picked[1:]
            ]
        )

    def inner_losses(
        self, batch: Mapping[str, Any], student: Outputs, targets: Sequence[Outputs]
    ) -> list[tuple[str, float, Tensor]]:
        """(name, alpha, loss) of the losses on intermediate layers and on attention relations, if asked for."""
        counted, num_rows = counted_positions(batch), batch["num_attended_in_step"]
        found = []
        if self.hidden_losses:
            values = [
                loss(student.layers, target.layers, counted, num_rows, self.objective.impl)
                for loss, target in zip(self.hidden_losses, targets, strict=True)
            ]
            found.append(("loss_hidden", self.objective.alpha_hidden, self._mean_over_teachers(values)))
        if self.relation_losses:
            values = [
                loss(self.student, teacher, student.layers, target.layers, batch, num_rows)
                for loss, teacher, target in zip(self.relation_losses, self.teachers, targets, strict=True)
            ]
            found.append(("loss_rel", self.objective.alpha_rel, self._mean_over_teachers(values)))
        return found

    def _mean_over_teachers(self, values: Sequence[Tensor]) -> Tensor:
        if len(values) == 1:
            return values[0]
        return torch.stack([weight * value for weight, value in zip(self.teacher_weights, values, strict=True)]).sum()


def as_teachers(teacher: PreTrainedModel | Sequence[PreTrainedModel] | None) -> tuple[PreTrainedModel, ...]:
    """One teacher, several or none as a tuple."""
    if teacher is None:
        return ()
    return (teacher,) if isinstance(teacher, PreTrainedModel) else tuple(teacher)


def _without_graph() -> AbstractContextManager[None]:
    """Inference mode; while a graph is captured, which cannot mix it with training, no gradients."""
    return cast(
        "AbstractContextManager[None]",
        torch.no_grad() if torch.compiler.is_compiling() else torch.inference_mode(),
    )
