"""Bad input to `python -m distilfast.prepare`: one clear line, exit code 2, nothing written."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import tracemalloc
from pathlib import Path

import datasets
import distilfast as df
import pyarrow as pa
import pyarrow.parquet
import pytest
from distilfast import _command as command
from distilfast.prepare import run as prepare
from distilfast.prepare import text as text_sources

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
    # A tokenizer.json may do without; training may not.
    content = json.loads(df.Tokenizer.from_file(folder / "vocab.txt").to_json())
    content["post_processor"] = None
    for gone in ("[CLS]", "[SEP]", "[PAD]", "[MASK]"):
        vocab = {
            f"[renamed {token}]" if token == gone else token: index
            for token, index in content["model"]["vocab"].items()
        }
        kept = [token for token in content["added_tokens"] if token["content"] != gone]
        without = {**content, "model": {**content["model"], "vocab": vocab}, "added_tokens": kept}
        (folder / "tokenizer.json").write_text(json.dumps(without))
        message = tokenizer("tokenizer.json")
        assert f"the vocabulary has no {gone}" in message


def test_values_that_no_row_could_follow(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def flag(*flags: str) -> str:
        return refused(folder, capsys, "--text", str(folder / "text.txt"), *flags)

    assert "max_length 2 leaves no room" in flag("--max_length", "2")
    assert "min_length 12 is above max_length 8" in flag("--max_length", "8")
    assert "max_unknown 0" in flag("--max_unknown", "0")
    (folder / "out").mkdir()
    (folder / "out" / "precious").write_text("mine")
    assert "out holds something already" in flag()


def test_rows_of_tables_that_are_not_utf8(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = b"the cat " * 10, b"the \xff cat " * 10
    (folder / "rows.jsonl").write_bytes(b'{"text": "' + good + b'"}\n{"text": "' + bad + b'"}\n')
    message = refused(folder, capsys, "--text", str(folder / "rows.jsonl"))
    assert "rows.jsonl: row 1 (counted from 0) is not UTF-8 in column 'text'" in message
    raw = pa.array([good, bad])
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pyarrow.parquet.write_table(pa.table({"text": broken}), folder / "rows.parquet")
    message = refused(folder, capsys, "--text", str(folder / "rows.parquet"))
    assert "rows.parquet: row 1 (counted from 0) is not UTF-8 in column 'text'" in message


@pytest.mark.parametrize("first", ["null", " null", "\tnull", "[]", "3", '"the cat"'])
def test_rows_that_are_no_objects(folder: Path, capsys: pytest.CaptureFixture[str], first: str) -> None:
    """pyarrow ends the process with a segmentation fault where the first row of a block is null."""
    (folder / "rows.jsonl").write_text(f'\n{first}\n{{"text": "the cat"}}\n')
    message = refused(folder, capsys, "--text", str(folder / "rows.jsonl"))
    assert "rows.jsonl: not a JSON object with a string 'text' on every line" in message


def test_a_null_at_the_head_of_a_later_block(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "rows.jsonl").write_text('{"text": "the cat"}\n' * 3 + 'null\n{"text": "the cat"}\n')
    with pytest.raises(df.InputError, match="counted from row 3 at byte 60"):
        list(text_sources.read_files([folder / "rows.jsonl"], "text", block_bytes=60))


def test_files_that_are_damaged_or_something_else(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(name: str) -> str:
        return refused(folder, capsys, "--text", str(folder / name))

    pyarrow.parquet.write_table(pa.table({"text": ["the cat sat " * 50] * 9}), folder / "rows.parquet")
    content = bytearray((folder / "rows.parquet").read_bytes())
    content[30:90] = bytes(60)
    (folder / "rows.parquet").write_bytes(bytes(content))
    assert "rows.parquet: damaged" in text("rows.parquet")
    (folder / "packed.txt").write_bytes(lzma.compress(b"the cat"))
    assert "packed.txt is a file of xz; unpack it first" in text("packed.txt")
    for kind in (gzip, bz2):
        (folder / "packed.txt").write_bytes(kind.compress(b"the cat sat on the mat " * 1000)[:-9])
        assert "packed.txt: damaged, or cut off, as a file of" in text("packed.txt")
    assert "/dev/null is no regular file" in refused(folder, capsys, "--text", "/dev/null")


def test_a_line_longer_than_any_row_is_refused_as_soon_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once the whole of a file that has no line ends is in memory."""
    monkeypatch.setattr(text_sources, "MAX_LINE_BYTES", 1000)
    for name, line in (("text.txt", b"the cat\n"), ("rows.jsonl", b'{"text": "the cat"}\n')):
        path = folder / name
        path.write_bytes(line + b"the cat " * 1_000_000)
        blocks = text_sources.read_files([path], "text", block_bytes=100)
        tracemalloc.start()
        with pytest.raises(df.InputError, match=r"the line at byte \d+ is longer than 1,000 bytes"):
            list(blocks)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1_000_000


def test_numbers_below_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--threads", "--max_length", "--min_length"):
        assert f"{flag.removeprefix('--')}=-1" in refused(
            folder, capsys, "--text", str(folder / "text.txt"), flag, "-1"
        )


def test_output_directories(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def output(name: object, *flags: str, text: Path = folder / "text.txt") -> str:
        return refused(folder, capsys, "--text", str(text), "--output_dir", str(name), *flags)

    assert "text.txt is a file" in output(folder / "text.txt" / "out")
    empty = tmp_path_factory.mktemp("empty")
    monkeypatch.chdir(empty)
    assert "is the current directory" in output(".")
    (folder / "corpus").mkdir()
    (folder / "corpus" / "text.txt").write_text("the cat " * 10)
    inside = output(folder / "corpus", "--overwrite", text=folder / "corpus" / "text.txt")
    assert "text.txt lies in" in inside
    assert "would be lost" in inside
    (folder / "link").symlink_to(folder / "corpus")
    assert "would be lost" in output(folder / "corpus", "--overwrite", text=folder / "link" / "text.txt")
    (folder / "corpus" / "vocab.txt").write_text(VOCAB)
    flags = ["--text", str(folder / "text.txt"), "--output_dir", str(folder / "corpus"), "--overwrite"]
    assert "would be lost" in refused(folder, capsys, *flags, tokenizer="corpus/vocab.txt")
    assert "would be lost" in refused(folder, capsys, *flags, tokenizer="corpus")
    datasets.Dataset.from_dict({"text": ["the cat " * 10]}).save_to_disk(folder / "saved")
    capsys.readouterr()
    flags = ["--dataset", str(folder / "saved"), "--output_dir", str(folder / "saved"), "--overwrite"]
    assert "would be lost" in refused(folder, capsys, *flags)


def test_an_interrupted_run_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.TokenWriter, "write", interrupted)
    before = sorted(folder.iterdir())
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(folder / "out", folder / "vocab.txt", [folder / "text.txt"])
    assert sorted(folder.iterdir()) == before


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
