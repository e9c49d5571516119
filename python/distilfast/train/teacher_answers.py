"""What the teachers say of rows before training: classes for those without labels, and how far they follow lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from .._core import InputError
from ..batches.encode import EncodedRows
from ..batches.labelled import LabelledBatches
from ..batches.mixing import SAMPLE, choose_mixing
from ..heads.classification import Classification
from ..heads.head import Head
from ..losses.definitions import IGNORED
from ..models.families import evaluating
from ..prepare.labelled import Part
from ..prepare.targets import Targets
from .evaluation import LOGITS_ALONE
from .labelled import EncodedPart, LabelledRun, encode_part

LEAST_LABELLED = 0.5
"""The share of rows with labels below which the teachers are asked how far labels follow lengths."""
ASKED = 1024
"""Rows that they are asked about."""


@torch.inference_mode()
def answers(
    rows: EncodedRows, tokenizer: object, teachers: Sequence[PreTrainedModel], head: Head, batch_size: int
) -> NDArray[np.float32]:
    """[rows, classes]: the mean over teachers of their probabilities, or of the numbers that they give."""
    kind = getattr(head, "problem_type", None)
    batches = LabelledBatches(rows, tokenizer, batch_size, shuffle=False)
    found: torch.Tensor | None = None
    with evaluating(*teachers):
        for number in range(len(batches)):
            for teacher in teachers:
                batch = {name: value.to(teacher.device) for name, value in batches[number].items()}
                said = head.outputs(teacher, batch, head.rows(batch, LOGITS_ALONE), LOGITS_ALONE).compared
                if kind != "regression":
                    said = said.float().softmax(-1) if kind == "single_label_classification" else said.float().sigmoid()
                found = torch.zeros(len(rows), said.shape[-1]) if found is None else found
                found[batch["row_numbers"].cpu()] += said.float().cpu() / len(teachers)
    assert found is not None
    return found.numpy()


def mixing_of(
    run: LabelledRun, teachers: Sequence[PreTrainedModel], head: Head, batch_size: int, seed: int
) -> tuple[float, str | None]:
    """How far lengths are to be mixed in the batches of `run`, and what is to be said of it.

    Of classifiers, what the labels say decides; where few rows have one, what the teachers say. The many words of a
    batch of a tagger, and places in passages, do not follow the length of a row; rows of a group stay together."""
    rows = run.rows
    if not isinstance(head, Classification) or rows.groups is not None:
        return 0.0, None
    said = _in_numbers(rows.targets.get("labels"), len(rows), len(run.id2label))
    known = np.flatnonzero(np.isfinite(said).all(1))
    draws = np.random.Generator(np.random.Philox(seed))
    whose = "labels"
    if len(known) < LEAST_LABELLED * len(rows) and teachers:
        known = np.sort(draws.permutation(len(rows))[:ASKED])
        said[known] = answers(rows.take(known), run.tokenizer, teachers, head, 32)
        whose = "the teacher's answers"
    elif len(known) > SAMPLE:
        known = np.sort(draws.permutation(known)[:SAMPLE])
    mixing = choose_mixing(rows.input_ids.lengths[known], said[known], batch_size, seed)
    if mixing == 0:
        return mixing, None
    return mixing, (
        f"{whose} follow the length of the rows, so that batches of one length would say one thing: lengths are mixed "
        f"({mixing:.0%}), with more padding"
    )


def _in_numbers(labels: NDArray[np.generic] | None, rows: int, classes: int) -> NDArray[np.float64]:
    """Labels as [rows, classes], class numbers as rows of 0 and 1; nan where there is none."""
    found = np.full((rows, classes), np.nan)
    if labels is None:
        return found
    if labels.ndim == 2:
        known = (labels != IGNORED).all(1)
        found[known] = labels[known]
    elif labels.dtype.kind == "f":
        found[:] = labels[:, None]
    else:
        known = labels != IGNORED
        found[known] = np.eye(classes)[labels[known].astype(np.int64)]
    return found


def with_pseudo_labels(
    run: LabelledRun, teachers: Sequence[PreTrainedModel], head: Head, min_confidence: float, batch_size: int
) -> LabelledRun:
    """The unlabelled rows that the teachers are sure of, with their class as a label (Bucila et al. 2006).

    A class is as probable as the mean of the teachers' softmaxes says. Raises `InputError` for problems in which a row
    has not one class, and where no row is left.
    """
    assert run.unlabelled is not None
    if getattr(head, "problem_type", None) != "single_label_classification":
        raise InputError("--min_confidence needs a teacher that gives a row one class; leave it out")
    if not 0.0 <= min_confidence <= 1.0:
        raise InputError(f"--min_confidence {min_confidence:g} is no probability; give one from 0 to 1")
    probabilities = torch.from_numpy(answers(run.unlabelled.rows, run.tokenizer, teachers, head, batch_size))
    total = len(probabilities)
    confidence, classes = probabilities.max(-1)
    kept = (confidence >= min_confidence).nonzero().flatten().tolist()
    if not kept:
        raise InputError(
            f"the teacher is nowhere as sure as --min_confidence {min_confidence:g}: at most {confidence.max():.3f}; "
            "lower it"
        )
    part = run.unlabelled.part
    chosen = Part(part.rows.take(kept), part.columns)
    labels = classes[kept].tolist()
    targets = Targets(labels, run.mapping, len(labels), ())
    encoded = encode_part(chosen, targets, "classification", run.tokenizer, run.max_length)
    counts = np.bincount(labels, minlength=len(run.id2label))
    said = ", ".join(f"{name} {count:,}" for name, count in zip(run.id2label.values(), counts, strict=True))
    note = (
        f"unlabelled: {len(kept):,} of {total:,} rows got the teacher's class for a label ({said}), the others are "
        f"left out: it is less sure of them than {min_confidence:g}"
    )
    notes = tuple(each for each in run.notes if "learn from the teacher alone" not in each)
    return replace(run, unlabelled=EncodedPart(chosen, targets, encoded), notes=(*notes, note))
