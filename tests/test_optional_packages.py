"""With the required packages alone every command works, or says in one line which extra it wants."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from distilfast._command.start import EXTRAS

BLOCKED = sorted({*EXTRAS, "wandb"} - {"psutil"})  # accelerate needs psutil
RUN = f"""
import sys
sys.modules.update(dict.fromkeys({BLOCKED}))
from distilfast.__main__ import main
main(sys.argv[1:])
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`distilfast` with `arguments` where no optional package can be imported."""
    return subprocess.run([sys.executable, "-c", RUN, *arguments], cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text, tokens, a teacher and its student, all made without an optional package."""
    folder = tmp_path_factory.mktemp("bare")
    words = [f"word{number}" for number in range(40)]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    lines = [" ".join(words[(row * step) % 40] for step in range(1, 15)) for row in range(60)]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    (folder / "teacher.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 128, **sizes}))
    shared = ["--max_length", "32", "--batch_tokens", "256", "--max_steps", "2"]
    for arguments in (
        ["prepare", "--text", "text.txt", "--tokenizer", "vocab.txt", "--output_dir", "tokens", "--max_length", "32"],
        ["train", "--student_config", "teacher.json", "--tokens", "tokens", "--output_dir", "teacher", *shared],
        ["train", "--teacher", "teacher", "--tokens", "tokens", "--output_dir", "student", *shared],
    ):
        done = run(folder, *arguments)
        assert done.returncode == 0, done.stderr
    return folder


def test_a_run_without_tensorboard_writes_no_events(folder: Path) -> None:
    assert (folder / "student" / "train_summary.json").is_file()
    assert not [*folder.rglob("events.out.*")]


def test_an_evaluation_without_matplotlib_leaves_the_pictures_out_and_says_so(folder: Path) -> None:
    flags = ["--teacher", "teacher", "--student", "student", "--text", "text.txt", "--output_dir", "report"]
    done = run(folder, "evaluate", *flags)
    assert done.returncode == 0, done.stderr
    assert (folder / "report" / "evaluate.md").is_file()
    assert not [*(folder / "report").glob("*.png")]
    report = '{"models": {"t": {}}, "teacher": "t", "rows": {"dev": {}}}'
    draw = f"from distilfast.evaluate.pictures import draw_pictures; print(draw_pictures({report}, None))"
    code = RUN.replace("main(sys.argv[1:])", draw)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    assert "no pictures: matplotlib is not installed; pip install 'distilfast[plots]' brings it" in done.stderr


def test_safetensors_need_nothing_more_and_onnx_names_its_extra(folder: Path) -> None:
    assert run(folder, "export", "--student", "student", "--output_dir", "plain").returncode == 0
    done = run(folder, "export", "--student", "student", "--output_dir", "onnx", "--onnx")
    assert done.returncode == 2
    assert "distilfast[onnx]" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "onnx").exists()


def test_what_logs_cannot_go_to_is_refused_in_a_line(folder: Path) -> None:
    flags = ["--teacher", "teacher", "--tokens", "tokens", "--output_dir", "logged", "--max_length", "32"]
    done = run(folder, "train", *flags, "--max_steps", "2", "--report_to", "tensorboard")
    assert done.returncode == 2, done.stderr
    assert "ensor" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (folder / "logged").exists()


def test_the_extras_are_those_of_the_package() -> None:
    declared = importlib.import_module("importlib.metadata").metadata("distilfast").get_all("Provides-Extra")
    if declared is None or "plots" not in declared:
        pytest.skip("an older installation of this package")
    assert {*EXTRAS.values()} <= {*declared}
