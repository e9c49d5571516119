"""One micro-batch through student and teacher to scalar losses: the module that is trained.

Logits never leave it. Each loss is this micro-batch's share of the whole optimiser step's: a sum over its rows divided
by the number of rows in the step, which comes with the batch. So the gradients of micro-batches and ranks add up to
the gradient of one big batch, however it is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from .. import losses
from .._core import InputError
from ..cpu.attention import use_cpu_attention
from ..cpu.dropout import use_cpu_dropout
from ..cpu.matmul import use_cpu_products
from ..models.adaptation import freeze
from ..models.attention import model_inputs
from ..models.bf16 import WeightCopies
from ..models.families import encoder_of, mlm_decoder, mlm_transform
from ..models.last_layer import SELECTED, can_stop_early, let_last_layer_stop
from .layer_losses import HiddenLayerLoss, RelationLoss
from .objective import Objective, check_models
from .positions import attended, select_positions

IGNORED = -100  # the label of a position that the masked-language-model loss does not count


class States(NamedTuple):
    """What one encoder made of a batch."""

    last: Tensor
    """[N, hidden size] of every position, or [K, hidden size] of the selected ones where the last layer stops early."""
    layers: tuple[Tensor, ...] | None
    """The embeddings' output and that of every layer, [rows, width, hidden size] each, if a loss looks at them."""


class Rows(NamedTuple):
    """The rows that the heads run on."""

    positions: Tensor | None
    """[K] int64, flat indices into the N positions; None for all N."""
    weight: Tensor
    """[K] or [N], what a row counts in KL and MSE: bool, or a real weight."""
    labels: Tensor
    """[K] or [N] int64, -100 where the masked-language-model loss does not count."""
    num_kl_rows: Tensor
    """0-dim, the denominator of KL and MSE."""

    def of(self, states: Tensor, stopped: bool) -> Tensor:
        """These rows of the hidden states [N, H]; of `stopped` ones, [K, H], all."""
        return states if stopped or self.positions is None else states.index_select(0, self.positions)


class DistillationStep(nn.Module):
    """`forward(batch)` of a `MaskedBatches` batch -> `{"loss": total, "loss_ce", "loss_mlm", "loss_cos", ...}`.

    "loss" carries the gradient; the parts are unweighted and detached, 0-dim each, and there only if their alpha is
    not 0. `student` is trained; `teacher`, one or several, is frozen, put in evaluation mode, and no part of the
    module: it is neither saved, broadcast nor moved with it. Several teachers give the mean of their tempered
    probabilities, and of the losses on hidden states the mean, weighted by `teacher_weights` (made to sum to 1;
    default: equal). `compute_dtype` bfloat16 runs the student on bfloat16 copies of its float32 weights (`copies`: made
    anew for each micro-batch, or kept until they are forgotten), so that gradients and updates stay in float32. On the
    CPU the student gets the attention and the dropout that are fast there.

    Raises `InputError` where the models do not fit together or lack what a loss compares.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel | Sequence[PreTrainedModel] | None = None,
        objective: Objective | None = None,
        compute_dtype: torch.dtype | None = None,
        teacher_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = Objective() if objective is None else objective
        self.copies = None if compute_dtype is None else WeightCopies(compute_dtype)
        self._outside = _teachers(teacher)  # a tuple, so that torch does not see submodules
        self.teacher_weights = _normalised(teacher_weights, len(self.teachers))
        check_models(student, self.teachers, self.objective)
        use_cpu_attention(student)
        use_cpu_dropout(student)
        for model in (student, *self.teachers):
            use_cpu_products(model)
        self.hidden_losses, self.relation_losses = nn.ModuleList(), nn.ModuleList()
        for each in self.teachers:
            if self.objective.alpha_hidden != 0:
                pairs, kind = self.objective.hidden_map, self.objective.hidden_kind
                self.hidden_losses.append(HiddenLayerLoss(student, each, pairs, kind, self.objective.seed))
            if self.objective.alpha_rel != 0:
                layers = self.objective.relation_layers or (None, None)
                self.relation_losses.append(RelationLoss(student, each, self.objective.relation_heads, *layers))
        models = [student, *(self.teachers if self.objective.teacher_needed else ())]
        self.stops_early = self.objective.stops_early and all(map(can_stop_early, models))
        if self.stops_early:
            for model in models:
                let_last_layer_stop(model)

    @property
    def teachers(self) -> tuple[PreTrainedModel, ...]:
        return self._outside

    @property
    def teacher(self) -> PreTrainedModel | None:
        """The first teacher."""
        return self._outside[0] if self._outside else None

    @property
    def config(self) -> PreTrainedConfig:
        """The student's configuration: what Trainer's integrations read from a model."""
        return self.student.config

    def forward(self, batch: Mapping[str, Any], cast_weights: bool = True) -> dict[str, Tensor]:
        if cast_weights and self.copies is not None:
            called = torch.func.functional_call(self, self.copies.of(self), (batch, False))
            return cast("dict[str, Tensor]", called)
        return self.compute_losses(batch)

    def compute_losses(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses with the weights that the student has at this moment."""
        objective = self.objective
        counted = counted_rows(batch)
        rows = self.rows(batch, counted)
        targets = [self.encode(each, batch, rows, target=True) for each in self.needed_teachers]
        states = self.encode(self.student, batch, rows)
        parts: dict[str, Tensor] = {}
        total = states.last.new_zeros((), dtype=torch.promote_types(states.last.dtype, torch.float32))
        if objective.student_logits:
            logits_total, logits_parts = self.logits_losses(batch, rows, states, targets)
            total = total + logits_total
            parts |= logits_parts
        if objective.alpha_cos != 0:
            cosine = self.cosine_loss(batch, rows, counted, states, targets)
            total = total + objective.alpha_cos * cosine
            parts["loss_cos"] = cosine.detach()
        if objective.inner_states:
            for name, alpha, loss in self.inner_losses(batch, counted, states, targets):
                total = total + alpha * loss
                parts[name] = loss.detach()
        return {"loss": total, **parts}

    def rows(self, batch: Mapping[str, Any], counted: Tensor) -> Rows:
        """Where the heads run: on every row, or on the masked and sampled ones if no loss asks for more."""
        objective = self.objective
        if not objective.selects_rows:
            labels = labels_of_all_rows(batch["mlm_positions"], batch["mlm_labels"], len(counted))
            return Rows(None, counted, labels, batch["num_attended_in_step"])
        wanted = objective.kl_positions if objective.teacher_logits else "masked"
        selection = select_positions(batch, wanted, objective.kl_sample_share, objective.seed)
        weight = selection.kl_weight * counted[selection.positions]
        return Rows(selection.positions, weight, selection.labels, selection.num_kl_rows)

    def encode(self, model: PreTrainedModel, batch: Mapping[str, Any], rows: Rows, target: bool = False) -> States:
        """The hidden states that the losses need; of a `target`, a teacher, without a graph."""
        inputs = model_inputs(model, batch)
        if self.stops_early and rows.positions is not None:
            inputs[SELECTED] = rows.positions
        if not target:
            outputs = encoder_of(model)(**inputs, output_hidden_states=self.objective.inner_states)
            return States(outputs.last_hidden_state.flatten(0, 1), outputs.hidden_states)
        with _without_graph():
            outputs = encoder_of(model)(**inputs, output_hidden_states=self.objective.inner_states)
        # Copies, because what inference mode made cannot be kept for a backward pass.
        layers = None if outputs.hidden_states is None else tuple(layer.clone() for layer in outputs.hidden_states)
        return States(outputs.last_hidden_state.flatten(0, 1).clone(), layers)

    def logits_losses(
        self, batch: Mapping[str, Any], rows: Rows, states: States, targets: Sequence[States]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses on logits, in one pass over them, and its parts."""
        objective, num_masked = self.objective, batch["num_masked_in_step"]
        decoder = mlm_decoder(self.student)
        features = mlm_transform(self.student, rows.of(states.last, self.stops_early))
        if not objective.teacher_logits:
            mlm = losses.masked_ce(decoder(features), rows.labels, num_rows=num_masked, impl=objective.impl)
            return objective.alpha_mlm * mlm, {"loss_mlm": mlm.detach()}
        with torch.no_grad():
            target_features = [
                mlm_transform(teacher, rows.of(target.last, self.stops_early))
                for teacher, target in zip(self.teachers, targets, strict=True)
            ]
        target_decoders = [mlm_decoder(teacher) for teacher in self.teachers]
        options: dict[str, Any] = {
            "temperature": objective.temperature,
            "alpha_ce": objective.alpha_ce,
            "alpha_mlm": objective.alpha_mlm,
            "alpha_mse": objective.alpha_mse,
            "mask": rows.weight,
            "num_kl_rows": rows.num_kl_rows,
            "num_mlm_rows": num_masked,
            "impl": objective.impl,
        }
        result = losses.linear_distillation_loss(
            features,
            decoder.weight,
            decoder.bias,
            target_features,
            [each.weight for each in target_decoders],
            [each.bias for each in target_decoders],
            rows.labels,
            teacher_weights=self.teacher_weights,
            **options,
        )
        parts = {"loss_ce": result.kl, "loss_mlm": result.mlm, "loss_mse": result.mse}
        weights = {"loss_ce": objective.alpha_ce, "loss_mlm": objective.alpha_mlm, "loss_mse": objective.alpha_mse}
        return result.total, {name: part for name, part in parts.items() if weights[name] != 0}

    def cosine_loss(
        self, batch: Mapping[str, Any], rows: Rows, counted: Tensor, states: States, targets: Sequence[States]
    ) -> Tensor:
        """1 - cosine of the last hidden states, over all attended rows or those of the KL, averaged over teachers."""
        at_kl = self.objective.cos_positions == "kl" and self.objective.teacher_logits
        mask, num_rows = (rows.weight, rows.num_kl_rows) if at_kl else (counted, batch["num_attended_in_step"])
        picked = [
            rows.of(each.last, self.stops_early) if at_kl else each.last for each in (states, *targets)
        ]  # the student's first
        return self._mean_over_teachers(
            [
                losses.hidden_cosine(picked[0], target, mask=mask, num_rows=num_rows, impl=self.objective.impl)
                for target in picked[1:]
            ]
        )

    def inner_losses(
        self, batch: Mapping[str, Any], counted: Tensor, states: States, targets: Sequence[States]
    ) -> list[tuple[str, float, Tensor]]:
        """(name, alpha, loss) of the losses on intermediate layers and on attention relations, if asked for."""
        num_rows = batch["num_attended_in_step"]
        found = []
        if self.hidden_losses:
            values = [
                loss(states.layers, target.layers, counted, num_rows, self.objective.impl)
                for loss, target in zip(self.hidden_losses, targets, strict=True)
            ]
            found.append(("loss_hidden", self.objective.alpha_hidden, self._mean_over_teachers(values)))
        if self.relation_losses:
            values = [
                loss(self.student, teacher, states.layers, target.layers, batch, num_rows)
                for loss, teacher, target in zip(self.relation_losses, self.teachers, targets, strict=True)
            ]
            found.append(("loss_rel", self.objective.alpha_rel, self._mean_over_teachers(values)))
        return found

    @property
    def needed_teachers(self) -> tuple[PreTrainedModel, ...]:
        """The teachers that are run."""
        return self.teachers if self.objective.teacher_needed else ()

    def _mean_over_teachers(self, values: Sequence[Tensor]) -> Tensor:
        if len(values) == 1:
            return values[0]
        return torch.stack([weight * value for weight, value in zip(self.teacher_weights, values, strict=True)]).sum()


def _teachers(teacher: PreTrainedModel | Sequence[PreTrainedModel] | None) -> tuple[PreTrainedModel, ...]:
    if teacher is None:
        return ()
    return tuple(freeze(each) for each in ((teacher,) if isinstance(teacher, PreTrainedModel) else teacher))


def _normalised(weights: Sequence[float] | None, teachers: int) -> list[float]:
    """Weights of the teachers that sum to 1."""
    if weights is None:
        return [1.0 / teachers for _ in range(teachers)]
    if len(weights) != teachers or not all(weight > 0 for weight in weights):
        raise InputError(
            f"the teacher weights are {list(weights)} for {teachers} teachers; give one number above 0 for each"
        )
    return [weight / sum(weights) for weight in weights]


def _without_graph() -> AbstractContextManager[None]:
    """Inference mode; while a graph is captured, which cannot mix it with training, no gradients."""
    return cast(
        "AbstractContextManager[None]",
        torch.no_grad() if torch.compiler.is_compiling() else torch.inference_mode(),
    )


def counted_rows(batch: Mapping[str, Any]) -> Tensor:
    """Which of the N positions the losses over all tokens count: [N] bool.

    The attended ones; none in a batch with a false `is_real`, which only keeps a rank busy while others have a batch.
    """
    counted = attended(batch)
    return counted & batch["is_real"] if "is_real" in batch else counted


def labels_of_all_rows(positions: Tensor, labels: Tensor, rows: int) -> Tensor:
    """The labels [K] at `positions` [K] laid out over all rows: [rows], -100 everywhere else."""
    # Unused slots share position 0; they are written to a row of their own, which is cut off.
    target = torch.where(labels == IGNORED, rows, positions)
    return labels.new_full((rows + 1,), IGNORED).scatter(0, target, labels)[:rows]
