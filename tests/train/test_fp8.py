"""The teacher in float8: what rounding may change, that it is measured, and where it is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
import torch.nn.functional as F
from distilfast import InputError, create_student
from distilfast.train.fp8 import FORMAT, LARGEST, Float8Linear, _to_float8, round_rows, use_float8
from distilfast.train.objective import Objective
from distilfast.train.step import DistillationStep
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM, BertModel, ModernBertConfig, ModernBertForMaskedLM

SIZES: dict[str, Any] = {
    "vocab_size": tiny_training.VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SIZES)).eval()


def modernbert() -> ModernBertForMaskedLM:
    torch.manual_seed(0)
    return ModernBertForMaskedLM(
        ModernBertConfig(**SIZES, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
    ).eval()


def batch() -> dict[str, Any]:
    return tiny_training.TinyBatches()[0]


@given(st.integers(0, 2**31), st.integers(1, 5), st.sampled_from((1e-6, 1.0, 1e4)), st.booleans())
def test_a_product_is_off_by_no_more_than_rounding(seed: int, rows: int, size: float, has_bias: bool) -> None:
    """e4m3 has three bits after the point: numbers are off by a sixteenth, or by half the least number of the row."""
    generator = torch.Generator().manual_seed(seed)
    layer = torch.nn.Linear(32, 16, bias=has_bias)
    states = size * torch.randn(2, rows, 32, generator=generator)
    with torch.inference_mode():
        expected = layer(states)
        rounded = copy.deepcopy(layer)
        _to_float8(rounded)
        found = rounded(states)

    def off(values: torch.Tensor) -> torch.Tensor:
        least = values.abs().amax(-1, keepdim=True) / LARGEST * 2.0**-10
        return torch.maximum(values.abs() / 16, least)

    weight = layer.weight.detach()
    bound = F.linear(states.abs(), off(weight)) + F.linear(off(states), weight.abs() + off(weight))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert bool(((found - expected).abs() <= 1.01 * bound + 1e-5 * expected.abs() + 1e-30).all())


def test_a_row_of_zeros_stays_one() -> None:
    rounded, scale = round_rows(torch.zeros(2, 16))
    assert rounded.dtype == FORMAT
    assert not (rounded.float() * scale).any()


@pytest.mark.parametrize("build", [bert, modernbert])
def test_the_change_is_measured(build: Any) -> None:
    teacher = build()
    before = copy.deepcopy(teacher)
    change = use_float8(teacher, batch(), 10.0)
    assert 0 < change < 0.1
    assert any(isinstance(module, Float8Linear) for module in teacher.modules())
    inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        kept, new = (F.log_softmax(model(**inputs).logits, dim=-1).flatten(0, 1) for model in (before, teacher))
    masked = batch()["mlm_positions"][batch()["mlm_labels"] >= 0]
    by_hand = (kept[masked].exp() * (kept[masked] - new[masked])).sum(-1).mean()
    torch.testing.assert_close(change, float(by_hand), rtol=1e-4, atol=1e-7)


def test_too_great_a_change_is_refused_and_undone() -> None:
    teacher = bert()
    DistillationStep(create_student(teacher, 1), teacher)  # swaps classes of layers too
    kept = copy.deepcopy(teacher)
    with pytest.raises(InputError, match=r"nats \(KL\) from its own, more than --teacher_fp8_kl 1e-09"):
        use_float8(teacher, batch(), 1e-9)
    assert [type(module) for module in teacher.modules()] == [type(module) for module in kept.modules()]
    for name, tensor in kept.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor)


@pytest.mark.parametrize("build", [bert, modernbert])
@pytest.mark.parametrize("kl_positions", ["all", "masked"])
def test_a_student_follows_it(build: Any, kl_positions: Any) -> None:
    """Losses and gradients stay near those with the teacher as it was; with masked rows, through the pruned layer."""
    found = []
    for in_float8 in (False, True):
        teacher = build()
        student = create_student(teacher, 1).eval()
        step = DistillationStep(student, teacher, Objective(kl_positions=kl_positions, cos_positions="kl"))
        if in_float8:
            use_float8(teacher, batch(), 10.0)
        losses = step(batch())
        losses["loss"].backward()
        gradient = torch.cat([each.grad.flatten() for each in student.parameters() if each.grad is not None])
        found.append((losses["loss"].detach(), gradient))
    (loss, gradient), (other_loss, other_gradient) = found
    assert loss != other_loss
    torch.testing.assert_close(loss, other_loss, rtol=0.02, atol=0)
    assert F.cosine_similarity(gradient, other_gradient, dim=0) > 0.98


def test_what_cannot_be_in_float8_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no masked-language-model head"):
        use_float8(BertModel(BertConfig(**SIZES)), batch(), 1.0)
    narrow = BertForMaskedLM(BertConfig(**{**SIZES, "hidden_size": 12, "intermediate_size": 20}))
    with pytest.raises(InputError, match="multiples of 16"):
        use_float8(narrow, batch(), 1.0)
    with pytest.raises(InputError, match=r"--teacher_fp8 needs a GPU of compute capability 9\.0 or more; here is cpu"):
        tiny_training.arguments(tmp_path, teacher_fp8=True)
    with pytest.raises(InputError, match="--teacher_stream needs a GPU"):
        tiny_training.arguments(tmp_path, teacher_stream=True)
    with pytest.raises(InputError, match="--teacher_fp8_kl 0"):
        tiny_training.arguments(tmp_path, teacher_fp8_kl=0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{"teacher_stream": True}, {"teacher_fp8": True, "teacher_fp8_kl": 10.0}])
def test_on_a_gpu(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Another stream gives the same losses; float8, where the GPU has it, near ones."""
    if "teacher_fp8" in changes and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("needs a GPU of compute capability 9.0")
    logs = []
    for number, more in enumerate(({}, changes)):
        torch.manual_seed(0)
        teacher = bert()
        args = tiny_training.arguments(tmp_path / str(number), use_cpu=False, precision="bf16", max_steps=4, **more)
        trainer = tiny_training.DistillationTrainer(
            create_student(teacher, 1), teacher, args, tiny_training.TinyBatches(7, 2)
        )
        trainer.train()
        logs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    torch.testing.assert_close(logs[1], logs[0], rtol=0.05 if "teacher_fp8" in changes else 1e-3, atol=0)
