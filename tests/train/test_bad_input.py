"""Bad input to `python -m distilfast.train`: one clear line, exit code 2, nothing of a student written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import transformers
from distilfast import Tokenizer
from distilfast import _command as command
from distilfast.prepare.run import prepare
from distilfast.train import run as train

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "."]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 32,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher, its tokenizer beside it, text, and the text prepared."""
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    (tmp_path / "text.txt").write_text("the cat sat on the mat . the cat sat on the mat .\n" * 4)
    transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=len(VOCAB), **SIZES)).save_pretrained(
        tmp_path / "teacher"
    )
    Tokenizer.from_file(tmp_path / "vocab.txt").save_pretrained(tmp_path / "teacher")
    prepare(tmp_path / "tokens", tmp_path / "vocab.txt", [tmp_path / "text.txt"], max_length=32)
    return tmp_path


def refused(folder: Path, capsys: pytest.CaptureFixture[str], **flags: object) -> str:
    """The one line on stderr of the training command with `flags` over those of a run that would work."""
    good = {
        "teacher": folder / "teacher",
        "tokens": folder / "tokens",
        "output_dir": folder / "out",
        "max_length": 32,
        "max_steps": 1,
        "batch_tokens": 64,
        "report_to": "none",
        "disable_tqdm": True,
    }
    values = {name: value for name, value in {**good, **flags}.items() if value is not None}
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments = [part for name, value in values.items() for part in (f"--{name}", *str(value).split())]
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_code:
        command.run(lambda: train.main(arguments))
    assert exit_code.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return errors[0]


def test_layers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"\b3\b.*layers.*\b2\b", refused(folder, capsys, layers="3"))
    assert re.search(r"layer number 2 is out of range", refused(folder, capsys, layers="0 2"))


def test_vocabularies(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.txt").write_text("\n".join([*VOCAB[:5], *VOCAB[:4:-1]]) + "\n")
    assert "prepared with another vocabulary" in refused(folder, capsys, tokenizer=folder / "other.txt")
    (folder / "larger.txt").write_text("\n".join([*VOCAB, *(f"word{number}" for number in range(500))]) + "\n")
    prepare(folder / "larger", folder / "larger.txt", [folder / "text.txt"])
    message = refused(folder, capsys, tokens=folder / "larger", tokenizer=folder / "larger.txt")
    assert "vocabulary of 11" in message
    assert "511" in message
    (folder / "no_mask.txt").write_text("\n".join(token for token in VOCAB if token != "[MASK]") + "\n")
    message = refused(folder, capsys, tokens=None, text=folder / "text.txt", tokenizer=folder / "no_mask.txt")
    assert "[MASK]" in message


def test_text_and_tokens(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_text = {"tokens": None, "tokenizer": folder / "vocab.txt"}
    assert "gone.txt: there is no such file" in refused(folder, capsys, text=folder / "gone.txt", **with_text)
    (folder / "empty.txt").touch()
    assert "empty.txt is empty" in refused(folder, capsys, text=folder / "empty.txt", **with_text)
    (folder / "latin.txt").write_bytes("caf\u00e9".encode("latin-1"))
    assert "not UTF-8 at byte 3" in refused(folder, capsys, text=folder / "latin.txt", **with_text)
    assert "not both" in refused(folder, capsys, text=folder / "text.txt")
    assert "no such directory" in refused(folder, capsys, tokens=folder / "gone")
    assert "no prepared directory" in refused(folder, capsys, tokens=folder / "teacher")


def test_sharding_that_would_not_take_place(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--fsdp with 1 rank on cpu: Accelerate shards" in refused(folder, capsys, fsdp="full_shard", use_cpu="true")


def test_output_directory_and_configuration(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "would be lost" in refused(folder, capsys, output_dir=folder / "tokens")
    (folder / "run.yaml").write_text("temprature: 2\n")
    message = refused(folder, capsys, config=folder / "run.yaml")
    assert "unknown key 'temprature'; did you mean 'temperature'?" in message
