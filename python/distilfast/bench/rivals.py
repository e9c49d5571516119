"""Losses of other packages that `bench losses` times where they are installed: Liger's and TRL's, the nearest to ours.

None has all of ours: what a name leaves out is said in it. They are imported when they are first run, so that one that
cannot be imported (TRL without `datasets`, say) is reported with its error.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Step = Callable[[], object]


def logits_steps(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> dict[str, Step]:
    """Name -> value and gradient with respect to the student's logits [N, V] of 5 KL + 2 cross-entropy."""
    if not student.is_cuda or not _installed("liger_kernel"):
        return {}
    leaf = student.detach().requires_grad_()

    def step() -> object:
        from liger_kernel.transformers import LigerCrossEntropyLoss, LigerKLDIVLoss

        log_p = F.log_softmax(leaf.float() / temperature, dim=-1)
        q = F.softmax(teacher.float() / temperature, dim=-1)
        divergence = LigerKLDIVLoss(reduction="batchmean")(log_p, q)
        # Liger's cross-entropy overwrites its argument.
        total = 5.0 * divergence * temperature**2 + 2.0 * LigerCrossEntropyLoss()(leaf.clone(), labels)
        return torch.autograd.grad(total, leaf)

    return {"liger": step}


def linear_steps(
    leaves: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor, temperature: float
) -> dict[str, Step]:
    """Name -> value and gradients of the student's `leaves`: features [N, H], weight [V, H] and bias [V]; `teacher` has
    the same three."""
    steps: dict[str, Step] = {}
    if _installed("liger_kernel"):
        if leaves[0].is_cuda:
            steps["liger fused linear JSD (KL alone, no bias)"] = lambda: torch.autograd.grad(
                liger_divergence(leaves, teacher, temperature), leaves[:2]
            )
        steps["liger chunked JSD (KL of labelled rows, CE)"] = lambda: torch.autograd.grad(
            liger_chunked(leaves, teacher, labels, temperature), leaves
        )
    if _installed("trl"):
        steps["trl chunked divergence (KL alone)"] = lambda: torch.autograd.grad(
            trl_chunked(leaves, teacher, temperature), leaves
        )
    return steps


def liger_divergence(leaves: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float) -> Tensor:
    """KL of all rows, their mean."""
    from liger_kernel.transformers import LigerFusedLinearJSD

    loss: Any = LigerFusedLinearJSD(jsd_beta=0.0, temperature=temperature)
    total: Tensor = loss(leaves[0], leaves[1], teacher[0], teacher[1])
    return total


def liger_chunked(leaves: Sequence[Tensor], teacher: Sequence[Tensor], labels: Tensor, temperature: float) -> Tensor:
    """5 T^2 KL + 2 cross-entropy, both of the labelled rows alone, though all are computed."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss: Any = LigerFusedLinearJSDLoss(
        weight_hard_loss=2.0,
        weight_soft_loss=5.0 * temperature**2,
        beta=0.0,
        temperature=temperature,
        compiled=leaves[0].is_cuda,
    )
    features, weight, bias = leaves
    total: Tensor = loss(features, weight, teacher[0], teacher[1], labels, bias, teacher[2])
    return total


def trl_chunked(leaves: Sequence[Tensor], teacher: Sequence[Tensor], temperature: float) -> Tensor:
    """5 T^2 KL of all rows, their mean."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    function: Any = ChunkedDivergenceFunction
    divergence: Tensor = function.apply(*leaves, *teacher, 0.0, temperature)[0]
    return 5.0 * temperature**2 * divergence.mean()


def versions() -> dict[str, str | None]:
    """The version of each package; None where it is not installed, and so not timed."""
    packages = {"liger-kernel": "liger_kernel", "trl": "trl"}
    return {name: importlib.metadata.version(name) if _installed(each) else None for name, each in packages.items()}


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
