"""The losses as custom operators: traced, compiled, differentiated, refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from distilfast import InputError, losses
from distilfast.losses import linear as linear_chunks
from distilfast.losses import operators as ops
from distilfast.losses.arguments import LinearHead
from distilfast.losses.rows import LossTerms
from torch import Tensor

N, V, H = 7, 61, 12
BACKENDS = ["aot_eager", "inductor"] if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else ["aot_eager"]


def tensors() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return {
        "student": make(N, V).requires_grad_(),
        "teacher": make(N, V),
        "labels": torch.tensor([1, -100, 3, 4, -100, 6, 60]),
        "mask": torch.tensor([1, 1, 1, 0, 0, 1, 1.0]),
        "hidden": make(N, H).requires_grad_(),
        "weight": make(V, H).requires_grad_(),
        "bias": make(V).requires_grad_(),
        "teacher_hidden": make(N, 2 * H),
        "teacher_weight": make(V, 2 * H) / 2,
        "scale": torch.tensor(0.2),
    }


def linear(given: dict[str, Any], impl: str = "fused") -> Tensor:
    return losses.linear_distillation_loss(
        given["hidden"], given["weight"], given["bias"], given["teacher_hidden"], given["teacher_weight"], None,
        given["labels"], mask=given["mask"], impl=impl,
    ).total  # fmt: skip


LOSSES: dict[str, Callable[[dict[str, Any], str], Tensor]] = {
    "distillation": lambda g, impl: (
        losses.distillation_loss(
            g["student"], g["teacher"], g["labels"], mask=g["mask"], alpha_mse=0.1, impl=impl
        ).total
    ),
    "kl": lambda g, impl: losses.soft_kl(g["student"], g["teacher"], 3, g["mask"], impl=impl),
    "ce": lambda g, impl: losses.masked_ce(g["student"], g["labels"], impl=impl),
    "cosine": lambda g, impl: losses.hidden_cosine(g["student"], g["teacher"], g["mask"], impl=impl),
    "mse": lambda g, impl: losses.hidden_mse(g["student"], g["teacher"], g["mask"], impl=impl),
    "linear": linear,
    "several teachers": lambda g, impl: (
        losses.distillation_loss(
            g["student"], [g["teacher"], -g["teacher"]], g["labels"], mask=g["mask"], alpha_mse=0.1, impl=impl,
            teacher_weights=[1, 2],
        ).total
    ),
    "several layers": lambda g, impl: losses.hidden_cosine(
        [g["student"], 2 * g["student"], g["student"][:, :9]], [g["teacher"], -g["teacher"], g["teacher"][:, :9]],
        g["mask"], impl=impl,
    ),
    "linear, several teachers": lambda g, impl: (
        losses.linear_distillation_loss(
            g["hidden"], g["weight"], g["bias"], [g["teacher_hidden"], g["hidden"].detach()],
            [g["teacher_weight"], g["weight"].detach()], [None, g["bias"].detach()], g["labels"], mask=g["mask"],
            alpha_mse=0.1, impl=impl, teacher_weights=[3, 1],
        ).total
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("grad_output", [1.0, 0.0, -1.0, 0.37])
def test_fused_is_eager(name: str, grad_output: float) -> None:
    given = tensors()
    inputs = [given[key] for key in (("hidden", "weight", "bias") if name.startswith("linear") else ("student",))]
    results = []
    for impl in ("fused", "eager"):
        value = LOSSES[name](given, impl)
        results.append((value.detach(), *torch.autograd.grad(value, inputs, torch.tensor(grad_output))))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(LOSSES[name](given, "fused"), results[0][0])


@pytest.mark.parametrize("impl", ["fused", "eager"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", ["logits", "linear"])
def test_total_is_the_sum_of_alpha_times_part_in_value_and_gradient(name: str, several: bool, impl: str) -> None:
    """Each alpha alone, and all: with distinct alphas a swapped, dropped or doubled one shows."""
    g = tensors()
    repeat = (lambda each: [each, each.flip(0)]) if several else (lambda each: each)

    def loss(*alphas: float) -> tuple[losses.DistillationLoss, Tensor]:
        options = dict(zip(("alpha_ce", "alpha_mlm", "alpha_mse"), alphas, strict=True))
        if name == "logits":
            leaf = g["student"]
            value = losses.distillation_loss(
                leaf, repeat(g["teacher"]), g["labels"], mask=g["mask"], impl=impl, **options
            )
        else:
            leaf = g["hidden"]
            value = losses.linear_distillation_loss(
                leaf, g["weight"], g["bias"], repeat(g["teacher_hidden"]), repeat(g["teacher_weight"]), None,
                g["labels"], mask=g["mask"], impl=impl, **options,
            )  # fmt: skip
        return value, torch.autograd.grad(value.total, leaf)[0]

    alphas = (0.7, 0.3, 0.11)
    whole, gradient = loss(*alphas)
    parts = (whole.kl, whole.mlm, whole.mse)
    assert len({round(float(part), 3) for part in parts}) == 3
    torch.testing.assert_close(whole.total, sum(a * part for a, part in zip(alphas, parts, strict=True)))
    total = torch.zeros_like(gradient)
    for index, alpha in enumerate(alphas):
        alone, of_one = loss(*(1.0 if at == index else 0.0 for at in range(3)))
        torch.testing.assert_close(alone.total, parts[index])
        total = total + alpha * of_one
    torch.testing.assert_close(gradient, total, rtol=1e-4, atol=1e-6)


def test_opcheck() -> None:
    g = tensors()
    check = torch.library.opcheck
    rest = (g["labels"], g["mask"], g["scale"], g["scale"], 2.0, [5.0, 2.0, 0.1])
    check(ops.distillation_loss, (g["student"], [g["teacher"]], [1.0], *rest, True))
    check(ops.distillation_loss, (g["student"], [g["teacher"], -g["teacher"]], [0.3, 0.7], *rest, True))
    alone = (g["labels"], None, g["scale"], g["scale"], 1.0, [0.0, 1.0, 0.0])
    check(ops.distillation_loss, (g["student"], [], [], *alone, True))
    check(ops.hidden_loss, ([g["student"]], [g["teacher"]], g["mask"], g["scale"], "cosine", True))
    check(
        ops.hidden_loss,
        (
            [g["student"], g["student"].detach().clone().requires_grad_()],
            [g["teacher"]] * 2,
            None,
            g["scale"],
            "mse",
            True,
        ),
    )
    head = (g["hidden"], g["weight"], g["bias"])
    teacher = ([g["teacher_hidden"]], [g["teacher_weight"]], [None], [1.0])
    check(ops.linear_distillation_loss, (*head, *teacher, *rest, [True, True, True]))
    biases = [None, g["bias"].detach()]
    teachers = ([g["teacher_hidden"]] * 2, [g["teacher_weight"], -g["teacher_weight"]], biases, [0.5, 0.5])
    check(ops.linear_distillation_loss, (*head, *teachers, *rest, [True, True, True]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_graph_break_under_compile(name: str, backend: str) -> None:
    given = tensors()
    torch._dynamo.reset()
    compiled = torch.compile(lambda: LOSSES[name](given, "auto") * 0.5, fullgraph=True, backend=backend)
    leaf = given["hidden" if name.startswith("linear") else "student"]
    (grad,) = torch.autograd.grad(compiled(), leaf)
    (expected,) = torch.autograd.grad(LOSSES[name](given, "auto") * 0.5, leaf)
    torch.testing.assert_close(grad, expected)


def test_backward_twice_through_a_kept_graph() -> None:
    given = tensors()
    value = LOSSES["distillation"](given, "fused")
    first = torch.autograd.grad(value, given["student"], retain_graph=True)[0].clone()
    value.backward(retain_graph=True)
    (2 * value).backward()
    torch.testing.assert_close(given["student"].grad, 3 * first)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_of_a_kept_graph_may_be_added_to_and_written_over(name: str) -> None:
    given = tensors()
    leaf = given["hidden" if name.startswith("linear") else "student"]
    value = LOSSES[name](given, "fused")
    expected = torch.autograd.grad(value, leaf, retain_graph=True)[0].clone()
    torch.autograd.grad(value, leaf, retain_graph=True)[0].zero_()
    for _ in range(3):
        value.backward(retain_graph=True)
    torch.testing.assert_close(leaf.grad, 3 * expected)


@pytest.mark.parametrize("name", ["distillation", "cosine", "linear"])
def test_a_torch_that_does_not_tell_whether_the_graph_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tensors()
    leaf = given["hidden" if name == "linear" else "student"]
    (expected,) = torch.autograd.grad(-0.5 * LOSSES[name](given, "fused"), leaf)
    monkeypatch.delattr(torch._C._autograd, "_get_current_graph_task_keep_graph")
    loss = -0.5 * LOSSES[name](given, "fused")
    for _ in range(2):
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("factor", [1.0, 0.0, -2.0])
def test_layers_that_are_leaves_keep_their_gradient_through_a_kept_graph(factor: float) -> None:
    """The kept gradients are neither handed out to be added to, nor scaled where they lie, while they are needed."""
    given = tensors()
    layers = [given["student"].detach().clone().requires_grad_() for _ in range(2)]
    value = losses.hidden_mse(layers, [given["teacher"], -given["teacher"]], given["mask"], impl="fused")
    first = [each.clone() for each in torch.autograd.grad(value, layers, retain_graph=True)]
    value.backward(torch.tensor(factor), retain_graph=True)
    value.backward(retain_graph=True)
    value.backward()
    for layer, gradient in zip(layers, first, strict=True):
        torch.testing.assert_close(layer.grad, (2 + factor) * gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_double_backward_is_refused(name: str) -> None:
    given = tensors()
    leaf = given["hidden" if name.startswith("linear") else "student"]
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(LOSSES[name](given, "fused"), leaf, create_graph=True)


def test_autocast() -> None:
    given = tensors()
    expected = linear(given).detach()
    with torch.autocast("cpu", torch.bfloat16):
        value = linear(given)
    value.backward()
    assert given["weight"].grad.dtype == torch.float32
    torch.testing.assert_close(value.detach(), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 100])
def test_any_chunk_size_gives_the_same(chunk_rows: int, count: int) -> None:
    g = tensors()
    student = LinearHead(g["hidden"].detach(), g["weight"].detach(), g["bias"].detach())
    teachers = [LinearHead(g["teacher_hidden"], g["teacher_weight"], None), student._replace(weight=-student.weight)][
        :count
    ]
    shares = [0.25, 0.75] if count == 2 else [1.0]
    terms = LossTerms(g["labels"], g["mask"], g["scale"], g["scale"], 2.0, (5.0, 2.0, 0.1))
    arguments = (student, teachers, shares, terms, (True, True, True))
    one_values, one_grads = linear_chunks.cpu_linear_rows(*arguments, chunk_rows=N)
    values, grads = linear_chunks.cpu_linear_rows(*arguments, chunk_rows=chunk_rows)
    torch.testing.assert_close(values, one_values)
    torch.testing.assert_close(grads, one_grads, rtol=1e-5, atol=1e-6)


def test_rows_that_do_not_count_may_hold_anything() -> None:
    given = tensors()
    expected = torch.autograd.grad(linear(given), given["hidden"])[0]
    with torch.no_grad():
        given["hidden"][4] = torch.nan
        given["teacher_hidden"][4] = torch.inf
    torch.testing.assert_close(torch.autograd.grad(linear(given), given["hidden"])[0], expected)


@pytest.mark.parametrize("impl", ["fused", "eager"])
def test_no_row_at_all_gives_zero(impl: str) -> None:
    empty = torch.empty(0, V, requires_grad=True)
    loss = losses.distillation_loss(empty, torch.empty(0, V), torch.empty(0, dtype=torch.long), impl=impl)
    loss.total.backward()
    assert loss.total == 0
    given = tensors()
    loss = losses.distillation_loss(
        given["student"], given["teacher"], torch.full((N,), -100), mask=torch.zeros(N), impl=impl
    )
    loss.total.backward()
    assert loss.total == 0
    assert (given["student"].grad == 0).all()


REFUSED: dict[str, tuple[type[Exception], str, Callable[[dict[str, Any]], object]]] = {
    "temperature": (InputError, "temperature=0", lambda g: losses.soft_kl(g["student"], g["teacher"], 0)),
    "vocabularies": (
        InputError,
        "61 columns but .* has 60",
        lambda g: losses.soft_kl(g["student"], g["teacher"][:, :60]),
    ),
    "shapes": (InputError, r"\(7, 61\) but .* \(6, 61\)", lambda g: losses.soft_kl(g["student"], g["teacher"][:6])),
    "integers": (TypeError, "int64", lambda g: losses.soft_kl(g["labels"], g["teacher"])),
    "teacher with grad": (InputError, "requires grad", lambda g: losses.soft_kl(g["teacher"], g["student"])),
    "label": (
        InputError,
        "label 61 in row 2 .* 61",
        lambda g: losses.masked_ce(g["student"], torch.tensor([0, 1, 61, 0, 0, 0, 0])),
    ),
    "label, without a kernel": (
        InputError,
        "label 61 in row 2 .* 61",
        lambda g: losses.masked_ce(g["student"], torch.tensor([0, 1, 61, 0, 0, 0, 0]), impl="eager"),
    ),
    "labels": (TypeError, "float32", lambda g: losses.masked_ce(g["student"], g["mask"])),
    "mask": (InputError, r"\(6,\)", lambda g: losses.soft_kl(g["student"], g["teacher"], mask=torch.ones(6))),
    "devices": (InputError, "meta", lambda g: losses.soft_kl(g["student"], g["teacher"].to("meta"))),
    "impl": (InputError, "'quick'", lambda g: losses.soft_kl(g["student"], g["teacher"], impl="quick")),
    "float64": (
        InputError,
        "float64",
        lambda g: losses.soft_kl(g["student"].double(), g["teacher"].double(), impl="fused"),
    ),
    "heads": (
        InputError,
        "teacher_hidden has 2 entries, teacher_weight 1",
        lambda g: losses.linear_distillation_loss(
            g["hidden"], g["weight"], None, [g["teacher_hidden"]] * 2, [g["teacher_weight"]], None, g["labels"]
        ),
    ),
    "head": (
        InputError,
        "student_weight",
        lambda g: losses.linear_distillation_loss(
            g["hidden"], g["teacher_weight"], None, g["teacher_hidden"], g["teacher_weight"], None, g["labels"]
        ),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused(name: str) -> None:
    error, message, call = REFUSED[name]
    with pytest.raises(error, match=message):
        call(tensors())


@pytest.mark.parametrize("loss", ["logits", "linear", "cosine"])
def test_float16_gradients_keep_their_digits_under_a_scaled_loss(loss: str) -> None:
    """As a GradScaler scales it: what is divided by the rows of a large batch is rounded after the multiplication."""
    generator = torch.Generator().manual_seed(0)
    scale, rows = 65536.0, 16384.0
    student, teacher = (torch.randn(6, 40, generator=generator).half() for _ in range(2))
    weight = torch.randn(70, 40, generator=generator).half()
    labels = torch.tensor([1, -100, 39, -100, -100, 5])

    def compute(student: Tensor, weight: Tensor, impl: str) -> Tensor:
        other = teacher.to(student.dtype)
        if loss == "logits":
            return losses.distillation_loss(
                student, other, labels, num_kl_rows=rows, num_mlm_rows=rows, impl=impl
            ).total
        if loss == "cosine":
            return losses.hidden_cosine(student, other, num_rows=rows, impl=impl)
        heads = (student, weight, None, other, weight.detach().flip(0), None)
        return losses.linear_distillation_loss(*heads, labels, num_kl_rows=rows, num_mlm_rows=rows, impl=impl).total

    leaves = [student.requires_grad_(), weight.requires_grad_()][: 2 if loss == "linear" else 1]
    (scale * compute(student, weight, "fused")).backward()
    wide = [each.detach().double().requires_grad_() for each in (student, weight)]
    compute(*wide, "eager").backward()
    for narrow, exact in zip(leaves, wide, strict=False):
        assert narrow.grad is not None
        assert exact.grad is not None
        assert narrow.grad.dtype == torch.float16
        difference = narrow.grad.double() / scale - exact.grad
        assert difference.norm() <= 1e-3 * exact.grad.norm()
