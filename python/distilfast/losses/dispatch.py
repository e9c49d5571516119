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

from .._core import InputError
from . import definitions, operators
from .arguments import LinearHead, check_impl
from .rows import FORMATS, LossTerms

logger = logging.getLogger("distilfast.losses")

LossTuple = tuple[Tensor, Tensor, Tensor, Tensor]
"""total, kl, mlm, mse."""


def logits_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    mixture: Sequence[float],
    terms: LossTerms,
    impl: str,
) -> LossTuple:
    """Total, KL, cross-entropy and MSE of logits [N, V]; without teachers or labels their terms are 0."""
    student = _wide(student)
    if _takes_kernel("logits", impl, _refusal(student, *teachers), student):
        total, *parts, _ = operators.distillation_loss(student, teachers, mixture, *terms, _needs_gradient(student))
        return total, parts[0], parts[1], parts[2]
    return eager_logits_loss(student, teachers, mixture, terms)


def linear_loss(
    student: LinearHead,
    teachers: Sequence[LinearHead],
    mixture: Sequence[float],
    terms: LossTerms,
    impl: str,
) -> LossTuple:
    """As `logits_loss`, of the products of hidden states and weights; without teachers their terms are 0."""
    device = student.features.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        student, teachers = _cast(student, dtype), [_cast(each, dtype) for each in teachers]
    if student.features.dtype == torch.float16 and device == "cpu":  # on a GPU the kernel keeps float32 gradients
        student, teachers = _cast(student, torch.float32), [_cast(each, torch.float32) for each in teachers]
    given = [part for head in (student, *teachers) for part in head if part is not None]
    if _takes_kernel("linear", impl, _refusal(*given, one_dtype=True), student.features):
        features, weights = ([getattr(each, part) for each in teachers] for part in ("features", "weight"))
        biases = [each.bias for each in teachers]
        needs_gradients = [each is not None and _needs_gradient(each) for each in student]
        total, kl, mlm, mse, *_ = operators.linear_distillation_loss(
            *student, features, weights, biases, mixture, *terms, needs_gradients
        )
        return total, kl, mlm, mse
    with torch.no_grad():
        teacher_logits = [F.linear(*each) for each in teachers]
    return eager_logits_loss(F.linear(*student), teacher_logits, mixture, terms)


def hidden_loss(
    kind: str, pairs: Sequence[tuple[Tensor, Tensor]], row_weights: Tensor | None, scale: Tensor, impl: str
) -> Tensor:
    """The cosine loss or the MSE (`kind`) of pairs of hidden states [N, H], alike in shape and dtypes, summed."""
    pairs = [(_wide(student), teacher) for student, teacher in pairs]
    student = pairs[0][0]
    if _takes_kernel(kind, impl, _refusal(*pairs[0]), student):
        students, teachers = map(list, zip(*pairs, strict=True))
        needs_gradient = any(_needs_gradient(each) for each in students)
        loss: Tensor = operators.hidden_loss(students, teachers, row_weights, scale, kind, needs_gradient)[0]
        return loss
    rows = definitions.hidden_cosine_rows if kind == "cosine" else definitions.hidden_mse_rows
    values = torch.stack([_weighted_sum(rows(s, t, _counted(row_weights)), row_weights) for s, t in pairs])
    return values.sum() * scale


def eager_logits_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    mixture: Sequence[float],
    terms: LossTerms,
) -> LossTuple:
    """`logits_loss` by the definitions."""
    labels, row_weights, kl_scale, mlm_scale, temperature, (alpha_ce, alpha_mlm, alpha_mse) = terms
    counted = _counted(row_weights)
    kl = mlm = mse = torch.zeros_like(kl_scale)
    if teachers:
        kl_rows = definitions.soft_kl_rows(student, teachers, temperature, mixture, counted)
        kl = temperature**2 * kl_scale * _weighted_sum(kl_rows, row_weights)
        if alpha_mse != 0:
            mse_rows = definitions.logits_mse_rows(student, teachers, mixture, counted)
            mse = kl_scale * _weighted_sum(mse_rows, row_weights)
    if labels is not None:
        mlm = mlm_scale * definitions.masked_ce_rows(student, labels).sum()
    # A term whose alpha is 0 is left out: 0 * inf is NaN.
    weighted = [
        alpha * term for alpha, term in zip((alpha_ce, alpha_mlm, alpha_mse), (kl, mlm, mse), strict=True) if alpha != 0
    ]
    total = sum(weighted[1:], weighted[0]) if weighted else torch.zeros_like(kl_scale)
    if not weighted and student.requires_grad:
        total = total + 0.0 * student[:0].sum().to(total.dtype)
    return total, kl.detach(), mlm.detach(), mse.detach()


def _wide(student: Tensor) -> Tensor:
    """`student`, in float32 if it is float16: the kernels make the gradient with the value, in the student's dtype, and
    divided by the number of rows most of it would round to 0 before a GradScaler could multiply it."""
    return student.float() if student.dtype == torch.float16 else student


def _counted(row_weights: Tensor | None) -> Tensor | None:
    return None if row_weights is None else row_weights != 0


def _weighted_sum(rows: Tensor, row_weights: Tensor | None) -> Tensor:
    return (rows if row_weights is None else rows * row_weights).sum()


def _cast(head: LinearHead, dtype: torch.dtype) -> LinearHead:
    features, weight, bias = head
    return LinearHead(features.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))


def _needs_gradient(values: Tensor) -> bool:
    return torch.is_grad_enabled() and values.requires_grad


def _refusal(*values: Tensor, one_dtype: bool = False) -> str | None:
    """Why there is no kernel for these tensors; None if there is one."""
    device = values[0].device.type
    if device not in ("cpu", "cuda"):
        return f"there is no kernel for {device}"
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    dtypes = {each.dtype for each in values}
    if not dtypes <= set(FORMATS):
        return f"there is no kernel for {', '.join(sorted(map(str, dtypes - set(FORMATS))))}"
    if one_dtype and len(dtypes) > 1:
        return f"hidden states, weights and biases have several dtypes ({', '.join(sorted(map(str, dtypes)))})"
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
