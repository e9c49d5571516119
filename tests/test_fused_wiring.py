"""The way from the losses to the GPU's kernels: on the CPU in plain PyTorch or Triton's interpreter, and traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from distilfast import dispatch, fused, losses, ops
from fused_interpreter import faithful_interpreter
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

N, V, H = 5, 33, 6
SHARES = [0.25, 0.75]
ALPHAS = (5.0, 2.0, 0.1)
LABELS = torch.tensor([1, -100, 32, 4, -100])
WEIGHTS = torch.tensor([1.0, 0.5, 0.0, 1.0, 0.0])


@pytest.fixture
def interpreter() -> Iterator[None]:
    with faithful_interpreter():
        yield


def logits() -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    student, *teachers = (3 * torch.randn(N, V, generator=generator) for _ in range(3))
    return student.requires_grad_(), teachers


def heads(dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    student = (draw(N, H), draw(V, H), draw(V) if bias else None)
    for each in student:
        if each is not None:
            each.requires_grad_()
    return student, (draw(N, 2 * H), draw(V, 2 * H), None if bias else draw(V))


@pytest.mark.interpret
@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "no labels"])
@pytest.mark.parametrize("weights", [WEIGHTS, None], ids=["weights", "no weights"])
@pytest.mark.parametrize("alphas", [ALPHAS, (5.0, 2.0, 0.0)])
def test_several_teachers(labels: Tensor | None, weights: Tensor | None, alphas: tuple[float, float, float]) -> None:
    student, teachers = logits()
    rest = (labels, weights, torch.tensor(0.25), torch.tensor(0.5), 2.0)
    got = ops.multi_teacher_loss(student, teachers, SHARES, *rest, *alphas, True)
    want = dispatch.eager_logits_loss(student, teachers, SHARES, *rest, alphas)
    for value, expected in zip(got, want, strict=False):
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(3 * got[0], student), torch.autograd.grad(3 * want[0], student), rtol=1e-5, atol=1e-6
    )


@pytest.mark.interpret
@pytest.mark.usefixtures("interpreter")
def test_opcheck_of_several_teachers() -> None:
    student, teachers = logits()
    scale = torch.tensor(0.25)
    torch.library.opcheck(
        ops.multi_teacher_loss,
        (student, teachers, SHARES, LABELS, WEIGHTS, scale, scale, 2.0, *ALPHAS, True),
    )


def check_linear(row_loss: Callable[..., Any] | None, dtype: torch.dtype, bias: bool, needs: tuple[bool, ...]) -> None:
    student, teacher = heads(dtype, bias)
    rest = (LABELS, WEIGHTS, torch.tensor(0.25), torch.tensor(0.5), 2.0)
    wide = [None if each is None else each.detach().float().requires_grad_() for each in student]
    want = dispatch.linear_loss(
        tuple(wide), tuple(None if each is None else each.float() for each in teacher), *rest, ALPHAS, "eager"
    )
    asked = [each for each in wide if each is not None]
    expected = dict(zip(map(id, asked), torch.autograd.grad(want[0], asked), strict=True))

    labels, weights, kl_scale, mlm_scale, temperature = rest
    with torch.no_grad():
        rows, gradients = ops.fused_linear_forward(
            student, teacher, labels, weights, temperature, ALPHAS, kl_scale, mlm_scale, needs, row_loss
        )
    values = ops.reduce_rows(*rows, temperature, ALPHAS, kl_scale, mlm_scale)
    for value, each in zip(values, want, strict=True):
        torch.testing.assert_close(value, each, rtol=1e-4, atol=1e-6)
    for needed, of, single, gradient in zip(needs, student, wide, gradients, strict=True):
        if not needed or of is None:
            assert gradient is None
            continue
        assert gradient is not None
        assert gradient.dtype == of.dtype
        assert gradient.is_contiguous()
        exact = expected[id(single)]
        assert (gradient.float() - exact).norm() <= (1e-5 if dtype == torch.float32 else 2**-8) * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("needs", [(True, True, True), (True, False, False), (False, True, True), (False,) * 3])
def test_linear(dtype: torch.dtype, bias: bool, needs: tuple[bool, ...]) -> None:
    check_linear(None, dtype, bias, needs)


@pytest.mark.interpret
@pytest.mark.usefixtures("interpreter")
def test_linear_with_k1() -> None:
    check_linear(fused.distillation_loss_forward, torch.float32, True, (True, True, True))


def loss_of(kind: str, dtype: torch.dtype) -> losses.DistillationLoss:
    """A loss of CUDA tensors without contents."""
    mask, labels = torch.ones(N, device="cuda"), torch.zeros(N, dtype=torch.int64, device="cuda")
    if kind == "several teachers":
        student, first, second = (torch.empty(N, V, dtype=dtype, device="cuda") for _ in range(3))
        student.requires_grad_()
        return losses.distillation_loss(student, [first, second], labels, mask=mask, impl="fused")
    hidden = torch.empty(N, H, dtype=dtype, device="cuda").requires_grad_()
    weight = torch.empty(V, H, device="cuda", dtype=dtype).requires_grad_()
    bias = torch.empty(V, device="cuda", dtype=dtype).requires_grad_()
    teacher = (torch.empty(N, H, dtype=dtype, device="cuda"), torch.empty(V, H, dtype=dtype, device="cuda"), None)
    return losses.linear_distillation_loss(hidden, weight, bias, *teacher, labels, mask=mask, impl="fused")


@pytest.mark.parametrize("kind", ["several teachers", "linear"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_tensors_take_the_kernel_when_traced(kind: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        total = loss_of(kind, dtype).total
    assert total.device.type == "cuda"
    assert total.dtype == torch.float32
    operator = "multi_teacher_loss" if kind == "several teachers" else "linear_distillation_loss"
    assert operator in total.grad_fn.name()


def test_squared_error_is_0_where_it_is_not_asked_for() -> None:
    student, teachers = logits()
    for impl in ("fused", "eager"):
        loss = losses.distillation_loss(student, teachers[0], LABELS, mask=WEIGHTS, impl=impl)
        assert loss.mse == 0
        asked = losses.distillation_loss(student, teachers[0], LABELS, mask=WEIGHTS, alpha_mse=0.1, impl=impl)
        assert asked.mse > 0
        torch.testing.assert_close(loss.kl, asked.kl)


@pytest.mark.interpret
@pytest.mark.usefixtures("interpreter")
def test_squared_error_of_the_gpu_s_kernels_is_0_where_it_is_not_asked_for() -> None:
    student, teachers = logits()
    arguments = (LABELS, WEIGHTS, 2.0, 5.0, 2.0)
    for alpha in (0.0, 0.1):
        one = fused.distillation_loss_forward(student.detach(), teachers[0], *arguments, alpha, 1.0, 1.0)
        two = fused.multi_teacher_loss_forward(student.detach(), teachers, SHARES, *arguments, alpha, 1.0, 1.0)
        for result in (one, two):
            assert bool((result[2][[0, 1, 3]] > 0).all()) == (alpha > 0)
            assert (result[2][[2, 4]] == 0).all()
