"""Self-attention relations against their definition, token by token and head by head."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from distilfast import InputError
from distilfast.batches.tensors import padded_batch
from distilfast.models import attention
from distilfast.models.adaptation import adapt
from distilfast.train.layer_losses import BoundsOnHost, RelationLoss, query_key_value
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

LENGTHS = (6, 9, 3)
SIZES = {
    "vocab_size": 41,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.3,
}


def build(config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa").double().eval()


def teacher_and_student() -> tuple[PreTrainedModel, PreTrainedModel]:
    teacher = build(BertConfig(hidden_size=24, **SIZES))
    student = build(
        DistilBertConfig(vocab_size=41, dim=12, n_layers=1, n_heads=3, hidden_dim=24, initializer_range=0.3)
    )
    return teacher, student


def batch_of(layout: str) -> dict[str, object]:
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(5, 41, (length,), generator=generator) for length in LENGTHS]
    batch = attention.pack(sequences, 0) if layout == "packed" else padded_batch(sequences, 0)
    return {**batch, "num_tokens": torch.tensor(sum(LENGTHS))}


def states_of(model: PreTrainedModel, batch: dict[str, object]) -> tuple[Tensor, ...]:
    return model.base_model(**attention.model_inputs(model, batch), output_hidden_states=True).hidden_states


def by_definition(student_vectors: Tensor, teacher_vectors: Tensor, heads: int) -> float:
    """Summed KL of one kind of vectors, [width, hidden] of one sequence without padding."""
    total = 0.0
    for head in range(heads):
        relations = []
        for vectors in (teacher_vectors, student_vectors):
            size = vectors.shape[1] // heads
            part = vectors[:, head * size : (head + 1) * size]
            relations.append(torch.softmax(part @ part.T / size**0.5, dim=-1))
        t, s = relations
        total += float((t * (t.log() - s.log())).sum())
    return total


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_relations_equal_their_definition(layout: str) -> None:
    teacher, student = teacher_and_student()
    if layout == "packed":
        attention.use_packed(teacher)
        attention.use_packed(student)
    batch = batch_of(layout)
    loss = RelationLoss(student, teacher, relation_heads=6)
    student_states, teacher_states = states_of(student, batch), states_of(teacher, batch)
    value = loss(student, teacher, student_states, teacher_states, batch, torch.tensor(40))

    expected = 0.0
    ours = query_key_value(student.base_model.transformer.layer[0], student_states[0])
    theirs = query_key_value(teacher.base_model.encoder.layer[1], teacher_states[1])
    starts = [0, 6, 15]
    for mine, other in zip(ours, theirs, strict=True):
        for row, length in enumerate(LENGTHS):
            first, row_number = (starts[row], 0) if layout == "packed" else (0, row)
            pick = (row_number, slice(first, first + length))
            expected += by_definition(mine[pick].detach(), other[pick].detach(), 6)
    assert value.item() == pytest.approx(expected / (40 * 6), rel=1e-10)
    assert value.item() > 1e-4


def test_both_layouts_give_the_same_gradient() -> None:
    teacher, student = teacher_and_student()
    gradients = []
    for layout in ("padded", "packed"):
        if layout == "packed":
            attention.use_packed(teacher)
            attention.use_packed(student)
        batch = batch_of(layout)
        student.zero_grad()
        loss = RelationLoss(student, teacher, relation_heads=3)
        loss(student, teacher, states_of(student, batch), states_of(teacher, batch), batch, 18).backward()
        gradients.append([p.grad.clone() for p in student.parameters() if p.grad is not None])
        assert all(parameter.grad is None for parameter in teacher.parameters())
    for padded, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-9, atol=1e-12)
    assert max(gradient.abs().max() for gradient in gradients[0]) > 0


def test_bounds_that_come_with_a_batch_spare_the_reading_of_it() -> None:
    teacher, student = teacher_and_student()
    batch = batch_of("packed")
    adapt(student, teacher, layout="packed")

    class Batches(list[dict[str, Any]]):
        batches_per_step = 1
        state_fingerprint = "packed"

        def set_epoch(self, epoch: int) -> None:
            pass

    given = BoundsOnHost(Batches([batch]))[0]
    loss = RelationLoss(student, teacher, relation_heads=3)
    states = states_of(student, batch), states_of(teacher, batch)
    expected = loss(student, teacher, *states, batch, 18)
    # What would have to be read from a device is not there.
    unreadable = {name: value for name, value in given.items() if name not in ("cu_seqlens", "num_tokens")}
    assert torch.equal(loss(student, teacher, *states, unreadable, 18), expected)


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(hidden_size=24, **SIZES),
        RobertaConfig(hidden_size=24, pad_token_id=0, **SIZES),
        ElectraConfig(hidden_size=24, embedding_size=8, **SIZES),
        ModernBertConfig(hidden_size=24, pad_token_id=0, **SIZES),
        DistilBertConfig(vocab_size=41, dim=24, n_layers=2, n_heads=2, hidden_dim=24, initializer_range=0.3),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_is_as_related_as_itself(config: PretrainedConfig) -> None:
    model = build(config)
    batch = batch_of("padded")
    states = states_of(model, batch)
    same = RelationLoss(model, model)(model, model, states, states, batch, 18)
    assert abs(same.item()) < 1e-12
    other = RelationLoss(model, model, student_layer=1)(model, model, states, states, batch, 18)
    assert other.item() > 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relation_heads": 8}, "8 relation heads do not divide the student's width of 12"),
        ({"relation_heads": 0}, "0 relation heads do not divide"),
        ({"student_layer": 2}, "layer 2 of the student, which has layers 1 to 1"),
        ({"teacher_layer": 0}, "layer 0 of the teacher, which has layers 1 to 2"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, int], message: str) -> None:
    teacher, student = teacher_and_student()
    with pytest.raises(InputError, match=message):
        RelationLoss(student, teacher, **arguments)
