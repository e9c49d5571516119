"""The loader: the head that a checkpoint holds, and one line for everything that is missing, else or broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import transformers
from distilfast import InputError
from distilfast.models.head import head_of
from distilfast.models.load import load_model, load_student, load_teacher
from model_cases import CONFIGS, HEADS, config_of, inputs, outputs


def save(folder: Path, family: str, head: str, seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    model = HEADS[head].from_config(config_of(family, head))
    model.save_pretrained(folder, **options)
    return model.eval()


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def same(model: Any, other: Any) -> None:
    expected, found = outputs(other, inputs(other)), outputs(model, inputs(other))
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_teacher_is_what_its_checkpoint_holds_frozen_and_in_float32(family: str, head: str, tmp_path: Path) -> None:
    saved = save(tmp_path, family, head)
    teacher = load_teacher(tmp_path)
    assert type(teacher) is type(saved)
    assert head_of(teacher) == head
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    same(teacher, saved)
    assert load_teacher(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_checkpoint_in_bfloat16_is_trained_in_float32(tmp_path: Path) -> None:
    HEADS["classification"].from_config(config_of("bert", "classification")).to(torch.bfloat16).save_pretrained(
        tmp_path
    )
    assert load_model(tmp_path).dtype == load_student(tmp_path).dtype == torch.float32
    assert load_model(tmp_path, dtype="auto").dtype == torch.bfloat16


@pytest.mark.parametrize("wanted", ["classification", "tokens", "questions", "masked_lm", "mlm"])
@pytest.mark.parametrize("holds", HEADS)
def test_no_teacher_gets_a_random_head(holds: str, wanted: str, tmp_path: Path) -> None:
    save(tmp_path, "bert", holds)
    if holds == {"mlm": "masked_lm"}.get(wanted, wanted):
        assert head_of(load_teacher(tmp_path, head=wanted)) == holds
        return
    with pytest.raises(
        InputError, match=r"is a Bert\w+, which has (no head|the head \w+); \w+ needs a model fine-tuned"
    ):
        load_teacher(tmp_path, head=wanted)


def test_the_encoder_of_any_model_can_be_had(tmp_path: Path) -> None:
    for head in HEADS:
        saved = save(tmp_path / head, "bert", head)
        teacher = load_teacher(tmp_path / head, head="encoder")
        assert type(teacher) is transformers.BertModel
        given = inputs(saved)
        found, expected = outputs(teacher, given), outputs(saved.base_model, given)
        torch.testing.assert_close(found["last_hidden_state"], expected["last_hidden_state"], rtol=0, atol=0)
        # A pooler that is not in the file is none, not one of random weights.
        assert ("pooler_output" in found) == ("pooler_output" in expected)


def test_a_student_may_get_a_new_head_with_the_teachers_classes_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = save(tmp_path / "teacher", "bert", "classification")
    encoder = save(tmp_path / "student", "roberta", "masked_lm", seed=1)
    student = load_student(tmp_path / "student", head="classification", like=teacher, seed=3)
    assert type(student) is transformers.RobertaForSequenceClassification
    assert student.training
    assert student.config.id2label == teacher.config.id2label
    assert student.config.problem_type == "multi_label_classification"
    assert "gets a new classification head" in caplog.text
    for name, value in encoder.roberta.state_dict().items():
        torch.testing.assert_close(student.roberta.state_dict()[name], value, rtol=0, atol=0)
    again = load_student(tmp_path / "student", head="classification", like=teacher, seed=3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("family", "head"), [("bert", "classification"), ("roberta", "classification"), ("bert", "tokens")]
)
def test_the_outputs_of_a_students_head_stand_as_its_teachers(
    tmp_path: Path, family: str, head: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They were called by the teacher's names in the order in which they stood: the student said other classes."""
    model = save(tmp_path, family, head)
    names = ["a", "b", "c"]
    change_config(tmp_path, id2label=dict(enumerate(names)), label2id={name: n for n, name in enumerate(names)})
    given = inputs(model)
    expected = outputs(model, given)["logits"]
    teacher = save(tmp_path / "teacher", family, head, seed=1)
    for wanted, words in (
        (["c", "a", "b"], "put into that order"),
        (["C", "A", "B"], "put into that order"),
        (["x", "y", "z"], "drawn anew"),
        (names, ""),
    ):
        teacher.config.id2label = dict(enumerate(wanted))
        teacher.config.label2id = {name: n for n, name in enumerate(wanted)}
        caplog.clear()
        student = load_student(tmp_path, head=head, like=teacher).eval()
        found = outputs(student, given)["logits"]
        assert words in caplog.text
        assert bool(words) == bool(caplog.text)
        assert student.config.id2label == teacher.config.id2label
        if "x" not in wanted:
            order = [names.index(name.lower()) for name in wanted]
            torch.testing.assert_close(found, expected[..., order], rtol=1e-5, atol=1e-6)
        else:
            assert (found - expected).abs().max() > 1e-3


def test_a_head_of_other_classes_is_drawn_anew_for_a_student_and_refused_for_a_teacher(tmp_path: Path) -> None:
    teacher = save(tmp_path, "bert", "classification")
    teacher.config.id2label, teacher.config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    assert load_student(tmp_path, head="classification", like=teacher).classifier.out_features == 2
    change_config(tmp_path, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(InputError, match=r"the first classifier.\w+ with \(3,( 32)?\) for \(2,( 32)?\)"):
        load_teacher(tmp_path)


@pytest.mark.parametrize("architectures", [["MyOwnModel"], None])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra"])
def test_weights_tell_the_head_where_the_class_says_nothing(family: str, architectures: Any, tmp_path: Path) -> None:
    for head in ("masked_lm", "questions", "hidden_states"):
        saved = save(tmp_path / head, family, head)
        change_config(tmp_path / head, architectures=architectures)
        same(load_teacher(tmp_path / head), saved)
    save(tmp_path / "classes", family, "tokens")
    change_config(tmp_path / "classes", architectures=architectures)
    with pytest.raises(InputError, match="pass --head classification or --head tokens"):
        load_teacher(tmp_path / "classes")
    assert head_of(load_teacher(tmp_path / "classes", head="tokens")) == "tokens"


def test_shards_are_read_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    saved = save(tmp_path, "bert", "masked_lm", max_shard_size="40KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    same(load_teacher(tmp_path), saved)
    change_config(tmp_path, architectures=None)
    same(load_teacher(tmp_path), saved)
    shards[0].unlink()
    with pytest.raises(InputError, match="does not load as a model"):
        load_teacher(tmp_path)


def test_a_discriminator_and_a_multiple_choice_model_are_what_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    transformers.ElectraForPreTraining(CONFIGS["electra"]()).save_pretrained(tmp_path / "discriminator")
    assert type(load_teacher(tmp_path / "discriminator")) is transformers.ElectraModel
    assert "its encoder alone is taken" in caplog.text
    transformers.BertForMultipleChoice(CONFIGS["bert"]()).save_pretrained(tmp_path / "choice")
    with pytest.raises(InputError, match="BertForMultipleChoice has a head that cannot be distilled"):
        load_teacher(tmp_path / "choice")
    assert type(load_teacher(tmp_path / "choice", head="hidden_states")) is transformers.BertModel


@pytest.mark.parametrize("path", ["", "0_Transformer"])
def test_a_folder_of_sentence_transformers_gives_its_encoder(path: str, tmp_path: Path) -> None:
    saved = save(tmp_path / path, "bert", "hidden_states")
    kind = "sentence_transformers.models."
    modules = [{"type": f"{kind}Transformer", "path": path}, {"type": f"{kind}Pooling", "path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    same(load_teacher(tmp_path), saved)
    same(load_teacher(tmp_path, head="embedding"), saved)
    (tmp_path / "modules.json").write_text("{}")
    with pytest.raises(InputError, match=r"modules\.json is no list of modules"):
        load_teacher(tmp_path)


def broken(folder: Path) -> dict[str, Any]:
    """Ways to spoil a saved masked-language model, and what is said."""

    def weights(change: Any) -> None:
        state = safetensors.torch.load_file(folder / "model.safetensors")
        change(state)
        safetensors.torch.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    def nan(state: dict[str, torch.Tensor]) -> None:
        state["bert.embeddings.LayerNorm.weight"][3] = torch.nan

    def pickle() -> None:
        torch.save(safetensors.torch.load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()

    def cut_short() -> None:
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])

    return {
        "bert.embeddings.LayerNorm.weight holds numbers that are not finite": lambda: weights(nan),
        # A fall back on the encoder is for a head that is not there, not for a layer.
        "lacks 2 weights of BertForMaskedLM": lambda: weights(
            lambda state: [state.pop(f"bert.encoder.layer.2.output.dense.{part}") for part in ("weight", "bias")]
        ),
        "do not have the shapes of its config.json": lambda: change_config(folder, intermediate_size=40),
        "in pytorch_model.bin, a pickle, and only safetensors are read: convert it once": pickle,
        "does not load as a model": cut_short,
        "holds no model: there is no config.json": lambda: (folder / "config.json").unlink(),
        "type 'albert' cannot be distilled: all its layers share one set": lambda: transformers.AlbertModel(
            transformers.AlbertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, intermediate_size=8)
        ).save_pretrained(folder),
        "type 'bert' cannot be distilled: it is a decoder": lambda: change_config(folder, is_decoder=True),
        "head 'poetry' is not known; it is auto, masked_lm": None,
    }


@pytest.mark.parametrize("message", broken(Path()))
def test_what_is_broken_is_refused_in_one_line(message: str, tmp_path: Path) -> None:
    save(tmp_path, "bert", "masked_lm")
    spoil = broken(tmp_path)[message]
    if spoil is not None:
        spoil()
    with pytest.raises(InputError) as caught:
        load_teacher(tmp_path, head="auto" if spoil is not None else "poetry")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_masked_model_whose_head_is_not_in_the_file_can_be_had_without(tmp_path: Path) -> None:
    save(tmp_path, "bert", "hidden_states")
    change_config(tmp_path, architectures=["BertForMaskedLM"])
    assert type(load_teacher(tmp_path)) is transformers.BertModel
    with pytest.raises(InputError, match=r"lacks \d weights of BertForMaskedLM.* \(--head hidden_states\)"):
        load_teacher(tmp_path, head="masked_lm")


def test_how_a_file_wants_to_be_run_is_switched_off(tmp_path: Path) -> None:
    saved = save(tmp_path, "bert", "classification")
    change_config(tmp_path, return_dict=False, output_hidden_states=True, output_attentions=True)
    change_config(tmp_path, chunk_size_feed_forward=2)  # as many tokens of a layer at once, and no odd number of them
    same(load_teacher(tmp_path), saved)
    config = load_model(tmp_path).config
    assert (config.return_dict, config.output_hidden_states, config.output_attentions) == (True, False, False)
    assert load_model(tmp_path)(input_ids=torch.tensor([[1, 2, 3]])).logits.shape[0] == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nothing", "there is no such directory"),
        ("~/nothing-is-here", "there is no such directory"),
        ("some/where/else", "there is no such directory"),
        (Path("relative"), "there is no such directory"),
        (__file__, "is a file; give the directory of a model"),
    ],
)
def test_a_path_is_a_path(name: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_teacher(name)
