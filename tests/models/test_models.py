"""The student cut out of the teacher, and the teacher loaded: sizes, layers, outputs, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from distilfast import InputError, create_student
from distilfast.models.families import encoder_of, layers_of, mlm_decoder, mlm_transform
from distilfast.models.student import build_from_config, choose_layers, load_teacher, spread_layers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

SMALL: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "pad_token_id": 0,
}
CONFIGS = {
    "bert": lambda: transformers.BertConfig(**SMALL),
    "roberta": lambda: transformers.RobertaConfig(**{**SMALL, "pad_token_id": 1}),
    "electra": lambda: transformers.ElectraConfig(**SMALL, embedding_size=16),
    "modernbert": lambda: transformers.ModernBertConfig(
        **SMALL, local_attention=4, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3
    ),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=99, dim=32, n_layers=4, n_heads=4, hidden_dim=48, max_position_embeddings=40
    ),
}


def teacher_of(family: str, auto: Any = transformers.AutoModelForMaskedLM) -> Any:
    """A small teacher with weights far enough from zero for mistakes to show."""
    torch.manual_seed(1)
    teacher = auto.from_config(CONFIGS[family]()).double().eval()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return teacher


def ids() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    attention_mask = torch.ones(3, 11, dtype=torch.long)
    attention_mask[1, 7:] = 0
    return {"input_ids": torch.randint(5, 99, (3, 11), generator=generator), "attention_mask": attention_mask}


class Identity(nn.Module):
    """A layer that hands on what it gets."""

    attention_type = "full_attention"

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return hidden_states


def without_layers(teacher: Any, kept: list[int]) -> None:
    layers = layers_of(teacher)
    for number in range(len(layers)):
        if number not in kept:
            identity = Identity()
            identity.attention_type = getattr(layers[number], "attention_type", "full_attention")
            layers[number] = identity


def test_a_bert_base_teacher_gives_the_published_sizes() -> None:
    with torch.device("meta"):
        teacher = transformers.BertForMaskedLM(transformers.BertConfig())
        encoder = transformers.BertModel(transformers.BertConfig())
    student = create_student(teacher)
    assert isinstance(student, transformers.DistilBertForMaskedLM)
    assert student.num_parameters() == 66_985_530
    assert student.distilbert.num_parameters() == 66_362_880
    assert create_student(encoder).num_parameters() == 66_362_880


def test_the_published_layers_are_the_default_for_twelve() -> None:
    assert choose_layers(12) == [0, 2, 4, 7, 9, 11]
    assert choose_layers(12, 3) == [0, 6, 11]
    assert choose_layers(1) == [0]


@given(st.integers(1, 60).flatmap(lambda teacher: st.tuples(st.just(teacher), st.integers(1, teacher))))
def test_spread_layers_rise_from_first_to_last_in_even_steps(sizes: tuple[int, int]) -> None:
    teacher, student = sizes
    layers = spread_layers(teacher, student)
    assert len(layers) == student
    assert layers[0] == 0
    if student > 1:
        assert layers[-1] == teacher - 1
        steps = [later - earlier for earlier, later in itertools.pairwise(layers)]
        assert min(steps) >= 1
        assert max(steps) - min(steps) <= 1


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("layers", [[0, 2], [0, 1, 3]])
def test_a_student_of_a_teacher_whose_other_layers_do_nothing_gives_the_teachers_outputs(
    family: str, layers: list[int]
) -> None:
    teacher = teacher_of(family)
    student = create_student(teacher, layers).eval()
    without_layers(teacher, layers)
    with torch.no_grad():
        expected, actual = teacher(**ids()).logits, student(**ids()).logits
    kept = ids()["attention_mask"].bool()
    torch.testing.assert_close(actual[kept], expected[kept], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", CONFIGS)
def test_an_encoder_without_a_head_gives_an_encoder(family: str) -> None:
    teacher = teacher_of(family, transformers.AutoModel)
    student = create_student(teacher, [0, 2]).eval()
    assert isinstance(student, transformers.DistilBertModel if family == "bert" else type(teacher))
    assert not any("pooler" in name for name, _ in student.named_parameters())
    without_layers(teacher, [0, 2])
    kept = ids()["attention_mask"].bool()
    with torch.no_grad():
        expected, actual = teacher(**ids()).last_hidden_state, student(**ids()).last_hidden_state
    torch.testing.assert_close(actual[kept], expected[kept], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("family", CONFIGS)
def test_the_two_halves_of_the_head_make_the_logits(family: str) -> None:
    teacher = teacher_of(family)
    with torch.no_grad():
        hidden = encoder_of(teacher)(**ids()).last_hidden_state
        logits = mlm_decoder(teacher)(mlm_transform(teacher, hidden))
        torch.testing.assert_close(logits, teacher(**ids()).logits, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_is_tied_where_the_teachers_is(tied: bool) -> None:
    config = CONFIGS["bert"]()
    config.tie_word_embeddings = tied
    teacher = transformers.BertForMaskedLM(config)
    student = create_student(teacher)
    words, decoder = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    assert (words is decoder) == tied
    assert torch.equal(decoder, teacher.get_output_embeddings().weight)


def test_a_classifier_gives_a_classifier_with_its_labels() -> None:
    config = CONFIGS["bert"]()
    config.num_labels = 3
    teacher = transformers.BertForSequenceClassification(config)
    student = create_student(teacher)
    assert isinstance(student, transformers.DistilBertForSequenceClassification)
    assert student.config.num_labels == 3
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)


def test_random_initialisation_has_the_same_shapes_and_depends_on_the_seed_alone() -> None:
    teacher = teacher_of("bert")
    before = torch.random.get_rng_state()
    first = create_student(teacher, init="random", seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    again = create_student(teacher, init="random", seed=3).state_dict()
    other = create_student(teacher, init="random", seed=4).state_dict()
    cut = create_student(teacher).state_dict()
    assert {name: tensor.shape for name, tensor in first.items()} == {name: t.shape for name, t in cut.items()}
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "distilbert.transformer.layer.0.attention.q_lin.weight"
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], cut[name])


def test_the_student_shares_no_memory_with_the_teacher() -> None:
    teacher = transformers.BertForMaskedLM(CONFIGS["bert"]())
    student = create_student(teacher)
    assert not {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in student.parameters()}
    assert student.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in student.parameters())


@pytest.mark.parametrize(
    ("layers", "part"),
    [
        (5, "a student of 5 layers cannot be cut out of a teacher of 4"),
        (0, "ask for 1 to 4 layers"),
        ([0, 4], "layer number 4 is out of range"),
        ([-1, 2], "layer number -1 is out of range"),
        ([0, 1, 2, 3, 3], "cannot be deeper"),
        ([2, 1], "must rise"),
        ([], "no layer numbers"),
    ],
)
def test_layers_that_the_teacher_does_not_have_are_refused(layers: Any, part: str) -> None:
    with pytest.raises(InputError, match=part):
        create_student(teacher_of("bert"), layers)


def test_unsupported_choices_are_refused() -> None:
    with pytest.raises(InputError, match="init 'zeros' is not known"):
        create_student(teacher_of("bert"), init="zeros")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="first layer must be 0"):
        create_student(teacher_of("modernbert"), [1, 2])
    gpt = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=9))
    with pytest.raises(InputError, match="type 'gpt2' cannot be distilled"):
        create_student(gpt)
    with pytest.raises(InputError, match="type 'gpt2' cannot be distilled"):
        build_from_config(gpt.config)


def test_a_student_reloads_with_plain_transformers(tmp_path: Path) -> None:
    student = create_student(teacher_of("bert").float()).eval()
    student.save_pretrained(tmp_path)
    reloaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(reloaded(**ids()).logits, student(**ids()).logits)


def test_load_teacher_takes_what_the_checkpoint_holds_and_freezes_it(tmp_path: Path) -> None:
    for auto, name, expected in (
        (transformers.AutoModelForMaskedLM, "mlm", transformers.BertForMaskedLM),
        (transformers.AutoModel, "encoder", transformers.BertModel),
        (transformers.AutoModelForSequenceClassification, "classifier", transformers.BertForSequenceClassification),
    ):
        auto.from_config(CONFIGS["bert"]()).save_pretrained(tmp_path / name)
        teacher = load_teacher(tmp_path / name)
        assert type(teacher) is expected
        assert not teacher.training
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(InputError, match="the checkpoint lacks"):
        load_teacher(tmp_path / "encoder", head="mlm")


def test_load_teacher_falls_back_on_the_encoder_of_a_discriminator(tmp_path: Path) -> None:
    transformers.ElectraForPreTraining(CONFIGS["electra"]()).save_pretrained(tmp_path)
    assert type(load_teacher(tmp_path)) is transformers.ElectraModel


def test_load_teacher_refuses_what_is_not_a_safetensors_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such directory"):
        load_teacher(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a model that can be loaded"):
        load_teacher(tmp_path / "empty")
    pickled = tmp_path / "pickled"
    model = transformers.BertForMaskedLM(CONFIGS["bert"]())
    model.config.save_pretrained(pickled)
    torch.save(model.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_teacher(pickled)
