"""The student cut out of its teacher: sizes, layers, outputs, what it keeps, refusals."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from distilfast import InputError, create_student
from distilfast.models.attention import use_packed
from distilfast.models.families import layers_of
from distilfast.models.student import build_from_config, choose_layers, spread_layers
from hypothesis import given
from hypothesis import strategies as st
from model_cases import CONFIGS, HEADS, LABELS, inputs, outputs, spread, teacher_of
from torch import nn


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


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", CONFIGS)
def test_a_student_of_all_layers_equals_its_teacher(family: str, head: str) -> None:
    """For every head and family: token types, pooler and head are kept."""
    teacher = teacher_of(family, head)
    student = create_student(teacher, 4, student_type="same").eval()
    assert type(student) is type(teacher)
    given = inputs(teacher)
    expected, actual = outputs(teacher, given), outputs(student, given)
    assert expected.keys() == actual.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-12, atol=1e-12)
    for setting in ("id2label", "label2id", "problem_type", "num_labels"):
        assert getattr(student.config, setting) == getattr(teacher.config, setting)
    assert {name: value.shape for name, value in student.state_dict().items()} == {
        name: value.shape for name, value in teacher.state_dict().items()
    }


@pytest.mark.parametrize("head", ["masked_lm", "classification", "hidden_states"])
@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("layers", [[0, 2], [0, 1, 3]])
def test_a_student_of_a_teacher_whose_other_layers_do_nothing_gives_the_teachers_outputs(
    family: str, layers: list[int], head: str
) -> None:
    teacher = teacher_of(family, head)
    student = create_student(teacher, layers).eval()
    without_layers(teacher, layers)
    given = inputs(teacher)
    if type(student) is not type(teacher):  # DistilBERT has no token types
        given.pop("token_type_ids", None)
    expected, actual = outputs(teacher, given), outputs(student, given)
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_a_bert_becomes_a_distilbert_with_the_same_head(head: str) -> None:
    teacher = teacher_of("bert", head)
    student = create_student(teacher, 4, student_type="distilbert").eval()
    assert type(student).__name__ == type(teacher).__name__.replace("Bert", "DistilBert")
    if head in ("classification", "tokens"):
        assert student.config.id2label == LABELS
        assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    if head == "classification":  # of whose head only the output layer has a counterpart
        assert student.config.problem_type == "multi_label_classification"
        teacher, student = teacher.bert, student.distilbert
    given = inputs(student)
    expected, actual = outputs(teacher, given), outputs(student, given)
    for name in actual:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-12, atol=1e-12)


def test_a_distilbert_drops_out_where_its_teacher_did() -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
    shares = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.3, "classifier_dropout": 0.2}
    config = transformers.BertConfig(num_hidden_layers=2, **sizes, **shares)
    teacher = transformers.BertForSequenceClassification(config)
    student = create_student(teacher, 1, student_type="distilbert").config
    assert (student.dropout, student.attention_dropout, student.seq_classif_dropout) == (0.1, 0.3, 0.2)


def test_a_bert_is_a_distilbert_by_itself_only_where_that_is_as_published() -> None:
    kinds = {head: type(create_student(teacher_of("bert", head))).__name__ for head in HEADS}
    assert kinds == {
        "masked_lm": "DistilBertForMaskedLM",
        "classification": "BertForSequenceClassification",
        "tokens": "BertForTokenClassification",
        "questions": "BertForQuestionAnswering",
        "hidden_states": "DistilBertModel",
    }
    with pytest.raises(InputError, match="type 'roberta' cannot become a DistilBERT"):
        create_student(teacher_of("roberta"), student_type="distilbert")
    with pytest.raises(InputError, match="student_type 'tiny' is not known"):
        create_student(teacher_of("roberta"), student_type="tiny")  # type: ignore[arg-type]


def test_settings_of_each_layer_follow_the_layers_that_are_kept() -> None:
    config = CONFIGS["modernbert"]()
    config.num_hidden_layers = 7
    config.layer_types = ["full_attention" if layer % 3 == 0 else "sliding_attention" for layer in range(7)]
    config.global_attn_every_n_layers = 3
    teacher = spread(transformers.AutoModelForMaskedLM.from_config(config))
    student = create_student(teacher, [0, 2, 3, 5, 6])
    kept = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    assert student.config.layer_types == kept
    assert student.config.global_attn_every_n_layers == 2  # for versions that read this
    assert create_student(teacher, [0, 3, 6]).config.global_attn_every_n_layers == 1
    longformer = transformers.LongformerConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        attention_window=[4, 6, 8],
    )
    student = create_student(transformers.LongformerModel(longformer), [0, 2])
    assert student.config.attention_window == [4, 8]


@pytest.mark.parametrize("student_type", ["same", "distilbert"])
def test_a_decoder_of_its_own_stays_one_whatever_the_configuration_says(student_type: Any) -> None:
    """Files hold a decoder beside the word embeddings under a configuration that says, or means, tied."""
    teacher = teacher_of("bert")
    decoder = teacher.get_output_embeddings()
    decoder.weight = nn.Parameter(torch.randn_like(decoder.weight))
    assert teacher.config.tie_word_embeddings
    student = create_student(teacher, 4, student_type=student_type).eval()
    assert not student.config.tie_word_embeddings
    given = inputs(student)
    given.pop("token_type_ids", None)
    torch.testing.assert_close(outputs(student, given)["logits"], outputs(teacher, given)["logits"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_the_decoder_is_tied_where_the_teachers_is(tied: bool) -> None:
    config = CONFIGS["bert"]()
    config.tie_word_embeddings = tied
    teacher = transformers.BertForMaskedLM(config)
    student = create_student(teacher)
    words, decoder = student.get_input_embeddings().weight, student.get_output_embeddings().weight
    assert (words is decoder) == tied
    assert torch.equal(decoder, teacher.get_output_embeddings().weight)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_the_student_of_a_teacher_that_runs_packed_takes_padded_batches(family: str) -> None:
    teacher = teacher_of(family).float()
    given = inputs(create_student(teacher))
    use_packed(teacher)
    student = create_student(teacher)
    assert student.config._attn_implementation == "sdpa"
    outputs(student, given)


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
    given = inputs(student)
    with torch.no_grad():
        assert torch.equal(reloaded(**given).logits, student(**given).logits)
