"""Which implementation computes a loss: a kernel of ours or the definition.

Arguments have been checked and brought to rows; sums over rows and the weights of the terms are applied here.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import definitions
from ._core import InputError
from .loss_arguments import check_impl

logger = logging.getLogger("distilfast.losses")

Head = tuple[Tensor, Tensor, Tensor | None]
"""Hidden states [N, H], weight [V, H], bias [V] or None."""

LossTuple = tuple[Tensor, Tensor, Tensor, Tensor]
"""total, kl, mlm, mse."""


def logits_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    teacher_weights: Sequence[float],
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alphas: tuple[float, float, float],
    impl: str,
) -> LossTuple:
    """Total, KL, cross-entropy and MSE of logits [N, V]; without teachers or labels their terms are 0."""
    _choose("logits", impl)
    return eager_logits_loss(
        student, teachers, teacher_weights, labels, row_weights, kl_scale, mlm_scale, temperature, alphas
    )


def linear_loss(
    student: Head,
    teacher: Head,
    labels: Tensor,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alphas: tuple[float, float, float],
    impl: str,
) -> LossTuple:
    """As `logits_loss`, of the products of hidden states and weights."""
    _choose("linear", impl)
    with torch.no_grad():
        teacher_logits = F.linear(*teacher)
    return eager_logits_loss(
        F.linear(*student), [teacher_logits], [1.0], labels, row_weights, kl_scale, mlm_scale, temperature, alphas
    )


def hidden_loss(
    kind: str, student: Tensor, teacher: Tensor, row_weights: Tensor | None, scale: Tensor, impl: str
) -> Tensor:
    """The cosine loss or the MSE (`kind`) of hidden states [N, H]."""
    _choose(kind, impl)
    rows = definitions.hidden_cosine_rows if kind == "cosine" else definitions.hidden_mse_rows
    return _weighted_sum(rows(student, teacher, _counted(row_weights)), row_weights) * scale


def eager_logits_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    teacher_weights: Sequence[float],
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alphas: tuple[float, float, float],
) -> LossTuple:
    """`logits_loss` by the definitions."""
    alpha_ce, alpha_mlm, alpha_mse = alphas
    counted = _counted(row_weights)
    kl = mlm = mse = torch.zeros_like(kl_scale)
    if teachers:
        kl_rows = definitions.soft_kl_rows(student, teachers, temperature, teacher_weights, counted)
        kl = temperature**2 * kl_scale * _weighted_sum(kl_rows, row_weights)
        with torch.set_grad_enabled(torch.is_grad_enabled() and alpha_mse != 0):
            mse_rows = definitions.logits_mse_rows(student, teachers, teacher_weights, counted)
            mse = kl_scale * _weighted_sum(mse_rows, row_weights)
    if labels is not None:
        mlm = mlm_scale * definitions.masked_ce_rows(student, labels).sum()
    # A term whose alpha is 0 is left out: 0 * inf is NaN.
    terms = [
        alpha * term for alpha, term in zip((alpha_ce, alpha_mlm, alpha_mse), (kl, mlm, mse), strict=True) if alpha != 0
    ]
    total = sum(terms[1:], terms[0]) if terms else torch.zeros_like(kl_scale)
    if not terms and student.requires_grad:
        total = total + 0.0 * student[:0].sum().to(total.dtype)
    return total, kl.detach(), mlm.detach(), mse.detach()


def _counted(row_weights: Tensor | None) -> Tensor | None:
    return None if row_weights is None else row_weights != 0


def _weighted_sum(rows: Tensor, row_weights: Tensor | None) -> Tensor:
    return (rows if row_weights is None else rows * row_weights).sum()


_logged: set[str] = set()


def _choose(loss: str, impl: str) -> None:
    check_impl(impl)
    if impl == "fused":
        raise InputError("impl='fused': there is no kernel for this device; use impl='auto'")
