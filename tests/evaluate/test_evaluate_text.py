"""Held-out text from files to the report, through the tokeniser and the masked batches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from distilfast import InputError, Tokenizer, create_student
from distilfast import _command as command
from distilfast.evaluate import run as evaluate
from distilfast.evaluate.run import EvaluateOptions, run_evaluation
from distilfast.metrics.held_out import held_out_batches
from distilfast.prepare.run import prepare
from distilfast.prepare.text import read_texts
from transformers import BertConfig, BertForMaskedLM

WORDS = ["the", "river", "had", "risen", "in", "night", "and", "carried", "bridge", "away", ".", "##s"]


def save(folder: Path, words: list[str], seed: int, layers: int = 1) -> str:
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    Tokenizer.from_file(folder / "vocab.txt").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def text(tmp_path: Path) -> str:
    file = tmp_path / "text.txt"
    file.write_text("\n\n".join(f"The river had risen {'in the night ' * (i % 7)}." for i in range(40)) + "\n")
    return str(file)


def test_text_to_report(tmp_path: Path, text: str) -> None:
    teacher, student = save(tmp_path / "teacher", WORDS, 0), save(tmp_path / "student", WORDS, 1)
    options = EvaluateOptions(
        teacher=teacher,
        student=[student, f"copy={teacher}"],
        text=[text],
        output_dir=str(tmp_path / "out"),
        max_length=32,
        speed=False,
    )
    report = run_evaluation(options)
    scores = report["held_out"]["text"]["models"]
    assert list(scores) == ["teacher", "student", "copy"]
    assert scores["copy"] == scores["teacher"]
    assert scores["copy"]["kl"] == 0.0
    assert scores["student"]["kl"] > 0
    assert report["held_out"]["text"]["rows"] == 40
    # Every row is looked at, [CLS], [SEP] and the point among its tokens.
    assert scores["teacher"]["tokens"] == sum(7 + 3 * (i % 7) for i in range(40))
    assert run_evaluation(options)["held_out"] == report["held_out"]  # the same masks every time
    options.mask_seed = 1
    assert run_evaluation(options)["held_out"]["text"]["models"]["student"] != scores["student"]
    assert "masked of" in (tmp_path / "out" / "evaluate.md").read_text()


def test_two_texts_stand_side_by_side_with_the_cut(tmp_path: Path, text: str) -> None:
    teacher = save(tmp_path / "teacher", WORDS, 0, layers=3)
    whole = BertForMaskedLM.from_pretrained(teacher)
    for kind in ("same", "distilbert"):
        student = create_student(whole, 2, student_type=kind)
        student.save_pretrained(tmp_path / kind)
        Tokenizer.from_pretrained(teacher).save_pretrained(tmp_path / kind)
        (tmp_path / "other.txt").write_text("away night bridge carried and the river\n" * 20)
        options = EvaluateOptions(
            teacher=teacher,
            student=[str(tmp_path / kind)],
            text=[text, f"other={tmp_path / 'other.txt'}"],
            output_dir=str(tmp_path / f"{kind}-out"),
            speed=False,
            pictures=False,
        )
        found = run_evaluation(options)["held_out"]
        assert list(found) == ["text", "other"]
        for part in found.values():
            assert list(part["models"]) == ["teacher", kind, "cut, 2 layers"]
            # The student is nothing but the cut.
            assert part["models"]["cut, 2 layers"] == part["models"][kind]
        page = (tmp_path / f"{kind}-out" / "evaluate.md").read_text()
        (row,) = [line for line in page.splitlines() if line.startswith("| cut") and line.count("|") == 6]
        wanted = [f"{100 * part['models']['cut, 2 layers']['mlm_accuracy']:.1f} %" for part in found.values()]
        wanted += [f"{part['models']['cut, 2 layers']['kl']:.3f}" for part in found.values()]
        assert [cell.strip() for cell in row.split("|")[2:-1]] == wanted
    options.controls = False
    options.output_dir = str(tmp_path / "without")
    assert list(run_evaluation(options)["held_out"]["other"]["models"]) == ["teacher", "distilbert"]


def test_prepared_tokens_give_what_text_gives(tmp_path: Path, text: str) -> None:
    teacher = save(tmp_path / "teacher", WORDS, 0)
    prepare(tmp_path / "tokens", teacher, [text], max_length=32, min_length=0, progress=False)
    prepared, _ = held_out_batches({"teacher": teacher}, tokens=str(tmp_path / "tokens"), max_length=32)
    direct, _ = held_out_batches({"teacher": teacher}, lines=read_texts([text]), max_length=32)
    assert len(prepared) == len(direct)
    for i in range(len(direct)):
        assert all(torch.equal(direct[i][key], prepared[i][key]) for key in direct[i])


def test_the_command_says_what_is_wrong_in_one_line(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = save(tmp_path / "teacher", WORDS, 0)

    def run(*flags: str) -> str:
        monkeypatch.setattr(
            sys, "argv", ["evaluate", "--teacher", teacher, "--output_dir", str(tmp_path / "out"), *flags]
        )
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            command.run(evaluate.main)
        assert stopped.value.code == 2
        line = capsys.readouterr().err.strip()
        assert len(line.splitlines()) == 1
        return line

    assert "no such file" in run("--text", str(tmp_path / "gone.txt"))
    (tmp_path / "bad.txt").write_bytes(b"fine\ncaf\xe9\n")
    assert "not UTF-8 at byte 8" in run("--text", str(tmp_path / "bad.txt"))
    (tmp_path / "empty.txt").write_text("\n\n")
    assert "no line with text" in run("--text", str(tmp_path / "empty.txt"))
    assert "its id 5 is" in run("--text", text, "--student", save(tmp_path / "other", WORDS[::-1], 1))
    assert "give one of them" in run("--text", text, "--tokens", str(tmp_path))
    assert "no config.json" in run("--text", text, "--student", str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_lines_are_counted_over_files(tmp_path: Path, text: str) -> None:
    again = tmp_path / "again.txt"
    again.write_bytes(Path(text).read_bytes())
    assert len(read_texts([text, str(again)])) == 80
    assert len(read_texts([text, str(again)], 50)) == 50
    with pytest.raises(InputError, match="no line"):
        read_texts([text], 0)


def test_the_flags_print(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    teacher = save(tmp_path / "teacher", WORDS, 0)
    flags = ["--teacher", teacher, "--text", text, "--max_length", "32", "--speed_repeats", "1", "--speed_length", "8"]
    config = tmp_path / "run.yaml"
    config.write_text(f"student: [copy={teacher}]\noutput_dir: {tmp_path / 'out'}\n")
    monkeypatch.setattr(sys, "argv", ["evaluate", *flags, "--config", str(config)])
    command.run(evaluate.main)
    shown = capsys.readouterr().out
    assert "| copy " in shown
    assert "batch 32" in shown
    speed = json.loads((tmp_path / "out" / "evaluate.json").read_text())["models"]["copy"]["speed"]["cpu"]
    assert speed["latency_ms"] > 0
