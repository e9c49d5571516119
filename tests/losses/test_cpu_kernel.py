"""The CPU kernels against the definitions in float64, value and gradient, on every instruction set at hand."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from distilfast import _core, losses
from distilfast.losses import definitions
from distilfast.losses import rows as loss_rows
from distilfast.losses.rows import LossTerms
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

LEVELS = _core.instruction_sets()
VOCABULARIES = [1, 2, 7, 8, 9, 15, 16, 17, 127, 128, 129, 257, 1001, 1024, 1025, 2100]
TEMPERATURES = [0.5, 1.0, 1.7, 2.0, 3.0, 10.0, 20.0]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def oracle(
    student: Tensor, teacher: Tensor, labels: Tensor, weights: Tensor, temperature: float, scales: tuple[float, ...]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weighted row values by the definitions in float64, and the gradient by autograd."""
    s, t, w = student.detach().double().requires_grad_(), teacher.double(), weights.double()
    counted = w != 0
    kl = definitions.soft_kl_rows(s, [t], temperature, [1.0], counted) * w
    ce = definitions.masked_ce_rows(s, labels)
    mse = definitions.logits_mse_rows(s, [t], [1.0], counted) * w
    total = scales[0] * temperature**2 * kl.sum() + scales[1] * ce.sum()
    if scales[2] != 0:  # 0 * inf is NaN
        total = total + scales[2] * mse.sum()
    total.backward()
    assert s.grad is not None
    return kl.detach(), ce.detach(), mse.detach(), s.grad


def kernel(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    weights: Tensor,
    temperature: float,
    scales: tuple[float, ...],
    level: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    terms = LossTerms(labels, weights, torch.ones(()), torch.ones(()), temperature, scales)
    *rows, grad = loss_rows.cpu_logits_rows(student, teacher, terms, level=level)
    assert grad is not None
    return *rows, grad


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


@pytest.mark.parametrize("rows", [5, 90])
def test_memory_that_holds_nan_is_written_whole_with_the_same_bits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below and above the size from which on memory is kept and written past the caches."""
    empty = loss_rows._empty_gradient
    monkeypatch.setattr(loss_rows, "_empty_gradient", lambda student: empty(student).fill_(torch.nan))
    generator = torch.Generator().manual_seed(8)
    teacher = 2.5 * torch.randn(rows, 30522, generator=generator)
    student = teacher + torch.randn(rows, 30522, generator=generator)
    labels, weights = torch.randint(0, 30522, (rows,), generator=generator), torch.ones(rows)
    labels[::2], weights[::3] = -100, 0
    first, second = (kernel(student, teacher, labels, weights, 2.0, (1.0, 1.0, 0.1)) for _ in range(2))
    assert all(values.isfinite().all() for values in first)
    assert (first[3][0] == 0).all()
    for one, other in zip(first, second, strict=True):
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
    values, grad = loss_rows.cpu_hidden_rows(student, teacher, weights, torch.tensor(0.7), kind=kind, level=level)
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


def test_any_number_of_threads_gives_the_same_bits() -> None:
    student, teacher = torch.randn(37, 501), torch.randn(37, 501)
    labels, weights = torch.randint(0, 501, (37,)), torch.ones(37)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(kernel(student, teacher, labels, weights, 2.0, (1.0, 1.0, 0.1)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


def test_own_threads_give_the_same_bits_as_torchs() -> None:
    student, teacher = torch.randn(67, 2100), torch.randn(67, 2100)
    labels, weights = torch.randint(0, 2100, (67,)), torch.rand(67)
    results = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for allowed in (True, False):
            used = _core.use_openmp_team(allowed)
            assert used == (allowed and has_openmp_team())
            tensors = [*kernel(student, teacher, labels, weights, 2.0, (1.0, 1.0, 0.1))]
            for kind in ("cosine", "mse"):
                tensors += [
                    tensor
                    for tensor in loss_rows.cpu_hidden_rows(student, teacher, weights, torch.ones(()), kind=kind)
                    if tensor is not None
                ]
            mask = np.zeros(100_000, dtype=np.uint32)
            _core.fill_dropout_mask(mask, 7, 6554, 1, 2)
            results.append([*tensors, torch.from_numpy(mask.view(np.int32))])
    finally:
        _core.use_openmp_team(True)
        torch.set_num_threads(before)
    assert len(results[0]) == 9
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def has_openmp_team() -> bool:
    """Whether this torch computes with GNU OpenMP, or another that has its interface, on Linux."""
    return sys.platform == "linux" and "ATen parallel backend: OpenMP" in torch.__config__.parallel_info()


def test_a_forked_child_does_not_wait_for_torchs_threads() -> None:
    """Forked after torch's threads have worked for the kernel, with their number unchanged."""
    program = """
import os, sys, torch
from distilfast.losses import rows
from distilfast import _core
torch.set_num_threads(2)
student, teacher = torch.randn(64, 500), torch.randn(64, 500)
row = lambda: rows.cpu_hidden_rows(student, teacher, None, torch.ones(()), kind="mse")[0].sum().item()
expected = row()
child = os.fork()
if child == 0:
    os._exit(0 if row() == expected and not _core.use_openmp_team(True) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_gradient_is_the_same(dtype: torch.dtype) -> None:
    student, teacher = torch.randn(9, 1500).to(dtype), torch.randn(9, 1500).to(dtype)
    labels, weights = torch.tensor([1, -100] * 4 + [3]), torch.tensor([1.0, 1, 0] * 3)
    expected = kernel(student, teacher, labels, weights, 2.0, (1.0, 1.0, 0.1))
    terms = LossTerms(labels, weights, torch.ones(()), torch.ones(()), 2.0, (1.0, 1.0, 0.1))
    *rows, grad = loss_rows.cpu_logits_rows(student, teacher, terms, reuse_student=True)
    assert grad is student
    for one, two in zip((*rows, grad), expected, strict=True):
        assert torch.equal(one, two)


def test_memory_of_a_large_gradient_is_not_used_twice() -> None:
    student, teacher = torch.randn(80, 30522), torch.randn(80, 30522)
    labels, weights = torch.full((80,), -100), torch.ones(80)
    held = [kernel(student, scale * teacher, labels, weights, 2.0, (1.0, 0.0, 0.0))[3] for scale in (1, 2, 3)]
    copies = [each.clone() for each in held]
    view = held.pop()[5]
    again = [kernel(student, scale * teacher, labels, weights, 2.0, (1.0, 0.0, 0.0))[3] for scale in (4, 5, 6)]
    assert len({each.untyped_storage().data_ptr() for each in (*held, *again, view)}) == 6
    assert torch.equal(held[0], copies[0])
    assert torch.equal(view, copies[2][5])
    del held, again, view
    later = [kernel(student, teacher, labels, weights, 2.0, (1.0, 0.0, 0.0))[3] for _ in range(2)]
    assert torch.equal(later[0], copies[0])
    assert torch.equal(later[1], copies[0])


def test_large_gradient_is_written_past_the_caches_alike() -> None:
    teacher = torch.randn(90, 30522, generator=torch.Generator().manual_seed(0))
    student = teacher + torch.randn(90, 30522, generator=torch.Generator().manual_seed(1))
    labels, weights = torch.full((90,), -100), torch.ones(90)
    whole = kernel(student, teacher, labels, weights, 2.0, (1.0, 1.0, 0.0))
    part = kernel(student[:9], teacher[:9], labels[:9], weights[:9], 2.0, (1.0, 1.0, 0.0))
    torch.testing.assert_close(whole[3][:9], part[3], rtol=1e-5, atol=1e-9)
    assert whole[3].isfinite().all()
    assert (whole[3].double().sum(dim=1).abs() < 1e-5).all()


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
