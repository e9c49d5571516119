"""The CPU kernels against the definitions in float64, value and gradient, on every instruction set at hand."""

from __future__ import annotations

import pytest
import torch
from cpu_kernel import DTYPES, LEVELS, instructions, kernel, oracle
from distilfast import losses
from distilfast.losses import definitions
from distilfast.losses import rows as loss_rows
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

VOCABULARIES = [1, 2, 7, 8, 9, 15, 16, 17, 127, 128, 129, 257, 1001, 1024, 1025, 2100]
TEMPERATURES = [0.5, 1.0, 1.7, 2.0, 3.0, 10.0, 20.0]


@given(
    rows=st.integers(0, 6),
    vocabulary=st.sampled_from(VOCABULARIES),
    temperature=st.sampled_from(TEMPERATURES),
    noise=st.sampled_from([3.0, 1.0, 0.1]),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    pad=st.integers(0, 9),
    offset=st.integers(0, 9),
    alpha_mse=st.sampled_from([0.0, 0.3]),
    level=st.sampled_from(LEVELS),
    seed=st.integers(0, 1000),
)
def test_kernel_is_the_definition(
    rows: int,
    vocabulary: int,
    temperature: float,
    noise: float,
    dtypes: tuple[torch.dtype, torch.dtype],
    pad: int,
    offset: int,
    alpha_mse: float,
    level: str,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def strided(values: Tensor, dtype: torch.dtype) -> Tensor:
        memory = torch.full((offset + rows * (vocabulary + pad),), float("nan"), dtype=dtype)
        view = memory[offset:].view(rows, vocabulary + pad)[:, :vocabulary]
        return view.copy_(values)

    teacher = 2.5 * torch.randn(rows, vocabulary, generator=generator)
    student = strided(teacher + noise * torch.randn(rows, vocabulary, generator=generator), dtypes[0])
    teacher = strided(teacher, dtypes[1])
    labels = torch.randint(-1, vocabulary, (rows,), generator=generator)
    labels[labels == -1] = -100
    weights = torch.tensor([0.0, 1.0, 1.0, 0.37])[torch.randint(0, 4, (rows,), generator=generator)]
    scales = (1.3, 0.4, alpha_mse)
    kl, ce, mse, grad = kernel(student, teacher, labels, weights, temperature, scales, level)
    kl_exact, ce_exact, mse_exact, grad_exact = oracle(student, teacher, labels, weights, temperature, scales)
    assert (kl >= 0).all()
    torch.testing.assert_close(kl.double(), kl_exact, rtol=2e-6, atol=1e-12)
    torch.testing.assert_close(ce.double(), ce_exact, rtol=1e-6, atol=1e-6)
    mse_exact = mse_exact if alpha_mse != 0 else torch.zeros_like(mse_exact)
    torch.testing.assert_close(mse.double(), mse_exact, rtol=1e-6, atol=1e-6)
    rounding = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtypes[0]]
    # Beside the relative error: normalisation is right to 1e-7 of the probabilities themselves. The exponent
    # (s - t) / T - c of p / q rounds s - t (by 2^-24 of itself, which T >= 1/2 at most doubles: 1.2e-7) and the sum (by
    # less): p is as if each logit had been off by one of its own roundings, which no float32 input can exclude.
    apart = (student.double() - teacher.double()).abs().amax(dim=1)
    bound = rounding * grad_exact.norm(dim=1) + (4e-7 * temperature + 2e-7 * apart) * weights + 1e-7 * (labels >= 0)
    assert ((grad.double() - grad_exact).norm(dim=1) <= bound).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("level", LEVELS)
def test_small_kl_is_exact_and_never_negative(level: str, temperature: float) -> None:
    generator = torch.Generator().manual_seed(1)
    teacher = 2.5 * torch.randn(4, 30522, generator=generator)
    labels, weights = torch.full((4,), -100), torch.ones(4)
    for noise in (1.0, 0.3, 0.03, 0.003, 0.001):
        student = teacher + noise * torch.randn(4, 30522, generator=generator)
        kl = kernel(student, teacher, labels, weights, temperature, (1.0, 0.0, 0.0), level)[0]
        expected = oracle(student, teacher, labels, weights, temperature, (1.0, 0.0, 0.0))[0]
        assert ((kl.double() - expected).abs() <= 2e-6 * expected).all()
    kl, _, _, grad = kernel(teacher, teacher.clone(), labels, weights, temperature, (1.0, 0.0, 0.0), level)
    assert (kl == 0).all()
    assert (grad == 0).all()


@pytest.mark.parametrize("level", LEVELS)
def test_extreme_logits(level: str) -> None:
    huge = 1e4 * torch.randn(3, 129, generator=torch.Generator().manual_seed(2))
    student = torch.cat([huge, torch.randn(5, 129, generator=torch.Generator().manual_seed(3))])
    teacher = torch.cat([huge.flip(0), torch.randn(5, 129, generator=torch.Generator().manual_seed(4))])
    teacher[3, :100] = -torch.inf  # classes that the teacher excludes
    teacher[4, 5] = student[4, 5] = -torch.inf  # and both do
    student[5] += 1e4  # shifts mean nothing
    student[6, :64] = -1e4  # the first block tells nothing of the maximum
    student[7], teacher[7] = 0.0, torch.linspace(0, 200, 129)
    labels = torch.tensor([0, 1, -100, 128, 6, 7, 128, 3])
    weights = torch.ones(8)
    scales = (1.0, 0.5, 0.0)
    kl, ce, _, grad = kernel(student, teacher, labels, weights, 2.0, scales, level)
    kl_exact, ce_exact, _, grad_exact = oracle(student, teacher, labels, weights, 2.0, scales)
    torch.testing.assert_close(kl.double(), kl_exact, rtol=2e-5, atol=1e-5)
    torch.testing.assert_close(ce.double(), ce_exact, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(grad.double(), grad_exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("level", LEVELS)
def test_student_and_teacher_far_apart(level: str, temperature: float) -> None:
    # Probabilities that differ by any power of e, so that a block mixes near classes with far ones.
    generator = torch.Generator().manual_seed(5)
    teacher = 3 * torch.randn(6, 2100, generator=generator)
    apart = torch.tensor([0.5, 4.0, 14.0, 18.0, 40.0, 90.0]).unsqueeze(1)
    student = teacher + apart * torch.rand(6, 2100, generator=generator)
    labels, weights = torch.randint(0, 2100, (6,), generator=generator), torch.ones(6)
    scales = (1.0, 0.5, 0.0)
    kl, ce, _, grad = kernel(student, teacher, labels, weights, temperature, scales, level)
    kl_exact, ce_exact, _, grad_exact = oracle(student, teacher, labels, weights, temperature, scales)
    torch.testing.assert_close(kl.double(), kl_exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(ce.double(), ce_exact, rtol=1e-6, atol=1e-6)
    assert ((grad.double() - grad_exact).norm(dim=1) <= 4e-6 * grad_exact.norm(dim=1)).all()


@pytest.mark.parametrize("level", LEVELS)
def test_infinite_and_not_a_number(level: str) -> None:
    student, teacher = torch.randn(5, 40), torch.randn(5, 40)
    student[0] = torch.nan  # neither weight nor label: does not matter
    teacher[1] = torch.nan  # no weight but a label: only the student is read
    student[2, 3] = -torch.inf  # excluded by the student alone: infinite
    student[3, 39] = torch.nan  # poisons its own row
    labels, weights = torch.tensor([-100, 2, -100, 5, 6]), torch.tensor([0.0, 0, 1, 1, 1])
    kl, ce, mse, grad = kernel(student, teacher, labels, weights, 2.0, (1.0, 1.0, 0.0), level)
    assert kl[[0, 1]].tolist() == [0, 0]
    assert mse[[0, 1]].tolist() == [0, 0]
    assert (grad[0] == 0).all()
    torch.testing.assert_close(ce[1], torch.nn.functional.cross_entropy(student[1], labels[1]))
    assert torch.isinf(kl[2])
    assert grad[[1, 2, 4]].isfinite().all()
    assert kl[3].isnan()
    assert ce[3].isnan()
    assert torch.stack([kl[4], ce[4], mse[4]]).isfinite().all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("temperature", [1.0, 1.7, 2.0])
def test_rows_without_a_finite_logit_are_not_a_number_and_alone(level: str, temperature: float) -> None:
    generator = torch.Generator().manual_seed(6)
    student, teacher = (torch.randn(5, 129, generator=generator) for _ in range(2))
    labels, weights = torch.tensor([1, -100, 2, 128, -100]), torch.ones(5)
    expected = kernel(student, teacher, labels, weights, temperature, (1.0, 1.0, 0.0), level)
    student[1], teacher[3] = -torch.inf, -torch.inf
    found = kernel(student, teacher, labels, weights, temperature, (1.0, 1.0, 0.0), level)
    assert found[0][[1, 3]].isnan().all()
    assert found[3][[1, 3]].isnan().all(dim=1).tolist() == [True, True]
    torch.testing.assert_close(found[1][3], expected[1][3])
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[[0, 2, 4]], other[[0, 2, 4]])


@pytest.mark.parametrize("level", LEVELS)
def test_any_strides_give_the_same(level: str) -> None:
    generator = torch.Generator().manual_seed(7)
    student, teacher = (torch.randn(6, 257, generator=generator) for _ in range(2))
    labels, weights = torch.tensor([1, -100, 2, 256, -100, 0]), torch.tensor([1.0, 0, 1, 0.5, 1, 0])
    scales = (1.0, 1.0, 0.3)
    expected = kernel(student, teacher, labels, weights, 2.0, scales, level)
    by_column = [x.t().contiguous().t() for x in (student, teacher)]
    two_apart = [torch.stack([x, torch.full_like(x, torch.nan)], dim=2)[:, :, 0] for x in (student, teacher)]
    y, w = (torch.stack([each, torch.full_like(each, -7)], dim=1)[:, 0] for each in (labels, weights))
    for s, t in (by_column, two_apart, (student, by_column[1])):
        for one, other in zip(kernel(s, t, y, w, 2.0, scales, level), expected, strict=True):
            assert torch.equal(one, other)
    same = teacher[:1].expand(6, -1)  # rows that lie over one another
    for one, other in zip(
        kernel(student, same, labels, weights, 2.0, scales, level),
        kernel(student, same.contiguous(), labels, weights, 2.0, scales, level),
        strict=True,
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 20.0])
def test_student_that_is_sure_of_what_the_teacher_is_not(level: str, temperature: float) -> None:
    """Largest logits are no measure of such rows: they are summed up once more."""
    generator = torch.Generator().manual_seed(9)
    flat = 1e-3 * torch.randn(4, 2100, generator=generator)
    peaked = flat.clone()
    peaked[torch.arange(4), [0, 700, 2099, 5]] += torch.tensor([2.0, 5, 12, 14])
    labels, weights = torch.tensor([0, 3, -100, 5]), torch.ones(4)
    scales = (1.0, 0.5, 0.0)
    for student, teacher in ((peaked, flat), (flat, peaked)):
        kl, ce, _, grad = kernel(student, teacher, labels, weights, temperature, scales, level)
        kl_exact, ce_exact, _, grad_exact = oracle(student, teacher, labels, weights, temperature, scales)
        torch.testing.assert_close(kl.double(), kl_exact, rtol=2e-6, atol=0)
        torch.testing.assert_close(ce.double(), ce_exact, rtol=1e-6, atol=1e-6)
        bound = 2e-6 * grad_exact.norm(dim=1) + 4e-7 * temperature
        assert ((grad.double() - grad_exact).norm(dim=1) <= bound).all()


@pytest.mark.parametrize("kind", ["cosine", "mse"])
@pytest.mark.parametrize("level", LEVELS)
@given(
    rows=st.integers(0, 70),
    width=st.sampled_from([1, 3, 16, 17, 33, 100]),
    dtype=st.sampled_from(DTYPES),
    near=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_hidden_losses(kind: str, level: str, rows: int, width: int, dtype: torch.dtype, near: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, width, generator=generator).to(dtype)
    teacher = (student + 0.01) if near else torch.randn(rows, width, generator=generator)
    weights = torch.tensor([0.0, 1.0, 0.5])[torch.randint(0, 3, (rows,), generator=generator)]
    if rows:
        student[0] = 0  # cosine 0, finite gradient
        student[rows - 1], weights[rows - 1] = torch.nan, 0
    with instructions(level):
        values, grad = loss_rows.cpu_hidden_rows(student, teacher, weights, torch.tensor(0.7), kind=kind)
    s, t, w = student.double().requires_grad_(), teacher.double(), weights.double()
    rows_of = definitions.hidden_cosine_rows if kind == "cosine" else definitions.hidden_mse_rows
    expected = rows_of(s, t, w != 0) * w * (1 if kind == "cosine" else width)
    (expected_grad,) = torch.autograd.grad(0.7 * expected.sum(), s)
    torch.testing.assert_close(values.double(), expected.detach(), rtol=2e-5, atol=1e-6)
    assert grad is not None
    rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-9}[dtype]
    finite = (expected_grad.abs() < 6e4).all(dim=1)  # what half precision holds
    # The gradient of the cosine grows as the vector shrinks, and its rounding error with it.
    length = s.detach().norm(dim=1, keepdim=True).nan_to_num().clamp(1e-6, 1)[finite]
    torch.testing.assert_close(grad.double()[finite] * length, expected_grad[finite] * length, rtol=rounding, atol=1e-6)


@given(seed=st.integers(0, 1000), temperature=st.sampled_from(TEMPERATURES))
def test_laws(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(4, 130, generator=generator) for _ in range(2))
    labels = torch.randint(0, 130, (4,), generator=generator)

    def loss(s: Tensor, t: Tensor, labels: Tensor) -> tuple[losses.DistillationLoss, Tensor]:
        s = s.detach().requires_grad_()
        value = losses.distillation_loss(s, t, labels, temperature, impl="fused")
        return value, torch.autograd.grad(value.total, s)[0]

    value, grad = loss(student, teacher, labels)
    assert grad.sum(dim=1).abs().max() < 1e-5
    parts = 5 * losses.soft_kl(student, teacher, temperature) + 2 * losses.masked_ce(student, labels)
    torch.testing.assert_close(value.total, parts)
    shifted, shifted_grad = loss(student + 3, teacher - 2, labels)
    torch.testing.assert_close(shifted.total, value.total, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(shifted_grad, grad, rtol=1e-4, atol=1e-5)
    order = torch.randperm(130, generator=generator)
    permuted, permuted_grad = loss(student[:, order], teacher[:, order], order.argsort()[labels])
    torch.testing.assert_close(permuted.total, value.total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(permuted_grad, grad[:, order], rtol=1e-4, atol=1e-6)
