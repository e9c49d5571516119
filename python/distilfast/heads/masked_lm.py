"""Masked-language models: the words behind a mask, or at every token, as the teacher sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .. import losses
from ..models.families import has_mlm_head, mlm_decoder, mlm_transform
from ..models.last_layer import encode
from ..models.quantized import input_of
from .head import Head, Outputs, Rows
from .objective import Objective
from .positions import counted_positions, labels_of_all_positions, select_positions


class MaskedLM(Head):
    """Rows are token positions of a `MaskedBatches`, padded or packed: all attended ones, the masked ones, or those and
    a sample of the rest (`Objective.kl_positions`). `Outputs.compared` are the last hidden states there: logits over
    the vocabulary are made of them inside the losses, a chunk at a time (`linear_distillation_loss`).
    """

    name = "masked_lm"
    title = "masked-language-model head"
    class_endings: ClassVar[tuple[str, ...]] = ("ForMaskedLM", "ForPreTraining", "LMHeadModel")
    hard_alpha = "alpha_mlm"
    takes_rows = False
    greater_is_better = False

    def fits(self, model: PreTrainedModel) -> bool:
        return has_mlm_head(model)

    @property
    def way_out(self) -> str:
        return (
            "alpha_ce, alpha_mlm and alpha_mse need one: set them to 0 and keep alpha_cos, which compares hidden states"
        )

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        return "kl" if self.compares_teacher(objective) else "loss"

    def rows(self, batch: Mapping[str, Any], objective: Objective) -> Rows:
        """Where the head runs: on every position, or on the masked and sampled ones if no loss asks for more."""
        counted, num_masked = counted_positions(batch), batch["num_masked_in_step"]
        if self.compares_teacher(objective) and objective.kl_positions == "all":
            labels = labels_of_all_positions(batch["mlm_positions"], batch["mlm_labels"], len(counted))
            return Rows(counted, labels, batch["num_attended_in_step"], num_masked)
        wanted = objective.kl_positions if self.compares_teacher(objective) else "masked"
        selection = select_positions(batch, wanted)
        weight = selection.kl_weight * counted[selection.positions]
        return Rows(weight, selection.labels, selection.num_kl_rows, num_masked, selection.positions)

    def stops_early(self, objective: Objective) -> bool:
        """Whether no loss looks at another row of the last layer than those that the head runs on."""
        selects_rows = not (self.compares_teacher(objective) and objective.kl_positions == "all")
        return self.reads_student(objective) and selects_rows and not self._reads_every(objective)

    def _reads_every(self, objective: Objective) -> bool:
        cosine_fits = objective.cos_positions == "kl" and self.compares_teacher(objective)
        return objective.inner_states or (objective.alpha_cos != 0 and not cosine_fits)

    def outputs(self, model: PreTrainedModel, batch: Mapping[str, Any], rows: Rows, objective: Objective) -> Outputs:
        every = self._reads_every(objective)
        encoded = encode(model, batch, rows.positions, every=every, layers=objective.inner_states)
        return Outputs(model, encoded.picked, encoded.every, encoded.layers)

    def losses(
        self, rows: Rows, student: Outputs, targets: Sequence[Outputs], mixture: Sequence[float], objective: Objective
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """KL, masked-language-model loss and squared distance from one pass over the logits."""
        assert rows.labels is not None
        decoder = mlm_decoder(student.model)
        features = input_of(decoder, mlm_transform(student.model, student.compared))
        if not self.compares_teacher(objective):
            mlm = losses.linear_masked_ce(
                features, decoder.weight, decoder.bias, rows.labels, num_rows=rows.num_labelled, impl=objective.impl
            )
            return objective.alpha_mlm * mlm, {"loss_mlm": mlm.detach()}
        with torch.no_grad():
            target_features = [mlm_transform(target.model, target.compared) for target in targets]
        target_decoders = [mlm_decoder(target.model) for target in targets]
        result = losses.linear_distillation_loss(
            features,
            decoder.weight,
            decoder.bias,
            target_features,
            [each.weight.detach() for each in target_decoders],
            [None if each.bias is None else each.bias.detach() for each in target_decoders],
            rows.labels,
            temperature=objective.temperature,
            alpha_ce=objective.alpha_ce,
            alpha_mlm=objective.alpha_mlm,
            alpha_mse=objective.alpha_mse,
            mask=rows.weight,
            num_kl_rows=rows.num_rows,
            num_mlm_rows=rows.num_labelled,
            impl=objective.impl,
            teacher_weights=mixture,
        )
        parts = {"loss_ce": result.kl, "loss_mlm": result.mlm, "loss_mse": result.mse}
        weights = {"loss_ce": objective.alpha_ce, "loss_mlm": objective.alpha_mlm, "loss_mse": objective.alpha_mse}
        return result.total, {name: part for name, part in parts.items() if weights[name] != 0}
