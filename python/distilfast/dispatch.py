"""Which implementation computes a loss: a kernel of ours or the definition.

Arguments have been checked and brought to rows; sums over rows and the weights of the terms are applied here.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from . import definitions, ops
from ._core import InputError
from .loss_arguments import check_impl

logger = logging.getLogger("distilfast.losses")

Head = tuple[Tensor, Tensor, Tensor | None]
"""Hidden states [N, H], weight [V, H], bias [V] or None."""

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

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
    refusal = _refusal(student, *teachers, teachers=len(teachers))
    if _takes_kernel("logits", impl, refusal, student):
        if len(teachers) > 1:
            loss = ops.multi_teacher_loss(
                student, teachers, teacher_weights, labels, row_weights, kl_scale, mlm_scale, temperature, *alphas,
                _needs_gradient(student),
            )  # fmt: skip
            return loss[0], loss[1].detach(), loss[2].detach(), loss[3].detach()
        loss = ops.distillation_loss(
            student, teachers[0] if teachers else None, labels, row_weights, kl_scale, mlm_scale, temperature, *alphas,
            _needs_gradient(student),
        )  # fmt: skip
        return loss[0], loss[1].detach(), loss[2].detach(), loss[3].detach()
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
    device = student[0].device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        student, teacher = _cast(student, dtype), _cast(teacher, dtype)
    given = [each for each in (*student, *teacher) if each is not None]
    if _takes_kernel("linear", impl, _refusal(*given, one_dtype=True), student[0]):
        needs_gradients = [each is not None and _needs_gradient(each) for each in student]
        loss = ops.linear_distillation_loss(
            *student, *teacher, labels, row_weights, kl_scale, mlm_scale, temperature, *alphas, needs_gradients
        )
        return loss[0], loss[1].detach(), loss[2].detach(), loss[3].detach()
    with torch.no_grad():
        teacher_logits = F.linear(*teacher)
    return eager_logits_loss(
        F.linear(*student), [teacher_logits], [1.0], labels, row_weights, kl_scale, mlm_scale, temperature, alphas
    )


def hidden_loss(
    kind: str, student: Tensor, teacher: Tensor, row_weights: Tensor | None, scale: Tensor, impl: str
) -> Tensor:
    """The cosine loss or the MSE (`kind`) of hidden states [N, H]."""
    if _takes_kernel(kind, impl, _refusal(student, teacher), student):
        loss: Tensor = ops.hidden_loss(student, teacher, row_weights, scale, kind, _needs_gradient(student))[0]
        return loss
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
        if alpha_mse != 0:
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


def _cast(head: Head, dtype: torch.dtype) -> Head:
    hidden, weight, bias = head
    return hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _needs_gradient(values: Tensor) -> bool:
    return torch.is_grad_enabled() and values.requires_grad


def _refusal(*values: Tensor, teachers: int = 1, one_dtype: bool = False) -> str | None:
    """Why there is no kernel for these tensors; None if there is one."""
    device = values[0].device.type
    if device not in ("cpu", "cuda"):
        return f"there is no kernel for {device}"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    dtypes = {each.dtype for each in values}
    if not dtypes <= set(KERNEL_DTYPES):
        return f"there is no kernel for {', '.join(sorted(map(str, dtypes - set(KERNEL_DTYPES))))}"
    if one_dtype and len(dtypes) > 1:
        return f"hidden states, weights and biases have several dtypes ({', '.join(sorted(map(str, dtypes)))})"
    if teachers > 1 and device == "cpu":
        return f"there is no CPU kernel for {teachers} teachers at once"
    return None


_logged: set[tuple[str, str]] = set()


def _takes_kernel(loss: str, impl: str, refusal: str | None, values: Tensor) -> bool:
    """Whether `impl` means a kernel here; raises where it must but cannot, logs once what "auto" took."""
    check_impl(impl)
    if impl == "eager":
        return False
    if impl == "fused" and refusal is not None:
        raise InputError(f"impl='fused': {refusal}; use impl='auto' or 'eager'")
    if not torch.compiler.is_compiling():
        kernel = "the Triton kernel" if values.device.type == "cuda" else "the CPU kernel"
        choice = kernel if refusal is None else f"plain PyTorch, because {refusal}"
        if (loss, choice) not in _logged:
            _logged.add((loss, choice))
            logger.info("%s loss: %s", loss, choice)
    return refusal is None
