"""Question answering: where in a passage the answer begins and where it ends, as in SQuAD 1.1 and 2.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel

from .._core import InputError
from ..metrics.questions import best_answers, position_metrics, question_metrics
from .head import Predictions, Rows
from .logits import LogitHead
from .objective import Objective

# Heads that search start and end together, and give no logits of either; called by their modules in transformers.
BEAM_SEARCH = "SQuADHead"


class Questions(LogitHead):
    """Rows are windows, a question with its passage or a part of it; `Outputs.compared` are the logits of where the
    answer begins and ends, [rows, 2, width], -inf where it cannot (`answer_places` of the batch says where it can).

    Padding, question and special tokens are left out of both softmaxes, as the question-answering pipeline of
    transformers leaves them out; [CLS], which stands for no answer, stays. So a window's losses do not depend on how
    wide its batch is. Losses are the mean over the two, as in transformers. `start_positions` and `end_positions` of a
    batch: int64 [rows], -100 for none.
    """

    name = "questions"
    title = "question-answering head"
    class_endings: ClassVar[tuple[str, ...]] = ("ForQuestionAnswering", "ForQuestionAnsweringSimple")

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        return "f1" if has_labels else "agreement"

    def fits(self, model: PreTrainedModel) -> bool:
        beam_search = any(type(child).__name__.endswith(BEAM_SEARCH) for child in model.children())
        return super().fits(model) and not beam_search

    def rows(self, batch: Mapping[str, Any], objective: Objective) -> Rows:
        labels = None
        if "start_positions" in batch:
            labels = torch.stack([batch["start_positions"], batch["end_positions"]], 1)
        return super().rows({**batch, "labels": labels}, objective)

    def logits_of(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        both = torch.stack([outputs.start_logits, outputs.end_logits], 1)
        return both.masked_fill(~batch["answer_places"][:, None], -torch.inf)

    def kept(self, compared: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return compared.transpose(1, 2)[batch["answer_places"]]

    def from_kept(self, kept: Tensor, batch: Mapping[str, Any]) -> Tensor:
        places = batch["answer_places"]
        compared = kept.new_full((*places.shape, 2), -torch.inf)
        # Not indexed by the mask, for whose count the host would wait.
        return compared.masked_scatter_(places[..., None], kept).transpose(1, 2)

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        width = max(part.shape[-1] for part in parts)
        return torch.cat([F.pad(part, (0, width - part.shape[-1]), value=-torch.inf) for part in parts])

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """`exact_match` and `f1` of the likeliest answers of the questions, and of those with and without an answer
        where there are both; `loss` over windows with a label; `agreement` (the teacher's answer), `teacher_f1` and
        `kl` with the teacher."""
        found = position_metrics(predictions.student, predictions.labels, predictions.teacher)
        said = self.answers(predictions.student, predictions)
        assert predictions.data is not None
        truths = predictions.data.answers or ()
        known = [number for number, truth in enumerate(truths) if truth is not None]
        if known:
            found |= question_metrics([said[number] for number in known], [truths[number] or () for number in known])
        if predictions.teacher is not None:
            found |= question_metrics(said, None, self.answers(predictions.teacher, predictions))
        return found

    def eval_prediction(self, predictions: Predictions) -> EvalPrediction:
        """`predictions`: the logits of starts and of ends, each [windows, width], -inf where no answer may be;
        `label_ids`: start and end positions, each [windows]."""
        # Typed there as tuples of one array.
        logits, labels = (
            None if each is None else cast(Any, (each[:, 0], each[:, 1]))
            for each in (predictions.student, predictions.labels)
        )
        return EvalPrediction(predictions=cast(Any, logits), label_ids=cast(Any, labels))

    def answers(self, logits: np.ndarray, predictions: Predictions) -> list[str]:
        """The likeliest answer of each question over its windows; "" for none, where some question of the data has none
        (or nobody said). Raises `InputError` for batches that do not say what the passages are."""
        data, numbers = predictions.data, predictions.row_numbers
        if data is None or numbers is None or data.offsets is None or data.passages is None:
            raise InputError("answers are text; give batches that have passages, LabelledBatches of encode_questions")
        assert data.answer_places is not None
        widest = int(data.input_ids.lengths.max())
        start, end = np.full((2, len(data), widest), -np.inf)
        for window, (row, both) in enumerate(zip(numbers, logits, strict=True)):
            # By the places of the window itself, whatever side it was padded on.
            places = np.flatnonzero(data.answer_places[row])
            given = np.isfinite(both).all(0)
            if given.sum() != len(places):
                raise InputError(f"the logits of window {window} are not finite; the training diverged")
            start[row, places], end[row, places] = both[:, given]
        columns = {
            "example": data.row_numbers.tolist(),
            "offsets": [[None if a < 0 else (int(a), int(b)) for a, b in spans] for spans in data.offsets],
        }
        unanswerable = any(not truth for truth in data.answers or [None])
        return best_answers(data.passages, columns, start, end, unanswerable)
