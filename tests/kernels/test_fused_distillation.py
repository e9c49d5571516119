"""K1 in Triton's interpreter against float64: values, gradient, and what they must not depend on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from distilfast import fused
from fused_cases import between_rows, compare, placed, run
from fused_interpreter import faithful_interpreter
from fused_reference import Objective, by_autograd, by_hand
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytestmark = pytest.mark.interpret

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 7.3, 20.0)


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Iterator[None]:
    with faithful_interpreter():
        yield


@dataclass
class Case:
    student: Tensor
    teacher: Tensor
    labels: Tensor
    weight: Tensor
    objective: Objective
    block: int

    @property
    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Objective]:
        return self.student, self.teacher, self.labels, self.weight, self.objective


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = DTYPES, mse: bool = True) -> Case:
    """Rows at any place, few enough for the interpreter: at most 3 rows and 3 blocks."""
    rows = draw(st.integers(0, 3))
    columns = draw(st.sampled_from((1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129, 150)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread, noise = draw(st.sampled_from(((1e-3, 1e-3), (2.5, 0.3), (2.5, 3.0), (30.0, 5.0))))
    shifts = draw(st.tuples(st.sampled_from((0.0, 40.0, -1e4)), st.sampled_from((0.0, 1e4))))
    teacher = spread * torch.randn(rows, columns, generator=generator)
    student = teacher + noise * torch.randn(rows, columns, generator=generator) + shifts[0]
    place = st.tuples(st.integers(0, 9), st.integers(0, 9))
    labels = torch.tensor(
        [draw(st.one_of(st.just(-100), st.integers(0, columns - 1))) for _ in range(rows)], dtype=torch.int64
    )
    weight = torch.tensor([draw(st.sampled_from((0.0, 1.0, 1.0, 0.25, 3.0))) for _ in range(rows)])
    objective = Objective(
        draw(st.sampled_from(TEMPERATURES)),
        draw(st.sampled_from((5.0, 0.0))),
        draw(st.sampled_from((2.0, 0.0))),
        draw(st.sampled_from((0.0, 0.1))) if mse else 0.0,
        draw(st.sampled_from((1.0, 1 / 3, 1 / 16384))),
        draw(st.sampled_from((1.0, 1 / 2400))),
    )
    return Case(
        placed(student, draw(st.sampled_from(dtypes)), *draw(place)),
        placed(teacher + shifts[1], draw(st.sampled_from(dtypes)), *draw(place)),
        labels,
        weight,
        objective,
        draw(st.sampled_from((64, 128))),
    )


@given(cases())
def test_values_and_gradient(case: Case) -> None:
    got = run(*case.arguments, block=case.block)
    compare(got, *case.arguments)
    assert torch.isnan(between_rows(case.student)).all()
    assert torch.isnan(between_rows(case.teacher)).all()
    without, *rest = fused.distillation_loss_forward(
        case.student, case.teacher, case.labels, case.weight, *case.objective, needs_gradient=False, block=case.block
    )
    assert torch.equal(without, got.kl)
    assert rest[-1] is None


@given(cases())
@settings(max_examples=25)
def test_oracles_agree(case: Case) -> None:
    for left, right in zip(by_autograd(*case.arguments), by_hand(*case.arguments), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-11)


@given(cases(), st.booleans())
@settings(max_examples=10)
def test_gradient_may_overwrite_either_side(case: Case, over_teacher: bool) -> None:
    want = run(*case.arguments, block=case.block)
    if over_teacher:
        case.teacher = placed(case.teacher, case.student.dtype, 3, 1)
        want = run(*case.arguments, block=case.block)
        kept = case.student.clone()
        got = run(*case.arguments, block=case.block, reuse_teacher=True)
        assert got.gradient.data_ptr() == case.teacher.data_ptr()
        assert torch.equal(case.student, kept)
        assert torch.isnan(between_rows(case.teacher)).all()
    else:
        got = run(*case.arguments, block=case.block, reuse_student=True)
        assert got.gradient.data_ptr() == case.student.data_ptr()
        assert torch.isnan(between_rows(case.student)).all()
    for left, right in zip(got, want, strict=True):
        assert torch.equal(left, right)


@given(cases(dtypes=(torch.float32,)))
@settings(max_examples=10)
def test_equal_sides_give_nothing(case: Case) -> None:
    case.labels.fill_(-100)
    got = run(case.student, case.student.clone(), *case.arguments[2:], block=case.block)
    assert (got.kl == 0).all()
    assert (got.mse == 0).all()
    assert (got.gradient == 0).all()


@given(cases(dtypes=(torch.float32,), mse=False))
@settings(max_examples=10)
def test_gradient_rows_sum_to_nothing(case: Case) -> None:
    got = run(*case.arguments, block=case.block)
    objective = case.objective
    largest = 3.0 * objective.alpha_ce * objective.temperature * objective.kl_scale
    largest += objective.alpha_mlm * objective.mlm_scale
    size = max([1.0, *(x.abs().max().item() for x in case.arguments[:2] if x.numel())])
    assert (got.gradient.double().sum(1).abs() <= (2e-6 + 2**-23 * size) * largest).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rows_that_do_not_count_may_hold_anything(value: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(4, 129), torch.randn(4, 129)
    labels, weight = torch.tensor([5, -100, 7, -100]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    want = run(student, teacher, labels, weight, Objective(), block=64)
    # Neither side of row 1 is looked at, and not the teacher's of row 2, which has a label alone.
    student[1], teacher[1], teacher[2] = value, value, value
    got = run(student, teacher, labels, weight, Objective(), block=64)
    for left, right in zip(got, want, strict=True):
        assert torch.equal(left, right)
    assert (got.gradient[1] == 0).all()
    assert got.kl[2] == 0


def test_a_nan_poisons_its_own_row_alone() -> None:
    student, teacher = torch.randn(3, 129), torch.randn(3, 129)
    student[1, 100] = float("nan")
    got = run(student, teacher, torch.tensor([1, 2, 3]), torch.ones(3), Objective(), block=64)
    assert torch.isnan(got.kl[1])
    assert torch.isnan(got.ce[1])
    assert torch.isfinite(got.gradient[[0, 2]]).all()


@pytest.mark.parametrize("first", ["student", "teacher", "both"])
def test_first_block_far_below_the_rest(first: str) -> None:
    """The reference of the exponents is then useless: the sums overflow and the row is taken again."""
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 300), torch.randn(2, 300)
    for name, matrix in (("student", student), ("teacher", teacher)):
        if first in (name, "both"):
            matrix[:, 200:] += 300.0
            matrix[0, :64] = float("-inf")
    labels = torch.tensor([250, -100])
    if first == "student":
        student[0, :64] = -400.0
    compare(
        run(student, teacher, labels, torch.ones(2), Objective(), block=64),
        student, teacher, labels, torch.ones(2), Objective(),
    )  # fmt: skip


def test_classes_ruled_out() -> None:
    student, teacher = torch.randn(3, 70), torch.randn(3, 70)
    teacher[:, 10] = float("-inf")
    student[1, 10] = float("-inf")
    student[2, 20] = float("-inf")
    labels = torch.full((3,), -100)
    got = run(student, teacher, labels, torch.ones(3), Objective(), block=64)
    want = by_hand(student[:1], teacher[:1], labels[:1], torch.ones(1), Objective())
    torch.testing.assert_close(got.kl[:1].double(), want.kl, rtol=2e-6, atol=0)
    keep = [i for i in range(70) if i != 10]
    want = by_hand(student[1:2, keep], teacher[1:2, keep], labels[1:2], torch.ones(1), Objective())
    torch.testing.assert_close(got.kl[1:2].double(), want.kl, rtol=2e-6, atol=0)
    assert got.kl[2] == float("inf")
    assert torch.isfinite(got.gradient).all()


def test_one_hot_teacher_and_label_out_of_range() -> None:
    student, teacher = torch.randn(2, 33), torch.full((2, 33), -1e4)
    teacher[:, 4] = 1e4
    got = run(student, teacher, torch.tensor([40, -100]), torch.ones(2), Objective(), block=64)
    want = -torch.log_softmax(student.double() / 2, 1)[:, 4]
    torch.testing.assert_close(got.kl.double(), want, rtol=2e-6, atol=0)
    assert torch.isnan(got.ce[0])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01, 0.001])
def test_small_divergences_keep_their_digits(noise: float, temperature: float) -> None:
    """KL from 1e-1 down to 1e-7 to 2e-6 of itself, where the textbook formula in float32 loses every digit."""
    generator = torch.Generator().manual_seed(3)
    teacher = 2.5 * torch.randn(2, 4000, generator=generator)
    student = teacher + noise * torch.randn(2, 4000, generator=generator)
    labels = torch.full((2,), -100)
    objective = Objective(temperature)
    got = run(student, teacher, labels, torch.ones(2), objective)
    want = by_hand(student, teacher, labels, torch.ones(2), objective)
    torch.testing.assert_close(got.kl.double(), want.kl, rtol=2e-6, atol=0)
    # The gradient q (e^u - 1) knows u to the rounding of the two normalisers, whatever the size of u.
    known_to = 3e-7 * objective.alpha_ce * temperature * objective.kl_scale
    allowed = 2e-6 * want.gradient.norm() + known_to * torch.softmax(teacher / temperature, 1).norm()
    assert (got.gradient.double() - want.gradient).norm() <= allowed


def test_real_vocabulary() -> None:
    generator = torch.Generator().manual_seed(5)
    teacher = 2.5 * torch.randn(2, 30522, generator=generator)
    student = (teacher + 0.3 * torch.randn(2, 30522, generator=generator)).bfloat16()
    labels = torch.tensor([-100, 29999])
    compare(
        run(student, teacher.bfloat16(), labels, torch.ones(2), Objective()),
        student, teacher.bfloat16(), labels, torch.ones(2), Objective(),
    )  # fmt: skip


def test_same_bits_every_time_and_for_permuted_rows() -> None:
    student, teacher = torch.randn(4, 257), torch.randn(4, 257)
    student, teacher = placed(student, torch.bfloat16, 7), placed(teacher, torch.bfloat16, 7)
    labels, weight = torch.tensor([1, -100, 256, 0]), torch.tensor([1.0, 1.0, 0.5, 0.0])
    want = run(student, teacher, labels, weight, Objective(), block=64)
    order = torch.tensor([2, 0, 3, 1])
    moved = run(
        placed(student[order], torch.bfloat16, 7), placed(teacher[order], torch.bfloat16, 7), labels[order],
        weight[order], Objective(), block=64,
    )  # fmt: skip
    for left, right in zip(moved, want, strict=True):
        assert torch.equal(left, right[order])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"teacher": torch.randn(2, 10)}, ValueError, r"\(2, 9\).*\(2, 10\)"),
        ({"student": torch.zeros(2, 9, dtype=torch.int64)}, TypeError, "int64"),
        ({"student": torch.zeros(2, 9, dtype=torch.float64)}, TypeError, "float64"),
        ({"student": torch.zeros(2, 1, 9)}, ValueError, r"\(2, 1, 9\)"),
        ({"labels": torch.zeros(2, dtype=torch.int32)}, TypeError, "int32"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"\(3,\).*2 rows"),
        ({"weight": torch.ones(2, dtype=torch.bool)}, TypeError, "bool"),
        ({"temperature": 0.0}, ValueError, "0.0"),
        ({"temperature": float("inf")}, ValueError, "inf"),
    ],
)
def test_refusals(change: dict[str, object], error: type[Exception], words: str) -> None:
    given_ = {
        "student": torch.randn(2, 9),
        "teacher": torch.randn(2, 9),
        "labels": torch.tensor([1, -100]),
        "weight": torch.ones(2),
        "temperature": 2.0,
        **change,
    }
    with pytest.raises(error, match=words):
        fused.distillation_loss_forward(*given_.values(), 5.0, 2.0, 0.0, 1.0, 1.0)
