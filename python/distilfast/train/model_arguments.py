"""Which models a run has: the teacher, and what the student is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .._command import flag


@dataclass
class ModelArguments:
    """Which models."""

    _argument_group_name = "models"

    teacher: list[str] | None = flag(
        None,
        "Directory or Hub id of the teacher, or of several: the student then follows the mean of their tempered "
        "probabilities. Without one a model is pretrained from --student_config.",
    )
    teacher_weights: list[float] | None = flag(None, "A weight for each of several teachers. Default: equal.")
    concatenate_teachers: bool = flag(
        False, "Several sentence encoders are one teacher, whose vector is theirs side by side, each of length 1."
    )
    student: str | None = flag(None, "Directory or Hub id of a student to train on, instead of a cut of the teacher.")
    student_config: str | None = flag(
        None, "config.json (or its directory) of a student or, without a teacher, of the model to pretrain."
    )
    layers: list[str] | None = flag(
        None,
        "How many of the teacher's layers the student takes (one number), which (numbers from 0), or auto (auto 3), "
        "chosen by loss. Default: half, spread evenly; [0, 2, 4, 7, 9, 11] of 12.",
    )
    hidden_size: int | None = flag(None, "Width of a student that is narrower, cut out of the teacher's.")
    intermediate_size: int | None = flag(None, "Inner width of its layers. Default: the teacher's.")
    num_attention_heads: int | None = flag(None, "Its attention heads. Default: as wide as the teacher's.")
    student_type: Literal["auto", "same", "distilbert"] = flag(
        "auto",
        "'same': the teacher's own class with fewer layers; 'distilbert': of a BERT teacher a DistilBERT; auto: that "
        "for masked_lm and encoders, else 'same'.",
    )
    init: Literal["teacher", "random"] = flag("teacher", "What the student starts from.")
    vocabulary: str | None = flag(
        None,
        "The student has fewer words: how many tokens (8000), which share of the text's tokens must be among them "
        "(99.9%%), or a file with a token on every line. It learns what its teacher says of these words.",
    )
    vocabulary_text: list[str] | None = flag(None, "Text that the words are chosen for. Default: --text.")
    characters: Literal["all", "text"] = flag(
        "all", "Which single characters --vocabulary always keeps: all that the teacher has, or the text's and ASCII's."
    )
    pooling: Literal["mean", "cls", "max"] | None = flag(
        None, "How the tokens of a bare encoder become the vector of a text; a sentence-transformers folder says it."
    )
    normalize: bool | None = flag(None, "Whether the vectors of a bare encoder have length 1. Default: yes.")
    keep_dimension: bool = flag(
        True, "A student of another width gives vectors as long as the teacher's, by a dense layer that is saved."
    )
    cache_teacher: str | None = flag(
        None,
        "Directory in which the teacher's logits of rows, or vectors of texts, are kept for every epoch and later run; "
        "losses on hidden states are then left out.",
    )
    teacher_vectors: str | None = flag(
        None, "Column of the parquet files of --text with the teacher's vectors, instead of running it."
    )
    revision: str | None = flag(None, "Revision of the teacher on the Hub.")
    trust_remote_code: bool = flag(False, "Run model code that comes with the teacher.")
