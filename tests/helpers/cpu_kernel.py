"""The CPU kernel on logits, and what it must give: the definitions in float64."""

from __future__ import annotations

import torch
from distilfast import _core
from distilfast.losses import definitions
from distilfast.losses import rows as loss_rows
from distilfast.losses.rows import LossTerms
from torch import Tensor

LEVELS = _core.instruction_sets()
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def oracle(
    student: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor, temperature: float, scales: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted row values by the definitions in float64, and the gradient by autograd."""
    s, t, w = student.detach().double().requires_grad_(), teacher.double(), weights.double()
    counted = w != 0
    kl = definitions.soft_kl_rows(s, [t], temperature, [1.0], counted) * w
    ce = definitions.masked_ce_rows(s, labels)
    mse = definitions.logits_mse_rows(s, [t], [1.0], counted) * w
    total = scales[0] * temperature**2 * kl.sum() + scales[1] * ce.sum()
    if scales[2] != 0:  # 0 * inf is NaN
        total = total + scales[2] * mse.sum()
    total.backward()
    assert s.grad is not None
    return kl.detach(), ce.detach(), mse.detach(), s.grad


def kernel(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    weights: Tensor,
    temperature: float,
    scales: tuple[float, ...],
    level: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    terms = LossTerms(labels, weights, torch.ones(()), torch.ones(()), temperature, scales)
    *rows, grad = loss_rows.cpu_logits_rows(student, teacher, terms, level=level)
    assert grad is not None
    return *rows, grad
