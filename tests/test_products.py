"""Linear layers and heads on the CPU in bfloat16: cut in two or laid out anew, they compute what torch's own do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny_training
import torch
from distilfast import products, projections
from distilfast.models import create_student, freeze
from distilfast.products import CPULinear, use_cpu_products
from distilfast.projections import Projection
from distilfast.step import DistillationStep
from torch import Tensor, nn


@pytest.fixture
def cut_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of any even number of columns are cut, heads of any size laid out anew."""
    monkeypatch.setattr(products, "takes_one_thread", lambda rows, columns: columns % 2 == 0)
    monkeypatch.setattr(projections, "LEAST_NUMBERS", 1)


def test_the_shapes_that_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert products.takes_one_thread(931, 768)
    assert not products.takes_one_thread(2020, 768)
    assert not products.takes_one_thread(250, 768)
    assert not products.takes_one_thread(931, 3072)
    assert not products.takes_one_thread(931, 770)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert not products.takes_one_thread(931, 768)


@pytest.mark.usefixtures("cut_everything")
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_layer_cut_in_two_gives_the_layers_output_and_gradients(with_bias: bool) -> None:
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
    for found, value in zip(run(layer), expected, strict=True):
        assert found.shape == value.shape
        # Sums of up to 64 terms in another order, then one rounding to 8 bits.
        torch.testing.assert_close(found.float(), value.float(), rtol=2**-7, atol=2**-7)
    with torch.inference_mode():
        torch.testing.assert_close(layer(states), expected[0], rtol=2**-7, atol=2**-7)


def test_other_numbers_take_torchs_product() -> None:
    layer = nn.Linear(8, 6)
    states = torch.randn(4, 8)
    expected = layer(states)
    use_cpu_products(layer)
    assert torch.equal(layer(states), expected)


@pytest.mark.usefixtures("cut_everything")
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_projection_gives_the_same_logits_and_gradients(with_bias: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 32, dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(70, 32, dtype=torch.bfloat16, requires_grad=True)
    bias = torch.randn(70, dtype=torch.bfloat16, requires_grad=True) if with_bias else None
    inputs = [features, weight] + ([] if bias is None else [bias])
    incoming = torch.randn(5, 70).to(torch.bfloat16)
    expected = torch.nn.functional.linear(features, weight, bias)
    wanted = torch.autograd.grad(expected, inputs, incoming)
    projection = Projection()
    for _ in range(2):  # made, then kept
        more, matrix, none = projection.of(features, weight, bias)
        assert none is None
        assert matrix.stride(0) == 1
        logits = more @ matrix.t()
        torch.testing.assert_close(logits, expected, rtol=2**-7, atol=2**-6)
        found = torch.autograd.grad(logits, inputs, incoming)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=2**-6, atol=2**-5)
    with torch.no_grad():
        weight.mul_(2)
    projection.forget()
    torch.testing.assert_close(projection.of(features, weight, bias)[1][:, :32], weight)


@pytest.mark.usefixtures("cut_everything", "one_thread")
def test_a_step_has_the_same_losses_gradients_and_saved_weights(monkeypatch: pytest.MonkeyPatch) -> None:
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
    for laid_out in (False, True):
        with monkeypatch.context() as patch:
            if not laid_out:
                patch.setattr(projections, "serves", lambda *_: False)
                patch.setattr("distilfast.step.use_cpu_products", lambda _: None)
            step = DistillationStep(copy.deepcopy(student), teacher, compute_dtype=torch.bfloat16)
            assert step.copies is not None
            step.copies.kept = True
            losses = [step(batch)["loss"] for _ in range(2)]
            sum(losses).backward()  # type: ignore[union-attr]
            results.append((losses[0].item(), {name: value.grad for name, value in step.named_parameters()}))
            tied = step.student.get_output_embeddings().weight is step.student.get_input_embeddings().weight
            assert tied
            assert set(step.state_dict()) == {f"student.{name}" for name in student.state_dict()}
    (loss, gradients), (other_loss, other_gradients) = results
    assert loss == pytest.approx(other_loss, rel=1e-3)
    for name, gradient in gradients.items():
        other = other_gradients[name]
        assert (gradient - other).norm() <= 0.05 * gradient.norm() + 1e-4, name
