"""What the interpreter's and the GPU's tests of the fused kernels share: placed matrices, calls, comparisons."""

from __future__ import annotations

import torch
from distilfast import fused
from fused_interpreter import poisoned_memory
from fused_reference import Objective, Result, by_autograd
from torch import Tensor

EPSILON = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def placed(values: Tensor, dtype: torch.dtype, pad: int = 0, offset: int = 0) -> Tensor:
    """`values` as rows `pad` elements apart, `offset` elements into their storage; NaN lies between them."""
    rows, columns = values.shape
    storage = torch.full((rows * (columns + pad) + offset + 16,), float("nan"), dtype=dtype, device=values.device)
    matrix = storage.as_strided((rows, columns), (columns + pad, 1), offset)
    matrix.copy_(values.to(dtype))
    return matrix


def between_rows(matrix: Tensor) -> Tensor:
    """The elements of a placed matrix's storage that are not its own."""
    storage = matrix.as_strided((matrix.untyped_storage().nbytes() // matrix.element_size(),), (1,), 0)
    own = torch.zeros(storage.shape, dtype=torch.bool, device=matrix.device)
    own.as_strided(matrix.shape, matrix.stride(), matrix.storage_offset()).fill_(True)
    return storage[~own]


def run(
    student: Tensor, teacher: Tensor, labels: Tensor, weight: Tensor, objective: Objective, **options: object
) -> Result:
    """K1 on poisoned memory, its gradient in float64."""
    with poisoned_memory():
        kl, ce, mse, gradient = fused.distillation_loss_forward(student, teacher, labels, weight, *objective, **options)
    assert gradient is not None
    return Result(kl, ce, mse, gradient)


def compare(
    got: Result, student: Tensor, teacher: Tensor, labels: Tensor, weight: Tensor, objective: Objective
) -> None:
    """Against float64: values, and gradient rows by their norm.

    Beside a relative error the rounding of one logit is allowed for, which float32 arithmetic cannot do without.
    """
    want = by_autograd(student, teacher, labels, weight, objective)
    counted = (weight != 0) | (labels >= 0)
    size = max([1.0, *(x[counted].abs().max().item() for x in (student, teacher) if counted.any())])
    rounding = 2.0**-23 * size
    heaviest = max(1.0, weight.max().item()) if len(weight) else 1.0
    torch.testing.assert_close(
        got.kl.double(), want.kl, rtol=5e-6, atol=heaviest * (rounding / objective.temperature + 1e-10)
    )
    torch.testing.assert_close(got.ce.double(), want.ce, rtol=2e-6, atol=2e-7 + rounding)
    if objective.alpha_mse != 0:
        torch.testing.assert_close(got.mse.double(), want.mse, rtol=5e-6, atol=1e-10)
    assert (got.kl >= 0).all(), got.kl
    # The interpreter cuts float32 to bfloat16 where the GPU rounds.
    stored = 2 * EPSILON[got.gradient.dtype] if got.gradient.dtype != torch.float32 else 0.0
    scale = objective.kl_scale * heaviest * (objective.alpha_ce * objective.temperature + 2 * objective.alpha_mse)
    scale += objective.mlm_scale * objective.alpha_mlm
    error = (got.gradient.double() - want.gradient).norm(dim=1)
    subnormal = 2.0**-24 * student.shape[1] ** 0.5 if got.gradient.dtype == torch.float16 else 0.0
    allowed = (4e-6 + stored) * want.gradient.norm(dim=1) + scale * (2e-7 + 2 * rounding) + subnormal
    assert (error <= allowed).all(), (error / allowed, student.dtype, teacher.dtype)
