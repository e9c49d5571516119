"""K2's chunks against float64: any chunk size, row kernel, dtype, and set of wanted gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from distilfast import fused
from distilfast.fused.linear import chunk_rows
from fused_interpreter import faithful_interpreter
from fused_reference import Objective, by_autograd, by_hand
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor


def problem(rows: int, columns: int, dtype: torch.dtype, bias: bool, seed: int) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    labels = torch.randint(0, columns, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) < 0.5] = -100
    weight = torch.tensor([0.0, 1.0, 0.5])[torch.randint(0, 3, (rows,), generator=generator)]
    teacher = draw(rows, 7)
    teacher[weight == 0] = float("nan")
    student = draw(rows, 5)
    student[(weight == 0) & (labels < 0)] = float("nan")
    return {
        "student_hidden": student,
        "student_weight": draw(columns, 5),
        "student_bias": draw(columns) if bias else None,
        "teacher_hidden": teacher,
        "teacher_weight": draw(columns, 7),
        "teacher_bias": None if bias else draw(columns),
        "labels": labels,
        "row_weight": weight,
    }


def forward(given_: dict[str, Tensor | None], objective: Objective, **options: object) -> tuple[Tensor | None, ...]:
    x, w, b, y, u, c, labels, weight = given_.values()
    options = {"row_loss": closed_form(objective), **options}
    return fused.linear_distillation_loss_forward((x, w, b), [(y, u, c)], labels, weight, *objective, **options)


def closed_form(objective: Objective) -> Callable[..., tuple[Tensor, ...]]:
    """A row kernel in float64 for any device: the gradient goes over the student's logits."""

    def row_loss(
        student: Tensor, teachers: list[Tensor], labels: Tensor, weight: Tensor, kl_scale: Tensor, mlm_scale: Tensor
    ) -> tuple[Tensor, ...]:
        scaled = objective._replace(kl_scale=kl_scale.double(), mlm_scale=mlm_scale.double())
        *values, gradient = by_hand(student, teachers[0], labels, weight, scaled)
        student.copy_(gradient)
        return tuple(values)

    return row_loss


def reference(given_: dict[str, Tensor | None], objective: Objective) -> tuple[list[Tensor], list[Tensor | None]]:
    """Values and gradients in float64, through the whole logits."""
    x, w, b, y, u, c, labels, weight = given_.values()
    assert x is not None and w is not None and y is not None and u is not None  # noqa: PT018
    assert labels is not None and weight is not None  # noqa: PT018
    counted = ((weight != 0) | (labels >= 0))[:, None]
    x = torch.where(counted, x.double(), 0.0)
    s = x @ w.double().T + (0 if b is None else b.double())
    t = torch.where((weight != 0)[:, None], y.double(), 0.0) @ u.double().T + (0 if c is None else c.double())
    result = by_autograd(s, t, labels, weight, objective)
    gradient = result.gradient
    return [result.kl, result.ce, result.mse], [
        gradient @ w.double(),
        gradient.T @ x,
        None if b is None else gradient.sum(0),
    ]


@given(
    st.integers(0, 12),
    st.sampled_from((1, 8, 33)),
    st.sampled_from((torch.float64, torch.float32)),
    st.sampled_from((None, 1, 5)),
    st.booleans(),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.sampled_from(("found", "given", "all, as on a GPU")),
    st.integers(0, 2**31),
)
def test_chunks_equal_the_whole(
    rows: int,
    columns: int,
    dtype: torch.dtype,
    size: int | None,
    bias: bool,
    needs: tuple[bool, bool, bool],
    projected: str,
    seed: int,
) -> None:
    given_ = problem(rows, columns, dtype, bias, seed)
    objective = Objective(1.5, 5.0, 2.0, 0.1, 1 / 7, 1 / 3)
    options = {}
    if projected == "given":
        options["rows"] = ((given_["row_weight"] != 0) | (given_["labels"] >= 0)).nonzero()[:, 0]
    elif projected != "found":
        options["rows"] = torch.arange(rows)
    *values, d_hidden, d_weight, d_bias = forward(given_, objective, chunk_rows=size, needs=needs, **options)
    want, gradients = reference(given_, objective)
    for got, expected in zip(values, want, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)
    for needed, got, expected in zip(needs, (d_hidden, d_weight, d_bias), gradients, strict=True):
        if not needed or expected is None:
            assert got is None
        else:
            assert (got.double() - expected).norm() <= 1e-5 * (expected.norm() + 0.1)


def test_row_kernel_is_handed_the_biased_logits() -> None:
    seen = []

    def row_loss(student: Tensor, teachers: list[Tensor], *rest: object) -> tuple[Tensor, ...]:
        seen.append((student.clone(), teachers[0].clone()))
        student.fill_(1)
        rows = torch.zeros(len(student))
        return rows, rows, rows

    given_ = problem(6, 9, torch.float32, True, 0)
    given_["row_weight"] = torch.ones(6)
    given_["student_hidden"], given_["teacher_hidden"] = torch.randn(6, 5), torch.randn(6, 7)
    forward(given_, Objective(), row_loss=row_loss, chunk_rows=4)
    student = given_["student_hidden"] @ given_["student_weight"].T + given_["student_bias"]
    torch.testing.assert_close(torch.cat([s for s, _ in seen]), student)
    torch.testing.assert_close(torch.cat([t for _, t in seen]), given_["teacher_hidden"] @ given_["teacher_weight"].T)
    assert [len(s) for s, _ in seen] == [4, 2]


def _use_of_waves(rows: int, hidden: int) -> float:
    """The share of 132 processors that work in the waves of 128 x 256 tiles of a product."""
    tiles = rows // 128 * -(-hidden // 256)
    return tiles / (-(-tiles // 132) * 132)


@given(st.integers(1, 70000), st.sampled_from((1000, 30522, 128256)), st.sampled_from((64, 768, 1024, 4096)))
def test_chunks_fill_waves_within_the_workspace(rows: int, columns: int, hidden: int) -> None:
    size = chunk_rows(rows, columns, hidden, 2, 132)
    assert 1 <= size <= rows
    assert size * columns * 2 * 2 <= 700_000_000
    if size < rows:
        assert size % 128 == 0
        most = 700_000_000 // (2 * columns * 2)
        assert _use_of_waves(size, hidden) >= max(_use_of_waves(other, hidden) for other in range(128, most + 1, 128))


def test_chunk_of_the_usual_size() -> None:
    assert chunk_rows(16384, 30522, 768, 2, 132) == 5632
    assert chunk_rows(1000, 30522, 768, 2, 132) == 1000


@pytest.mark.interpret
def test_with_k1_as_row_kernel() -> None:
    given_ = problem(5, 33, torch.float32, True, 3)
    objective = Objective()
    with faithful_interpreter():
        *values, d_hidden, d_weight, d_bias = forward(given_, objective, row_loss=None, chunk_rows=3)
    want, gradients = reference(given_, objective)
    torch.testing.assert_close(values[0].double(), want[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(values[1].double(), want[1], rtol=1e-4, atol=1e-6)
    for got, expected in zip((d_hidden, d_weight, d_bias), gradients, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-5)


def test_k1_takes_one_teacher() -> None:
    given_ = problem(4, 9, torch.float32, True, 0)
    x, w, b, y, u, c, labels, weight = given_.values()
    with pytest.raises(ValueError, match="2 teachers: K1 takes one"):
        fused.linear_distillation_loss_forward((x, w, b), [(y, u, c)] * 2, labels, weight, *Objective())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"student_weight": torch.randn(9, 6)}, ValueError, r"\(9, 6\).*\(4, 5\)"),
        ({"teacher_weight": torch.randn(8, 7)}, ValueError, "9 entries.*8"),
        ({"student_bias": torch.randn(8)}, ValueError, r"\(8,\).*\(9, 5\)"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"\(3,\).*4 rows"),
        ({"student_hidden": torch.zeros(4, 5, dtype=torch.int64)}, TypeError, "int64"),
        ({"teacher_hidden": torch.randn(3, 7)}, ValueError, r"\(4, 5\).*\(3, 7\)"),
    ],
)
def test_refusals(change: dict[str, Tensor], error: type[Exception], words: str) -> None:
    given_ = {**problem(4, 9, torch.float32, True, 0), **change}
    with pytest.raises(error, match=words):
        forward(given_, Objective())
