"""The CPU kernel on logits, and what it must give: the definitions in float64."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from distilfast import InputError
from distilfast.losses import definitions
from distilfast.losses import rows as loss_rows
from distilfast.losses.rows import LossTerms
from torch import Tensor


@contextmanager
def instructions(level: str | None) -> Iterator[None]:
    """The kernels compute with the instructions of that name within the block; None: with those they would take."""
    with mock.patch.dict(os.environ, {} if level is None else {"DISTILFAST_SIMD": level}):
        yield


def has_instructions(level: str) -> bool:
    one = torch.ones(1, 1)
    with instructions(level):
        try:
            loss_rows.cpu_hidden_rows(one, one, None, one, kind="mse")
        except InputError:
            return False
    return True


LEVELS = [level for level in ("avx512", "avx2", "neon", "scalar") if has_instructions(level)]
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
    with instructions(level):
        *rows, grad = loss_rows.cpu_logits_rows(student, teacher, terms)
    assert grad is not None
    return *rows, grad
