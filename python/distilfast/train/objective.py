"""What a student is trained for: the losses, their weights, and where they are taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from .._core import InputError
from ..models.families import has_mlm_head

KLPositions = Literal["all", "masked", "sampled"]
CosinePositions = Literal["all", "kl"]
HiddenKind = Literal["cosine", "mse"]


@dataclass(frozen=True)
class Objective:
    """The weighted sum of up to six losses; the defaults are the published ones.

    alpha_ce KL + alpha_mlm MLM + alpha_cos (1 - cosine of the last hidden states) + alpha_mse MSE of logits
    + alpha_hidden (intermediate layers, `HiddenLayerLoss`) + alpha_rel (attention relations, `RelationLoss`).

    `kl_positions`: the rows of KL and MSE, "all" that are attended (the original's default), the "masked" ones alone,
    or the masked and a "sampled" share of the others, weighted to be unbiased (`select_positions`).
    `cos_positions`: the rows of the cosine, "all" that are attended (the original's) or those of the "kl".
    `impl`: which implementation of the losses, see `distilfast.losses`.
    """

    alpha_ce: float = 5.0
    alpha_mlm: float = 2.0
    alpha_cos: float = 1.0
    alpha_mse: float = 0.0
    temperature: float = 2.0
    kl_positions: KLPositions = "all"
    kl_sample_share: float = 0.15
    cos_positions: CosinePositions = "all"
    alpha_hidden: float = 0.0
    hidden_map: tuple[tuple[int, int], ...] | None = None
    hidden_kind: HiddenKind = "cosine"
    alpha_rel: float = 0.0
    relation_heads: int | None = None
    relation_layers: tuple[int, int] | None = None
    seed: int = 0
    impl: str = "auto"

    @property
    def teacher_logits(self) -> bool:
        """Whether a loss compares logits with the teacher's."""
        return self.alpha_ce != 0 or self.alpha_mse != 0

    @property
    def inner_states(self) -> bool:
        """Whether a loss looks at layers before the last."""
        return self.alpha_hidden != 0 or self.alpha_rel != 0

    @property
    def teacher_needed(self) -> bool:
        return self.teacher_logits or self.alpha_cos != 0 or self.inner_states

    @property
    def student_logits(self) -> bool:
        """Whether the student's head has anything to learn."""
        return self.teacher_logits or self.alpha_mlm != 0

    @property
    def selects_rows(self) -> bool:
        """Whether the heads run on some rows alone: the masked ones, and the sampled if there are any."""
        return not (self.teacher_logits and self.kl_positions == "all")

    @property
    def stops_early(self) -> bool:
        """Whether no loss looks at another row of the last layer than those that the heads run on."""
        cosine_fits = self.alpha_cos == 0 or (self.cos_positions == "kl" and self.teacher_logits)
        return self.student_logits and self.selects_rows and cosine_fits and not self.inner_states


def check_models(student: PreTrainedModel, teachers: Sequence[PreTrainedModel], objective: Objective) -> None:
    """Refuses, with `InputError`, models that the objective cannot be computed from."""
    if not (objective.student_logits or objective.alpha_cos != 0 or objective.inner_states):
        raise InputError("every alpha is 0, so there is nothing to learn; give at least one loss a weight")
    if objective.student_logits and not has_mlm_head(student):
        headless = [type(teacher).__name__ for teacher in teachers if not has_mlm_head(teacher)]
        cause = f", like its teacher {headless[0]}" if headless else ""
        raise InputError(
            f"the student {type(student).__name__} has no masked-language-model head{cause}; alpha_ce, alpha_mlm and "
            "alpha_mse need one: set them to 0 and keep alpha_cos"
        )
    if not objective.teacher_needed:
        return
    if not teachers:
        raise InputError(
            "there is no teacher, but alpha_ce, alpha_cos, alpha_mse, alpha_hidden or alpha_rel is not 0; give a "
            "teacher, or set all of them to 0 to pretrain with the masked-language-model loss alone"
        )
    for teacher in teachers:
        _check_teacher(student, teacher, objective)


def _check_teacher(student: PreTrainedModel, teacher: PreTrainedModel, objective: Objective) -> None:
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
            f"student's {student.config.hidden_size}; set alpha_cos to 0 and take alpha_hidden, which learns a "
            "projection, or take a student as wide as the teacher"
        )
