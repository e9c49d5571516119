"""The distillation loss from hidden states and heads, a chunk of rows at a time: all logits are never held at once.

The logits of a chunk are overwritten by their gradient. On the CPU rows that count in no term are left out; the chunks
of GPUs are those of `distilfast.fused`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..cpu.matmul import multiply
from .arguments import LinearHead
from .definitions import IGNORED
from .rows import LossTerms, RowLosses, row_losses, triton_kernels

LinearLosses = tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]
"""Values of rows (KL, cross-entropy, MSE) and the gradients of the student's features, weight and bias; None for those
that are not needed."""

CHUNK_BYTES = 128 << 20
"""Space for the logits of a chunk, all sides together."""


def cpu_linear_rows(
    student: LinearHead,
    teachers: Sequence[LinearHead],
    mixture: Sequence[float],
    terms: LossTerms,
    needs_gradients: Sequence[bool],
    chunk_rows: int | None = None,
) -> LinearLosses:
    """Values of the counted rows (as of `row_losses`) and the student's gradients, those of weight and bias summed in
    float32.
    """
    features, weight, bias = student
    needs_features, needs_weight, needs_bias = needs_gradients
    counted = _counted_rows(terms)
    rows = features.shape[0] if counted is None else counted.shape[0]
    if chunk_rows is None:
        bytes_each = sum(each.features.element_size() for each in (student, *teachers))
        chunk_rows = max(64, CHUNK_BYTES // (bytes_each * weight.shape[0]))
    # As equal as can be: a small rest would be a slow product.
    chunk_rows = -(-rows // max(1, -(-rows // chunk_rows)))
    d_features = torch.zeros_like(features, memory_format=torch.contiguous_format) if needs_features else None
    d_weight = _Sum() if needs_weight else None
    d_bias = _Sum() if needs_bias else None
    values = []
    for start in range(0, rows, max(1, chunk_rows)):
        chunk = slice(start, min(start + chunk_rows, rows))
        picked = chunk if counted is None else counted[chunk]
        x = features[picked]
        student_logits = _logits(x, weight, bias, 0)
        teacher_logits = [
            _logits(teacher.features[picked], teacher.weight, teacher.bias, index)
            for index, teacher in enumerate(teachers, start=1)
        ]
        kl, ce, mse, gradient = row_losses(
            student_logits,
            teacher_logits,
            mixture,
            terms.of_rows(picked),
            reuse_student=any(needs_gradients),
            needs_gradient=any(needs_gradients),
        )
        values.append((kl, ce, mse))
        if gradient is None:
            continue
        if d_features is not None:
            d_features[picked] = multiply(gradient, weight)
        if d_weight is not None:
            d_weight.add(multiply(gradient.t(), x))
        if d_bias is not None:
            d_bias.add(gradient.sum(dim=0))
    if values:
        kl, ce, mse = (torch.cat(parts) for parts in zip(*values, strict=True))
    else:
        kl = ce = mse = torch.zeros(0, dtype=torch.float32, device=features.device)
    of_weight = None if d_weight is None else d_weight.like(weight)
    of_bias = None if d_bias is None or bias is None else d_bias.like(bias)
    return (kl, ce, mse), (d_features, of_weight, of_bias)


def gpu_linear_rows(
    student: LinearHead,
    teachers: Sequence[LinearHead],
    mixture: Sequence[float],
    terms: LossTerms,
    needs_gradients: Sequence[bool],
    kernel: Callable[..., RowLosses] | None = None,
) -> LinearLosses:
    """`cpu_linear_rows` of GPUs; `kernel` as of `row_losses`.

    16-bit heads are multiplied into float16 logits, which have more digits than bfloat16; float32 stays float32.
    Float16 heads get float32 gradients (`gradient_dtype`).
    """
    features = student.features
    labels, row_weights = terms.filled(features)

    def row_loss(
        student_logits: Tensor,
        teacher_logits: Sequence[Tensor],
        labels: Tensor,
        row_weights: Tensor,
        kl_scale: Tensor,
        mlm_scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_chunk = terms._replace(labels=labels, row_weights=row_weights, kl_scale=kl_scale, mlm_scale=mlm_scale)
        return row_losses(
            student_logits, teacher_logits, mixture, of_chunk, reuse_student=True,
            needs_gradient=any(needs_gradients), kernel=kernel,
        )[:3]  # fmt: skip

    *rows, d_features, d_weight, d_bias = triton_kernels().linear_distillation_loss_forward(
        student, teachers, labels, row_weights, terms.temperature, *terms.alphas, terms.kl_scale, terms.mlm_scale,
        row_loss=row_loss, workspace_dtype=torch.float32 if features.dtype == torch.float32 else None,
        gradient_dtype=gradient_dtype(features.dtype), needs=tuple(needs_gradients),
    )  # fmt: skip
    return (rows[0], rows[1], rows[2]), (d_features, d_weight, d_bias)


def gradient_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the gradients of a head in `dtype`: a float16 one is rounded after the backward pass has multiplied it, by a
    GradScaler's scale as a rule, without which most of its entries would round to 0."""
    return torch.float32 if dtype == torch.float16 else dtype


def _counted_rows(terms: LossTerms) -> Tensor | None:
    """Numbers of the rows that count in any term; None for all, and on a GPU, which would have to be waited for."""
    if terms.row_weights is None or terms.row_weights.device.type != "cpu":
        return None
    counts = terms.row_weights != 0
    if terms.labels is not None:
        counts |= terms.labels != IGNORED
    return None if bool(counts.all()) else counts.nonzero().squeeze(1)


def _logits(x: Tensor, weight: Tensor, bias: Tensor | None, index: int) -> Tensor:
    """x @ weight.T + bias, in the workspace of that number where x is on the CPU."""
    shape = (x.shape[0], weight.shape[0])
    if x.device.type == "cpu":
        out = _workspace(index, shape, x.dtype)
    else:
        out = torch.empty(shape, dtype=x.dtype, device=x.device)
    return multiply(x, weight.t(), bias, out=out)


_kept = threading.local()


def _workspace(index: int, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Space for a matrix that holds until the next call with this `index` on this thread; what is in it is left over.

    Kept between calls, up to `CHUNK_BYTES`: fresh memory of this size comes page by page from the system, which takes
    as long as a tenth of the product that fills it.
    """
    size = shape[0] * shape[1] * dtype.itemsize
    if size > CHUNK_BYTES:
        return torch.empty(shape, dtype=dtype)
    spaces: dict[int, Tensor] = _kept.__dict__.setdefault("spaces", {})
    if index not in spaces or spaces[index].numel() < size:
        with torch.inference_mode(False):  # or training could not write to what an evaluation had made
            spaces[index] = torch.empty(size, dtype=torch.uint8)
    return spaces[index][:size].view(dtype).view(shape)


class _Sum:
    """The sum of the chunks' matrices in float32; of a single one, that one."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, part: Tensor) -> None:
        if self.total is None:
            self.total = part
        else:
            # Converted first: adding numbers of two formats is slow on CPUs.
            self.total = self.total.float().add_(part.float()) if part.dtype != torch.float64 else self.total + part

    def like(self, parameter: Tensor) -> Tensor:
        """The sum as the gradient of `parameter`."""
        return torch.zeros_like(parameter) if self.total is None else self.total.to(parameter.dtype)
