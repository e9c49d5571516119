"""The definitions: against PyTorch's own losses, in float64, value and gradient, and as DistilBERT adds them up."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from distilfast import InputError, losses
from torch import Tensor


def naive_soft_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    loss = torch.nn.KLDivLoss(reduction="batchmean")
    return loss(F.log_softmax(student / temperature, -1), F.softmax(teacher / temperature, -1)) * temperature**2


def make_logits(rows: int = 5, vocabulary: int = 11, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(rows, vocabulary, generator=generator, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.7])
def test_soft_kl_is_that_of_distilbert(temperature: float) -> None:
    student, teacher, _ = make_logits()
    student.requires_grad_()
    mask = torch.tensor([True, False, True, True, False])
    expected = naive_soft_kl(student[mask], teacher[mask], temperature)
    (expected_grad,) = torch.autograd.grad(expected, student)
    value = losses.soft_kl(student, teacher, temperature, mask, impl="eager")
    (grad,) = torch.autograd.grad(value, student)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("left", [float("nan"), float("inf")])
def test_a_row_that_does_not_count_may_hold_anything(left: float) -> None:
    student, teacher, _ = make_logits()
    counted = torch.tensor([True, False, True, True, True])
    expected = losses.soft_kl(student[counted], teacher[counted], 2.0, impl="eager")
    student[1] = left
    teacher[1, 0] = left
    student.requires_grad_()
    value = losses.soft_kl(student, teacher, 2.0, counted, impl="eager")
    torch.testing.assert_close(value, expected)
    (grad,) = torch.autograd.grad(value, student)
    assert grad.isfinite().all()
    assert not grad[1].any()


def test_masked_ce_is_cross_entropy() -> None:
    student = make_logits()[0].requires_grad_()
    labels = torch.tensor([3, -100, 10, 0, -100])
    expected = F.cross_entropy(student, labels)
    value = losses.masked_ce(student, labels, impl="eager")
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, student), torch.autograd.grad(expected, student))


@pytest.mark.parametrize("impl", ["fused", "eager"])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_masked_ce_is_cross_entropy_of_the_product(impl: str, bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 6), (11, 6), (11,))
    hidden, weight, offset = (torch.randn(each, generator=generator, requires_grad=True) for each in shapes)
    leaves = [hidden, weight, offset] if bias else [hidden, weight]
    labels = torch.tensor([[3, -100, 10], [0, -100, 4]])
    logits = F.linear(hidden, weight, offset if bias else None)
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    value = losses.linear_masked_ce(hidden, weight, offset if bias else None, labels, impl=impl)
    torch.testing.assert_close(value, expected)
    for got, want in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)
    halved = losses.linear_masked_ce(hidden, weight, None, labels, num_rows=8, impl=impl)
    torch.testing.assert_close(halved, losses.linear_masked_ce(hidden, weight, None, labels, impl=impl) / 2)
    nothing = losses.linear_masked_ce(hidden, weight, None, torch.full_like(labels, -100), impl=impl)
    assert nothing.item() == 0
    with pytest.raises(InputError, match="label 11 in row 0"):
        losses.linear_masked_ce(hidden, weight, None, labels + 8 * (labels == 3), impl=impl)


def test_hidden_cosine_is_cosine_embedding_loss() -> None:
    student, teacher, _ = make_logits()
    student.requires_grad_()
    mask = torch.tensor([1, 1, 0, 1, 0])
    expected = F.cosine_embedding_loss(student[mask == 1], teacher[mask == 1], torch.ones(3))
    value = losses.hidden_cosine(student, teacher, mask, impl="eager")
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, student), torch.autograd.grad(expected, student))


def test_hidden_mse_is_mse_loss() -> None:
    student, teacher, _ = make_logits()
    mask = torch.tensor([1.0, 1, 0, 1, 0])
    value = losses.hidden_mse(student, teacher, mask, impl="eager")
    torch.testing.assert_close(value, F.mse_loss(student[mask == 1], teacher[mask == 1]))


def test_distillation_loss_adds_up_its_parts() -> None:
    student, teacher, _ = make_logits()
    labels = torch.tensor([3, -100, 10, 0, -100])
    mask = torch.tensor([True, True, True, False, True])
    loss = losses.distillation_loss(student, teacher, labels, 2.0, 5.0, 2.0, 0.3, mask, impl="eager")
    mse = F.mse_loss(student[mask], teacher[mask], reduction="sum") / mask.sum()
    torch.testing.assert_close(loss.kl, naive_soft_kl(student[mask], teacher[mask], 2.0))
    torch.testing.assert_close(loss.mlm, F.cross_entropy(student, labels))
    torch.testing.assert_close(loss.mse, mse)
    torch.testing.assert_close(loss.total, 5 * loss.kl + 2 * loss.mlm + 0.3 * loss.mse)


def test_several_teachers_stand_for_their_mean_distribution() -> None:
    student, first, second = make_logits()
    q = 0.25 * F.softmax(first / 2, -1) + 0.75 * F.softmax(second / 2, -1)
    expected = 4 * F.kl_div(F.log_softmax(student / 2, -1), q, reduction="batchmean")
    value = losses.soft_kl(student, [first, second], 2.0, teacher_weights=[1, 3], impl="eager")
    torch.testing.assert_close(value, expected)


def test_micro_batches_with_the_step_s_row_counts_add_up() -> None:
    student, teacher, _ = make_logits(rows=6)
    labels = torch.tensor([3, -100, 10, -100, 1, 2])
    mask = torch.tensor([1, 1, 1, 0, 0, 1]).bool()
    whole = losses.distillation_loss(student, teacher, labels, mask=mask, impl="eager").total
    parts = [
        losses.distillation_loss(
            student[rows], teacher[rows], labels[rows], mask=mask[rows], num_kl_rows=torch.tensor(4), num_mlm_rows=4,
            impl="eager",
        ).total
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]  # fmt: skip
    torch.testing.assert_close(sum(parts), whole)


def test_linear_loss_is_that_of_its_logits() -> None:
    hidden, teacher_hidden, _ = make_logits(rows=6, vocabulary=4)
    weight, teacher_weight, _ = make_logits(rows=11, vocabulary=4, seed=1)
    bias = torch.linspace(-1, 1, 11, dtype=torch.float64)
    labels = torch.tensor([3, -100, 10, -100, 1, 2])
    loss = losses.linear_distillation_loss(
        hidden, weight, bias, teacher_hidden, teacher_weight, None, labels, alpha_mse=0.1, impl="eager"
    )
    expected = losses.distillation_loss(
        hidden @ weight.T + bias, teacher_hidden @ teacher_weight.T, labels, alpha_mse=0.1, impl="eager"
    )
    torch.testing.assert_close(loss, expected)


def test_leading_dimensions_do_not_matter() -> None:
    student, teacher, _ = make_logits(rows=6)
    labels = torch.tensor([3, -100, 10, -100, 1, 2])
    flat = losses.distillation_loss(student, teacher, labels, impl="eager")
    batched = losses.distillation_loss(
        student.view(2, 3, 11), teacher.view(2, 3, 11), labels.view(2, 3), mask=torch.ones(2, 3), impl="eager"
    )
    torch.testing.assert_close(flat, batched)


def test_gradcheck_of_the_definitions() -> None:
    student, first, second = make_logits(rows=3, vocabulary=5)
    student.requires_grad_()
    labels = torch.tensor([3, -100, 1])
    mask = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: losses.distillation_loss(s, [first, second], labels, 1.7, 5, 2, 0.3, mask, impl="eager").total,
        student,
    )
    for loss in (losses.hidden_cosine, losses.hidden_mse):
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss(s, first, mask, impl="eager"), student)
