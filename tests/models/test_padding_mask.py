"""Masks of padded batches on a GPU: what SDPA computes with transformers' own, and one for all models of a batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from distilfast.models import padding_mask
from distilfast.models.adaptation import adapt
from distilfast.models.padding_mask import PADDED, use_padding_mask, with_shared_padding
from small_families import FAMILIES, VOCAB
from transformers import AutoModelForMaskedLM, DebertaV2Config

LENGTHS = torch.tensor([17, 5, 11, 1])


def build(family: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return AutoModelForMaskedLM.from_config(copy.deepcopy(FAMILIES[family]), attn_implementation="sdpa").eval()


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, VOCAB, (4, 17), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": (torch.arange(17) < LENGTHS[:, None]).long()}


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_sdpa(family: str) -> None:
    model, inputs = build(family), batch()
    found = []
    for use in (lambda _: None, use_padding_mask):
        use(model)
        model.zero_grad()
        logits = model(**inputs).logits[inputs["attention_mask"].bool()]
        logits.square().sum().backward()
        found.append((logits, [each.grad for each in model.parameters() if each.grad is not None]))
    assert model.config._attn_implementation == PADDED
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
    norm = torch.stack([gradient.norm() for gradient in found[0][1]]).norm()
    for theirs, ours in zip(found[0][1], found[1][1], strict=True):
        assert (ours - theirs).norm() <= 1e-5 * norm


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_teacher_and_student_share_masks_that_a_backward_pass_may_keep(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    honest = padding_mask._added

    def counted(*arguments: Any) -> torch.Tensor:
        made.append(honest(*arguments))
        return made[-1]

    monkeypatch.setattr(padding_mask, "_added", counted)
    teacher, student = build(family), build(family, 1)
    for model in (teacher, student):
        use_padding_mask(model)
    kinds = 2 if family == "modernbert" else 1
    inputs = with_shared_padding(batch(), (student, teacher))
    with torch.inference_mode():
        teacher(**inputs)
    student(**inputs).logits.sum().backward()
    assert len(made) == kinds
    for mask in made:
        assert mask.dtype == torch.float32
        assert not mask.is_inference()
        assert all(stride % 8 == 0 for stride in mask.stride()[:-1])  # rows that SDPA takes as they lie
        assert mask.stride(-1) == 1
        assert mask.isfinite().all()
    assert made[0].shape == (4, 1, 1, 17)
    # Of another batch, and of one that was changed, they are made anew.
    student(**with_shared_padding(batch(), (student,)))
    assert len(made) == 2 * kinds
    inputs["attention_mask"][0, 9:] = False
    changed = student(**inputs).logits
    assert len(made) == 3 * kinds
    fresh = {**inputs, "attention_mask": inputs["attention_mask"].clone()}
    torch.testing.assert_close(changed, student(**fresh).logits, rtol=0, atol=0)


def test_inputs_without_a_mask_and_masks_made_by_the_caller_are_taken() -> None:
    model, inputs = build("bert"), batch()
    ids = inputs["input_ids"]
    own = torch.zeros(4, 1, 17, 17).masked_fill(torch.arange(17) >= LENGTHS[:, None, None, None], float("-inf"))
    expected = [model(ids).logits, model(ids, attention_mask=own).logits]
    use_padding_mask(model)
    torch.testing.assert_close(model(ids).logits, expected[0], rtol=0, atol=0)
    torch.testing.assert_close(model(ids, attention_mask=own).logits, expected[1], rtol=0, atol=0)


def test_other_attentions_stay_and_batches_of_their_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    eager, sdpa = build("bert"), build("bert")
    eager.set_attn_implementation("eager")
    deberta = AutoModelForMaskedLM.from_config(DebertaV2Config(vocab_size=9, hidden_size=8, num_attention_heads=1))
    before = deberta.config._attn_implementation
    for model in (eager, sdpa, deberta):
        use_padding_mask(model)
    assert [each.config._attn_implementation for each in (eager, sdpa, deberta)] == ["eager", PADDED, before]
    given = batch()
    assert with_shared_padding(given, (sdpa, eager)) is given
    packed = {"cu_seqlens": torch.zeros(2)}
    assert with_shared_padding(packed, (sdpa,)) is packed
    # On the CPU nothing is changed; what is to be computed on a GPU gets them.
    model = build("bert")
    adapt(model)
    assert model.config._attn_implementation == "sdpa"
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    adapt(model)
    assert model.config._attn_implementation == PADDED
