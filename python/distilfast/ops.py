"""The kernels as custom operators of PyTorch, with fake kernels for tracing and autograd.

An operator computes values and, where it will be needed, the gradient in one pass; `backward` multiplies that gradient
by the incoming one. CUDA tensors go to Triton (`distilfast.fused`), CPU tensors to Rust. Operators run under
`torch.compile(fullgraph=True)` and never make the host wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import cpu_kernels
from .definitions import IGNORED
from .linear_chunks import Head, linear_distillation_loss_forward


def _fused() -> Any:
    from . import fused  # Triton is imported where it is used: macOS has none

    return fused


@torch.library.custom_op("distilfast::distillation_loss", mutates_args=())
def distillation_loss(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, KL, cross-entropy, MSE of logits [N, V] (0-dim float32) and d total / d student (or an empty tensor)."""
    kl_rows, ce_rows, mse_rows, gradient = row_losses(
        student, teacher, labels, row_weights, temperature, alpha_ce, alpha_mlm, alpha_mse, kl_scale, mlm_scale,
        needs_gradient=needs_gradient,
    )  # fmt: skip
    values = reduce_rows(kl_rows, ce_rows, mse_rows, temperature, (alpha_ce, alpha_mlm, alpha_mse), kl_scale, mlm_scale)
    return *values, student.new_empty(0) if gradient is None else gradient


@distillation_loss.register_fake
def _(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    total, kl, mlm, mse = (torch.empty((), dtype=torch.float32, device=student.device) for _ in range(4))
    if not needs_gradient:
        return total, kl, mlm, mse, student.new_empty(0)
    if student.device.type == "cuda":
        return total, kl, mlm, mse, _fused().empty_gradient(student)
    return total, kl, mlm, mse, torch.empty(student.shape, dtype=student.dtype, device=student.device)


def row_losses(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor | None,
    row_weights: Tensor | None,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    *,
    reuse_student: bool = False,
    needs_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The kernel of the tensors' device; arguments as in `cpu_kernels.distillation_loss_forward`."""
    numbers = (temperature, alpha_ce, alpha_mlm, alpha_mse, kl_scale, mlm_scale)
    if student.device.type == "cpu":
        return cpu_kernels.distillation_loss_forward(
            student, teacher, labels, row_weights, *numbers, reuse_student=reuse_student, needs_gradient=needs_gradient
        )
    labels, row_weights = _given_rows(student, labels, row_weights)
    if teacher is None:
        # A teacher's row of weight 0 counts for nothing, so that any tensor will do.
        teacher, row_weights = student, torch.zeros_like(row_weights)
    result: tuple[Tensor, Tensor, Tensor, Tensor | None] = _fused().distillation_loss_forward(
        student, teacher, labels, row_weights, *numbers, reuse_student=reuse_student, needs_gradient=needs_gradient
    )
    return result


@torch.library.custom_op("distilfast::multi_teacher_loss", mutates_args=())
def multi_teacher_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    teacher_weights: Sequence[float],
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `distillation_loss`, for the weighted mean of several teachers: Triton alone has a kernel."""
    labels, row_weights = _given_rows(student, labels, row_weights)
    kl_rows, ce_rows, mse_rows, gradient = _fused().multi_teacher_loss_forward(
        student, teachers, teacher_weights, labels, row_weights, temperature, alpha_ce, alpha_mlm, alpha_mse,
        kl_scale, mlm_scale, needs_gradient=needs_gradient,
    )  # fmt: skip
    values = reduce_rows(kl_rows, ce_rows, mse_rows, temperature, (alpha_ce, alpha_mlm, alpha_mse), kl_scale, mlm_scale)
    return *values, student.new_empty(0) if gradient is None else gradient


@multi_teacher_loss.register_fake
def _(
    student: Tensor,
    teachers: Sequence[Tensor],
    teacher_weights: Sequence[float],
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    total, kl, mlm, mse = (torch.empty((), dtype=torch.float32, device=student.device) for _ in range(4))
    return total, kl, mlm, mse, _fused().empty_gradient(student) if needs_gradient else student.new_empty(0)


def _given_rows(matrix: Tensor, labels: Tensor | None, row_weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Labels and weights of the rows as the Triton kernels want them: without labels -100, without weights 1."""
    if labels is None:
        labels = torch.full(matrix.shape[:1], IGNORED, dtype=torch.int64, device=matrix.device)
    if row_weights is None:
        row_weights = torch.ones(matrix.shape[:1], dtype=torch.float32, device=matrix.device)
    return labels, row_weights


def reduce_rows(
    kl_rows: Tensor,
    ce_rows: Tensor,
    mse_rows: Tensor,
    temperature: float,
    alphas: tuple[float, float, float],
    kl_scale: Tensor,
    mlm_scale: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Total, KL, cross-entropy and MSE from the values of the rows."""
    kl = temperature**2 * kl_scale * kl_rows.sum()
    mlm = mlm_scale * ce_rows.sum()
    mse = kl_scale * mse_rows.sum()
    total = torch.zeros_like(kl)
    for alpha, term in zip(alphas, (kl, mlm, mse), strict=True):
        # A term whose alpha is 0 is left out: 0 * inf is NaN.
        if alpha != 0:
            total = total + alpha * term
    return total, kl, mlm, mse


@torch.library.custom_op("distilfast::hidden_loss", mutates_args=())
def hidden_loss(
    student: Tensor,
    teacher: Tensor,
    row_weights: Tensor | None,
    scale: Tensor,
    kind: str,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The cosine loss or MSE (`kind`) of hidden states [N, H], 0-dim float32, and its gradient (or an empty tensor)."""
    if kind == "mse":
        scale = scale / student.shape[1]
    if student.device.type == "cpu":
        rows, gradient = cpu_kernels.hidden_loss_forward(
            student, teacher, row_weights, scale, kind=kind, needs_gradient=needs_gradient
        )
    else:
        if row_weights is None:
            row_weights = torch.ones(student.shape[0], dtype=torch.float32, device=student.device)
        forward = _fused().hidden_cosine_forward if kind == "cosine" else _fused().hidden_mse_forward
        rows, gradient = forward(student, teacher, row_weights, scale, needs_gradient=needs_gradient)
    return scale * rows.sum(), student.new_empty(0) if gradient is None else gradient


@hidden_loss.register_fake
def _(
    student: Tensor, teacher: Tensor, row_weights: Tensor | None, scale: Tensor, kind: str, needs_gradient: bool
) -> tuple[Tensor, Tensor]:
    value = torch.empty((), dtype=torch.float32, device=student.device)
    if not needs_gradient:
        return value, student.new_empty(0)
    if student.device.type == "cuda":
        return value, _fused().empty_gradient(student)
    return value, torch.empty(student.shape, dtype=student.dtype, device=student.device)


@torch.library.custom_op("distilfast::linear_distillation_loss", mutates_args=())
def linear_distillation_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    labels: Tensor,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    needs_gradients: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, KL, cross-entropy and MSE (0-dim float32) of the two heads' logits, which are never all held at once, and
    the gradients of the student's hidden states, weight and bias (or empty tensors)."""
    with torch.autocast(student_hidden.device.type, enabled=False):
        student, teacher = (
            (student_hidden, student_weight, student_bias),
            (teacher_hidden, teacher_weight, teacher_bias),
        )
        alphas = (alpha_ce, alpha_mlm, alpha_mse)
        if student_hidden.device.type == "cpu":
            rows, gradients = linear_distillation_loss_forward(
                student, teacher, labels, row_weights, temperature, alphas, kl_scale, mlm_scale, needs_gradients,
                row_losses,
            )  # fmt: skip
        else:
            rows, gradients = fused_linear_forward(
                student, teacher, labels, row_weights, temperature, alphas, kl_scale, mlm_scale, needs_gradients
            )
        values = reduce_rows(*rows, temperature, (alpha_ce, alpha_mlm, alpha_mse), kl_scale, mlm_scale)
    d_hidden, d_weight, d_bias = (student_hidden.new_empty(0) if each is None else each for each in gradients)
    return *values, d_hidden, d_weight, d_bias


@linear_distillation_loss.register_fake
def _(
    student_hidden: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    teacher_hidden: Tensor,
    teacher_weight: Tensor,
    teacher_bias: Tensor | None,
    labels: Tensor,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    needs_gradients: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    total, kl, mlm, mse = (torch.empty((), dtype=torch.float32, device=student_hidden.device) for _ in range(4))
    d_hidden, d_weight, d_bias = (
        torch.empty(of.shape, dtype=of.dtype, device=of.device)
        if of is not None and needed
        else student_hidden.new_empty(0)
        for of, needed in zip((student_hidden, student_weight, student_bias), needs_gradients, strict=True)
    )
    return total, kl, mlm, mse, d_hidden, d_weight, d_bias


def fused_linear_forward(
    student: Head,
    teacher: Head,
    labels: Tensor,
    row_weights: Tensor | None,
    temperature: float,
    alphas: tuple[float, float, float],
    kl_scale: Tensor,
    mlm_scale: Tensor,
    needs_gradients: Sequence[bool],
    row_loss: Callable[..., Any] | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """`linear_distillation_loss_forward` of GPUs, with `row_loss` instead of their kernel if it is given.

    16-bit heads are multiplied into float16 logits, which have more digits than bfloat16; float32 stays float32.
    """
    hidden, weight, bias = student
    labels, row_weights = _given_rows(hidden, labels, row_weights)
    *rows, d_hidden, d_weight, d_bias = _fused().linear_distillation_loss_forward(
        *student, *teacher, labels, row_weights, temperature, *alphas, kl_scale, mlm_scale, row_loss=row_loss,
        workspace_dtype=torch.float32 if hidden.dtype == torch.float32 else None, needs=tuple(needs_gradients),
    )  # fmt: skip
    gradients = (
        None if d_hidden is None else d_hidden.contiguous(),
        None if d_weight is None else d_weight.to(weight.dtype),
        None if d_bias is None or bias is None else d_bias.to(bias.dtype),
    )
    return (rows[0], rows[1], rows[2]), gradients


def _keep_gradients(first: int) -> Any:
    """Autograd's set-up for an operator whose outputs from number `first` on are gradients of output 0."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[first:])
        # A list of tensors wants a list of gradients.
        ctx.no_gradients = [
            [None] * len(each) if isinstance(each, (list, tuple)) and isinstance(each[0], Tensor) else None
            for each in inputs
        ]

    return setup_context


def _scaled_gradients(ctx: Any, grad_output: Tensor | None) -> list[Tensor | None]:
    """The kept gradients times the incoming one; None for those that were not asked for."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the losses of distilfast have no second derivative: call backward without create_graph=True, or take "
            "impl='eager'"
        )
    if grad_output is None:
        return [None] * len(ctx.saved_tensors)
    scale: Tensor | float = grad_output
    # Reading a number from a CPU tensor makes no GPU wait. Subclasses are tensors that are being traced.
    if type(grad_output) is Tensor and grad_output.device.type == "cpu":
        scale = grad_output.item()
        if scale == 1:
            return [gradient if gradient.numel() else None for gradient in ctx.saved_tensors]
    return [gradient * scale if gradient.numel() else None for gradient in ctx.saved_tensors]


def _logits_backward(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Any, ...]:
    (gradient,) = _scaled_gradients(ctx, grad_output)
    return gradient, *ctx.no_gradients[1:]


def _linear_backward(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Any, ...]:
    return *_scaled_gradients(ctx, grad_output), *ctx.no_gradients[3:]


distillation_loss.register_autograd(_logits_backward, setup_context=_keep_gradients(4))
multi_teacher_loss.register_autograd(_logits_backward, setup_context=_keep_gradients(4))
hidden_loss.register_autograd(_logits_backward, setup_context=_keep_gradients(1))
linear_distillation_loss.register_autograd(_linear_backward, setup_context=_keep_gradients(4))
