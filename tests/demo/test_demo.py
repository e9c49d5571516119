"""The demo, very small: every stage runs, the table and the picture are there, the text is prose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers
from distilfast import InputError
from distilfast.demo import run as demo
from distilfast.demo.text import _paragraphs, demo_text

TINY = ["--teacher_steps", "4", "--student_steps", "2", "--vocab_size", "300", "--hidden_size", "64", "--layers", "2"]
SMALL_BATCHES = ["--batch_tokens", "512", "--max_length", "32", "--disable_tqdm"]


def test_every_stage_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code = 0
    try:
        demo.main(["--output_dir", str(out), "--megabytes", "0.2", *TINY, *SMALL_BATCHES])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr().out
    assert printed.count("$ python -m distilfast.train") == 3
    assert "| student, from scratch |" in printed
    rows = json.loads((out / "demo.json").read_text())["rows"]
    assert code == (0 if demo.is_ahead(rows) else 1)  # so few steps decide nothing
    assert [row["name"] for row in rows] == ["teacher", "distilled", "scratch"]
    assert rows[1]["parameters"] == rows[2]["parameters"] < rows[0]["parameters"]
    assert all(row["latency_ms"] > 0 and row["mlm_loss"] > 0 for row in rows)
    assert (out / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert not set((out / "train.txt").read_text().splitlines()) & set((out / "held_out.txt").read_text().splitlines())
    student = transformers.AutoModelForMaskedLM.from_pretrained(out / "distilled")
    assert (student.config.num_hidden_layers, student.config.hidden_size) == (1, 64)
    with pytest.raises(InputError, match="holds something already"):
        demo.main(["--output_dir", str(out)])


def test_text_in_the_folder_that_would_be_emptied_is_never_lost(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("A text of my own.\n")
    for text in (out / "mine.txt", out / "*.txt", out):
        with pytest.raises(InputError, match=r"mine\.txt lies in .*out and would be lost"):
            demo.main(["--output_dir", str(out), "--text", str(text), "--overwrite", "True"])
    assert (out / "mine.txt").read_text() == "A text of my own.\n"


def test_without_matplotlib_there_is_no_picture_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in demo.NAMES:
        (tmp_path / name).mkdir()
        log = [{"step": 1, "loss_mlm": 2.0}, {"step": 2, "loss_mlm": 1.0}]
        (tmp_path / name / "train_summary.json").write_text(json.dumps({"log": log}))
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    assert demo.draw(tmp_path) is None
    assert "no pictures: matplotlib is not installed" in capsys.readouterr().err


def test_the_verdict_is_about_the_numbers() -> None:
    row = {"agreement": 1.0, "parameters": 10, "latency_ms": 1.0, "kept": 1.0}
    teacher = {**row, "name": "teacher", "mlm_loss": 1.0, "mlm_accuracy": 0.5}
    good = {**row, "name": "distilled", "mlm_loss": 2.0, "mlm_accuracy": 0.4, "kept": 0.8}
    bad = {**row, "name": "scratch", "mlm_loss": 3.0, "mlm_accuracy": 0.1, "kept": 0.2}
    assert "keeps 80.0 % of the teacher's accuracy" in demo.report([teacher, good, bad])
    swapped = [teacher, {**bad, "name": "distilled"}, {**good, "name": "scratch"}]
    assert "not ahead" in demo.report(swapped)
    assert demo.is_ahead([teacher, good, bad])
    assert not demo.is_ahead(swapped)
    assert not demo.is_ahead([teacher, {**good, "mlm_loss": 3.5}, bad])


def test_a_student_that_is_not_ahead_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"name": "teacher", "agreement": 1.0, "parameters": 10, "latency_ms": 1.0, "kept": 1.0}
    rows = [{**row, "name": name, "mlm_loss": 2.0, "mlm_accuracy": 0.5} for name in demo.NAMES]
    monkeypatch.setattr(demo, "demo", lambda _: {"rows": rows, "seconds": 1.0, "picture": None})
    with pytest.raises(SystemExit) as stopped:
        demo.main(["--output_dir", str(tmp_path / "out")])
    assert stopped.value.code == 1
    assert "error: the distilled student is not ahead" in capsys.readouterr().err


def test_the_text_is_prose_and_no_paragraph_comes_twice() -> None:
    paragraphs = demo_text(0.3)
    assert len(set(paragraphs)) == len(paragraphs) > 500
    assert 3e5 <= sum(map(len, paragraphs)) < 6e5
    assert paragraphs == demo_text(0.3)


def test_paragraphs_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""This is the first paragraph of a module that does something.\n\n'
        "    >>> not_prose = 1\n\n"
        '    ======  ======\n    """\n'
        "def function():\n"
        '    """This docstring of a function goes on\n    over two lines, as they do."""\n'
    )
    assert list(_paragraphs(path)) == [
        "This is the first paragraph of a module that does something.",
        "This docstring of a function goes on over two lines, as they do.",
    ]
    path.write_text("def broken(:")
    assert list(_paragraphs(path)) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--layers", "3"], "--layers 3: must be even"),
        (["--hidden_size", "100"], "--hidden_size 100: must be a multiple of 64"),
        (["--teacher_steps", "0"], "--teacher_steps 0"),
        (["--text", "gone.txt"], "gone.txt: there is no such file"),
    ],
)
def test_bad_input(tmp_path: Path, flags: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        demo.main(["--output_dir", str(tmp_path / "out"), *flags])
