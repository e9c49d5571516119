"""Bad input to `python -m distilfast.prepare`: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from distilfast import command, prepare

VOCAB = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text(VOCAB)
    (tmp_path / "text.txt").write_text("the cat " * 10)
    return tmp_path


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *flags: str, tokenizer: str = "vocab.txt") -> str:
    """The one line on stderr of the command with `flags`, run as its `__main__` runs it."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments = ["--tokenizer", str(folder / tokenizer), "--output_dir", str(folder / "out"), "--disable_tqdm", *flags]
    with pytest.raises(SystemExit) as exit_code:
        command.run(lambda: prepare.main(arguments))
    assert exit_code.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1, message
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not list(folder.glob(".*partial*"))
    return message


def test_text_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(name: str) -> str:
        return refused(folder, capsys, "--text", str(folder / name))

    assert "gone.txt: there is no such file" in text("gone.txt")
    assert "no file matches" in text("*.gone")
    (folder / "empty.txt").touch()
    assert "empty.txt is empty" in text("empty.txt")
    (folder / "folder").mkdir()
    assert "holds no file ending in .txt" in text("folder")
    (folder / "folder" / "empty.txt").touch()
    assert "all 1 text files are empty" in text("folder")
    (folder / "blank.txt").write_text("\n \n")
    assert "no row is left of 0 texts" in text("blank.txt")
    (folder / "short.txt").write_text("the cat\n")
    assert "1 rows had fewer than 12 tokens (--min_length)" in text("short.txt")
    (folder / "foreign.txt").write_text("\n".join(["le chat"] * 5 + ["le chat est ici " * 8]))
    assert "share of [UNK]" in text("foreign.txt")
    (folder / "latin.txt").write_bytes(b"the cat\n" * 5 + "caf\xe9\n".encode("latin-1"))
    assert "latin.txt: not UTF-8 at byte 43 (0xe9)" in text("latin.txt")
    (folder / "wide.txt").write_text("the cat", encoding="utf-16")
    assert "begins like UTF-16" in text("wide.txt")


def test_the_bad_byte_of_a_later_block_is_counted_from_the_start_of_the_file(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = b"\xef\xbb\xbf" + b"the cat sat\n" * 1_000_000
    (folder / "bad.txt").write_bytes(text + b"the \xff cat\n")
    assert f"not UTF-8 at byte {len(text) + 4} (0xff)" in refused(folder, capsys, "--text", str(folder / "bad.txt"))


def test_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(name: str, *flags: str) -> str:
        return refused(folder, capsys, "--text", str(folder / name), *flags)

    (folder / "rows.jsonl").write_text('{"text": "the cat"}\n\n{"text": null}\n')
    assert "rows.jsonl: row 1 (counted from 0) has no text" in text("rows.jsonl")
    (folder / "rows.jsonl").write_text('{"txt": "the cat"}\n')
    assert "no column 'text', only 'txt'; did you mean 'txt'?" in text("rows.jsonl")
    for broken in ("the cat\n", '{"text": "the cat"\n', '{"text": 5}\n', "[1, 2]\n"):
        (folder / "rows.jsonl").write_text(broken)
        assert "rows.jsonl: not a JSON object with a string 'text' on every line" in text("rows.jsonl")
    (folder / "rows.parquet").write_text("no parquet")
    assert "rows.parquet: not a parquet file" in text("rows.parquet")
    pyarrow.parquet.write_table(pa.table({"text": ["the cat", None], "n": [1, 2]}), folder / "rows.parquet")
    assert "row 1 (counted from 0) has no text in column 'text'" in text("rows.parquet")
    assert "column 'n' holds int64, not strings" in text("rows.parquet", "--column", "n")
    assert "no column 'texts', only 'text', 'n'; did you mean 'text'?" in text("rows.parquet", "--column", "texts")


def test_datasets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["the cat", None]})})
    rows.save_to_disk(folder / "saved")
    saved = str(folder / "saved")
    capsys.readouterr()  # the progress bar of save_to_disk
    assert "row 1 (counted from 0) has no text" in refused(folder, capsys, "--dataset", saved)
    assert "no split 'dev', only train" in refused(folder, capsys, "--dataset", saved, "--split", "dev")
    assert "no column 'body'" in refused(folder, capsys, "--dataset", saved, "--column", "body")
    assert "--dataset" in refused(folder, capsys, "--dataset", str(folder / "gone"))
    assert "not both" in refused(folder, capsys)
    assert "not both" in refused(folder, capsys, "--dataset", saved, "--text", str(folder / "text.txt"))


def test_tokenizers(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def tokenizer(name: str) -> str:
        return refused(folder, capsys, "--text", str(folder / "text.txt"), tokenizer=name)

    assert "gone.json: there is no such file" in tokenizer("gone.json")
    (folder / "tokenizer.json").write_text('{"hello": "world"}')
    assert "tokenizer.json" in tokenizer("tokenizer.json")
    (folder / "binary.txt").write_bytes(bytes(range(256)))
    assert "binary.txt" in tokenizer("binary.txt")
    (folder / "no_mask.txt").write_text(VOCAB.replace("[MASK]\n", ""))
    assert "[MASK]" in tokenizer("no_mask.txt")


def test_values_that_no_row_could_follow(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def flag(*flags: str) -> str:
        return refused(folder, capsys, "--text", str(folder / "text.txt"), *flags)

    assert "max_length 2 leaves no room" in flag("--max_length", "2")
    assert "min_length 12 is above max_length 8" in flag("--max_length", "8")
    assert "max_unknown 0" in flag("--max_unknown", "0")
    (folder / "out").mkdir()
    (folder / "out" / "precious").write_text("mine")
    assert "out holds something already" in flag()


def test_the_command_itself(folder: Path) -> None:
    """The one run as a process of its own: exit code, one line, no traceback."""
    arguments = ["--text", str(folder / "gone.txt"), "--tokenizer", str(folder / "vocab.txt")]
    process = subprocess.run(
        [sys.executable, "-m", "distilfast.prepare", *arguments, "--output_dir", str(folder / "out")],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert "gone.txt: there is no such file or directory" in process.stderr
    assert not (folder / "out").exists()
