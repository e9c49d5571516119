"""K1 for several teachers in Triton's interpreter, against the definitions in float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from distilfast import fused
from distilfast.losses import definitions
from fused_cases import EPSILON, placed
from fused_interpreter import faithful_interpreter, poisoned_memory
from fused_reference import Objective, Result
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytestmark = pytest.mark.interpret

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    with faithful_interpreter():
        yield


def run(
    student: Tensor, teachers: list[Tensor], shares: list[float], labels: Tensor, weight: Tensor, objective: Objective,
    **options: object,
) -> Result:  # fmt: skip
    with poisoned_memory():
        *values, gradient = fused.multi_teacher_loss_forward(
            student, teachers, shares, labels, weight, *objective, **options
        )
    assert gradient is not None
    return Result(*values, gradient)


def reference(
    student: Tensor, teachers: list[Tensor], shares: list[float], labels: Tensor, weight: Tensor, objective: Objective
) -> Result:
    """The definitions in float64, differentiated."""
    counted = weight != 0
    s = torch.where((counted | (labels >= 0))[:, None], student.double(), 0.0).requires_grad_()
    sides = [each.double() for each in teachers]
    kl = weight.double() * definitions.soft_kl_rows(s, sides, objective.temperature, shares, counted)
    ce = definitions.masked_ce_rows(s, labels)
    mse = weight.double() * definitions.logits_mse_rows(s, sides, shares, counted)
    total = objective.kl_scale * (objective.alpha_ce * objective.temperature**2 * kl + objective.alpha_mse * mse).sum()
    total = total + objective.mlm_scale * objective.alpha_mlm * ce.sum()
    (gradient,) = torch.autograd.grad(total, s)
    return Result(kl.detach(), ce.detach(), mse.detach(), gradient)


@given(
    st.integers(0, 3),
    st.sampled_from((1, 2, 7, 8, 9, 17, 63, 64, 65, 150)),
    st.integers(1, 5),
    st.sampled_from(DTYPES),
    st.sampled_from(DTYPES),
    st.sampled_from((0.5, 1.0, 2.0, 7.3)),
    st.sampled_from((0.0, 0.1)),
    st.sampled_from(((1e-3, 1e-3, 0.0), (2.5, 0.3, 0.0), (2.5, 0.3, -1e4), (30.0, 5.0, 40.0))),
    st.tuples(*[st.integers(0, 9)] * 4),
    st.integers(0, 2**31),
)
def test_values_and_gradient(
    rows: int,
    columns: int,
    count: int,
    dtype: torch.dtype,
    teacher_dtype: torch.dtype,
    temperature: float,
    alpha_mse: float,
    distances: tuple[float, float, float],
    places: tuple[int, int, int, int],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    spread, noise, shift = distances

    def draw() -> Tensor:
        return torch.randn(rows, columns, generator=generator)

    middle = spread * draw()
    student = placed(middle + noise * draw() + shift, dtype, *places[:2])
    teachers = [placed(middle + noise * draw(), dtype, *places[:2])]
    teachers += [placed(middle + noise * draw(), teacher_dtype, places[2] + k, places[3]) for k in range(1, count)]
    shares = (torch.rand(count, generator=generator).double() + 0.05).softmax(0).tolist()
    labels = torch.randint(0, columns, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.5] = -100
    weight = torch.tensor([0.0, 1.0, 0.25])[torch.randint(0, 3, (rows,), generator=generator)]
    for each in teachers:
        each[weight == 0] = float("nan")
    student[(weight == 0) & (labels < 0)] = float("nan")
    objective = Objective(temperature, alpha_mse=alpha_mse)
    given_ = (student, teachers, shares, labels, weight, objective)
    got, want = run(*given_, block=64), reference(*given_)

    rounding = 2.0**-23 * max(1.0, abs(shift), spread)
    torch.testing.assert_close(got.kl.double(), want.kl, rtol=5e-6, atol=rounding / temperature + 1e-10)
    assert (got.kl >= 0).all()
    torch.testing.assert_close(got.ce.double(), want.ce, rtol=2e-6, atol=2e-7 + rounding)
    if alpha_mse != 0:
        torch.testing.assert_close(got.mse.double(), want.mse, rtol=5e-6, atol=1e-10)
    else:
        assert (got.mse == 0).all()
    # The interpreter cuts float32 to bfloat16 where the GPU rounds.
    stored = 2 * EPSILON[dtype] if dtype != torch.float32 else 0.0
    error = (got.gradient.double() - want.gradient).norm(dim=1)
    subnormal = 2.0**-24 * columns**0.5 if dtype == torch.float16 else 0.0
    assert (error <= (4e-6 + stored) * want.gradient.norm(dim=1) + 4 * (2e-7 + 2 * rounding) + subnormal).all()
    values = fused.multi_teacher_loss_forward(*given_[:5], *objective, needs_gradient=False, block=64)
    assert torch.equal(values[0], got.kl)
    assert values[3] is None


@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01, 0.001])
def test_small_divergences_keep_their_digits(noise: float) -> None:
    """A student close to the mean of teachers that differ from each other by as little."""
    generator = torch.Generator().manual_seed(3)
    middle = 2.5 * torch.randn(2, 3000, generator=generator)
    student, *teachers = (middle + noise * torch.randn(2, 3000, generator=generator) for _ in range(4))
    given_ = (student, teachers, [0.5, 0.3, 0.2], torch.full((2,), -100), torch.ones(2), Objective())
    got, want = run(*given_), reference(*given_)
    torch.testing.assert_close(got.kl.double(), want.kl, rtol=2e-5, atol=0)
    assert (got.gradient.double() - want.gradient).norm() <= 1e-5 * want.gradient.norm() + 1e-6


def test_equal_teachers_are_one_and_equal_sides_give_nothing() -> None:
    student, teacher = torch.randn(3, 150), torch.randn(3, 150)
    labels, weight = torch.tensor([3, -100, 149]), torch.tensor([1.0, 0.5, 0.0])
    one = fused.distillation_loss_forward(student, teacher, labels, weight, *Objective())
    two = fused.multi_teacher_loss_forward(student, [teacher, teacher], [0.25, 0.75], labels, weight, *Objective())
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-7)
    same = run(teacher, [teacher, teacher], [0.5, 0.5], torch.full((3,), -100), weight, Objective())
    assert same.kl.max() < 1e-12
    assert same.gradient.abs().max() < 1e-6


def test_classes_ruled_out() -> None:
    student, first, second = (torch.randn(3, 70) for _ in range(3))
    first[:, 10] = second[:, 10] = float("-inf")  # nobody allows it
    first[:, 11] = float("-inf")  # one does
    first[:, :9] = second[:, :9] = student[:, :9] = float("-inf")
    student[1, 10] = float("-inf")
    student[2, 11] = float("-inf")
    given_ = (student, [first, second], [0.5, 0.5], torch.full((3,), -100), torch.ones(3), Objective())
    got = run(*given_, block=64)
    finite = [at for at in range(70) if at >= 9 and at != 10]
    want = reference(student[:, finite], [first[:, finite], second[:, finite]], *given_[2:])
    torch.testing.assert_close(got.kl[1].double(), want.kl[1], rtol=5e-6, atol=0)
    assert got.kl[0] > 0
    assert got.kl[2] == float("inf")
    assert torch.isfinite(got.gradient).all()


def test_label_out_of_range_and_refusals() -> None:
    student, weight = torch.randn(2, 9), torch.ones(2)
    got = run(student, [student, student], [0.5, 0.5], torch.tensor([9, -100]), weight, Objective())
    assert torch.isnan(got.ce[0])
    assert got.ce[1] == 0
    labels = torch.tensor([1, -100])
    for teachers, shares, words in (
        ([], [], "0 teachers"),
        ([student], [0.5, 0.5], "2 teacher weights for 1 teachers"),
        ([student, student], [1.0, 1.0], "sum to 1"),
        ([student, student[:, 1:]], [0.5, 0.5], r"\(2, 9\).*\(2, 8\)"),
    ):
        with pytest.raises(ValueError, match=words):
            fused.multi_teacher_loss_forward(student, teachers, shares, labels, weight, *Objective())
