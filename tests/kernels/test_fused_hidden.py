"""K3 in Triton's interpreter against float64: cosine and squared error of hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from distilfast import fused
from fused_cases import EPSILON, between_rows, placed
from fused_interpreter import faithful_interpreter, poisoned_memory
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytestmark = pytest.mark.interpret

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    with faithful_interpreter():
        yield


def forward_of(cosine: bool) -> Callable[..., tuple[Tensor, Tensor]]:
    """The kernel of one layer: values [N] and gradient [N, H]."""

    def forward(student: Tensor, teacher: Tensor, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        kernel = fused.hidden_cosine_forward if cosine else fused.hidden_mse_forward
        values, gradient = kernel([student], [teacher], weight, scale)
        assert gradient is not None
        return values[0], gradient[0]

    return forward


def reference(student: Tensor, teacher: Tensor, weight: Tensor, scale: float, cosine: bool) -> tuple[Tensor, Tensor]:
    """By autograd in float64; torch's CosineEmbeddingLoss adds 1e-12 to the squared norms."""
    counted = (weight != 0)[:, None]
    s = torch.where(counted, student.double(), 0.0).requires_grad_()
    t = torch.where(counted, teacher.double(), 0.0)
    if cosine:
        target = torch.ones(len(s), dtype=torch.float64)
        losses = torch.nn.functional.cosine_embedding_loss(s, t, target, reduction="none")
    else:
        losses = (s - t).square().sum(1)
    values = weight.double() * losses
    (gradient,) = torch.autograd.grad(scale * values.sum(), s)
    return values.detach(), gradient


@given(
    st.integers(0, 9),
    st.sampled_from((1, 2, 7, 8, 16, 100, 768, 1000)),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.tuples(st.integers(0, 9), st.integers(0, 9)),
    st.sampled_from((3.0, 0.1, 1e-3)),
    st.sampled_from((1.0, 5.0, 0.2)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_values_and_gradient(
    rows: int,
    width: int,
    dtype: torch.dtype,
    teacher_dtype: torch.dtype,
    place: tuple[int, int],
    noise: float,
    longer: float,
    cosine: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(rows, width, generator=generator)
    student = placed(longer * (teacher + noise * torch.randn(rows, width, generator=generator)), dtype, *place)
    teacher = placed(teacher, teacher_dtype, *place)
    weight = torch.tensor([0.0, 1.0, 0.3])[torch.randint(0, 3, (rows,), generator=generator)]
    student[weight == 0] = float("nan")
    with poisoned_memory():
        values, gradient = forward_of(cosine)(student, teacher, weight, 0.25)
    want, want_gradient = reference(student, teacher, weight, 0.25, cosine)
    torch.testing.assert_close(values.double(), want, rtol=3e-6, atol=3e-7)
    stored = 2 * EPSILON[dtype] if dtype != torch.float32 else 0.0
    # At right angles to the student only: what is left of a gradient that points along it is rounding.
    size = torch.where((weight != 0)[:, None], student.double(), 1.0).norm(dim=1).clamp(min=1e-3)
    allowed = (1e-5 + stored) * want_gradient.norm(dim=1) + 3e-7 / size + (1e-7 if dtype == torch.float16 else 0.0)
    assert ((gradient.double() - want_gradient).norm(dim=1) <= allowed * (width**0.5 if stored else 1.0)).all()
    assert (gradient[weight == 0] == 0).all()
    assert torch.isnan(between_rows(student)).all()


@pytest.mark.parametrize("zero", ["student", "teacher", "both"])
def test_zero_vectors(zero: str) -> None:
    student, teacher = torch.randn(3, 40), torch.randn(3, 40)
    for name, matrix in (("student", student), ("teacher", teacher)):
        if zero in (name, "both"):
            matrix[1] = 0.0
    values, gradient = forward_of(True)(student, teacher, torch.ones(3), 1.0)
    want, want_gradient = reference(student, teacher, torch.ones(3), 1.0, True)
    torch.testing.assert_close(values.double(), want, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), want_gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("noise", [1.0, 1e-2, 1e-3, 1e-4])
def test_close_vectors_keep_their_digits(noise: float) -> None:
    generator = torch.Generator().manual_seed(1)
    teacher = torch.randn(2, 768, generator=generator)
    student = teacher + noise * torch.randn(2, 768, generator=generator)
    values, gradient = forward_of(True)(student, teacher, torch.ones(2), 1.0)
    want, want_gradient = reference(student, teacher, torch.ones(2), 1.0, True)
    torch.testing.assert_close(values.double(), want, rtol=1e-6, atol=1e-14)
    assert (gradient.double() - want_gradient).norm() <= 1e-6 * want_gradient.norm()


def test_large_float16_and_wide_rows() -> None:
    student, teacher = torch.full((2, 700), 300.0).half(), torch.randn(2, 700).half()
    values, _ = forward_of(True)(student, teacher, torch.ones(2), 1.0)
    torch.testing.assert_close(values.double(), reference(student, teacher, torch.ones(2), 1.0, True)[0])
    student, teacher = torch.randn(2, 5000), torch.randn(2, 5000)
    for cosine in (True, False):
        values, gradient = forward_of(cosine)(student, teacher, torch.ones(2), 0.5)
        want, want_gradient = reference(student, teacher, torch.ones(2), 0.5, cosine)
        torch.testing.assert_close(values.double(), want, rtol=1e-6, atol=0)
        assert (gradient.double() - want_gradient).norm() <= 1e-6 * want_gradient.norm()


def test_refusals() -> None:
    hidden, weight = torch.randn(2, 4), torch.ones(2)
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(2, 5\)"):
        fused.hidden_cosine_forward([hidden], [torch.randn(2, 5)], weight, 1.0)
    with pytest.raises(TypeError, match="int64"):
        fused.hidden_mse_forward([hidden.long()], [hidden], weight, 1.0)
    with pytest.raises(ValueError, match=r"\(3,\).*2 rows"):
        fused.hidden_cosine_forward([hidden], [hidden], torch.ones(3), 1.0)
    with pytest.raises(ValueError, match="1 student layers and 2 teacher layers"):
        fused.hidden_cosine_forward([hidden], [hidden, hidden], weight, 1.0)
    with pytest.raises(ValueError, match=r"\(2, 4\) torch.float32 and another \(2, 4\) torch.bfloat16"):
        fused.hidden_mse_forward([hidden, hidden.bfloat16()], [hidden, hidden], weight, 1.0)


@pytest.mark.parametrize("cosine", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3, 66])
@pytest.mark.parametrize("width", [1, 24, 33])
def test_layers_of_one_launch_are_those_of_as_many(cosine: bool, layers: int, width: int) -> None:
    """Each layer with strides and an offset of its own; 66 take two launches."""
    generator = torch.Generator().manual_seed(layers)
    students, teachers = (
        [placed(torch.randn(3, width, generator=generator), dtype, k % 9, k % 5) for k in range(layers)]
        for dtype in (torch.bfloat16, torch.float32)
    )
    weight = torch.tensor([0.3, 0.0, 1.0])
    students[-1][1] = float("nan")
    kernel = fused.hidden_cosine_forward if cosine else fused.hidden_mse_forward
    with poisoned_memory():
        values, gradient = kernel(students, teachers, weight, 0.25)
    assert gradient is not None
    for student, teacher, *got in zip(students, teachers, values, gradient, strict=True):
        want = forward_of(cosine)(student, teacher, weight, 0.25)
        assert torch.equal(got[0], want[0])
        assert torch.equal(got[1], want[1])
    alone, nothing = kernel(students, teachers, weight, 0.25, needs_gradient=False)
    assert torch.equal(alone, values)
    assert nothing is None
