"""The way from the losses to the GPU's kernels: on the CPU in plain PyTorch or Triton's interpreter, and traced."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from distilfast import fused, losses
from distilfast.losses import dispatch
from distilfast.losses.arguments import LinearHead
from distilfast.losses.linear import gpu_linear_rows
from distilfast.losses.rows import LossTerms, cpu_logits_rows, gpu_logits_rows, row_losses
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
    return LinearHead(*student), LinearHead(draw(N, 2 * H), draw(V, 2 * H), None if bias else draw(V))


@pytest.mark.interpret
@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("labels", [LABELS, None], ids=["labels", "no labels"])
@pytest.mark.parametrize("weights", [WEIGHTS, None], ids=["weights", "no weights"])
@pytest.mark.parametrize("alphas", [ALPHAS, (5.0, 2.0, 0.0)])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_logits(labels: Tensor | None, weights: Tensor | None, alphas: tuple[float, float, float], count: int) -> None:
    student, teachers = logits()
    teachers, shares = teachers[:count], [[], [1.0], SHARES][count]
    terms = LossTerms(labels, weights, torch.tensor(0.25), torch.tensor(0.5), 2.0, alphas)
    *rows, gradient = row_losses(student.detach(), teachers, shares, terms, kernel=gpu_logits_rows)
    got = terms.reduce(*rows)
    want = dispatch.eager_logits_loss(student, teachers, shares, terms)
    torch.testing.assert_close(got, want)
    if want[0].grad_fn is not None:
        torch.testing.assert_close(gradient, torch.autograd.grad(want[0], student)[0], rtol=1e-5, atol=1e-6)


def check_linear(
    kernel: Callable[..., Any], dtype: torch.dtype, bias: bool, needs: tuple[bool, ...], count: int = 1
) -> None:
    student, teacher = heads(dtype, bias)
    teachers = [teacher, LinearHead(*(None if each is None else -each.detach() for each in student))][:count]
    shares = [[], [1.0], SHARES][count]
    terms = LossTerms(LABELS, WEIGHTS, torch.tensor(0.25), torch.tensor(0.5), 2.0, ALPHAS)
    if not teachers:  # as `linear_masked_ce` asks for it
        terms = terms._replace(row_weights=torch.zeros(N), alphas=(0.0, 2.0, 0.0))
    wide = [None if each is None else each.detach().float().requires_grad_() for each in student]
    want = dispatch.linear_loss(
        LinearHead(*wide),
        [LinearHead(*(None if x is None else x.float() for x in head)) for head in teachers],
        shares,
        terms,
        "eager",
    )
    asked = [each for each in wide if each is not None]
    expected = dict(zip(map(id, asked), torch.autograd.grad(want[0], asked), strict=True))

    with torch.no_grad():
        rows, gradients = gpu_linear_rows(student, teachers, shares, terms, needs, kernel)
    values = terms.reduce(*rows)
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
@pytest.mark.parametrize("count", [0, 1, 2])
def test_linear(dtype: torch.dtype, bias: bool, needs: tuple[bool, ...], count: int) -> None:
    check_linear(cpu_logits_rows, dtype, bias, needs, count)


@pytest.mark.interpret
@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("count", [0, 1, 2])
def test_linear_with_k1(count: int) -> None:
    check_linear(gpu_logits_rows, torch.float32, True, (True, True, True), count)


@pytest.mark.interpret
@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("columns", [9, 64])
def test_linear_in_float16(count: int, columns: int) -> None:
    """As on a GPU: logits and their gradient in a float16 workspace, in chunks."""
    student, *teachers = heads_of(columns)
    teachers, shares = teachers[:count], SHARES if count == 2 else [1.0]
    terms = LossTerms(LABELS.clamp(max=columns - 1), WEIGHTS, torch.tensor(0.25), torch.tensor(0.5), 2.0, ALPHAS)
    forward = fused.linear_distillation_loss_forward
    with mock.patch.object(fused, "linear_distillation_loss_forward", in_float16(forward)):
        got = gpu_linear_rows(student, teachers, shares, terms, (True,) * 3, gpu_logits_rows)
    want = gpu_linear_rows(student, teachers, shares, terms, (True,) * 3, cpu_logits_rows)
    for each, expected in zip((*got[0], *got[1]), (*want[0], *want[1]), strict=True):
        assert (each - expected).norm() <= 5e-3 * expected.norm()


def test_float16_heads_get_float32_gradients_that_no_scale_has_rounded() -> None:
    student, *teachers = (LinearHead(*(None if x is None else x.half() for x in head)) for head in heads_of(33))
    scale = torch.tensor(2.0**-24)  # the gradients of a step of many rows lie below float16's least number
    terms = LossTerms(LABELS, WEIGHTS, scale, scale, 2.0, ALPHAS)
    _, got = gpu_linear_rows(student, teachers[:1], [1.0], terms, (True,) * 3, cpu_logits_rows)
    wide = [LinearHead(*(None if x is None else x.float() for x in head)) for head in (student, teachers[0])]
    _, want = gpu_linear_rows(wide[0], wide[1:], [1.0], terms, (True,) * 3, cpu_logits_rows)
    for each, expected in zip(got, want, strict=True):
        assert each is not None
        assert expected is not None
        assert each.dtype == torch.float32
        assert 0 < expected.norm() < 1e-4
        assert (each - expected).norm() <= 5e-3 * expected.norm()


def in_float16(forward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: forward(*args, **{**options, "workspace_dtype": torch.float16, "chunk_rows": 2})


def heads_of(columns: int) -> list[LinearHead]:
    """A student's head and two teachers' of other widths, the second without a bias."""
    generator = torch.Generator().manual_seed(2)
    return [
        LinearHead(
            torch.randn(N, width, generator=generator),
            torch.randn(columns, width, generator=generator),
            torch.randn(columns, generator=generator) if bias else None,
        )
        for width, bias in ((H, True), (2 * H, True), (H, False))
    ]


def loss_of(kind: str, dtype: torch.dtype) -> losses.DistillationLoss:
    """A loss of CUDA tensors without contents."""
    mask, labels = torch.ones(N, device="cuda"), torch.zeros(N, dtype=torch.int64, device="cuda")
    if kind == "hidden":
        layers = [torch.empty(N, H, dtype=dtype, device="cuda").requires_grad_() for _ in range(3)]
        value = losses.hidden_cosine(layers, [each.detach() for each in layers], mask, impl="fused")
        return losses.DistillationLoss(value, value, value, value)
    if kind == "several teachers":
        student, first, second = (torch.empty(N, V, dtype=dtype, device="cuda") for _ in range(3))
        student.requires_grad_()
        return losses.distillation_loss(student, [first, second], labels, mask=mask, impl="fused")
    hidden = torch.empty(N, H, dtype=dtype, device="cuda").requires_grad_()
    weight = torch.empty(V, H, device="cuda", dtype=dtype).requires_grad_()
    bias = torch.empty(V, device="cuda", dtype=dtype).requires_grad_()
    teacher = (torch.empty(N, H, dtype=dtype, device="cuda"), torch.empty(V, H, dtype=dtype, device="cuda"), None)
    return losses.linear_distillation_loss(hidden, weight, bias, *teacher, labels, mask=mask, impl="fused")


@pytest.mark.parametrize("kind", ["several teachers", "linear", "hidden"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_tensors_take_the_kernel_when_traced(kind: str, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        total = loss_of(kind, dtype).total
    assert total.device.type == "cuda"
    assert total.dtype == torch.float32
    names = {"several teachers": "distillation", "linear": "linear_distillation", "hidden": "hidden"}
    assert f"distilfast_{names[kind]}_loss" in total.grad_fn.name()


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
        result = fused.distillation_loss_forward(student.detach(), teachers[0], *arguments, alpha, 1.0, 1.0)
        assert bool((result[2][[0, 1, 3]] > 0).all()) == (alpha > 0)
        assert (result[2][[2, 4]] == 0).all()
