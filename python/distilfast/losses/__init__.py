"""The losses of distillation: tempered KL to the teacher, masked-language-model cross-entropy, hidden states.

Each takes tensors with any leading dimensions ([batch, length, V] or [rows, V]), flattened to N rows, and gives a 0-dim
loss that is differentiable in the student's arguments alone. `definitions` holds the formulas.

Every loss divides by the number of rows that count in this call, or by `num_rows` if that is given (a number or a 0-dim
tensor): with the number of rows of the whole optimiser step there, gradients of its micro-batches add up to the
gradient of one large batch. A mask is bool or holds real row weights; a weight multiplies its row, the number of rows
is that of the weights that are not 0. With no row the loss is 0. Rows that do not count may hold anything, NaN
included.

`impl="fused"` computes value and gradient in one pass in a kernel of ours (CUDA: Triton, CPU: Rust) and raises where
there is none for the arguments; `"eager"` runs the definitions; `"auto"` takes the kernel where there is one and logs
once (logger `distilfast.losses`, level INFO) which it took and why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from . import arguments, definitions, dispatch
from .arguments import LinearHead
from .rows import LossTerms


class DistillationLoss(NamedTuple):
    """What `distillation_loss` gives, 0-dim tensors: only `total` is differentiable."""

    total: Tensor
    """alpha_ce * kl + alpha_mlm * mlm + alpha_mse * mse."""
    kl: Tensor
    """T^2 / num_kl_rows * sum of the KL of the counted rows, detached."""
    mlm: Tensor
    """Mean cross-entropy of the labelled rows, detached."""
    mse: Tensor
    """1 / num_kl_rows * sum over counted rows and vocabulary of (s - t)^2, detached; 0, for it is not computed, where
    alpha_mse is 0."""


def soft_kl(
    student_logits: Tensor,
    teacher_logits: Tensor | Sequence[Tensor],
    temperature: float = 2.0,
    mask: Tensor | None = None,
    num_rows: float | Tensor | None = None,
    impl: str = "auto",
    *,
    teacher_weights: Sequence[float] | None = None,
) -> Tensor:
    """T^2 / num_rows * sum over rows of weight * KL(softmax(t / T) || softmax(s / T)), in nats.

    `student_logits` and `teacher_logits` are [..., V] in any floating dtype, `mask` is [...]. Several teachers (a
    sequence of [..., V]) stand for the mean of their tempered probabilities, weighted by `teacher_weights` (made to
    sum to 1; default: equal). The kernels give a value that is never negative. Hinton et al. 2015; `L_ce` of
    DistilBERT.

    Raises `InputError` for differing shapes, vocabularies or devices, a temperature that is not above 0, a teacher that
    requires grad; `TypeError` for what is no floating-point tensor.
    """
    temperature = arguments.check_temperature(temperature)
    teachers, mixture = _check_logits(student_logits, teacher_logits, teacher_weights)
    row_weights = arguments.weight_rows(mask, "student_logits", student_logits)
    student = _rows(student_logits)
    kl_scale = arguments.row_scale("num_rows", num_rows, _counted(row_weights, student), student)
    terms = LossTerms(None, row_weights, kl_scale, torch.zeros_like(kl_scale), temperature, [1.0, 0.0, 0.0])
    return dispatch.logits_loss(student, teachers, mixture, terms, impl)[0]


def masked_ce(
    student_logits: Tensor, labels: Tensor, num_rows: float | Tensor | None = None, impl: str = "auto"
) -> Tensor:
    """1 / num_rows * sum over labelled rows of -log softmax(s)[label], in nats: `L_mlm` of DistilBERT.

    `student_logits` is [..., V], `labels` is [...], integers in [0, V), or -100 for rows that do not count.

    Raises `InputError` for differing shapes or devices and, on the CPU, for a label outside [0, V) (on a GPU, where
    finding it would make the host wait, its row gives NaN with the kernel and a device assertion without);
    `TypeError` for logits that are no floating-point tensor and labels that are no integers.
    """
    arguments.check_floating("student_logits", student_logits)
    label_rows = arguments.label_rows(labels, "student_logits", student_logits, student_logits.shape[-1])
    student = _rows(student_logits)
    mlm_scale = arguments.row_scale("num_rows", num_rows, label_rows != definitions.IGNORED, student)
    terms = LossTerms(label_rows, None, torch.zeros_like(mlm_scale), mlm_scale, 1.0, [0.0, 1.0, 0.0])
    return dispatch.logits_loss(student, [], [], terms, impl)[0]


def linear_masked_ce(
    student_hidden: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    labels: Tensor,
    num_rows: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """`masked_ce` of `hidden @ weight.T + bias`, without ever holding all logits: `linear_distillation_loss` without a
    teacher, whose arguments and errors these are.
    """
    student = arguments.check_linear_head("student", LinearHead(student_hidden, student_weight, student_bias))
    label_rows = arguments.label_rows(labels, "student_hidden", student_hidden, student_weight.shape[0])
    features = _rows(student_hidden)
    mlm_scale = arguments.row_scale("num_rows", num_rows, label_rows != definitions.IGNORED, features)
    nowhere = torch.zeros(len(features), dtype=torch.float32, device=features.device)
    terms = LossTerms(label_rows, nowhere, torch.zeros_like(mlm_scale), mlm_scale, 1.0, [0.0, 1.0, 0.0])
    return dispatch.linear_loss(student._replace(features=features), [], [], terms, impl)[0]


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | Sequence[Tensor],
    labels: Tensor,
    temperature: float = 2.0,
    alpha_ce: float = 5.0,
    alpha_mlm: float = 2.0,
    alpha_mse: float = 0.0,
    mask: Tensor | None = None,
    num_kl_rows: float | Tensor | None = None,
    num_mlm_rows: float | Tensor | None = None,
    impl: str = "auto",
    *,
    teacher_weights: Sequence[float] | None = None,
) -> DistillationLoss:
    """alpha_ce * soft_kl + alpha_mlm * masked_ce + alpha_mse * (MSE of the logits), from one pass over the logits.

    `student_logits` and `teacher_logits` are [..., V], `labels` and `mask` are [...]. `mask` picks (or weighs) the
    rows of KL and MSE, whose denominator is `num_kl_rows`; the rows of the cross-entropy are those with a label other
    than -100, their denominator is `num_mlm_rows`. The MSE is summed over the vocabulary and, with several teachers,
    averaged over them. A term whose alpha is 0 adds nothing to `total`, even where it is infinite. Names and defaults
    as in DistilBERT.

    Raises what `soft_kl` and `masked_ce` raise.
    """
    teachers, mixture = _check_logits(student_logits, teacher_logits, teacher_weights)
    terms = _terms(
        "student_logits", student_logits, student_logits.shape[-1], labels, mask, num_kl_rows, num_mlm_rows,
        temperature, (alpha_ce, alpha_mlm, alpha_mse),
    )  # fmt: skip
    return DistillationLoss(*dispatch.logits_loss(_rows(student_logits), teachers, mixture, terms, impl))


def linear_distillation_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    teacher_hidden: Tensor | Sequence[Tensor],
    teacher_weight: Tensor | Sequence[Tensor],
    teacher_bias: Tensor | Sequence[Tensor | None] | None,
    labels: Tensor,
    temperature: float = 2.0,
    alpha_ce: float = 5.0,
    alpha_mlm: float = 2.0,
    alpha_mse: float = 0.0,
    mask: Tensor | None = None,
    num_kl_rows: float | Tensor | None = None,
    num_mlm_rows: float | Tensor | None = None,
    impl: str = "auto",
    *,
    teacher_weights: Sequence[float] | None = None,
) -> DistillationLoss:
    """`distillation_loss` of `hidden @ weight.T + bias` of both sides, without ever holding all logits.

    `student_hidden` is [..., H], `student_weight` [V, H] (as in `torch.nn.Linear`; tied to the embeddings or not),
    `student_bias` [V] or None; the teacher's alike, with any hidden size of its own. Several teachers: sequences of
    equal length for `teacher_hidden`, `teacher_weight` and `teacher_bias` (None: no teacher has one). Rows that count
    in no term are left out of the products where that can be known without waiting for a GPU. The gradients of
    `student_hidden`, `student_weight` and `student_bias` are computed with the value; the weight's is summed in
    float32. Under autocast the products are taken in its dtype.

    Raises what `distillation_loss` raises, and `InputError` for hidden states, weights and biases that do not fit.
    """
    student = arguments.check_linear_head("student", LinearHead(student_hidden, student_weight, student_bias))
    teachers, mixture = arguments.teacher_heads(teacher_hidden, teacher_weight, teacher_bias, teacher_weights)
    for teacher in teachers:
        arguments.check_heads_agree(student, teacher)
    terms = _terms(
        "student_hidden", student_hidden, student_weight.shape[0], labels, mask, num_kl_rows, num_mlm_rows,
        temperature, (alpha_ce, alpha_mlm, alpha_mse),
    )  # fmt: skip
    heads = [head._replace(features=_rows(head.features)) for head in (student, *teachers)]
    return DistillationLoss(*dispatch.linear_loss(heads[0], heads[1:], mixture, terms, impl))


def hidden_cosine(
    student_hidden: Tensor | Sequence[Tensor],
    teacher_hidden: Tensor | Sequence[Tensor],
    mask: Tensor | None = None,
    num_rows: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """1 / num_rows * sum over rows of weight * (1 - cos(s, t)): `L_cos` of DistilBERT.

    Hidden states are [..., H] of equal shape, `mask` is [...]. 1e-12 is added to each squared norm, as in
    `torch.nn.CosineEmbeddingLoss`, so a vector of zeros gives 1. Equally long sequences of hidden states, one entry
    for a layer, give the mean over the layers; those alike in shape and dtypes go through the kernel in one launch.

    Raises `InputError` for differing shapes or devices and a teacher that requires grad; `TypeError` for what is no
    floating-point tensor.
    """
    return _hidden_loss("cosine", student_hidden, teacher_hidden, mask, num_rows, impl)


def hidden_mse(
    student_hidden: Tensor | Sequence[Tensor],
    teacher_hidden: Tensor | Sequence[Tensor],
    mask: Tensor | None = None,
    num_rows: float | Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """1 / num_rows * sum over rows of weight * mean_h (s_h - t_h)^2; arguments and errors as in `hidden_cosine`."""
    return _hidden_loss("mse", student_hidden, teacher_hidden, mask, num_rows, impl)


def _hidden_loss(
    kind: str,
    student_hidden: Tensor | Sequence[Tensor],
    teacher_hidden: Tensor | Sequence[Tensor],
    mask: Tensor | None,
    num_rows: float | Tensor | None,
    impl: str,
) -> Tensor:
    layers = arguments.hidden_layers(student_hidden, teacher_hidden)
    alike: dict[object, list[tuple[Tensor, Tensor]]] = {}
    for student, teacher in layers:
        alike.setdefault((student.shape, student.dtype, teacher.dtype, student.device), []).append((student, teacher))
    losses = []
    for pairs in alike.values():
        first = pairs[0][0]
        row_weights = arguments.weight_rows(mask, "student_hidden", first)
        counted = _counted(row_weights, _rows(first))
        scale = arguments.row_scale("num_rows", num_rows, counted, first) / len(layers)
        rows = [(_rows(student), _rows(teacher)) for student, teacher in pairs]
        losses.append(dispatch.hidden_loss(kind, rows, row_weights, scale, impl))
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


def _check_logits(
    student_logits: Tensor, teacher_logits: Tensor | Sequence[Tensor], teacher_weights: Sequence[float] | None
) -> tuple[list[Tensor], list[float]]:
    """The teachers' logits as rows, and the teachers' shares."""
    arguments.check_floating("student_logits", student_logits)
    teachers, mixture = arguments.check_teachers("teacher_logits", teacher_logits, teacher_weights)
    for each in teachers:
        arguments.check_same("student_logits", student_logits, "teacher_logits", each)
    return [_rows(each) for each in teachers], mixture


def _terms(
    name: str,
    values: Tensor,
    vocabulary: int,
    labels: Tensor,
    mask: Tensor | None,
    num_kl_rows: float | Tensor | None,
    num_mlm_rows: float | Tensor | None,
    temperature: float,
    alphas: tuple[float, float, float],
) -> LossTerms:
    """The terms of a loss of all three parts, checked; `name` is the argument that `values`, the student's, came by."""
    label_rows = arguments.label_rows(labels, name, values, vocabulary)
    row_weights = arguments.weight_rows(mask, name, values)
    rows = _rows(values)
    return LossTerms(
        label_rows,
        row_weights,
        arguments.row_scale("num_kl_rows", num_kl_rows, _counted(row_weights, rows), rows),
        arguments.row_scale("num_mlm_rows", num_mlm_rows, label_rows != definitions.IGNORED, rows),
        arguments.check_temperature(temperature),
        [
            arguments.check_number(alpha_name, alpha)
            for alpha_name, alpha in zip(("alpha_ce", "alpha_mlm", "alpha_mse"), alphas, strict=True)
        ],
    )


def _rows(values: Tensor) -> Tensor:
    return values.reshape(-1, values.shape[-1])


def _counted(row_weights: Tensor | None, rows: Tensor) -> Tensor | int:
    return rows.shape[0] if row_weights is None else row_weights != 0
