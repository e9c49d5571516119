"""`--hidden_size` and `--layers auto`: narrower students and chosen layers, through the command and by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import torch
import transformers
from distilfast import InputError, create_student
from distilfast.models.families import layers_of
from distilfast.models.load import load_model
from distilfast.models.narrow import dimensions_of
from distilfast.models.sentence import load_sentence_encoder, student_modules
from distilfast.prepare.columns import Columns
from distilfast.prepare.labelled import Part
from distilfast.prepare.table import read_rows
from distilfast.train import run as train
from distilfast.train.layer_choice import choose_by_loss
from distilfast.train.sample import of_rows, spread_numbers
from distilfast.train.student import layers_asked
from hypothesis import given
from hypothesis import strategies as st
from model_cases import CONFIGS, VOCAB, teacher_of
from tiny_rows import tokenizer
from tiny_sentence import encoder_folder, sentences
from train_command import flags, folder, refusal  # noqa: F401


def sample(batches: int = 4) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for _ in range(batches):
        mask = torch.ones(4, 9, dtype=torch.long)
        mask[1, 6:] = 0
        found.append({"input_ids": torch.randint(5, VOCAB, (4, 9), generator=generator), "attention_mask": mask})
    return found


@pytest.mark.parametrize("head", ["masked_lm", "classification", "tokens", "questions", "hidden_states"])
@pytest.mark.parametrize("family", CONFIGS)
def test_layers_that_do_nothing_are_the_ones_that_go(family: str, head: str) -> None:
    teacher = teacher_of(family, head)
    without_effect(teacher, [1, 3])
    choice = choose_by_loss(teacher, 2, sample(), mask_id=4 if head == "masked_lm" else None)
    assert choice.taken == choice.greedy == [0, 2]
    assert choice.even == [0, 3]
    assert choice.greedy_loss == pytest.approx(0, abs=1e-6)
    assert choice.even_loss > 1e-3
    assert not any(layer._forward_hooks for layer in layers_of(teacher))


def without_effect(teacher: Any, numbers: list[int]) -> None:
    """Layers that hand on what they get, to the last digit."""
    for number in numbers:
        layers_of(teacher)[number].forward = hand_on


def hand_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


def test_the_even_spread_stays_where_the_choice_is_no_better() -> None:
    """With as many layers as there are, both are the same; and the choice hangs on the seed alone."""
    teacher = teacher_of("bert", "hidden_states")
    choice = choose_by_loss(teacher, 4, sample())
    assert choice.taken == choice.even == choice.greedy
    assert choice.note().endswith("are taken")
    again, first = (choose_by_loss(teacher_of("bert"), 2, sample(), seed=7, mask_id=4) for _ in range(2))
    assert again == first
    assert first.taken == (first.greedy if first.greedy_loss < first.even_loss else first.even)
    with pytest.raises(InputError, match="2 batches of it are too few"):
        choose_by_loss(teacher, 2, sample(2))


@given(st.integers(1, 10_000))
def test_the_sample_is_spread_over_all_rows(count: int) -> None:
    numbers = spread_numbers(count)
    assert len(set(numbers)) == len(numbers) == min(count, 128)
    assert min(numbers) == 0
    assert max(numbers) >= count - 1 - count // 128


def test_a_sample_leaves_the_tokenizer_as_it_was() -> None:
    """It is saved beside the student, and must not cut or pad on its own."""
    rows = read_rows({"text": ["the film", "a longer one"] * 20})
    read_by = tokenizer()
    read_by.padding_side = "left"
    batches = of_rows(Part(rows, Columns("text", ("text",))), "classification", read_by)
    assert len(batches) == 3
    assert all(bool(batch["attention_mask"][:, 0].all()) for batch in batches)  # padded on the right
    assert (read_by.padding_side, read_by.backend_tokenizer.truncation) == ("left", None)
    assert read_by.backend_tokenizer.padding is None


def test_words_of_layers() -> None:
    assert layers_asked(None) == (None, False)
    assert layers_asked(["3"]) == (3, False)
    assert layers_asked([0, 2]) == ([0, 2], False)
    assert layers_asked(["auto"]) == (None, True)
    assert layers_asked(["auto", "3"]) == (3, True)
    for words in (["half"], ["auto", "1", "2"], ["1.5"]):
        with pytest.raises(InputError, match="--layers"):
            layers_asked(words)


def test_a_narrower_student_is_trained_from_the_command(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "student"
    asked = {"layers": ["auto", 1], "hidden_size": 8, "intermediate_size": 12, "alpha_hidden": 1}
    train.main(flags(folder, out, **asked))
    summary = json.loads((out / "train_summary.json").read_text())
    printed = capsys.readouterr().out
    assert "alpha_cos set to 0: the models are 8 and 16 wide" in printed
    assert any(note.startswith("layers (KL to the teacher") for note in summary["notes"])
    assert summary["alpha_cos"] == 0
    assert summary["last_log"]["loss_hidden"] > 0
    config = load_model(out).config
    assert (config.hidden_size, config.hidden_dim, config.num_attention_heads, config.n_layers) == (8, 12, 1, 1)
    with torch.no_grad():
        ids = torch.tensor([[2, 7, 8, 3]])
        plain = transformers.AutoModelForMaskedLM.from_pretrained(out)(input_ids=ids).logits
        assert torch.equal(plain, load_model(out)(input_ids=ids).logits)


def test_an_encoder_of_another_width_is_compared_by_a_projection(folder: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "student"
    train.main(flags(folder, out, head="hidden_states", hidden_size=8))
    summary = json.loads((out / "train_summary.json").read_text())
    assert (summary["alpha_cos"], summary["alpha_hidden"]) == (0, 1)
    assert any("alpha_hidden set to 1" in note for note in summary["notes"])


def test_what_cannot_be_is_refused_and_nothing_is_written(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "none"
    for changes, message in [
        ({"hidden_size": 17}, "hidden_size 17: the teacher has 16"),
        ({"hidden_size": 12, "num_attention_heads": 5}, "num_attention_heads 5: the teacher has 2"),
        (
            {"hidden_size": 8, "alpha_cos": 1},
            "--alpha_cos 1 compares the states of tokens, but the models are 8 and 16",
        ),
        ({"layers": "some"}, "it takes a number of layers, their numbers, or auto"),
        ({"student": folder / "teacher", "hidden_size": 8}, "is for a student that is cut out of its teacher"),
    ]:
        assert message in refusal(flags(folder, out, **changes), capsys)
        assert not out.exists()


def test_a_sentence_encoder_becomes_smaller_in_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fewer words first, by `trim`; then chosen layers and a narrower student, whose vectors stay as long."""
    encoder_folder(tmp_path / "whole", dense=12)
    text = tmp_path / "texts.txt"
    text.write_text("\n".join(sentences(80)).replace("river", "boat") + "\n", encoding="utf-8")
    df.trim_model(tmp_path / "whole", tmp_path / "trimmed", "100%", [text], characters="text")
    summary = df.distil(
        tmp_path / "trimmed",
        text,
        tmp_path / "small",
        layers="auto",
        hidden_size=16,
        intermediate_size=24,
        max_steps=3,
        batch_tokens=256,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    assert "alpha_cos set to 0: the models are 16 and 32 wide" in capsys.readouterr().out
    assert any(note.startswith("layers (1 - cos to the teacher") for note in summary["notes"])
    assert summary["alpha_hidden"] == 1
    whole, trimmed, small = (load_sentence_encoder(tmp_path / name) for name in ("whole", "trimmed", "small"))
    assert small.model.config.vocab_size == trimmed.model.config.vocab_size < whole.model.config.vocab_size
    assert (small.model.config.hidden_size, small.model.config.hidden_dim) == (16, 24)
    assert small.encode(["the boat"]).shape == (1, 12)
    # Untrained, the dense layer behind the pooling puts each dimension back where it was.
    student = create_student(trimmed.model, hidden_size=16)
    modules = student_modules(student, trimmed.modules)
    kept = dimensions_of(student)
    assert kept is not None
    states = torch.randn(1, 3, 16)
    placed = torch.zeros(1, 3, 32)
    placed[..., kept] = states
    mask = {"attention_mask": torch.ones(1, 3, dtype=torch.long)}
    torch.testing.assert_close(modules(states, mask), trimmed.modules(placed, mask))
