"""`adapt` changes what it says in the models it is given, and nothing else; twice is once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from distilfast import InputError
from distilfast.batches.tensors import padded_batch
from distilfast.models import adapt, encode, model_input_names
from distilfast.models.attention import PACKED, pack
from distilfast.models.last_layer import stops_early
from distilfast.models.student import create_student


def teacher_of(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.BertForMaskedLM(
        transformers.BertConfig(
            vocab_size=53,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=40,
        )
    )


SEQUENCES = [torch.arange(5, 14), torch.arange(20, 24)]


def test_teachers_are_frozen_and_moved_and_the_student_trains_on() -> None:
    teachers = [teacher_of(0).train(), teacher_of(1).train()]
    student = create_student(teachers[0], 1)
    adapt(student, teachers, dtype=torch.bfloat16)
    for teacher in teachers:
        assert not teacher.training
        assert teacher.dtype == torch.bfloat16
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert not stops_early(teacher)
    assert student.training
    assert student.dtype == torch.float32
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.config._attn_implementation != PACKED


def test_without_dropout_the_student_trains_as_it_is_evaluated_and_its_configuration_keeps_dropout() -> None:
    student = create_student(teacher_of(), 1)
    batch = padded_batch(SEQUENCES, 0)
    adapt(student, dropout=False)
    torch.testing.assert_close(encode(student, batch).picked, encode(student.eval(), batch).picked, rtol=0, atol=0)
    assert student.config.dropout == pytest.approx(0.1)


def test_packed_models_take_packed_batches_and_may_stop_early() -> None:
    teacher = teacher_of()
    student = create_student(teacher, 1).eval()
    positions = torch.tensor([0, 3, 11])
    padded = [encode(model, padded_batch(SEQUENCES, 0)).picked.view(2, 9, 32) for model in (teacher.eval(), student)]
    for _ in range(2):
        adapt(student, [teacher], layout="packed", stops_early=True)
    for model, states in zip((teacher, student), padded, strict=True):
        assert stops_early(model)
        found = encode(model, pack(SEQUENCES, 0), positions, every=False)
        assert found.every is None
        expected = torch.stack([states[0, 0], states[0, 3], states[1, 2]])
        torch.testing.assert_close(found.picked, expected, rtol=1e-5, atol=1e-5)


def test_a_head_that_no_loss_reads_is_frozen() -> None:
    student = create_student(teacher_of(), 1)
    adapt(student, trains_head=False)
    trained = {name.partition(".")[0] for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert trained == {"distilbert"}


def test_a_student_that_is_its_own_teacher_is_refused() -> None:
    teacher = teacher_of()
    with pytest.raises(InputError, match="one and the same model"):
        adapt(teacher, teacher)
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_an_answer_as_a_tuple_is_understood() -> None:
    teacher = teacher_of().eval()
    expected = encode(teacher, padded_batch(SEQUENCES, 0), layers=True)
    teacher.config.return_dict = False
    found = encode(teacher, padded_batch(SEQUENCES, 0), layers=True)
    torch.testing.assert_close(found.picked, expected.picked, rtol=0, atol=0)
    assert found.layers is not None
    assert len(found.layers) == 3


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.BertConfig(), ["input_ids", "token_type_ids", "attention_mask"]),
        (transformers.DistilBertConfig(), ["input_ids", "attention_mask"]),
        (transformers.RobertaConfig(type_vocab_size=1), ["input_ids", "attention_mask"]),
        (transformers.ModernBertConfig(), ["input_ids", "attention_mask"]),
        (transformers.ElectraConfig(), ["input_ids", "token_type_ids", "attention_mask"]),
    ],
)
def test_token_types_are_asked_for_where_the_model_tells_them_apart(config: Any, expected: list[str]) -> None:
    with torch.device("meta"):
        assert model_input_names(transformers.AutoModel.from_config(config)) == expected
