"""The kernels as custom operators of PyTorch, with fake kernels for tracing and autograd.

An operator computes values and, where it will be needed, the gradient in one pass; `backward` multiplies that gradient
by the incoming one. CUDA tensors go to Triton (`distilfast.fused`), CPU tensors to Rust. Operators run under
`torch.compile(fullgraph=True)` and never make the host wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from . import cpu_kernels
from .definitions import IGNORED
from .linear import Head, linear_distillation_loss_forward
from .rows import cpu_row_losses
from .terms import LossTerms


def _fused() -> Any:
    from .. import fused  # Triton is imported where it is used: macOS has none

    return fused


def compute_distillation_loss(
    student: Tensor,
    teachers: Sequence[Tensor],
    teacher_weights: Sequence[float],
    labels: Tensor | None,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alphas: Sequence[float],
    needs_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, KL, cross-entropy, MSE of logits [N, V] (0-dim float32) and d total / d student (or an empty tensor).

    `teachers`: none, one, or several, for the weighted mean of their tempered probabilities. `alphas`: the weights of
    KL, cross-entropy and MSE in the total.
    """
    terms = LossTerms(labels, row_weights, kl_scale, mlm_scale, temperature, alphas)
    row_losses = cpu_row_losses if student.device.type == "cpu" else fused_row_losses
    *rows, gradient = row_losses(student, teachers, teacher_weights, terms, needs_gradient=needs_gradient)
    values = terms.reduce(*rows)
    return *values, student.new_empty(0) if gradient is None else gradient


distillation_loss = torch.library.custom_op("distilfast::distillation_loss", mutates_args=())(compute_distillation_loss)


def fused_row_losses(
    student: Tensor,
    teachers: Sequence[Tensor],
    teacher_weights: Sequence[float],
    terms: LossTerms,
    *,
    needs_gradient: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """`cpu_row_losses` of GPUs."""
    labels, row_weights = _given_rows(student, terms)
    if not teachers:
        # A teacher's row of weight 0 counts for nothing, so that any tensor will do.
        teachers, teacher_weights, row_weights = [student], [1.0], torch.zeros_like(row_weights)
    result: tuple[Tensor, Tensor, Tensor, Tensor | None] = _fused().multi_teacher_loss_forward(
        student, teachers, teacher_weights, labels, row_weights, terms.temperature, *terms.alphas, terms.kl_scale,
        terms.mlm_scale, needs_gradient=needs_gradient,
    )  # fmt: skip
    return result


@distillation_loss.register_fake
def _(student: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    needs_gradient = rest[-1]
    gradient = _empty_like(student) if needs_gradient else student.new_empty(0)
    return _scalar(student), _scalar(student), _scalar(student), _scalar(student), gradient


def compute_linear_distillation_loss(
    student_hidden: Tensor,
    student_weight: Tensor,
    student_bias: Tensor | None,
    teacher_hiddens: Sequence[Tensor],
    teacher_matrices: Sequence[Tensor],
    teacher_biases: Sequence[Tensor | None],
    teacher_weights: Sequence[float],
    labels: Tensor,
    row_weights: Tensor | None,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    temperature: float,
    alphas: Sequence[float],
    needs_gradients: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total, KL, cross-entropy and MSE (0-dim float32) of the heads' logits, which are never all held at once, and the
    gradients of the student's hidden states, weight and bias (or empty tensors). Arguments as of `distillation_loss`.
    """
    student: Head = (student_hidden, student_weight, student_bias)
    teachers: list[Head] = list(zip(teacher_hiddens, teacher_matrices, teacher_biases, strict=True))
    terms = LossTerms(labels, row_weights, kl_scale, mlm_scale, temperature, alphas)
    forward = linear_distillation_loss_forward if student_hidden.device.type == "cpu" else fused_linear_forward
    with torch.autocast(student_hidden.device.type, enabled=False):
        rows, gradients = forward(student, teachers, teacher_weights, terms, needs_gradients)
        values = terms.reduce(*rows)
    d_hidden, d_weight, d_bias = (student_hidden.new_empty(0) if each is None else each for each in gradients)
    return *values, d_hidden, d_weight, d_bias


linear_distillation_loss = torch.library.custom_op("distilfast::linear_distillation_loss", mutates_args=())(
    compute_linear_distillation_loss
)


@linear_distillation_loss.register_fake
def _(
    student_hidden: Tensor, student_weight: Tensor, student_bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    needs_gradients = rest[-1]
    d_hidden, d_weight, d_bias = (
        torch.empty(of.shape, dtype=of.dtype, device=of.device)
        if of is not None and needed
        else student_hidden.new_empty(0)
        for of, needed in zip((student_hidden, student_weight, student_bias), needs_gradients, strict=True)
    )
    total, kl, mlm, mse = (_scalar(student_hidden) for _ in range(4))
    return total, kl, mlm, mse, d_hidden, d_weight, d_bias


def fused_linear_forward(
    student: Head,
    teachers: Sequence[Head],
    teacher_weights: Sequence[float],
    terms: LossTerms,
    needs_gradients: Sequence[bool],
    row_loss: Callable[..., Any] | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]:
    """`linear_distillation_loss_forward` of GPUs, with `row_loss` instead of their kernel if it is given.

    16-bit heads are multiplied into float16 logits, which have more digits than bfloat16; float32 stays float32.
    """
    hidden, weight, bias = student
    labels, row_weights = _given_rows(hidden, terms)
    *rows, d_hidden, d_weight, d_bias = _fused().linear_distillation_loss_forward(
        student, teachers, teacher_weights, labels, row_weights, terms.temperature, *terms.alphas, terms.kl_scale,
        terms.mlm_scale, row_loss=row_loss, workspace_dtype=torch.float32 if hidden.dtype == torch.float32 else None,
        needs=tuple(needs_gradients),
    )  # fmt: skip
    gradients = (
        None if d_hidden is None else d_hidden.contiguous(),
        None if d_weight is None else d_weight.to(weight.dtype),
        None if d_bias is None or bias is None else d_bias.to(bias.dtype),
    )
    return (rows[0], rows[1], rows[2]), gradients


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
            cpu_kernels.hidden_loss_forward(
                student, teacher, row_weights, scale, kind=kind, needs_gradient=needs_gradient
            )
            for student, teacher in zip(students, teachers, strict=True)
        ]
        rows = torch.stack([values for values, _ in parts])
        gradient = torch.stack([each for _, each in parts if each is not None]) if needs_gradient else None
    else:
        if row_weights is None:
            row_weights = torch.ones(like.shape[0], dtype=torch.float32, device=like.device)
        forward = _fused().hidden_cosine_forward if kind == "cosine" else _fused().hidden_mse_forward
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
        gradient: Tensor = _fused().empty_gradient(logits)
        return gradient
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _given_rows(matrix: Tensor, terms: LossTerms) -> tuple[Tensor, Tensor]:
    """Labels and weights of the rows as the Triton kernels want them: without labels -100, without weights 1."""
    labels, row_weights = terms.labels, terms.row_weights
    if labels is None:
        labels = torch.full(matrix.shape[:1], IGNORED, dtype=torch.int64, device=matrix.device)
    if row_weights is None:
        row_weights = torch.ones(matrix.shape[:1], dtype=torch.float32, device=matrix.device)
    return labels, row_weights


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
    """Their product; over `gradient` where that is not needed again, and untouched where `factor` is 1 if it can be."""
    # Subclasses are tensors that are being traced.
    if type(factor) is not Tensor or _is_graph_kept():
        return gradient * factor
    if gradient.device.type == "cpu" and factor.device.type == "cpu":
        # Reading a number from a CPU tensor makes no GPU wait.
        return gradient if factor.item() == 1 else gradient.mul_(factor)
    if gradient.device.type == "cuda":
        scaled: Tensor = _fused().scale_in_place(gradient, factor)
        return scaled
    return gradient * factor


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


def run(operator: Any, compute: Callable[..., tuple[Tensor, ...]], inputs: Sequence[Any]) -> tuple[Tensor, ...]:
    """The `operator`'s values for `inputs`, past PyTorch's machinery for operators where nothing needs it.

    That takes as long as the loss of a few dozen rows, which matters on the CPU, where no queue hides it. `compute` is
    what the operator calls; its first inputs are those that have a gradient, in the order of its last outputs.
    """
    if _is_plain(inputs[0]):
        values: tuple[Tensor, ...] = cast(Any, _Direct).apply(compute, *inputs)
        return values
    output: tuple[Tensor, ...] = operator(*inputs)
    return output[:VALUES]


VALUES = 4
"""Outputs of both operators of logits that are no gradients: total, KL, cross-entropy and MSE."""


def _is_plain(values: Tensor) -> bool:
    """Whether `values` is an ordinary tensor on the CPU and no one records what is done with it."""
    return (
        not torch.compiler.is_compiling()
        and values.device.type == "cpu"
        and type(values) is Tensor
        and _get_current_dispatch_mode() is None
    )


class _Direct(torch.autograd.Function):
    """What an operator computes, and its gradients."""

    @staticmethod
    def forward(ctx: Any, compute: Callable[..., tuple[Tensor, ...]], *inputs: Any) -> tuple[Tensor, ...]:
        output = compute(*inputs)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*output[1:VALUES])
        ctx.save_for_backward(*output[VALUES:])
        ctx.inputs = len(inputs)
        return output[:VALUES]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        gradients = _scaled_gradients(ctx, grad_outputs[0])
        return None, *gradients, *[None] * (ctx.inputs - len(gradients))
