"""The kernels as custom operators of PyTorch, with fake kernels for tracing and autograd.

An operator computes values and, where it will be needed, the gradient in one pass; `backward` multiplies that gradient
by the incoming one. CUDA tensors go to Triton (`distilfast.fused`), CPU tensors to Rust. Operators run under
`torch.compile(fullgraph=True)` and never make the host wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arguments import LinearHead
from .linear import cpu_linear_rows, gpu_linear_rows, gradient_dtype
from .rows import LossTerms, cpu_hidden_rows, row_losses, triton_kernels


@torch.library.custom_op("distilfast::distillation_loss", mutates_args=())
def distillation_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    mixture: Sequence[float],
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alphas: Sequence[float],
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, KL, cross-entropy, MSE of logits [N, V] (0-dim float32) and d total / d student (or an empty tensor).

    `teachers`: none, one, or several, for the mean of their tempered probabilities weighted by `mixture`. `alphas`: the
    weights of KL, cross-entropy and MSE in the total.
    """
    terms = LossTerms(labels, row_weights, kl_scale, mlm_scale, temperature, alphas)
    *rows, gradient = row_losses(student, teachers, mixture, terms, needs_gradient=needs_gradient)
    values = terms.reduce(rows[0], rows[1], rows[2])
    return *values, student.new_empty(0) if gradient is None else gradient


@distillation_loss.register_fake
def _(student: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    needs_gradient = rest[-1]
    gradient = _empty_like(student) if needs_gradient else student.new_empty(0)
    return _scalar(student), _scalar(student), _scalar(student), _scalar(student), gradient


@torch.library.custom_op("distilfast::linear_distillation_loss", mutates_args=())
def linear_distillation_loss(
    student_features: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    teacher_features: Sequence[Tensor],
    teacher_weight: Sequence[Tensor],
    teacher_bias: Sequence[Tensor | None],
    mixture: Sequence[float],
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alphas: Sequence[float],
    needs_gradients: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, KL, cross-entropy and MSE (0-dim float32) of the heads' logits, which are never all held at once, and the
    gradients of the student's features, weight and bias (or empty tensors). Arguments as of `distillation_loss`; a
    `LinearHead` comes in its three parts, for operators take no other sequences than of tensors.
    """
    student = LinearHead(student_features, student_weight, student_bias)
    teachers = [LinearHead(*parts) for parts in zip(teacher_features, teacher_weight, teacher_bias, strict=True)]
    terms = LossTerms(labels, row_weights, kl_scale, mlm_scale, temperature, alphas)
    forward = cpu_linear_rows if student_features.device.type == "cpu" else gpu_linear_rows
    with torch.autocast(student_features.device.type, enabled=False):
        rows, gradients = forward(student, teachers, mixture, terms, needs_gradients)
        values = terms.reduce(*rows)
    d_features, d_weight, d_bias = (student_features.new_empty(0) if each is None else each for each in gradients)
    return *values, d_features, d_weight, d_bias


@linear_distillation_loss.register_fake
def _(
    student_features: Tensor, student_weight: Tensor, student_bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    needs_gradients = rest[-1]
    d_features, d_weight, d_bias = (
        torch.empty(of.shape, dtype=gradient_dtype(of.dtype), device=of.device)
        if of is not None and needed
        else student_features.new_empty(0)
        for of, needed in zip((student_features, student_weight, student_bias), needs_gradients, strict=True)
    )
    total, kl, mlm, mse = (_scalar(student_features) for _ in range(4))
    return total, kl, mlm, mse, d_features, d_weight, d_bias


@torch.library.custom_op("distilfast::hidden_loss", mutates_args=())
def hidden_loss(
    students: Sequence[Tensor],
    teachers: Sequence[Tensor],
    row_weights: Tensor | None,
    scale: Tensor,
    kind: str,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """The cosine loss or MSE (`kind`) of pairs of hidden states [N, H] alike in shape and dtype, summed over the pairs
    (0-dim float32), and its gradients [layers, N, H] (or an empty tensor)."""
    like = students[0]
    if kind == "mse":
        scale = scale / like.shape[1]
    if like.device.type == "cpu":
        parts = [
            cpu_hidden_rows(student, teacher, row_weights, scale, kind=kind, needs_gradient=needs_gradient)
            for student, teacher in zip(students, teachers, strict=True)
        ]
        rows = torch.stack([values for values, _ in parts])
        gradient = torch.stack([each for _, each in parts if each is not None]) if needs_gradient else None
    else:
        if row_weights is None:
            row_weights = torch.ones(like.shape[0], dtype=torch.float32, device=like.device)
        forward = triton_kernels().hidden_cosine_forward if kind == "cosine" else triton_kernels().hidden_mse_forward
        rows, gradient = forward(students, teachers, row_weights, scale, needs_gradient=needs_gradient)
    return scale * rows.sum(), like.new_empty(0) if gradient is None else gradient


@hidden_loss.register_fake
def _(students: Sequence[Tensor], *rest: Any) -> tuple[Tensor, Tensor]:
    like, needs_gradient = students[0], rest[-1]
    shape = (len(students), *like.shape) if needs_gradient else (0,)
    return _scalar(like), torch.empty(shape, dtype=like.dtype, device=like.device)


def _scalar(like: Tensor) -> Tensor:
    return torch.empty((), dtype=torch.float32, device=like.device)


def _empty_like(logits: Tensor) -> Tensor:
    """What the kernel of their device gives as the gradient of logits."""
    if logits.device.type == "cuda":
        gradient: Tensor = triton_kernels().empty_gradient(logits)
        return gradient
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _keep_gradients(first: int) -> Any:
    """Autograd's set-up for an operator whose outputs from number `first` on are gradients of output 0."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[first:])
        # A list of tensors, or an empty one, wants a list of gradients.
        ctx.no_gradients = [
            [None] * len(each)
            if isinstance(each, (list, tuple)) and all(isinstance(item, Tensor) for item in each)
            else None
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
    return [_scaled(gradient, grad_output) if gradient.numel() else None for gradient in ctx.saved_tensors]


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """Their product, over `gradient` where that is not needed again: new memory for it would double the loss's time."""
    # Subclasses are tensors that are being traced.
    if type(factor) is not Tensor or _is_graph_kept():
        return gradient * factor
    if gradient.device.type == "cpu" and factor.device.type == "cpu" and factor.item() == 1:
        return gradient
    return gradient.mul_(factor)


def _is_graph_kept() -> bool:
    """Whether the backward pass that is under way may be followed by another; so where this torch does not tell."""
    tells = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return tells is None or bool(tells())


def _logits_backward(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Any, ...]:
    (gradient,) = _scaled_gradients(ctx, grad_output)
    return gradient, *ctx.no_gradients[1:]


def _hidden_backward(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Any, ...]:
    (gradients,) = _scaled_gradients(ctx, grad_output)
    layers = ctx.no_gradients[0] if gradients is None else list(gradients.unbind())
    return layers, *ctx.no_gradients[1:]


def _linear_backward(ctx: Any, grad_output: Tensor | None, *_: Any) -> tuple[Any, ...]:
    return *_scaled_gradients(ctx, grad_output), *ctx.no_gradients[3:]


distillation_loss.register_autograd(_logits_backward, setup_context=_keep_gradients(4))
hidden_loss.register_autograd(_hidden_backward, setup_context=_keep_gradients(1))
linear_distillation_loss.register_autograd(_linear_backward, setup_context=_keep_gradients(4))
