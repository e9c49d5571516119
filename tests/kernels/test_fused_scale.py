"""The gradient times the incoming one in Triton's interpreter: over itself, or left alone where that is 1."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from distilfast import fused, losses
from distilfast.fused import scale
from distilfast.losses import operators as ops
from fused_cases import placed
from fused_interpreter import faithful_interpreter

pytestmark = pytest.mark.interpret


@pytest.mark.parametrize("factor", [1.0, 0.0, -1.0, 0.37, float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scale_in_place(factor: float, dtype: torch.dtype) -> None:
    values = torch.randn(3, 50)
    gradient = placed(values, dtype, 5, 3)
    want = (gradient.float() * factor).to(dtype)
    with faithful_interpreter(), mock.patch.object(scale, "PROGRAMS", 2), mock.patch.object(scale, "BLOCK", 32):
        got = fused.scale_in_place(gradient, torch.tensor(factor))
    assert got.data_ptr() == gradient.data_ptr()
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


def test_nothing_to_scale() -> None:
    with faithful_interpreter():
        assert fused.scale_in_place(torch.empty(0, 7), torch.tensor(2.0)).shape == (0, 7)


def test_backward_as_on_a_gpu() -> None:
    """The same gradients whether the graph is kept or not; only where it is not they are scaled where they lie."""
    student = torch.randn(4, 33, requires_grad=True)
    layers = [torch.randn(4, 33, requires_grad=True) for _ in range(2)]
    teacher, labels, factor = torch.randn(4, 33), torch.tensor([1, -100, 2, 32]), torch.tensor(-0.5)

    def on_gpu(gradient: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        kept = torch._C._autograd._get_current_graph_task_keep_graph()
        return gradient * number if kept else fused.scale_in_place(gradient, number)

    with faithful_interpreter(), mock.patch.object(ops, "_scaled", on_gpu):
        total = losses.distillation_loss(student, teacher, labels, impl="fused").total
        total = total + losses.hidden_cosine(layers, [teacher, -teacher], impl="fused")
        first = torch.autograd.grad(total, [student, *layers], factor, retain_graph=True)
        second = torch.autograd.grad(total, [student, *layers], factor)
    eager = losses.distillation_loss(student, teacher, labels, impl="eager").total
    eager = eager + losses.hidden_cosine(layers, [teacher, -teacher], impl="eager")
    want = torch.autograd.grad(eager, [student, *layers], factor)
    torch.testing.assert_close(first, want, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(second, want, rtol=1e-4, atol=1e-6)
