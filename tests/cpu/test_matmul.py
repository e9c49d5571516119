"""Linear layers and heads on the CPU in bfloat16: our products compute what torch's do."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tiny_training
import torch
from distilfast import InputError, _core
from distilfast.cpu import matmul as products
from distilfast.cpu.matmul import CPULinear, multiply, use_cpu_products
from distilfast.models.adaptation import freeze
from distilfast.models.student import create_student
from distilfast.train.step import DistillationStep
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

HERE = _core.has_matrix_instructions()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the products that the kernel computes, however small; without the instructions torch does."""
    shapes: list[tuple[int, ...]] = []
    kernel = _core.multiply_bfloat16

    def multiplied(left: Any, right: Any, bias: Any, product: Any, threads: int) -> None:
        shapes.append((*left.shape, right.shape[1]))
        if HERE:
            kernel(left, right, bias, product, threads)
        else:
            sides = [torch.from_numpy(each).view(torch.bfloat16) for each in (left, right)]
            sums = sides[0] @ sides[1]
            if bias is not None:
                sums = sums + torch.from_numpy(bias).view(torch.bfloat16)
            product[:] = sums.view(torch.uint16).numpy()

    monkeypatch.setattr(_core, "multiply_bfloat16", multiplied)
    monkeypatch.setattr(_core, "has_matrix_instructions", lambda: True)
    monkeypatch.setattr(products, "LEAST_TERMS", 1)
    return shapes


def test_linux_says_whether_the_processor_has_the_instructions() -> None:
    if sys.platform != "linux":
        assert not HERE
        return
    flags = subprocess.run(["grep", "-m1", "-w", "amx_bf16", "/proc/cpuinfo"], capture_output=True, check=False).stdout
    assert bool(flags) == HERE


@given(
    rows=st.integers(1, 80),
    count=st.integers(1, 130),
    columns=st.integers(1, 80),
    turned=st.tuples(st.booleans(), st.booleans()),
    has_bias=st.booleans(),
    threads=st.integers(1, 3),
)
def test_the_kernel_is_exact_to_one_rounding(
    rows: int, count: int, columns: int, turned: tuple[bool, bool], has_bias: bool, threads: int
) -> None:
    torch.manual_seed(rows * 10_000 + count)
    shapes = ((rows, count), (count, columns))
    left, right = (
        torch.randn(*(shape[::-1] if turn else shape)).bfloat16() for shape, turn in zip(shapes, turned, strict=True)
    )
    left, right = (each.t() if turn else each for each, turn in zip((left, right), turned, strict=True))
    bias = torch.randn(columns).bfloat16() if has_bias else None
    arrays = [None if each is None else each.view(torch.uint16).numpy() for each in (left, right, bias)]
    product = np.full((rows, columns), 7, np.uint16)
    if not HERE:
        with pytest.raises(InputError, match="matrix instructions"):
            _core.multiply_bfloat16(*arrays, product, threads)
        return
    _core.multiply_bfloat16(*arrays, product, threads)
    exact = left.double() @ right.double()
    exact = exact if bias is None else exact + bias.double()
    found = torch.from_numpy(product).view(torch.bfloat16).double()
    # Half of the last of eight digits; and float32's rounding of sums of numbers of size 1.
    assert bool(((found - exact).abs() <= exact.abs() * 2.0**-8 + 1e-4).all())


def test_what_does_not_fit_is_refused() -> None:
    ones = np.ones((4, 6), np.uint16)
    with pytest.raises(InputError):
        _core.multiply_bfloat16(ones, ones, None, np.ones((4, 6), np.uint16), 1)
    with pytest.raises(InputError):
        _core.multiply_bfloat16(ones[:, ::2], ones[:3], None, np.ones((4, 6), np.uint16), 1)
    with pytest.raises(InputError):
        _core.multiply_bfloat16(ones, ones.T, np.ones(3, np.uint16), np.ones((4, 4), np.uint16), 1)
    with pytest.raises(InputError):
        _core.multiply_bfloat16(ones[::-1], ones.T, None, np.ones((4, 4), np.uint16), 1)


@pytest.mark.usefixtures("calls")
def test_factors_of_any_layout() -> None:
    torch.manual_seed(0)
    numbers = torch.randn(12, 16).bfloat16()
    for left in (numbers, numbers[::2], numbers[:, 3:], numbers[:, ::2], numbers[:1].expand(5, -1)):
        for right in (left.t(), left.t().contiguous(), left.t()[:, :2]):
            torch.testing.assert_close(multiply(left, right), left @ right, rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("with_bias", [True, False])
def test_a_layer_gives_the_layers_output_and_gradients(with_bias: bool, calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(48, 64, bias=with_bias).to(torch.bfloat16)
    states = torch.randn(3, 7, 48).to(torch.bfloat16).requires_grad_()
    incoming = torch.randn(3, 7, 64).to(torch.bfloat16)

    def run(module: nn.Module) -> list[Tensor]:
        output = module(states)
        return [output, *torch.autograd.grad(output, [states, *module.parameters()], incoming)]

    expected = run(layer)
    use_cpu_products(layer)
    assert type(layer) is CPULinear
    assert not calls
    for found, value in zip(run(layer), expected, strict=True):
        assert found.shape == value.shape
        # Sums of up to 64 terms in another order, then one rounding to 8 bits.
        torch.testing.assert_close(found.float(), value.float(), rtol=2**-7, atol=2**-7)
    assert calls == [(21, 48, 64), (21, 64, 48), (64, 21, 48)]
    with torch.inference_mode():
        torch.testing.assert_close(layer(states), expected[0], rtol=2**-7, atol=2**-7)


def test_products_that_torch_shares_among_its_threads_are_torchs(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    """By their shapes alone: many columns, or many rows and twice as many as columns; never a long sum, and never a
    left factor that lies by columns."""
    monkeypatch.setattr(products, "MANY", 16)
    monkeypatch.setattr(products, "MOST_TERMS", 32)
    torch.manual_seed(0)
    ours = {
        (8, 8, 8): True,
        (8, 8, 16): False,
        (16, 8, 8): False,
        (16, 8, 9): True,
        (40, 33, 20): True,
        (40, 32, 20): False,
    }
    for (rows, count, columns), expected in ours.items():
        left, right = torch.randn(rows, count).bfloat16(), torch.randn(columns, count).bfloat16().t()
        bias = torch.randn(columns).bfloat16()
        calls.clear()
        found = multiply(left, right, bias)
        assert calls == ([(rows, count, columns)] if expected else [])
        assert expected or torch.equal(found, torch.addmm(bias, left, right))
        turned = left.t().contiguous().t()
        assert torch.allclose(multiply(turned, right, bias).float(), found.float(), rtol=2**-7, atol=2**-6)
        assert calls[-1:] == [(rows, count, columns)]


def test_weights_that_are_not_trained_lie_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers; those that are trained, of another format, of a large head or tied to embeddings stay."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(40, 24)
            self.layer, self.head, self.vocabulary = nn.Linear(24, 24), nn.Linear(24, 50), nn.Linear(24, 40)
            self.vocabulary.weight = self.words.weight

    for has_instructions, dtype, is_trained in (
        (True, torch.bfloat16, False),
        (False, torch.bfloat16, False),
        (True, torch.float32, False),
        (True, torch.bfloat16, True),
    ):
        monkeypatch.setattr(_core, "has_matrix_instructions", lambda here=has_instructions: here)
        monkeypatch.setattr(products, "MOST_TERMS", 45)
        model = Model().to(dtype).requires_grad_(is_trained)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for _ in range(2):
            use_cpu_products(model)
            by_columns = [name for name, value in model.named_parameters() if value.dim() == 2 and value.stride(0) == 1]
            assert by_columns == (
                ["layer.weight"] if (has_instructions, dtype, is_trained) == (True, torch.bfloat16, False) else []
            )
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_numbers_take_torchs_product() -> None:
    layer = nn.Linear(8, 6)
    states = torch.randn(4, 8)
    expected = layer(states)
    use_cpu_products(layer)
    assert torch.equal(layer(states), expected)


@pytest.mark.usefixtures("one_thread")
def test_a_step_has_the_same_losses_gradients_and_saved_weights(
    monkeypatch: pytest.MonkeyPatch, calls: list[tuple[int, ...]]
) -> None:
    teacher: Any = freeze(tiny_training.teacher(dropout=0.0).to(torch.bfloat16))
    student = create_student(teacher)
    ids = torch.randint(5, tiny_training.VOCABULARY, (3, 9))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mlm_positions": torch.tensor([2, 9, 0]),
        "mlm_labels": torch.tensor([6, 7, -100]),
        "num_tokens": torch.tensor(27),
        "num_attended_in_step": torch.tensor(27),
        "num_masked_in_step": torch.tensor(2),
    }
    results = []
    for ours in (False, True):
        calls.clear()
        with monkeypatch.context() as patch:
            if not ours:
                patch.setattr(products, "can_multiply", lambda *_: False)
            step = DistillationStep(copy.deepcopy(student), teacher, compute_dtype=torch.bfloat16)
            for model in (step.student, teacher):
                use_cpu_products(model)
            assert step.copies is not None
            step.copies.kept = True
            losses = [step(batch)["loss"] for _ in range(2)]
            sum(losses).backward()  # type: ignore[union-attr]
            results.append((losses[0].item(), {name: value.grad for name, value in step.named_parameters()}))
            tied = step.student.get_output_embeddings().weight is step.student.get_input_embeddings().weight
            assert tied
            # Each linear layer, the heads too: once forward in each model, twice backward in the student.
            linear = [
                sum(isinstance(module, nn.Linear) for module in model.modules()) for model in (step.student, teacher)
            ]
            assert len(calls) == (2 * (3 * linear[0] + linear[1]) if ours else 0)
            assert set(step.state_dict()) == {f"student.{name}" for name in student.state_dict()}
    (loss, gradients), (other_loss, other_gradients) = results
    assert loss == pytest.approx(other_loss, rel=1e-3)
    for name, gradient in gradients.items():
        other = other_gradients[name]
        assert (gradient - other).norm() <= 0.05 * gradient.norm() + 1e-4, name
