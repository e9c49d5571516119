"""`python -m distilfast.train`: from text to a student that plain transformers loads; and one line for bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import torch
import transformers
from distilfast.prepare.run import prepare
from distilfast.train import run as train
from train_command import LETTERS, SIZES, SPECIALS, flags, folder, refusal

__all__ = ["folder"]  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")


def test_text_becomes_a_student(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "student"
    train.main(flags(folder, out))
    said = capsys.readouterr().out
    assert "teacher: BertForMaskedLM" in said
    assert f"the student is in {out}" in said
    student = transformers.AutoModelForMaskedLM.from_pretrained(out)
    assert type(student) is transformers.DistilBertForMaskedLM
    assert student.config.n_layers == 1
    assert (out / "model.safetensors").stat().st_mode == (out / "config.json").stat().st_mode
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert tokenizer("ab").input_ids == df.Tokenizer.from_file(folder / "vocab.txt").encode("ab")
    summary = json.loads((out / "train_summary.json").read_text())
    assert summary["steps"] == 4
    assert summary["teacher"] == str(folder / "teacher")
    assert [line["step"] for line in summary["log"]] == [2, 4]
    wanted = {"loss", "loss_ce", "loss_mlm", "loss_cos", "tokens_per_second", "padding"}
    assert wanted <= summary["last_log"].keys()
    assert not list(out.glob(".student*"))

    # Resumed from half way, the run ends in the same weights.
    first = student.state_dict()
    shutil.rmtree(out / "checkpoint-4")
    train.main([*flags(folder, out), "--resume_from_checkpoint", "last"])
    again = transformers.AutoModelForMaskedLM.from_pretrained(out).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_config_file_a_recipe_and_prepared_tokens(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "tokens", folder / "vocab.txt", [folder / "text.txt"], max_length=48)
    values = {"recipe": "distilbert", "tokens": str(tmp_path / "tokens"), "temperature": 3.0, "layers": [0, 1]}
    (tmp_path / "run.yaml").write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    given = flags(folder, tmp_path / "out", text=None, batches_per_step=2, max_steps=2, layout="packed")
    train.main([*given, "--config", str(tmp_path / "run.yaml")])
    summary = json.loads((tmp_path / "out" / "train_summary.json").read_text())
    # From the command line, from the file, from the recipe.
    assert (summary["batches_per_step"], summary["temperature"], summary["mlm_smoothing"]) == (2, 3.0, 0.7)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").n_layers == 2


def test_without_a_teacher_a_model_is_pretrained_from_its_configuration(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **SIZES}))
    changes = {"teacher": None, "student_config": tmp_path / "config.json", "tokenizer": folder / "vocab.txt"}
    train.main(flags(folder, tmp_path / "out", **changes))
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert type(model) is transformers.BertForMaskedLM
    assert model.config.vocab_size == len(SPECIALS + LETTERS)
    summary = json.loads((tmp_path / "out" / "train_summary.json").read_text())
    assert (summary["alpha_ce"], summary["alpha_mlm"], summary["alpha_cos"]) == (0.0, 1.0, 0.0)


def test_every_way_to_distil_at_once(folder: Path, tmp_path: Path) -> None:
    teachers = [folder / "teacher", folder / "teacher"]
    changes = {"teacher_weights": [2, 1], "alpha_hidden": 1, "alpha_rel": 1, "kl_positions": "sampled"}
    train.main(flags(folder, tmp_path / "out", teacher=teachers, hidden_map="1:2", max_steps=2, **changes))
    summary = json.loads((tmp_path / "out" / "train_summary.json").read_text())
    assert {"loss_hidden", "loss_rel", "loss_ce"} <= summary["last_log"].keys()


def test_packed_and_padded_train_the_same_student(folder: Path, tmp_path: Path) -> None:
    """Steps of the whole text, no word of it masked: the same losses, so that no text sees another."""
    lines = (folder / "text.txt").read_text().splitlines()
    (tmp_path / "few.txt").write_text("\n".join(lines[:12]) + "\n")
    unmasked = {"word_mask": 0, "word_keep": 1, "word_rand": 0, "alpha_mlm": 0, "dropout": False}
    found = []
    for layout in ("padded", "packed"):
        changes = {"text": tmp_path / "few.txt", "batches_per_step": 16, "logging_steps": 1, "precision": "fp32"}
        train.main(flags(folder, tmp_path / layout, layout=layout, max_steps=2, **changes, **unmasked))
        summary = json.loads((tmp_path / layout / "train_summary.json").read_text())
        found.append([line["loss"] for line in summary["log"]])
    assert len(found[0]) == 2
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def bare_teacher(folder: Path, tmp: Path) -> Path:
    """The teacher without its tokenizer."""
    ignored = shutil.ignore_patterns("tokenizer*", "vocab*")
    return Path(shutil.copytree(folder / "teacher", tmp / "bare", ignore=ignored))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda folder, tmp: {"output_dir": folder}, "would be lost"),
        (lambda folder, tmp: {"output_dir": Path(__file__).parent}, "holds something already"),
        (lambda folder, tmp: {"output_dir": None}, "--output_dir is needed"),
        (lambda folder, tmp: {"text": None}, "either raw with --text or prepared with --tokens"),
        (lambda folder, tmp: {"teacher": None}, "give --teacher to distil, or --student_config"),
        (lambda folder, tmp: {"teacher": tmp / "none"}, "none"),
        (lambda folder, tmp: {"text": tmp / "none.txt"}, "none.txt"),
        (lambda folder, tmp: {"teacher": bare_teacher(folder, tmp)}, "text needs a tokenizer: give --tokenizer"),
        (lambda folder, tmp: {"layers": 3}, "a student of 3 layers cannot be cut out of a teacher of 2"),
        (lambda folder, tmp: {"layers": [0, 5]}, "layer number 5 is out of range"),
        (lambda folder, tmp: {"recipe": "tinybert"}, "there is no such recipe"),
        (lambda folder, tmp: {"batches_per_step": 0}, "--batches_per_step 0"),
        (lambda folder, tmp: {"hidden_map": "1-2", "alpha_hidden": 1}, "the layer map '1-2'"),
        (lambda folder, tmp: {"word_mask": 0.9}, "add up to 1.1"),
        (lambda folder, tmp: {"resume_from_checkpoint": "last"}, "holds no checkpoint that is whole"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path, Path], dict[str, Any]],
    part: str,
) -> None:
    argv = flags(folder, **{"output_dir": tmp_path / "out", **change(folder, tmp_path)})
    assert part in refusal(argv, capsys)


def test_vocabularies_that_differ_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.txt").write_text("\n".join(SPECIALS + LETTERS[::-1]) + "\n")
    (tmp_path / "more.txt").write_text("\n".join(SPECIALS + LETTERS + [f"w{n}" for n in range(200)]) + "\n")
    prepare(tmp_path / "tokens", tmp_path / "other.txt", [folder / "text.txt"], max_length=48)
    argv = flags(folder, tmp_path / "out", text=None, tokens=tmp_path / "tokens")
    assert "prepared with another vocabulary" in refusal(argv, capsys)
    argv = flags(folder, tmp_path / "out", tokenizer=tmp_path / "more.txt")
    assert "has a vocabulary of 59 entries, but the tokens come from a tokenizer of 259" in refusal(argv, capsys)
    (tmp_path / "bad.yaml").write_text("temperatur: 2\n")
    argv = [*flags(folder, tmp_path / "out"), "--config", str(tmp_path / "bad.yaml")]
    assert "did you mean 'temperature'" in refusal(argv, capsys)
