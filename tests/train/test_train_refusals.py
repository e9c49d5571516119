"""What `python -m distilfast.train` cannot do it says in one line, with exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers
from distilfast.train import run as train
from train_command import flags, folder, refusal

__all__ = ["folder"]  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"alpha_ce": "nan"}, "--alpha_ce nan: must be finite"),
        ({"alpha_hidden": "inf"}, "--alpha_hidden inf: must be finite"),
        ({"alpha_mlm": -1}, "--alpha_mlm -1: must not be below 0"),
        ({"alpha_ce": 0, "alpha_mlm": 0, "alpha_cos": 0}, "every alpha is 0"),
        ({"temperature": "inf"}, "--temperature inf: must be finite"),
        ({"temperature": -1}, "--temperature -1: must be greater than 0"),
        ({"learning_rate": "inf"}, "--learning_rate inf: must be finite"),
        ({"weight_decay": "nan"}, "--weight_decay nan: must be finite"),
        ({"max_grad_norm": "nan"}, "--max_grad_norm nan: must be finite"),
        ({"warmup_steps": "nan"}, "--warmup_steps nan: must be finite"),
        ({"adam_beta1": 2}, "--adam_beta1 2: must be at least 0 and below 1"),
        ({"kl_positions": "sampled", "kl_sample_share": 2}, "--kl_sample_share 2: must be above 0 and at most 1"),
        ({"max_steps": 0}, "there would be no step to take"),
        ({"max_steps": -1, "num_train_epochs": 0}, "there would be no step to take"),
        ({"logging_steps": 0}, "requires non-zero --logging_steps"),
        ({"save_steps": 0}, "--save_steps 0: must be above 0"),
        ({"eval_strategy": "steps"}, "--eval_strategy and --eval_on_start need held-out text: give --validation_text"),
        ({"load_best_model_at_end": True}, "--load_best_model_at_end needs evaluations"),
        ({"early_stopping_patience": 2}, "--early_stopping_patience needs evaluations"),
        ({"head": "ner"}, "head 'ner' is not known"),
        ({"alpha_task": 3}, "--alpha_task is not for the head masked_lm: it is for labels; use --alpha_mlm"),
        ({"per_device_train_batch_size": 4}, "--per_device_train_batch_size is not for the head masked_lm"),
        ({"report_to": "nothing_such"}, "nothing_such is not supported"),
        ({"mlm_mask_prop": "nan"}, "--mlm_mask_prop nan: must be finite"),
        ({"mlm_mask_prop": 2}, "Masking: prob=2.0 is not a share"),
        ({"resume_from_checkpoint": "last"}, "cannot resume"),
        ({"layers": [0, 7]}, "layer number 7 is out of range"),
        ({"teacher_weights": [1, 2]}, "for 1 teachers"),
        ({"batch_tokens": 16}, "more than batch_tokens=16"),
        ({"torch_compile_mode": "fastest"}, "--torch_compile_mode 'fastest' is none of default, "),
        ({"torch_compile_backend": "missing"}, "--torch_compile_backend 'missing' is none of "),
        ({"fp16_full_eval": True}, "--fp16_full_eval is not supported: evaluation computes as training does"),
        (
            {"gradient_checkpointing_kwargs": '{"use_reentrant": true}'},
            "--gradient_checkpointing_kwargs is not supported",
        ),
        ({"label_names": "gold"}, "--label_names is not supported"),
        ({"relation_heads": 5, "alpha_rel": 1}, "5 relation heads do not divide"),
    ],
)
def test_a_value_that_cannot_be_trained_with(
    folder: Path, tmp_path: Path, change: dict[str, Any], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert part in refusal(flags(folder, tmp_path / "out", **change), capsys)
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_not_there_or_not_whole(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(teacher: Path) -> str:
        return refusal(flags(folder, tmp_path / "out", teacher=teacher), capsys)

    assert f"--teacher {tmp_path / 'none'}: there is no such directory" in said(tmp_path / "none")
    assert "vocab.txt: is a file" in said(folder / "vocab.txt")
    torn = tmp_path / "torn"
    transformers.AutoModelForMaskedLM.from_pretrained(folder / "teacher").save_pretrained(torn)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (torn / name).write_bytes((folder / "teacher" / name).read_bytes())
    weights = torn / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "does not load as a model from safetensors" in said(torn)
    assert not (tmp_path / "out").exists()


def test_rows_longer_than_a_models_positions(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.txt").write_text("abcdefghij klmnopqrst uvwxyz " * 20 + "\n")
    argv = flags(folder, tmp_path / "out", text=tmp_path / "long.txt", max_length=100, batch_tokens=200)
    line = refusal(argv, capsys)
    assert "the longest row has 100 tokens, but BertForMaskedLM has positions for 64" in line
    assert not (tmp_path / "out").exists()


def test_what_was_in_the_output_directory_stays(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    refusal([*flags(folder, out, layers=9), "--overwrite"], capsys)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_an_output_directory_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(flags(folder, tmp_path / "file" / "out"), capsys)
    if Path("/proc/self").exists():
        assert "no folder can be made in /proc (" in refusal(flags(folder, Path("/proc/out")), capsys)

    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr(os, "access", lambda path, mode: False if Path(path) == tmp_path else os.path.exists(path))
    assert f"{tmp_path} cannot be written to" in refusal(flags(folder, tmp_path / "out"), capsys)


def test_a_teacher_that_is_nowhere(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("teacher", "student"):
        said = refusal(flags(folder, tmp_path / "out", **{flag: "nothere"}), capsys)
        assert "error: nothere: there is no such folder, and no model of that id can be had from the Hub" in said


def test_what_is_to_be_replaced_stays_until_the_run_begins(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "out" / "checkpoint-2" / "of an earlier run"
    pooling = tmp_path / "out" / "1_Pooling" / "config.json"
    for path in (old, pooling.parent):
        path.mkdir(parents=True)
    # With these beside it, the new student would be taken for a sentence encoder, and its tokenizer for another.
    others = [pooling, *(tmp_path / "out" / name for name in ("modules.json", "added_tokens.json", "evaluate.md"))]
    for path in others:
        path.write_text("[]")
    refusal([*flags(folder, tmp_path / "out", layers=[0, 7]), "--overwrite"], capsys)
    assert old.is_dir()
    assert all(path.is_file() for path in others)
    train.main([*flags(folder, tmp_path / "out"), "--overwrite"])
    assert not any(path.exists() for path in (old, *others, pooling.parent))
    assert (tmp_path / "out" / "tokens").is_dir()


def test_a_resume_with_another_text(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    train.main(flags(folder, out, max_steps=2))
    (tmp_path / "other.txt").write_text((folder / "text.txt").read_text())
    resume = ["--resume_from_checkpoint", "last"]
    said = refusal([*flags(folder, out, max_steps=2, text=tmp_path / "other.txt"), *resume], capsys)
    assert f"--text was {folder / 'text.txt'} and is {tmp_path / 'other.txt'}" in said
    train.main([*flags(folder, out, max_steps=2), *resume])


@pytest.mark.parametrize("where", ["teacher", "teacher/..", "text.txt/..", "here"])
def test_nothing_that_the_run_reads_is_replaced(
    where: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--overwrite replaces what an earlier run wrote, and never the teacher, the text, or a folder that holds them."""
    place = tmp_path / "place"
    shutil.copytree(folder, place)
    before = {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
    output = {"teacher": place / "teacher", "here": Path()}.get(where, place)
    if where == "here":
        monkeypatch.chdir(place)
    line = refusal(flags(place, output, overwrite=True), capsys)
    assert "would be lost" in line
    assert {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()} == before
