"""An encoder without a head: nothing but hidden states is compared, and the step does that for every head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from transformers import PreTrainedModel

from ..models.last_layer import encode
from .head import Head, Outputs, Rows
from .objective import Objective
from .positions import counted_positions


class HiddenStates(Head):
    """Rows are the attended token positions; `Outputs.compared` are their last hidden states."""

    name = "hidden_states"
    title = "hidden states"
    soft_alphas: ClassVar[tuple[str, ...]] = ()
    hard_alpha = None
    takes_rows = False

    def fits(self, model: PreTrainedModel) -> bool:
        return True

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        return "cosine"

    def rows(self, batch: Mapping[str, Any], objective: Objective) -> Rows:
        return Rows(counted_positions(batch), None, batch["num_attended_in_step"], batch["num_attended_in_step"])

    def outputs(self, model: PreTrainedModel, batch: Mapping[str, Any], rows: Rows, objective: Objective) -> Outputs:
        encoded = encode(model, batch, layers=objective.inner_states)
        return Outputs(model, encoded.picked, encoded.every, encoded.layers)
