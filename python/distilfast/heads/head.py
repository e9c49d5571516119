"""What a head is: five questions that every kind of model answers for itself, so that one step trains all of them.

Which rows does a batch have (`rows`)? What does a model say of them (`outputs`)? How far is the student from its
teachers (`soft_loss`), and from the labels (`hard_loss`)? What is measured on held-out data, and which measure chooses
the best model (`metrics`, `best_metric`)?

A loss is this micro-batch's share of the whole optimiser step's: a sum over its rows divided by the number of rows in
the step, which comes with the batch. So the gradients of micro-batches and ranks add up to that of one big batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel

from .._core import InputError
from ..batches.encode import EncodedRows
from ..batches.sentences import NOTHING_KNOWN, Known
from ..losses.definitions import IGNORED
from ..models.attention import model_inputs
from .objective import Objective


class Rows(NamedTuple):
    """The K rows of a batch that a head compares: token positions, sequences, words."""

    weight: Tensor
    """[K], what a row counts in the soft losses: bool, or a real weight; 0 or false where `is_real` is."""
    labels: Tensor | None
    """The labels of the rows as the head reads them; None where the batch has none."""
    num_rows: Tensor
    """0-dim, the denominator of the soft losses: their rows in the whole optimiser step."""
    num_labelled: Tensor
    """0-dim, the denominator of the hard loss: the rows with a label in the whole optimiser step."""
    positions: Tensor | None = None
    """[K] int64, flat indices into the batch's rows * width where rows are picked token positions; None otherwise."""
    row_numbers: Tensor | None = None
    """[K] int64, which row of the data each is of, where the batch says so."""
    groups: Tensor | None = None
    """[K] int64, the group of each, counted in the batch, where rows of one are compared with each other."""
    num_groups: Tensor | None = None
    """0-dim, the denominator of such losses: the groups of two rows or more in the whole optimiser step."""


class Outputs(NamedTuple):
    """What one model made of a batch."""

    model: PreTrainedModel
    compared: Tensor
    """What the head's losses compare: logits or vectors [K, ...]; for masked_lm the hidden states [K, hidden size] that
    its last linear layer makes logits of."""
    every: Tensor | None
    """[rows * width, hidden size]: the last hidden states, if a loss looks at them."""
    layers: tuple[Tensor, ...] | None
    """The embeddings' output and that of every layer, [rows, width, hidden size] each, if a loss looks at them."""


class Predictions(NamedTuple):
    """What student and teachers say of held-out rows, on the host; rows that do not count are left out."""

    student: np.ndarray
    """[rows, ...] float32: `Outputs.compared` of the student."""
    teacher: np.ndarray | None
    """The same of the teachers, mixed as in training (`mixed`); None without a teacher."""
    labels: np.ndarray | None
    """The rows' labels as the head reads them; None where no batch has any."""
    row_numbers: np.ndarray | None = None
    """[rows] int64, which row of the data each is of (several may be of one); None where batches do not say so."""
    data: EncodedRows | None = None
    """The data that the row numbers count through, where they are known."""
    known: Known = NOTHING_KNOWN
    """What is known of texts, by row number."""


class Head(nn.Module):
    """The base of all heads; one that has weights of its own (a projection) trains them with the student.

    A batch of labelled rows has `input_ids`, `attention_mask` [rows, width] (`token_type_ids`, if the tokenizer gives
    them), `num_tokens`, `num_attended_in_step`, `num_rows_in_step`, `num_labelled_in_step`, all 0-dim int64 but the
    first; `labels`, if the data have any; `is_real` 0-dim bool, false in a batch that only keeps a rank busy. Each head
    says in `rows` what its labels are.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """What a model must have, in words, for messages."""
    class_endings: ClassVar[tuple[str, ...]] = ()
    """How the names of transformers' classes with this head end."""
    soft_alphas: ClassVar[tuple[str, ...]] = ("alpha_ce", "alpha_mse")
    """Fields of `Objective` that weigh losses against what the teacher says."""
    hard_alpha: ClassVar[str | None] = "alpha_task"
    """The field of `Objective` that weighs the loss against labels."""
    takes_rows: ClassVar[bool] = True
    """Whether a batch is counted in rows (per_device_train_batch_size), and not in tokens of text (batch_tokens)."""
    greater_is_better: ClassVar[bool] = True

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        """Which of the metrics chooses the best model where nothing else is asked for."""
        raise NotImplementedError

    # The first two questions: rows, and what a model says of them.

    def rows(self, batch: Mapping[str, Any], objective: Objective) -> Rows:
        """The rows that count, with their labels and denominators.

        Here one row a sequence, as classifiers have it; a batch that only keeps a rank busy has rows of weight 0 and no
        labels."""
        weight = torch.ones(len(batch["input_ids"]), dtype=torch.bool, device=batch["input_ids"].device)
        labels = batch.get("labels")
        if "is_real" in batch:
            weight = weight & batch["is_real"]
            if labels is not None:
                labels = torch.where(batch["is_real"], labels, torch.full_like(labels, self.no_label(labels)))
        numbers = batch.get("row_numbers")
        return Rows(weight, labels, batch["num_rows_in_step"], batch["num_labelled_in_step"], row_numbers=numbers)

    def no_label(self, labels: Tensor) -> float:
        """The value that stands for no label in labels of this dtype."""
        return IGNORED

    def outputs(self, model: PreTrainedModel, batch: Mapping[str, Any], rows: Rows, objective: Objective) -> Outputs:
        """Runs `model` on the batch, its hidden states kept where the objective looks at them.

        Here the whole model, and its logits (`logits_of`): the way of every head that transformers computes from all of
        its encoder's output (poolers and dropout included)."""
        states = objective.alpha_cos != 0 or objective.inner_states
        outputs = model(**model_inputs(model, batch), output_hidden_states=states, return_dict=True)
        every = outputs.hidden_states[-1].flatten(0, 1) if states else None
        compared = self.logits_of(outputs, batch)
        return Outputs(model, compared, every, outputs.hidden_states if objective.inner_states else None)

    def logits_of(self, outputs: Any, batch: Mapping[str, Any]) -> Tensor:
        """`Outputs.compared` of what a model of transformers returned for the batch."""
        logits: Tensor = outputs.logits
        return logits

    def kept(self, compared: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """`Outputs.compared` of a batch without its padding, [places, ...], as it is kept on disk; the places of a row
        (one, here) stand together, in the order of `LabelledBatches.output_starts`."""
        return compared

    def from_kept(self, kept: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """The reverse of `kept`, for a batch of any rows and width."""
        return kept

    # The third and fourth: losses.

    def losses(
        self, rows: Rows, student: Outputs, targets: Sequence[Outputs], mixture: Sequence[float], objective: Objective
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the head's losses, which carries the gradient, and its parts: unweighted, detached, by
        their names in the log (`loss_ce`, `loss_task`, ...).

        `mixture`: the weights of the teachers, which sum to 1."""
        parts: dict[str, tuple[float, Tensor]] = {}
        if self.compares_teacher(objective):
            said = [target.compared for target in targets]
            parts |= self.soft_loss(rows, student.compared, said, mixture, objective)
        alpha = self.hard_weight(objective)
        if alpha != 0 and rows.labels is not None:
            parts["loss_task"] = (alpha, self.hard_loss(rows, student.compared))
        total = sum((alpha * value for alpha, value in parts.values()), start=student.compared.new_zeros(()).float())
        return total, {name: value.detach() for name, (_, value) in parts.items()}

    def soft_loss(
        self, rows: Rows, student: Tensor, teachers: Sequence[Tensor], mixture: Sequence[float], objective: Objective
    ) -> dict[str, tuple[float, Tensor]]:
        """{name: (its alpha, 0-dim loss)} of the losses against the teachers, of alphas that are not 0 alone.

        `student`, `teachers`: `Outputs.compared` of each; sums over `rows.weight` divided by `rows.num_rows`."""
        raise NotImplementedError

    def hard_loss(self, rows: Rows, student: Tensor) -> Tensor:
        """The loss against `rows.labels`, 0-dim: a sum over the rows with a label divided by `rows.num_labelled`."""
        raise NotImplementedError

    def compares_teacher(self, objective: Objective) -> bool:
        """Whether a loss compares what the teacher's head says."""
        return any(getattr(objective, alpha) != 0 for alpha in self.soft_alphas)

    def hard_weight(self, objective: Objective) -> float:
        """The weight of the loss against labels."""
        return 0.0 if self.hard_alpha is None else float(getattr(objective, self.hard_alpha))

    def reads_student(self, objective: Objective) -> bool:
        """Whether the student's head has anything to learn."""
        return self.compares_teacher(objective) or self.hard_weight(objective) != 0

    def stops_early(self, objective: Objective) -> bool:
        """Whether the last layer may be computed at `Rows.positions` alone."""
        return False

    def teacher_needed(self, objective: Objective) -> bool:
        return self.compares_teacher(objective) or objective.alpha_cos != 0 or objective.inner_states

    # The fifth: what is measured.

    def mixed(self, teachers: Sequence[Tensor], mixture: Sequence[float]) -> Tensor:
        """What the teachers say together, [K, ...], for `Predictions.teacher`: of one teacher, what it says."""
        raise NotImplementedError

    def joined(self, parts: Sequence[Tensor]) -> Tensor:
        """What a model says of several batches (`Outputs.compared`) as one."""
        return torch.cat(list(parts))

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """Scores of the student's predictions: against labels, where there are any, and against the teacher's; `loss`
        is the loss against labels."""
        raise NotImplementedError

    def eval_prediction(self, predictions: Predictions) -> EvalPrediction:
        """What `compute_metrics` of transformers is called with: of classifiers `predictions` [rows, classes] and
        `label_ids`, as `labels` of a batch, in the order of the data."""
        return EvalPrediction(predictions=predictions.student, label_ids=cast(Any, predictions.labels))

    def save(self, folder: Path) -> None:
        """Writes what users of the student in `folder` need beside its weights and tokenizer: here nothing."""

    # Refusals.

    def fits(self, model: PreTrainedModel) -> bool:
        """Whether `model` says what this head compares."""
        return type(model).__name__.endswith(self.class_endings)

    def check(self, student: PreTrainedModel, teachers: Sequence[PreTrainedModel], objective: Objective) -> None:
        """Refuses, with `InputError`, models that the objective cannot be computed from."""
        if not (self.reads_student(objective) or objective.alpha_cos != 0 or objective.inner_states):
            raise InputError("every alpha is 0, so there is nothing to learn; give at least one loss a weight")
        if self.reads_student(objective) and not self.fits(student):
            headless = [type(teacher).__name__ for teacher in teachers if not self.fits(teacher)]
            cause = f", like its teacher {headless[0]}" if headless else ""
            raise InputError(f"the student {type(student).__name__} has no {self.title}{cause}; {self.way_out}")
        if self.teacher_needed(objective) and not teachers:
            raise InputError(
                f"there is no teacher, but {', '.join(self.soft_alphas)}, alpha_cos, alpha_hidden or alpha_rel is not "
                f"0; give a teacher, or set all of them to 0 to train with {self.hard_alpha} alone"
            )
        for teacher in teachers if self.teacher_needed(objective) else ():
            self.check_teacher(student, teacher, objective)

    @property
    def way_out(self) -> str:
        """What to do about a model without this head."""
        return f"take one whose class ends in {' or '.join(self.class_endings)}"

    def check_teacher(self, student: PreTrainedModel, teacher: PreTrainedModel, objective: Objective) -> None:
        """Refuses, with `InputError`, a teacher that does not fit the student."""
        if self.compares_teacher(objective) and not self.fits(teacher):
            raise InputError(
                f"the teacher {type(teacher).__name__} has no {self.title} to compare with; {self.way_out}"
            )
        if teacher.config.vocab_size != student.config.vocab_size:
            raise InputError(
                f"the teacher's vocabulary has {teacher.config.vocab_size} entries and the student's "
                f"{student.config.vocab_size}; both must read the same ids"
            )
        if objective.alpha_cos != 0 and teacher.config.hidden_size != student.config.hidden_size:
            raise InputError(
                f"the cosine loss compares hidden states, but the teacher's are {teacher.config.hidden_size} wide and "
                f"the student's {student.config.hidden_size}; set alpha_cos to 0 and take alpha_hidden, which learns a "
                "projection, or take a student as wide as the teacher"
            )
