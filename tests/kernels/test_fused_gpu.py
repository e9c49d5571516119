"""The fused kernels compiled, on a GPU, at real shapes: against float64, without host syncs, in CUDA graphs."""

from __future__ import annotations

import pytest
import torch
from distilfast import fused, losses
from fused_cases import between_rows, compare, placed, run
from fused_reference import Objective, by_autograd, by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytestmark = pytest.mark.gpu

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def sides(rows: int, columns: int, noise: float = 0.3, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cuda").manual_seed(seed)
    teacher = 2.5 * torch.randn(rows, columns, generator=generator, device="cuda")
    return teacher + noise * torch.randn(rows, columns, generator=generator, device="cuda"), teacher


def rows_of(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels of a sixth of the rows, and weights 0, 1 and 0.5."""
    generator = torch.Generator("cuda").manual_seed(seed)
    labels = torch.randint(0, columns, (rows,), generator=generator, device="cuda")
    labels[torch.rand(rows, generator=generator, device="cuda") > 0.15] = -100
    choice = torch.randint(0, 3, (rows,), generator=generator, device="cuda")
    return labels, torch.tensor([0.0, 1.0, 0.5], device="cuda")[choice]


@given(
    st.integers(0, 6),
    st.sampled_from((1, 2, 7, 8, 9, 127, 128, 129, 257, 1001, 9001, 30522)),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.sampled_from((0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 20.0)),
    st.sampled_from((0.0, 0.1)),
    st.sampled_from((1e-3, 0.3, 5.0)),
    st.integers(0, 2**31),
)
@settings(max_examples=60)
def test_k1_anywhere(
    rows: int,
    columns: int,
    dtype: torch.dtype,
    teacher_dtype: torch.dtype,
    place: tuple[int, int],
    teacher_place: tuple[int, int],
    temperature: float,
    alpha_mse: float,
    noise: float,
    seed: int,
) -> None:
    s, t = sides(rows, columns, noise, seed)
    student, teacher = placed(s, dtype, *place), placed(t, teacher_dtype, *teacher_place)
    labels, weight = rows_of(rows, columns, seed)
    objective = Objective(temperature, alpha_mse=alpha_mse)
    compare(run(student, teacher, labels, weight, objective), student, teacher, labels, weight, objective)
    assert torch.isnan(between_rows(student)).all()
    assert torch.isnan(between_rows(teacher)).all()


@pytest.mark.parametrize("columns", [30522, 30528, 50265, 128256])
@pytest.mark.parametrize("dtype", DTYPES)
def test_k1_at_real_shapes(columns: int, dtype: torch.dtype) -> None:
    rows = 2048 if columns < 40_000 else 512  # the oracle takes a dozen times the logits in float64
    s, t = sides(rows, columns)
    student, teacher = s.to(dtype), t.to(dtype)
    labels, weight = rows_of(rows, columns)
    objective = Objective(kl_scale=1 / 1500, mlm_scale=1 / 300)
    got = run(student, teacher, labels, weight, objective)
    compare(got, student, teacher, labels, weight, objective)
    again = run(student, teacher, labels, weight, objective)
    over = run(student, teacher.clone(), labels, weight, objective, reuse_teacher=True)
    for left, right, third in zip(got, again, over, strict=True):
        assert torch.equal(left, right)
        assert torch.equal(left, third)


@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_small_divergences_keep_their_digits(noise: float, temperature: float) -> None:
    student, teacher = sides(64, 30522, noise)
    labels, weight = torch.full((64,), -100, device="cuda"), torch.ones(64, device="cuda")
    objective = Objective(temperature)
    got = run(student, teacher, labels, weight, objective)
    want = by_hand(student, teacher, labels, weight, objective)
    rtol = 2e-6 if want.kl.min() > 1e-6 else 5e-6
    torch.testing.assert_close(got.kl.double(), want.kl, rtol=rtol, atol=0)


def test_more_than_two_to_the_31_elements() -> None:
    rows, columns = 70_400, 30_522
    student = torch.zeros(rows, columns, dtype=torch.bfloat16, device="cuda")
    teacher = torch.zeros(rows, columns, dtype=torch.bfloat16, device="cuda")
    s, t = sides(2, columns)
    student[-2:], teacher[-2:] = s.bfloat16(), t.bfloat16()
    labels, weight = torch.full((rows,), -100, device="cuda"), torch.zeros(rows, device="cuda")
    weight[-2:], labels[-1] = 1.0, 7
    kl, ce, mse, gradient = fused.distillation_loss_forward(student, teacher, labels, weight, *Objective())
    assert gradient is not None
    want = by_autograd(student[-2:], teacher[-2:], labels[-2:], weight[-2:], Objective())
    torch.testing.assert_close(kl[-2:].double(), want.kl, rtol=5e-6, atol=0)
    torch.testing.assert_close(ce[-2:].double(), want.ce, rtol=5e-6, atol=1e-6)
    torch.testing.assert_close(gradient[-2:].double(), want.gradient, rtol=2**-7, atol=1e-7)
    assert not gradient[:-2].any()
    assert not mse.any()


@pytest.mark.parametrize("first", ["student", "teacher", "both"])
def test_first_block_far_below_the_rest(first: str) -> None:
    student, teacher = sides(8, 30522)
    for name, matrix in (("student", student), ("teacher", teacher)):
        if first in (name, "both"):
            matrix[:, 20000:] += 300.0
    labels, weight = rows_of(8, 30522)
    compare(run(student, teacher, labels, weight, Objective()), student, teacher, labels, weight, Objective())


def test_no_host_sync_and_cuda_graph() -> None:
    student, teacher = sides(512, 30522)
    labels, weight = rows_of(512, 30522)
    scale = torch.tensor(1 / 512, device="cuda")
    hidden = torch.randn(512, 768, device="cuda", dtype=torch.bfloat16)

    def step() -> tuple[Tensor | None, ...]:
        logits = fused.distillation_loss_forward(student, teacher, labels, weight, 2.0, 5.0, 2.0, 0.0, scale, scale)
        return *logits, *fused.hidden_cosine_forward([hidden] * 3, [hidden.roll(k, 1) for k in range(3)], weight, scale)

    want = step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    torch.cuda.synchronize()
    for left, right in zip(captured, want, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("factor", [1.0, 0.0, -0.37])
@pytest.mark.parametrize("kept", [False, True])
def test_backward_of_the_losses_waits_for_nothing(factor: float, kept: bool) -> None:
    s, t = sides(300, 1009)
    labels, weight = rows_of(300, 1009)
    student, layer = s.bfloat16().requires_grad_(), s.requires_grad_()
    factors = torch.tensor(factor, device="cuda")
    want = torch.autograd.grad(losses.distillation_loss(student, t, labels, mask=weight, impl="eager").total, student)[
        0
    ]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = losses.distillation_loss(student, t, labels, mask=weight, impl="fused").total
        loss = loss + losses.hidden_cosine([layer, student], [t, t], weight, impl="fused").detach()
        (got,) = torch.autograd.grad(loss, student, factors, retain_graph=kept)
        again = torch.autograd.grad(loss, student, factors)[0] if kept else got
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, again)
    assert (got.double() - factor * want.double()).norm() <= 2**-7 * abs(factor) * want.double().norm()


@pytest.mark.parametrize("width", [1, 7, 768, 1000, 1024, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_k3(width: int, dtype: torch.dtype) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    teacher = torch.randn(1001, width, generator=generator, device="cuda").to(dtype)
    student = (teacher.float() + torch.randn(1001, width, generator=generator, device="cuda")).to(dtype)
    _, weight = rows_of(1001, 2)
    student[weight == 0] = float("nan")
    (values, _), (gradient, _) = fused.hidden_cosine_forward([student, teacher], [teacher, teacher], weight, 0.25)
    s = torch.where((weight != 0)[:, None], student.double(), 0.0).requires_grad_()
    target = torch.ones(1001, device="cuda", dtype=torch.float64)
    want = weight * torch.nn.functional.cosine_embedding_loss(s, teacher.double(), target, reduction="none")
    (want_gradient,) = torch.autograd.grad(0.25 * want.sum(), s)
    torch.testing.assert_close(values.double(), want.detach(), rtol=3e-6, atol=3e-7)
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[dtype]
    floor = 1e-6 + 3e-7 / s.detach().norm(dim=1).clamp(min=1e-3)
    error = (gradient.double() - want_gradient).norm(dim=1)
    assert (error <= tolerance * want_gradient.norm(dim=1) + floor * (width**0.5)).all()


@pytest.mark.parametrize(
    ("chunk_rows", "dtype", "allowed"), [(None, None, 0.01), (640, None, 0.01), (1000, torch.float32, 3e-3)]
)
def test_k2(chunk_rows: int | None, dtype: torch.dtype | None, allowed: float) -> None:
    """Against float64 products of the same bfloat16 inputs: 1 % with a float16 workspace (float32: TF32 is off)."""
    rows, columns, width = 1500, 30522, 768
    generator = torch.Generator("cuda").manual_seed(0)
    weight_matrix = 0.1 * torch.randn(columns, width, generator=generator, device="cuda").bfloat16()
    teacher = torch.randn(rows, width, generator=generator, device="cuda").bfloat16()
    student = (teacher + 0.1 * torch.randn(rows, width, generator=generator, device="cuda")).bfloat16()
    bias = torch.randn(columns, generator=generator, device="cuda").bfloat16()
    labels, row_weight = rows_of(rows, columns)
    objective = Objective(kl_scale=1 / rows, mlm_scale=1 / 200)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kl, ce, _, d_hidden, d_weight, d_bias = fused.linear_distillation_loss_forward(
        (student, weight_matrix, bias), [(teacher, weight_matrix, bias)], labels, row_weight, *objective,
        chunk_rows=chunk_rows, workspace_dtype=dtype,
    )  # fmt: skip
    assert torch.cuda.max_memory_allocated() - before < 1e9
    s = student.double() @ weight_matrix.double().T + bias.double()
    t = teacher.double() @ weight_matrix.double().T + bias.double()
    want = by_autograd(s, t, labels, row_weight, objective)
    torch.testing.assert_close(kl.double().sum(), want.kl.sum(), rtol=1e-2, atol=0)
    torch.testing.assert_close(ce.double().sum(), want.ce.sum(), rtol=1e-3, atol=0)
    gradient = want.gradient
    for got, expected in (
        (d_hidden, gradient @ weight_matrix.double()),
        (d_weight, gradient.T @ student.double()),
        (d_bias, gradient.sum(0)),
    ):
        assert got is not None
        assert (got.double() - expected).norm() <= allowed * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_teachers_are_the_definition(dtype: torch.dtype) -> None:
    s, t = sides(64, 30522)
    other, _ = sides(64, 30522, seed=1)
    labels, weight = rows_of(64, 30522)
    results = []
    for impl in ("fused", "eager"):
        student = s.to(dtype).requires_grad_()
        loss = losses.distillation_loss(
            student, [t.to(dtype), other], labels, alpha_mse=0.01, mask=weight, impl=impl, teacher_weights=[2, 1]
        )
        results.append((torch.stack(loss).detach(), torch.autograd.grad(loss.total, student)[0].double()))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=0)
    stored = {torch.float32: 1e-5, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-8}[dtype]
    assert (results[0][1] - results[1][1]).norm() <= stored * results[1][1].norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_teachers_from_their_heads(dtype: torch.dtype) -> None:
    """Against the definition in float32, with chunks of 128 rows; 16-bit heads have a float16 workspace."""
    generator = torch.Generator("cuda").manual_seed(0)
    heads = [
        [
            torch.randn(shape, generator=generator, device="cuda").to(dtype) / 4
            for shape in ((300, w), (1009, w), (1009,))
        ]
        for w in (64, 128, 96)
    ]
    labels, weight = rows_of(300, 1009)
    results = []
    for impl in ("fused", "eager"):
        kind = dtype if impl == "fused" else torch.float32
        student, *teachers = [[each.to(kind) for each in head] for head in heads]
        leaves = [each.requires_grad_() for each in student]
        loss = losses.linear_distillation_loss(
            *leaves, *map(list, zip(*teachers, strict=True)), labels, mask=weight, impl=impl, teacher_weights=[1, 3]
        )
        results.append((torch.stack(loss).detach(), *torch.autograd.grad(loss.total, leaves)))
    for got, want in zip(*results, strict=True):
        assert (got.float() - want).norm() <= (1e-4 if dtype == torch.float32 else 2e-2) * want.norm()


@pytest.mark.parametrize("autocast", [False, True])
def test_linear_loss_is_the_definition(autocast: bool) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = ((300, 64), (1009, 64), (1009,), (300, 128), (1009, 128), (1009,))
    tensors = [torch.randn(shape, generator=generator, device="cuda") / 4 for shape in shapes]
    labels, weight = rows_of(300, 1009)
    results = []
    for impl in ("fused", "eager"):
        leaves = [each.clone().requires_grad_() for each in tensors[:3]]
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = losses.linear_distillation_loss(*leaves, *tensors[3:], labels, mask=weight, impl=impl)
        results.append((torch.stack(loss).detach(), *torch.autograd.grad(loss.total, leaves)))
    for got, want in zip(*results, strict=True):
        assert got.dtype == want.dtype
        assert (got - want).norm() <= (2e-2 if autocast else 1e-4) * want.norm()
