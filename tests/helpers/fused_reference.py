"""The distillation objective in float64 by autograd of the textbook formulas, and the closed form by hand.

Both are oracles of the kernels' tests, and of each other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Objective(NamedTuple):
    """What one call asks for, beside the tensors."""

    temperature: float = 2.0
    alpha_ce: float = 5.0
    alpha_mlm: float = 2.0
    alpha_mse: float = 0.0
    kl_scale: float = 0.25
    mlm_scale: float = 0.5


class Result(NamedTuple):
    """Row values and the gradient with respect to the student's logits, in float64."""

    kl: Tensor
    ce: Tensor
    mse: Tensor
    gradient: Tensor


def by_autograd(student: Tensor, teacher: Tensor, labels: Tensor, weight: Tensor, objective: Objective) -> Result:
    """Softmaxes, logarithms and `torch.autograd` in float64; rows that do not count are replaced by zeros first."""
    weighted, labelled = weight != 0, labels >= 0
    s = torch.where((weighted | labelled)[:, None], student.double(), 0.0).requires_grad_()
    t = torch.where(weighted[:, None], teacher.double(), 0.0)
    log_p, log_q = (torch.log_softmax(x / objective.temperature, 1) for x in (s, t))
    q = log_q.exp()
    # 0 log 0 is 0: a class that the teacher rules out adds nothing.
    kl = weight.double() * torch.where(q > 0, q * (log_q - log_p), 0.0).sum(1)
    classes = labels.clamp(min=0)[:, None]
    ce = torch.where(labelled, -torch.log_softmax(s, 1).gather(1, classes)[:, 0], 0.0)
    mse = weight.double() * torch.where(weighted[:, None], s - t, 0.0).square().sum(1)
    total = objective.kl_scale * objective.alpha_ce * objective.temperature**2 * kl.sum()
    total = total + objective.mlm_scale * objective.alpha_mlm * ce.sum()
    if objective.alpha_mse != 0:
        total = total + objective.kl_scale * objective.alpha_mse * mse.sum()
    (gradient,) = torch.autograd.grad(total, s)
    return Result(kl.detach(), ce.detach(), mse.detach(), gradient)


def by_hand(student: Tensor, teacher: Tensor, labels: Tensor, weight: Tensor, objective: Objective) -> Result:
    """The closed forms in float64."""
    temperature, alpha_ce, alpha_mlm, alpha_mse, kl_scale, mlm_scale = objective
    weighted, labelled = weight != 0, labels >= 0
    s = torch.where((weighted | labelled)[:, None], student.double(), 0.0)
    t = torch.where(weighted[:, None], teacher.double(), 0.0)
    w = weight.double()[:, None]
    p, q = torch.softmax(s / temperature, 1), torch.softmax(t / temperature, 1)
    log_ratio = torch.log_softmax(s / temperature, 1) - torch.log_softmax(t / temperature, 1)
    kl = w * torch.where(q > 0, q * (torch.expm1(log_ratio) - log_ratio), p)
    apart = torch.where(weighted[:, None], s - t, 0.0)
    r = torch.softmax(s, 1)
    one_hot = torch.nn.functional.one_hot(labels.clamp(min=0), s.shape[1]).double()
    ce = torch.where(labelled, -torch.log_softmax(s, 1).gather(1, labels.clamp(min=0)[:, None])[:, 0], 0.0)
    gradient = alpha_ce * temperature * kl_scale * w * (p - q)
    gradient = gradient + torch.where(labelled[:, None], alpha_mlm * mlm_scale * (r - one_hot), 0.0)
    gradient = gradient + 2 * alpha_mse * kl_scale * w * apart
    return Result(kl.sum(1), ce, (w * apart.square()).sum(1), gradient)
