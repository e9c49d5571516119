"""The losses of distillation, each in a few lines of plain PyTorch: one value per row.

These are the definitions: in float64 they are what every kernel is tested against, and they run wherever no kernel
does. Rows are positions of a batch, `logits` is [N, V], `hidden` is [N, H]. 16-bit inputs are computed in float32.
`counted` is a bool [N] (None: all): a row that is not counted gives 0 and a gradient of 0, whatever it holds.

Sources: Hinton et al. 2015 (tempered softmax, T^2), Sanh et al. 2019 (the sum of KL, masked-language-model
cross-entropy and cosine), TinyBERT (MSE of hidden states).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The label of a row that has no label, as in `torch.nn.functional.cross_entropy`."""

NORM_EPSILON = 1e-12
"""Added to each squared norm, as `torch.nn.CosineEmbeddingLoss` does: zero vectors have cosine 0."""


def soft_kl_rows(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    temperature: float,
    teacher_weights: Sequence[float],
    counted: Tensor | None = None,
) -> Tensor:
    """KL(q || p) = sum_v q_v (log q_v - log p_v) per row, p = softmax(s / T), q = sum_k w_k softmax(t_k / T).

    A class to which the teachers give no probability adds 0; one that they allow and the student excludes (-inf) makes
    the row +inf. T^2 is not in here.
    """
    log_p = F.log_softmax(_rows(student_logits, counted) / temperature, dim=-1)
    log_q = mixed_log_softmax([_rows(logits, counted) for logits in teacher_logits], teacher_weights, temperature)
    log_q = log_q.to(log_p.dtype)
    q = log_q.exp()
    return torch.where(q > 0, q * (log_q - log_p), 0.0).sum(dim=-1)


def mixed_log_softmax(logits: Sequence[Tensor], weights: Sequence[float], temperature: float) -> Tensor:
    """log sum_k w_k softmax(t_k / T) of one teacher's logits [N, V] or of several."""
    parts = [F.log_softmax(each / temperature, dim=-1) for each in logits]
    if len(parts) == 1:
        return parts[0]
    weighted = [part + math.log(weight) for part, weight in zip(parts, weights, strict=True)]
    return torch.logsumexp(torch.stack(weighted), dim=0)


def masked_ce_rows(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy log sum_v exp(s_v) - s_label per row, without temperature; 0 where the label is -100."""
    return F.cross_entropy(_rows(student_logits, labels != IGNORED), labels, ignore_index=IGNORED, reduction="none")


def logits_mse_rows(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    teacher_weights: Sequence[float],
    counted: Tensor | None = None,
) -> Tensor:
    """sum_v (s_v - t_v)^2 per row (summed over the vocabulary, as in DistilBERT), the weighted mean over teachers."""
    student = _rows(student_logits, counted)
    rows = student.new_zeros(student.shape[:-1])
    for logits, weight in zip(teacher_logits, teacher_weights, strict=True):
        rows = rows + weight * (student - _rows(logits, counted)).square().sum(dim=-1)
    return rows


def hidden_cosine_rows(student_hidden: Tensor, teacher_hidden: Tensor, counted: Tensor | None = None) -> Tensor:
    """1 - <s, t> / sqrt((|s|^2 + 1e-12) (|t|^2 + 1e-12)) per row."""
    student, teacher = _rows(student_hidden, counted), _rows(teacher_hidden, counted)
    # A root for each norm: their product alone could overflow.
    student_norm = (student.square().sum(dim=-1) + NORM_EPSILON).sqrt()
    teacher_norm = (teacher.square().sum(dim=-1) + NORM_EPSILON).sqrt()
    return 1 - (student * teacher).sum(dim=-1) / student_norm / teacher_norm


def hidden_mse_rows(student_hidden: Tensor, teacher_hidden: Tensor, counted: Tensor | None = None) -> Tensor:
    """mean_h (s_h - t_h)^2 per row."""
    return (_rows(student_hidden, counted) - _rows(teacher_hidden, counted)).square().mean(dim=-1)


def _rows(values: Tensor, counted: Tensor | None) -> Tensor:
    """`values` in float32 (float64 stays), with zeros in the rows that are not counted."""
    values = values if values.dtype == torch.float64 else values.float()
    # Replaced, not multiplied: 0 * NaN is NaN, in the gradient too.
    return values if counted is None else torch.where(counted.unsqueeze(-1), values, 0.0)
