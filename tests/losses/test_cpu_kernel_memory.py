"""Threads and memory of the CPU kernels: the same bits whoever computes them, and wherever they are written."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from cpu_kernel import DTYPES, kernel
from distilfast.losses import rows as loss_rows
from distilfast.losses.rows import LossTerms


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
    """A forked child has none of torch's threads, and would wait for them for ever; it makes threads of its own."""
    program = """
import os, sys
import numpy as np, torch
from distilfast import _core
from distilfast.losses.rows import LossTerms, cpu_hidden_rows, cpu_logits_rows

torch.set_num_threads(2)
student, teacher = torch.randn(67, 2100), torch.randn(67, 2100)
labels, weights, one = torch.randint(0, 2100, (67,)), torch.rand(67), torch.ones(())

def computed():
    mask = np.zeros(100_000, dtype=np.uint32)
    _core.fill_dropout_mask(mask, 7, 6554, 1, 2)
    found = [*cpu_logits_rows(student, teacher, LossTerms(labels, weights, one, one, 2.0, (1.0, 1.0, 0.1)))]
    for kind in ("cosine", "mse"):
        found += cpu_hidden_rows(student, teacher, weights, one, kind=kind)
    return [part.numpy() for part in found] + [mask]

def has_own_threads():
    threads = [f"/proc/self/task/{thread}/comm" for thread in os.listdir("/proc/self/task")]
    return any(open(file).read().startswith("distilfast-loss") for file in threads)

expected = computed()
if sys.platform == "linux":
    assert has_own_threads() != ("ATen parallel backend: OpenMP" in torch.__config__.parallel_info())
child = os.fork()
if child == 0:
    same = all((one == other).all() for one, other in zip(computed(), expected, strict=True))
    os._exit(0 if same and len(expected) == 9 and (sys.platform != "linux" or has_own_threads()) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=300)


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
