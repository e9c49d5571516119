"""What went wrong when others' bug reports were tried on `prepare`: a table of inputs and what must come of them."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
from pathlib import Path
from typing import Any

import datasets
import distilfast as df
import pyarrow as pa
import pyarrow.parquet
import pytest
from distilfast import _command as command
from distilfast.prepare import run as prepare_run
from distilfast.prepare.directory import load_tokens
from distilfast.prepare.run import prepare
from distilfast.prepare.sources import TextCounts, find_text_files
from distilfast.prepare.text import read_files, read_texts
from hypothesis import given
from hypothesis import strategies as st

VOCAB = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\ndog\n"
LINE = "the cat " * 10


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vocab.txt").write_text(VOCAB)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text(LINE + "\n")
    return tmp_path


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, zstd, lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])]
)
@pytest.mark.parametrize("form", ["lines", "jsonl"])
def test_packed_files_are_read_as_what_they_hold(tmp_path: Path, pack: Any, form: str) -> None:
    texts = [f"the cat {number}" for number in range(3000)]
    written = "\n".join(texts if form == "lines" else (json.dumps({"text": text}) for text in texts)) + "\n"
    path = tmp_path / ("a.txt.gz" if form == "lines" else "a.jsonl.zst")
    path.write_bytes(pack(b"\xef\xbb\xbf" * (form == "lines") + written.encode()))
    blocks = list(read_files([path], block_bytes=1000))
    assert [text for block in blocks for text in block.texts.to_pylist()] == texts
    assert sum(block.progress for block in blocks) == path.stat().st_size


@given(st.lists(st.text(st.sampled_from("a \u2028\u2029\x85\x0b\x0c\x1c\r\u00e9"), max_size=8), max_size=6))
def test_lines_end_at_line_feeds_alone(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    """And every command sees the same ones, since all read through `read_texts`."""
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes("\ufeffx\n".encode() + "\n".join(lines).encode())
    expected = ["x", *(line.strip("\r ") for line in lines)]
    found = read_texts([path])
    # White space at the ends is trimmed by Unicode's definition; within a line nothing is an end of it.
    assert [text.split() for text in found] == [
        text.split() for text in expected if (text.strip("\x1c") and text.split()) or text.strip()
    ]


def passed(folder: Path) -> tuple[list[str], dict[str, int]]:
    counts = TextCounts()
    files = find_text_files([folder], counts)
    assert counts.files == len(files)
    return [str(path.relative_to(folder)) for path in files], dict(counts.passed_over)


def test_what_a_folder_holds_beside_text_is_passed_over_and_counted(folder: Path) -> None:
    corpus = folder / "corpus"
    for name in (".hidden.txt", "._a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "c.csv", "d.md", "e", "config.json"):
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_text("x,y\n1,2\n")
    for name in ("checkpoint-20/trainer_state.json", "saved/dataset_info.json", "tokens/tokens.json"):
        (corpus / name).parent.mkdir()
        (corpus / name).write_text("{}")
        (corpus / name).with_name("more.txt").write_text(LINE)
    (corpus / "b.txt.gz").write_bytes(gzip.compress(LINE.encode()))
    (corpus / "sub").mkdir()
    (corpus / "sub" / "z.jsonl").write_text('{"text": "the cat"}\n')
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "y.txt").write_text(LINE)
    (corpus / "linked").symlink_to(folder / "elsewhere")
    (corpus / "round").symlink_to(corpus)
    (corpus / "broken.txt").symlink_to(folder / "gone")
    (corpus / "again.txt").symlink_to(corpus / "a.txt")
    files, counts = passed(corpus)
    assert files == ["a.txt", "b.txt.gz", "linked/y.txt", "sub/z.jsonl"]
    assert counts == {
        "hidden": 3,
        ".csv": 1,
        ".md": 1,
        "without an ending": 1,
        "settings (.json)": 1,
        "checkpoints": 1,
        "folders of data sets or models": 2,
        "links to folders that are searched already": 1,
        "broken links or special files": 1,
    }
    info = prepare(folder / "out", folder / "vocab.txt", corpus, min_length=0)
    assert info["text_files"] == 4
    assert info["passed_over"] == counts
    assert "passed over in the folders: 1 .csv" in prepare_run.report(info, "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_ends_the_run(folder: Path) -> None:
    (folder / "corpus" / "sub").mkdir(mode=0)
    with pytest.raises(df.InputError, match="permission denied"):
        find_text_files([folder / "corpus"])


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", b"text,label\nthe cat,1\n", "--dataset"),
        ("a.tsv", b"text\tlabel\n", "--dataset"),
        ("a.csv.gz", gzip.compress(b"text,label\n", mtime=0), "--dataset"),
        ("a.html", b"<p>the cat</p>", "text alone"),
        ("a.tar", b"the cat", "unpack"),
        ("a.tar.gz", gzip.compress(b"the cat", mtime=0), "unpack"),
        ("a.zip", b"PK\x03\x04", "unpack"),
        ("a.txt", b"PK\x03\x04 and more", "zip; unpack"),
        ("a.txt", b"\xfd7zXZ\x00 and more", "xz; unpack"),
        ("a.pdf", b"%PDF", "text alone"),
        ("a.safetensors", b"1234", "numbers"),
        ("a.txt", b"the cat\rthe dog\rthe end", r"lines end in \\r alone"),
        ("a.txt.gz", gzip.compress(random.Random(0).randbytes(9000), mtime=0)[:-5], "cut off"),
        ("a.txt.gz", zstd(b"the cat")[:-4], "cut off|damaged|not UTF-8"),
        ("a.jsonl", '{"text": "café"}\n'.encode("latin-1"), "row 0 .* not UTF-8|not a JSON"),
        ("a.jsonl", b'\n{"txt": "the cat"}\n', "no column 'text', only 'txt'"),
        ("a.jsonl", b'{"txt": "\xe9"}\n', "no column 'text', only 'txt'"),
        ("a.jsonl", b'{"id": 1}\n{"text": "the cat"}\n', "only 'id'|row 0 .* has no text"),
        ("a.json", b'[{"text": "the cat"}]', "one JSON array.*jq"),
        ("a.json", b'{\n  "text": "the cat"\n}\n', "3 lines hold 1 objects"),
        ("a.parquet", b"PAR1" + bytes(200) + b"PAR1", "not a parquet file, or a damaged one"),
        ("a.parquet", b"PARE" + bytes(200) + b"PARE", "not a parquet file, or a damaged one"),
        ("a.parquet", b"", "is empty"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(df.InputError, match=told) as caught:
        read_texts([tmp_path / name])
    assert "\n" not in str(caught.value)
    assert name.split(".")[0] in str(caught.value)


@given(st.binary(max_size=300), st.sampled_from(["a.txt", "a.jsonl", "a.parquet", "a.txt.gz"]), st.booleans())
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str, skip: bool
) -> None:
    path = tmp_path_factory.mktemp("any") / name
    starts = {"a.jsonl": b'{"text": "', "a.parquet": b"PAR1", "a.txt.gz": b"\x1f\x8b"}
    path.write_bytes(starts.get(name, b"x") + content)
    told = "one line"
    try:
        assert all(read_texts([path], counts=TextCounts(skip)))
    except df.InputError as error:
        told = str(error)
    assert "\n" not in told


def test_bad_rows_can_be_left_out_and_are_counted(folder: Path) -> None:
    good = [f"the cat the dog {number}" for number in range(4)]
    (folder / "a.txt").write_bytes(b"\n".join([good[0].encode(), b"caf\xe9", b"\xff", good[1].encode()]))
    lines = [
        json.dumps({"text": good[2]}),
        '{"text": null}',
        '{"id": 1}',
        '{"text": "caf\udce9"}',
        json.dumps({"text": good[3]}),
    ]
    (folder / "b.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    counts = TextCounts(skip_bad_rows=True)
    assert read_texts([folder / "a.txt", folder / "b.jsonl"], counts=counts) == good
    assert (counts.without_text, counts.not_utf8) == (2, 3)
    for name in ("a.txt", "b.jsonl"):
        with pytest.raises(df.InputError, match=r"not UTF-8|no text|not a JSON"):
            read_texts([folder / name])
    info = prepare(
        folder / "out", folder / "vocab.txt", [folder / "a.txt"], min_length=0, max_unknown=2, skip_bad_rows=True
    )
    assert (info["rows"], info["skipped_not_utf8"], info["skipped_without_text"]) == (2, 2, 0)
    assert "left out 0 rows without text, 2 that are not UTF-8" in prepare_run.report(info, "out")


def test_a_column_with_a_dot_beside_a_struct(tmp_path: Path) -> None:
    table = pa.table({"a": [{"b": "struct"}], "a.b": ["text"]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (block,) = read_files([tmp_path / "a.parquet"], column="a.b")
    assert block.texts.to_pylist() == ["text"]


def test_one_name_is_a_name_and_not_its_letters(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ab").mkdir()
    (folder / "ab" / "t.txt").write_text(LINE)
    (folder / "a").mkdir()
    monkeypatch.chdir(folder)
    for text in ("ab", Path("ab"), ["ab"]):
        assert prepare(folder / "out", "vocab.txt", text, overwrite=True)["rows"] == 1


def test_rows_are_counted_from_the_start_of_the_data_set(folder: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["the cat"] * 5 + [None] + ["the cat"] * 5})
    for options in ({}, {"num_proc": 2}):
        with pytest.raises(df.InputError, match=r"the dataset: row 5 \(counted from 0\)"):
            df.tokenize_dataset(rows, folder / "vocab.txt", batch_size=3, **options)
    empty = df.tokenize_dataset(datasets.Dataset.from_dict({"text": []}), folder / "vocab.txt")
    assert empty.column_names == ["input_ids"]


@pytest.mark.parametrize("name", [b"bad\xff.txt", "é.txt".encode()])
def test_names_that_are_not_utf8(folder: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(folder / "corpus"), name)
    with open(path, "wb") as file:
        file.write(b"the dog \n")
    assert len(read_texts([folder / "corpus"])) == 2
    with open(path, "ab") as file:
        file.write(b"\xff\n")
    with pytest.raises(df.InputError, match="not UTF-8 at byte 9"):
        read_texts([Path(os.fsdecode(path))])


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.jsonl": '{"text": "x"}\n{"text": \n'}, "--dataset"),
        ({"a.csv": 'text,label\n"x",1\n"y",2,3,4\n'}, "--dataset"),
        ({"a.jsonl": '{"text": "x"}\n', "b.jsonl": '{"other": 1}\n'}, "--dataset"),
        ({"SCRIPT.py": "import datasets\n"}, "--dataset"),
    ],
)
def test_what_fails_inside_datasets_is_one_line(tmp_path: Path, files: dict[str, str], told: str) -> None:
    (tmp_path / "SCRIPT").mkdir()
    for name, content in files.items():
        (tmp_path / "SCRIPT" / name).write_text(content)
    with pytest.raises(df.InputError, match=told) as caught:
        prepare_run.load_dataset(str(tmp_path / "SCRIPT"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "dataset", [datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["x"]})}), [{"text": "x"}]]
)
def test_other_data_sets_are_answered_with_a_sentence(folder: Path, dataset: Any) -> None:
    with pytest.raises(df.InputError, match=r"give one of them|not a datasets\.Dataset"):
        prepare(folder / "out", folder / "vocab.txt", dataset=dataset)


@pytest.mark.parametrize("output", ["/dev/null", "pipe", "corpus", ".", "corpus/a.txt", "vocab.txt"])
@pytest.mark.parametrize("flags", [[], ["--overwrite"]])
def test_the_command_never_destroys(
    folder: Path, output: str, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    os.mkfifo("pipe")
    before = sorted((str(path), path.lstat().st_mode) for path in folder.rglob("*"))
    given = ["--tokenizer", "vocab.txt", "--text", "corpus", "--output_dir", output, "--disable_tqdm", *flags]
    with pytest.raises(SystemExit) as code:
        command.run(lambda: prepare_run.main(given))
    assert code.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted((str(path), path.lstat().st_mode) for path in folder.rglob("*")) == before
    assert not Path("/dev/null").is_dir()


def test_tokens_of_a_vocabulary_fit_the_teacher_that_has_it(folder: Path) -> None:
    """Prepared with FOLDER/vocab.txt, read back with FOLDER: the same ids, so the same fingerprint; cased or not."""
    for number, words in enumerate((["the", "cat"], ["the", "The", "Cat"])):
        teacher = folder / f"teacher{number}"
        teacher.mkdir()
        (teacher / "vocab.txt").write_text(VOCAB + "\n".join(words[1:]) + "\n")
        (teacher / "config.json").write_text(json.dumps({"model_type": "bert"}))
        prepare(folder / f"out{number}", teacher / "vocab.txt", folder / "corpus")
        tokens = load_tokens(folder / f"out{number}")
        tokens.check_tokenizer(df.Tokenizer.from_pretrained(teacher), "teacher")
        theirs = df.tokenizer.load_transformers_tokenizer(teacher)
        texts = ["The cat the CAT", "the dog"]
        assert [tokens.tokenizer.encode(text) for text in texts] == theirs(texts)["input_ids"]
    cased = df.tokenizer.load_tokenizer(folder / "teacher1", lowercase=True)
    assert cased.encode("THE") == df.Tokenizer.from_file(folder / "vocab.txt").encode("the")


def test_nothing_here_depends_on_the_order_of_names(folder: Path) -> None:
    for name in random.Random(0).sample([f"{number}.txt" for number in range(9)], 9):
        (folder / "corpus" / name).write_text(f"the {name}\n")
    assert read_texts([folder / "corpus"])[:9] == [f"the {number}.txt" for number in range(9)]


def test_a_table_is_read_as_the_refusal_says(folder: Path) -> None:
    (folder / "a.csv").write_text('id,body\n1,"the cat, the dog"\n2,NA\n')
    with pytest.raises(df.InputError, match=r"--dataset \S+a\.csv and --column"):
        read_texts([folder / "a.csv"])
    rows = prepare_run.load_dataset(str(folder / "a.csv"))
    assert rows["body"][:] == ["the cat, the dog", "NA"]
    info = prepare(folder / "out", folder / "vocab.txt", dataset=rows, column="body", min_length=0, max_unknown=2)
    assert info["rows"] == 2


@given(st.data())
def test_damaged_tokens_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """One file of a prepared directory cut, emptied, changed or replaced by another: one line, or whole anyway."""
    place = tmp_path_factory.mktemp("damaged")
    (place / "vocab.txt").write_text(VOCAB)
    (place / "text.txt").write_text((LINE + "\n") * 5)
    prepare(place / "tokens", place / "vocab.txt", place / "text.txt", progress=False)
    files = sorted(path for path in (place / "tokens").rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    changed = data.draw(
        st.one_of(
            st.integers(0, len(content) - 1).map(lambda end: content[:end]),
            st.sampled_from([b"", b"[]", b"{}", b"null", b"3", b'{"files": 3, "format": 2}', b"[" * 5000]),
            st.sampled_from(files).map(lambda other: other.read_bytes()),
            st.integers(0, len(content) - 1).map(lambda at: content[:at] + b"\xff" + content[at + 1 :]),
        )
    )
    path.write_bytes(changed)
    told = "one line"
    try:
        assert len(load_tokens(place / "tokens").dataset) == 5
    except df.InputError as error:
        told = str(error)
    assert "\n" not in told
