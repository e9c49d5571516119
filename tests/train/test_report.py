"""What `train` says at its end is what `evaluate` says of the same models and rows; and how many rows that are."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import tiny_rows
import torch
from distilfast import InputError
from distilfast.evaluate import run as evaluate
from film_rows import QUICK, reviews, save_blank, write_csv

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT: dict[str, Any] = {**QUICK, "max_steps": 20, "per_device_train_batch_size": 8}


def again(said: str, folder: Path) -> dict[str, Any]:
    """The report of the command that `train` names."""
    (line,) = [line for line in said.splitlines() if line.startswith("next: distilfast evaluate ")]
    evaluate.main([*shlex.split(line)[3:], "--speed", "false", "--pictures", "false"])
    (report,) = folder.glob("*-report/evaluate.json")
    parts = json.loads(report.read_text())["rows"]
    (part,) = parts.values() if isinstance(parts, dict) else parts
    return part


def assert_same(part: dict[str, Any], quality: dict[str, Any], teacher: str, student: str) -> None:
    assert part["units"] == quality["units"]
    assert part["main"] == quality["main"]
    for ours, theirs in ((student, "student"), (teacher, "teacher")):
        expected = quality["models"][theirs]["metrics"]
        assert {name: part["models"][ours]["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-6)
    for metric, kept in quality["models"]["student"]["kept"].items():
        found = part["models"][student]["kept"][metric]
        assert {name: found[name] for name in ("share", "low", "high", "rows")} == pytest.approx(
            {name: kept[name] for name in ("share", "low", "high", "rows")}, abs=1e-6
        )
        assert found["text"] == kept["text"]


@pytest.mark.parametrize("kind", ["single_label_classification", "regression"])
def test_classifiers_have_one_interval(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draws = np.random.default_rng(0)
    rows = [{**row, "text": row["text"] + " film" * int(draws.integers(0, 20))} for row in reviews(180, 0)]
    config: dict[str, Any] = {}
    if kind == "regression":
        rows = [{"text": row["text"], "score": row["text"].count("film") / 3} for row in rows]
        config = {"num_labels": 1}
    train, held_out = write_csv(tmp_path / "train.csv", rows[:60]), write_csv(tmp_path / "dev.csv", rows[60:])
    blank = save_blank(tmp_path / "blank", **config)
    df.distil(None, train, tmp_path / "teacher", held_out, student=blank, **{**SHORT, "max_steps": 80})
    capsys.readouterr()
    # Cut to 16 tokens, as some of these rows are: the command that is named says so too.
    summary = df.distil(
        tmp_path / "teacher", train, tmp_path / "small", validation_file=str(held_out), max_length=16, **SHORT
    )
    said = capsys.readouterr().out
    assert "rows cut to 16 tokens" in said
    quality = summary["report"]["quality"]
    assert quality["models"]["student"]["kept"][quality["main"][0]]["low"] is not None
    assert_same(again(said, tmp_path), quality, "teacher", "small")


def test_taggers_have_one_interval_and_words_that_were_cut_off_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws, names = np.random.default_rng(0), ["O", "B-X"]
    model = tiny_rows.tagger(names)
    model.save_pretrained(tmp_path / "teacher")
    tiny_rows.tokenizer().save_pretrained(tmp_path / "teacher")

    def write(path: Path, number: int) -> Path:
        sentences = [tiny_rows.words(draws, 12) for _ in range(number)]
        lines = ["\n".join(f"{word} {names[len(word) % 2]}" for word in words) for words in sentences]
        path.write_text("\n\n".join(lines) + "\n")
        return path

    train, held_out = write(tmp_path / "train.conll", 60), write(tmp_path / "dev.conll", 120)
    summary = df.distil(
        tmp_path / "teacher", train, tmp_path / "small", validation_file=str(held_out), max_length=12, **SHORT
    )
    said = capsys.readouterr().out
    assert "words cut off" in said
    assert summary["report"]["quality"]["units"] == 120
    assert_same(again(said, tmp_path), summary["report"]["quality"], "teacher", "small")


def test_fewer_rows_to_evaluate_on_are_chosen_by_the_seed_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = save_blank(tmp_path / "teacher")
    options: dict[str, Any] = {"dry_run": True, **SHORT}

    def rows_of(**changes: Any) -> tuple[int, str]:
        held_out = reviews(50, 1)
        summary = df.distil(teacher, reviews(60, 0), tmp_path / "out", held_out, **{**options, **changes})
        return summary["data"]["validation_rows"], capsys.readouterr().out

    rows, said = rows_of(max_eval_samples=20)
    assert rows == 20
    assert "evaluated on 20 of 50 rows (--max_eval_samples), chosen at random by seed 42" in said
    rows, said = rows_of(max_eval_samples=80)
    assert rows == 50
    assert "max_eval_samples" not in said
    rows, said = rows_of(max_train_rows=30)
    assert "trained on 30 of 60 rows (--max_train_rows), chosen at random" in said
    with pytest.raises(InputError, match="0 rows are not to be chosen"):
        rows_of(max_eval_samples=0)
    assert torch.get_num_threads() == 1
