"""Taggers: named entities, parts of speech, any tag of each word; compared at the first token of a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel

from .._core import InputError
from ..losses.definitions import IGNORED
from ..metrics.classification import single_label_metrics
from ..metrics.tokens import has_entities, token_metrics
from .head import Predictions, Rows
from .logits import LogitHead, refuse_other_classes
from .objective import Objective


class Tokens(LogitHead):
    """Rows are all positions of a batch, of which the first token of each word counts (`word_starts` of the batch);
    `Outputs.compared` are their logits [rows * width, tags].

    `labels` of a batch: the tag at the first token of each word, -100 for none and elsewhere, [rows, width] int64.
    `names`: of the tags. Where they mark entities (B-PER, I-PER, O), whole entities are scored by seqeval's rules.
    """

    name = "tokens"
    title = "token-classification head"
    class_endings: ClassVar[tuple[str, ...]] = ("ForTokenClassification",)

    def __init__(self, names: Sequence[str], class_weights: Sequence[float] | None = None) -> None:
        super().__init__(class_weights)
        self.names = list(names)
        self.entities = has_entities(self.names)

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        if not has_labels:
            return "agreement"
        return "f1" if self.entities else "accuracy"

    def rows(self, batch: Mapping[str, Any], objective: Objective) -> Rows:
        starts: Tensor = batch["word_starts"]
        if "is_real" in batch:
            starts = starts & batch["is_real"]
        labels, numbers = batch.get("labels"), batch.get("row_numbers")
        return Rows(
            starts.flatten(),
            None if labels is None else labels.masked_fill(~starts, IGNORED).flatten(),
            batch["num_rows_in_step"],
            batch["num_labelled_in_step"],
            row_numbers=None if numbers is None else numbers.repeat_interleave(starts.shape[1]),
        )

    def logits_of(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        return super().logits_of(outputs, batch).flatten(0, 1)

    def kept(self, compared: Tensor, batch: Mapping[str, Any]) -> Tensor:
        return compared[batch["word_starts"].flatten()]

    def from_kept(self, kept: Tensor, batch: Mapping[str, Any]) -> Tensor:
        starts = batch["word_starts"].flatten()
        # Not indexed by the mask, for whose count the host would wait.
        return kept.new_zeros(len(starts), kept.shape[1]).masked_scatter_(starts[:, None], kept)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Of the words that the model got to see: `accuracy`, and `precision`, `recall` and `f1` of whole entities (or
        `macro_f1` of tags that mark none) over the words that have a label, the others left out of their sentences;
        `loss` over the same; `agreement` and `kl` with the teacher over all words."""
        student, teacher, labels = predictions.student, predictions.teacher, predictions.labels
        words = single_label_metrics(student, labels, teacher)
        found = {name: value for name, value in words.items() if name in ("loss", "agreement", "kl")}
        if labels is not None:
            known = labels != IGNORED
            truth, said = (self.sentences(each, predictions, known) for each in (labels, student.argmax(-1)))
            if known.any():
                found |= token_metrics(said, truth, None, self.entities)
        return found

    def sentences(self, classes: np.ndarray, predictions: Predictions, known: np.ndarray) -> list[list[Any]]:
        """The tags that the class numbers [words] stand for where `known` [words] is true, sentence by sentence in the
        order of the data. Raises `InputError` where the batches do not say which sentence a word is of."""
        if predictions.row_numbers is None:
            raise InputError("a tagger is scored by sentences; give batches with row_numbers, as LabelledBatches has")
        numbers = predictions.row_numbers[known]
        order = np.argsort(numbers, kind="stable")
        ends = np.flatnonzero(np.diff(numbers[order])) + 1
        named = np.array(self.names, dtype=object)
        return [part.tolist() for part in np.split(named[classes[known]][order], ends)]

    def eval_prediction(self, predictions: Predictions) -> EvalPrediction:
        """`predictions` [rows, words, tags] and `label_ids` [rows, words], a row's words by their first tokens; both
        -100 behind its last word, and `label_ids` where a word has no label."""
        numbers = predictions.row_numbers
        if numbers is None:
            raise InputError(
                "words are told apart by their rows; give batches with row_numbers, as LabelledBatches has"
            )
        counts = np.bincount(numbers, minlength=0 if predictions.data is None else len(predictions.data))
        words = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = len(counts), int(counts.max(initial=0))
        logits = np.full((*shape, len(self.names)), float(IGNORED), np.float32)
        logits[numbers, words] = predictions.student
        if predictions.labels is None:
            return EvalPrediction(predictions=logits, label_ids=cast(Any, None))
        labels = np.full(shape, IGNORED, np.int64)
        labels[numbers, words] = predictions.labels
        return EvalPrediction(predictions=logits, label_ids=labels)

    def check_teacher(self, student: PreTrainedModel, teacher: PreTrainedModel, objective: Objective) -> None:
        super().check_teacher(student, teacher, objective)
        if self.compares_teacher(objective):
            refuse_other_classes(student.config, teacher.config)
