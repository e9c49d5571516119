"""Every example, with a tiny encoder and few rows and steps: it runs to its end, offline, and the student is used."""

from __future__ import annotations

import importlib
import json
import re
import string
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_sentence

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LETTERS = [*string.ascii_lowercase, *string.digits, *string.punctuation, *(f"##{x}" for x in string.ascii_lowercase)]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an example by its name; the texts that it collects are few."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    documentation = importlib.import_module("documentation")
    monkeypatch.setattr(documentation, "PACKAGES", ("datasets", "networkx"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before | {"documentation"}:
        if Path(str(getattr(sys.modules.get(name), "__file__", None))).parent == EXAMPLES:
            del sys.modules[name]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_sentence.encoder_folder(tmp_path_factory.mktemp("encoder"), layers=2, words=LETTERS, positions=160)


def test_every_example_is_tested_here_and_short() -> None:
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    assert scripts == {"documentation", "classifier", "sentence_encoder", "tagger", "reranker", "mlm"}
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 80, path.name


def test_documentation_is_prose_of_its_package_and_always_the_same(load: Any) -> None:
    documentation = load("documentation")
    found = documentation.docstrings("datasets", 40)
    assert len(found) == 40
    assert {each.package for each in found} == {"datasets"}
    assert len({each.paragraphs[0] for each in found}) == 40
    assert documentation.docstrings("datasets", 40) == found
    assert not any("\n" in paragraph or ">>>" in paragraph[:4] for each in found for paragraph in each.paragraphs)
    assert documentation.docstrings("no_such_package", 3) == []
    assert documentation.sentences("One two three four. Five six seven eight! No.") == [
        "One two three four.",
        "Five six seven eight!",
    ]


def test_classifier(load: Any, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--encoder", encoder, "--per_class", "40", "--epochs", "0.5", "--output_dir", str(tmp_path)]
    load("classifier").main(tiny)
    printed = capsys.readouterr().out
    assert "of the teacher's accuracy, agrees on" in printed
    assert len(re.findall(r"-> \[\{'label': '(datasets|networkx)'", printed)) == 2


def test_classifier_of_ones_own(load: Any, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["--encoder", encoder, "--per_class", "20", "--epochs", "0.3", "--output_dir", str(tmp_path / "first")]
    load("classifier").main(tiny)
    rows = [{"text": "a" * (1 + number % 9), "label": ("datasets", "networkx")[number % 2]} for number in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    own = ["--teacher", str(tmp_path / "first" / "teacher"), "--rows", str(tmp_path / "rows.jsonl"), "--epochs", "1"]
    capsys.readouterr()
    load("classifier").main([*own, "--output_dir", str(tmp_path / "second")])
    assert "of the teacher's accuracy" in capsys.readouterr().out
    assert not (tmp_path / "second" / "teacher").exists()


def test_tagger(load: Any, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tagger = load("tagger")
    assert tagger.tagged("If ``axis`` is `a.b c`, stop.") == {
        "tokens": ["If", "axis", "is", "a.b", "c", ",", "stop", "."],
        "tags": ["O", "B-code", "O", "B-code", "I-code", "O", "O", "O"],
    }
    tagger.main(["--encoder", encoder, "--per_package", "120", "--epochs", "0.5", "--output_dir", str(tmp_path)])
    assert "kept of the teacher: f1" in capsys.readouterr().out


def test_reranker(load: Any, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    reranker = load("reranker")
    rows = reranker.pairs("datasets", 10)
    assert len(rows) == 40
    assert sum(row["score"] for row in rows) == 10
    reranker.main(["--encoder", encoder, "--per_package", "20", "--epochs", "0.5", "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert re.search(r"kept of the teacher: .*ndcg@10 \d", printed)
    assert "The mean is taken over the given axis." in printed


def test_sentence_encoder(load: Any, encoder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    tiny = ["--teacher", encoder, "--per_package", "150", "--epochs", "0.2", "--output_dir", str(tmp_path)]
    load("sentence_encoder").main(tiny)
    printed = capsys.readouterr().out
    assert "find the shortest path between two nodes" in printed
    assert len(re.findall(r"^  -?\d\.\d\d  \S", printed, re.M)) == 6


def test_mlm(load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("mlm").main(["--per_package", "60", "--steps", "2", "--output_dir", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "| small" in printed
    assert len(re.findall(r"^\d\.\d\d  \S", printed, re.M)) == 3


def test_notebook(load: Any, encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((EXAMPLES / "first_student.ipynb").read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    small = {"PER_CLASS = 300": "PER_CLASS = 40", "EPOCHS = 3": "EPOCHS = 0.5"}
    small["ENCODER = documentation.encoder()"] = f"ENCODER = {encoder!r}"
    for before, after in small.items():
        assert before in code[0]
        code[0] = code[0].replace(before, after)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for number, cell in enumerate(code):
        exec(compile(cell, f"cell {number + 1}", "exec"), namespace)
    assert namespace["answers"][0]["label"] in ("datasets", "networkx")
    assert (tmp_path / "out" / "notebook" / "small" / "model.safetensors").is_file()
