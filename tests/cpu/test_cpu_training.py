"""What training on the CPU is made of: dropout's masks, attention with its backward pass, kept copies of weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
import torch.nn.functional as F
import transformers
from distilfast import _core, losses
from distilfast.cpu import attention as cpu_attention
from distilfast.cpu.attention import CPU_ATTENTION, attend
from distilfast.cpu.dropout import CPUDropout, dropout_mask, use_cpu_dropout
from distilfast.heads.choice import choose_head
from distilfast.heads.objective import Objective
from distilfast.models import bf16
from distilfast.models.bf16 import untied_embeddings
from distilfast.train import text
from distilfast.train.arguments import DataArguments
from distilfast.train.step import DistillationStep
from hypothesis import given
from hypothesis import strategies as st
from small_families import LAST_LAYER_FAMILIES as FAMILIES
from tiny_classifiers import KINDS, ROWS, LabelledBatches, classifier

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mask_keeps_the_share_and_the_mean(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    mask = dropout_mask((300, 1000), 0.1, dtype).double()
    kept = torch.tensor(1 / 0.9, dtype=dtype).double()
    assert set(mask.unique().tolist()) == {0.0, float(kept)}
    # Five standard deviations of a share of 300,000 draws.
    assert (mask == 0).double().mean() == pytest.approx(0.1, abs=5 * (0.09 / 300_000) ** 0.5)
    # Rows, columns and neighbours are independent: their shares vary as they would by chance.
    for shares, count in (((mask == 0).double().mean(0), 300), ((mask == 0).double().mean(1), 1000)):
        assert shares.var() == pytest.approx(0.09 / count, rel=0.3)
    both = ((mask[:, :-1] == 0) & (mask[:, 1:] == 0)).double().mean()
    assert both == pytest.approx(0.01, abs=5 * (0.0099 / 300_000) ** 0.5)


def test_masks_follow_torchs_seed_and_not_its_threads() -> None:
    before = torch.get_num_threads()
    masks = []
    for seed, threads in ((0, 1), (0, 3), (1, 1)):
        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        masks.append([dropout_mask((200, 300), 0.5, torch.float32) for _ in range(2)])
    torch.set_num_threads(before)
    assert all(map(torch.equal, masks[0], masks[1]))
    assert not torch.equal(masks[0][0], masks[2][0])
    assert not torch.equal(masks[0][0], masks[0][1])


def test_dropout_of_modules() -> None:
    module = CPUDropout(0.25)
    states = torch.ones(50, 60, requires_grad=True)
    dropped = module(states)
    dropped.sum().backward()
    assert torch.equal(states.grad, dropped.detach())
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(4 / 3))}
    assert torch.equal(module.eval()(states), states)
    assert torch.equal(CPUDropout(1.0)(states), torch.zeros_like(states))


@given(
    st.tuples(*(st.integers(1, bound) for bound in (3, 3, 9, 5))),
    st.sampled_from(["none", "bool", "added"]),
    st.sampled_from([None, 0.3]),
)
def test_attention_is_sdpa(shape: tuple[int, int, int, int], kind: str, scaling: float | None) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    rows, heads, tokens, head_dim = shape
    states = [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    seen = torch.arange(tokens) < torch.randint(1, tokens + 1, (rows, 1, 1, 1), generator=generator)
    masks: dict[str, Any] = {
        "none": None,
        "bool": seen.expand(rows, 1, tokens, tokens),
        "added": torch.randn(rows, 1, tokens, tokens, generator=generator, dtype=torch.float64),
    }
    ours = attend(*states, masks[kind], 0.0, scaling)
    theirs = F.scaled_dot_product_attention(*states, attn_mask=masks[kind], scale=scaling)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn(shape, generator=generator, dtype=torch.float64)
    for mine, other in zip(
        torch.autograd.grad(ours, states, gradient), torch.autograd.grad(theirs, states, gradient), strict=True
    ):
        torch.testing.assert_close(mine, other)
    assert ours.shape == (rows, heads, tokens, head_dim)


def test_attention_with_dropout_is_its_formula() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 6, 4, requires_grad=True) for _ in range(3))
    torch.manual_seed(1)
    found = attend(query, key, value, None, 0.4, None)
    torch.manual_seed(1)
    factors = dropout_mask((2, 3, 6, 6), 0.4, torch.float32)
    expected = (query @ key.transpose(2, 3) / 2).softmax(-1) * factors @ value
    torch.testing.assert_close(found, expected)
    gradient = torch.randn_like(found)
    for mine, other in zip(
        torch.autograd.grad(found, (query, key, value), gradient),
        torch.autograd.grad(expected, (query, key, value), gradient),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


def test_a_step_trains_with_both_and_files_do_not_know() -> None:
    teacher = tiny_training.teacher()
    step = DistillationStep(tiny_training.create_student(teacher, 1), teacher, Objective())
    cpu_attention.use_cpu_attention(step.student)
    use_cpu_dropout(step.student)
    assert step.student.config._attn_implementation == CPU_ATTENTION
    assert teacher.config._attn_implementation == "sdpa"
    kinds = {type(module) for module in step.student.modules() if isinstance(module, torch.nn.Dropout)}
    assert kinds == {CPUDropout}
    assert CPU_ATTENTION not in step.student.config.to_json_string()


@pytest.mark.parametrize("family", FAMILIES)
def test_students_of_every_family_train_with_it(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(query: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append(query.shape)
        return attend(query, *rest)

    monkeypatch.setattr(cpu_attention, "attend", counted)
    torch.manual_seed(0)
    teacher = transformers.AutoModelForMaskedLM.from_config(FAMILIES[family]).eval()
    student = tiny_training.create_student(teacher, 1)
    cpu_attention.use_cpu_attention(student)
    ids = torch.randint(5, 53, (2, 9))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mlm_positions": torch.tensor([2, 9]),
        "mlm_labels": torch.tensor([6, 7]),
        "num_tokens": torch.tensor(18),
        "num_attended_in_step": torch.tensor(18),
        "num_masked_in_step": torch.tensor(2),
    }
    step: Any = DistillationStep(student, teacher, Objective()).train()
    step(batch)["loss"].backward()
    assert calls == [(2, 4, 9, 8)]
    gradients = [weight.grad for name, weight in student.named_parameters() if "word_embeddings" in name]
    assert all(gradient is None or gradient.abs().max() > 0 for gradient in gradients)
    # As fine-tuning does it.
    classifier = transformers.AutoModelForSequenceClassification.from_config(student.config).train()
    cpu_attention.use_cpu_attention(classifier)
    calls.clear()
    classifier(input_ids=ids, attention_mask=batch["attention_mask"]).logits.sum().backward()
    assert calls == [(2, 4, 9, 8)]


def test_kept_copies_are_those_of_the_weights_until_they_are_forgotten() -> None:
    torch.manual_seed(0)
    teacher = tiny_training.teacher(dropout=0.0)
    student = tiny_training.create_student(teacher, 1)
    step = DistillationStep(student, teacher, Objective(), compute_dtype=torch.bfloat16)
    batch = tiny_training.TinyBatches()[0]

    def loss_and_gradients() -> list[torch.Tensor]:
        step.zero_grad()
        loss = step(batch)["loss"]
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in student.parameters() if weight.grad is not None)]

    made_anew = loss_and_gradients()
    assert step.copies is not None
    step.copies.kept = True
    for _ in range(2):  # made, and found
        assert all(map(torch.equal, loss_and_gradients(), made_anew))
    assert all(gradient.dtype == torch.float32 for gradient in made_anew)
    with torch.no_grad():
        for weight in student.parameters():
            weight.mul_(1.5)
    assert torch.equal(loss_and_gradients()[0], made_anew[0])
    step.copies.forget()
    changed = loss_and_gradients()
    step.copies.kept = False
    assert all(map(torch.equal, changed, loss_and_gradients()))
    assert not torch.equal(changed[0], made_anew[0])


def test_gradients_that_the_backward_pass_adds_up_are_autograds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit, over micro-batches and steps, in the same memory; and autograd's own where a hook waits for them."""
    monkeypatch.setattr(bf16, "PIECE", 7)  # several pieces of every weight
    teacher = tiny_training.teacher(dropout=0.0)
    step = DistillationStep(
        tiny_training.create_student(teacher, 1), teacher, Objective(), compute_dtype=torch.bfloat16
    )
    assert step.copies is not None
    step.copies.kept = True
    batches = tiny_training.TinyBatches()

    def gradients(adds_up: bool) -> list[list[torch.Tensor]]:
        assert step.copies is not None
        step.copies.adds_up = adds_up
        found = []
        for first in (0, 2):
            step.zero_grad()
            for number in (first, first + 1):
                step(batches[number])["loss"].backward()
            found.append([weight.grad.clone() for weight in step.parameters() if weight.grad is not None])
        return found

    for mine, autograds in zip(gradients(True), gradients(False), strict=True):
        assert len(mine) == len(autograds) > 10
        assert all(map(torch.equal, mine, autograds))
    weight = step.student.get_input_embeddings().weight
    gradients(True)
    kept = weight.grad.data_ptr()
    gradients(True)
    assert weight.grad.data_ptr() == kept
    seen: list[torch.Tensor] = []
    with_hook = weight.register_hook(seen.append)
    gradients(True)
    with_hook.remove()
    assert len(seen) == 4


def test_a_run_with_kept_copies_ends_where_one_without_does(tmp_path: Path) -> None:
    ends = []
    for kept in (True, False):
        run = tiny_training.trainer(tmp_path / str(kept), precision="bf16", save_strategy="no")
        assert run.step.copies is not None
        assert run.step.copies.kept
        assert run.step.copies.adds_up
        run.step.copies.kept = kept
        run.train()
        ends.append(tiny_training.weights(run.student))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_everything_takes_the_threads_that_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """`OMP_NUM_THREADS` (which torchrun sets), or `torch.set_num_threads`, is the one number."""
    seen: dict[str, Any] = {}

    class SeenError(Exception):
        pass

    def batches(*_: Any, **options: Any) -> None:
        seen["loader"] = options["threads"]
        raise SeenError

    def fill(mask: Any, seed: int, dropped: int, kept: int, threads: int) -> None:
        seen["dropout"] = threads

    def loss_rows(*_: Any, threads: int, **__: Any) -> None:
        seen["losses"] = threads
        raise SeenError

    monkeypatch.setattr(text, "MaskedBatches", batches)
    monkeypatch.setattr(_core, "fill_dropout_mask", fill)
    monkeypatch.setattr(_core, "distillation_loss_rows", loss_rows)
    before = torch.get_num_threads()
    for number in (1, 3):
        torch.set_num_threads(number)
        with pytest.raises(SeenError):
            text.build_batches(DataArguments(layout="padded"), tiny_training.arguments("none"), _Tokens())
        dropout_mask((4,), 0.5, torch.float32)
        logits = torch.zeros(2, 5, requires_grad=True)
        with pytest.raises(SeenError):
            losses.soft_kl(logits, torch.ones(2, 5), impl="fused")
        assert seen == {"loader": number, "dropout": number, "losses": number}
    torch.set_num_threads(before)


class _Tokens:
    dataset = tokenizer = token_counts = None


def test_word_embeddings_that_nothing_else_reads_are_cast_by_the_row() -> None:
    """The same loss and gradients as from a copy of the table, whose own gradient adds up in float32; a tied head
    multiplies with the table, so that it is copied there."""
    teacher, student = classifier(KINDS[0]), classifier(KINDS[0], 1, seed=1)
    step = DistillationStep(
        student, teacher.bfloat16(), Objective(alpha_ce=1.0), torch.bfloat16, head=choose_head(teacher)
    )
    batch = LabelledBatches(KINDS[0], ROWS, 1)[0]
    assert step.copies is not None
    table = student.get_input_embeddings()
    assert step.copies.table is table
    found: list[dict[str, torch.Tensor]] = []
    for each in (table, None):
        step.copies.table = each
        assert all(copy.dtype == torch.bfloat16 for copy in step.copies.of(step).values())
        assert ("student.bert.embeddings.word_embeddings.weight" in step.copies.of(step)) is (each is None)
        step.zero_grad()
        loss = step(batch)["loss"]
        loss.backward()
        found.append({"loss": loss.detach(), **{name: weight.grad for name, weight in student.named_parameters()}})
    by_row, whole = found
    assert not table._forward_hooks
    for name, value in by_row.items():
        if "word_embeddings" in name:
            assert F.cosine_similarity(value.flatten(), whole[name].flatten(), dim=0) > 0.9999
            assert not torch.equal(value, whole[name])  # which was rounded to bfloat16
        else:
            assert torch.equal(value, whole[name]), name

    tied = tiny_training.teacher(0.0)
    assert untied_embeddings(tied) is None
    assert DistillationStep(tied, tiny_training.teacher(0.0), compute_dtype=torch.bfloat16).copies.table is None  # type: ignore[union-attr]


def test_gradients_of_word_embeddings_that_are_added_up_by_the_row_are_autograds() -> None:
    """Bit for bit, over micro-batches and steps, in the same memory; padding learns nothing; hooks see a gradient."""
    teacher, student = classifier(KINDS[0]), classifier(KINDS[0], 1, seed=1)
    step = DistillationStep(
        student, teacher.bfloat16(), Objective(alpha_ce=1.0), torch.bfloat16, head=choose_head(teacher)
    )
    assert step.copies is not None
    batches = LabelledBatches(KINDS[0], 4, 1)
    weight = student.get_input_embeddings().weight
    padding = student.get_input_embeddings().padding_idx
    assert any((batches[number]["input_ids"] == padding).any() for number in (0, 1))

    def gradients(adds_up: bool) -> list[torch.Tensor]:
        assert step.copies is not None
        step.copies.kept, step.copies.adds_up = True, adds_up
        found = []
        for first in (0, 1):
            step.zero_grad()
            for batch in (batches[first], batches[1 - first], batches[first]):
                step(batch)["loss"].backward()
            found.append(weight.grad.clone())
        return found

    autograds = gradients(False)
    assert all(map(torch.equal, gradients(True), autograds))
    assert int((autograds[0] != 0).any(dim=1).sum()) > 3
    assert not autograds[0][padding].any()
    kept = weight.grad.data_ptr()
    gradients(True)
    assert weight.grad.data_ptr() == kept
    seen: list[torch.Tensor] = []
    hook = weight.register_hook(seen.append)
    assert all(map(torch.equal, gradients(True), autograds))
    hook.remove()
    assert len(seen) == 6
