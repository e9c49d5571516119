"""Rows from files and objects: every cell as written, every kind of file, refusals that say where."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest
from distilfast._core import InputError
from distilfast.prepare.table import Rows, _split_of, read_rows, read_splits
from hypothesis import given, settings
from hypothesis import strategies as st

# What csv can hold: a lone carriage return ends a line to some readers and not to others.
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=12)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def as_columns(rows: Rows) -> dict[str, list[Any]]:
    return {name: rows.column(name) for name in rows.column_names}


@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), quoting=st.sampled_from([0, 1]))
def test_csv_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], quoting: Any
) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator="\n").writerows([("text", "label"), *rows])
    path = write(tmp_path_factory.mktemp("csv") / "rows.csv", text.getvalue())
    assert as_columns(read_rows(path)) == {"text": [row[0] for row in rows], "label": [row[1] for row in rows]}


@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6))
def test_tsv_with_quotes_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    path = write(tmp_path_factory.mktemp("tsv") / "rows.tsv", text.getvalue())
    assert as_columns(read_rows(path)) == {"text": [row[0] for row in rows], "label": [row[1] for row in rows]}


@given(cells=st.lists(CELL.filter(lambda cell: not set(cell) & set('\t\n"')), min_size=1, max_size=6))
def test_tsv_without_quotes_keeps_marks_as_text(tmp_path_factory: pytest.TempPathFactory, cells: list[str]) -> None:
    # A mark that begins a cell and does not end it: nothing in this file is quoted.
    texts = ['" It begins with a mark', '"It is between marks."', *cells]
    lines = "".join(f"{text}\t{number}\n" for number, text in enumerate(texts))
    rows = read_rows(write(tmp_path_factory.mktemp("tsv") / "rows.tsv", "text\tlabel\n" + lines))
    assert rows.column("text") == texts
    assert "text, and kept" in rows.notes[0]


def test_nothing_is_guessed_to_be_missing_or_a_number(tmp_path: Path) -> None:
    cells = ["NA", "None", "null", "nan", "007", "1.50", "", "true", "2020-01-01", "#N/A", "-", " x "]
    rows = read_rows(write(tmp_path / "rows.csv", "text,label\n" + "".join(f"{cell},{cell}\n" for cell in cells)))
    assert as_columns(rows) == {"text": cells, "label": cells}


def test_mark_carriage_returns_semicolons_and_packing(tmp_path: Path) -> None:
    content = '\ufefftext;label\r\n"a\nb";1\r\nc,d;2\r\n'
    rows = read_rows(write(tmp_path / "rows.csv", content))
    assert as_columns(rows) == {"text": ["a\nb", "c,d"], "label": ["1", "2"]}
    assert "semicolons" in rows.notes[0]
    packed = read_rows(write(tmp_path / "rows.csv.gz", gzip.compress(b"text,label\nhe,1\n")))
    assert as_columns(packed) == {"text": ["he"], "label": ["1"]}


@given(
    content=st.binary(max_size=40)
    | st.text(alphabet='ab",\t\n\r;{}[]:1# \\\ufeff', max_size=40).map(str.encode)
    | st.lists(st.sampled_from(["text,label\n", "a\tO\n", "\n", '{"a": 1}\n', '"', "x,1\n"]), max_size=8).map(
        lambda parts: "".join(parts).encode()
    ),
    name=st.sampled_from(["a.csv", "a.tsv", "a.json", "a.jsonl", "a.conll", "a.txt", "a.parquet"]),
)
@settings(max_examples=300)
def test_whatever_a_file_holds_it_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str
) -> None:
    path = write(tmp_path_factory.mktemp("any") / name, content)
    rows, said = None, ""
    try:
        rows = read_rows(path)
    except InputError as refusal:
        said = str(refusal)
    assert "\n" not in said
    if rows is None:
        return
    assert len(rows) > 0
    assert len(set(rows.column_names)) == len(rows.column_names)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", 'text,label\n"x\ny",1\nz,1,2\nw,1\n', "line 4: 3 cells where the header has 2"),
        ("a.csv", "text,label\nx\n", "line 2: 1 cells"),
        ("a.csv", 'text,label\n"never ends,1\nx,2\n', "line 2: a cell begins with a quotation mark"),
        ("a.csv", "text,text\nx,1\n", "more than one column 'text'"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "", "empty"),
        ("a.csv", "text,label\nok,1\ncaf\xe9,2\n".encode("latin-1"), "byte 0xe9 in line 3"),
        ("a.csv", '"text\n\u00e9",label\nx,1\n'.encode("latin-1"), "byte 0xe9 in line 2"),
        ("a.csv", "text,label\nx,1,\u00e9\n".encode("latin-1"), "byte 0xe9 in line 2"),
        ("a.csv", "text,label\nx,1\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"PK\x03\x04", "zip"),
        ("a.jsonl", '{"text": "x"}\n{"text": \n', "line 2: no JSON"),
        ("a.jsonl", '{"text": "x", "text": "y"}\n', "line 1: .* the name 'text' twice"),
        ("a.json", '[{"text": "x", "text": "y"}]', "the name 'text' twice"),
        ("a.jsonl", '{"text": "x"}\n["y"]\n', "line 2: list"),
        ("a.json", '[{"text": "x"}, 3]', "element 1"),
        ("a.json", '{\n"version": {"of": 1}\n}', "holds one object with 'version'"),
        ("a.json", "[]", "no rows"),
        ("a.json", "text", "no JSON objects"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "surrogate"),
        ("a.parquet", "no parquet", "cannot be read as parquet"),
        ("a.xlsx", "x", "ending in"),
        ("a.conll", "word\tO\nother\tO\tO\n\nthird\tO\n", "line 2: 3 cells"),
        ("a.conll", "word\nother\n", "no words with tags"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says) as refusal:
        read_rows(write(tmp_path / name, content))
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_rows_that_do_not_fit_can_be_left_out_and_are_counted(tmp_path: Path) -> None:
    rows = read_rows(write(tmp_path / "rows.csv", "text,label\nx,1\ny\nz,1,2\nw,0\n"), ragged="skip")
    assert rows.column("text") == ["x", "w"]
    assert rows.counts == {"rows with other numbers of cells left out": 2}


@pytest.mark.parametrize(
    "content",
    [
        '{"text": "007", "label": 1}\n\n{"text": "NA", "label": 0}\n',
        '[{"text": "007", "label": 1}, {"text": "NA", "label": 0}]',
        '{"data": [{"text": "007", "label": 1}, {"text": "NA", "label": 0}]}',
        '{"text": ["007", "NA"], "label": [1, 0]}',
    ],
)
def test_json_in_its_forms(tmp_path: Path, content: str) -> None:
    expected = {"text": ["007", "NA"], "label": [1, 0]}
    assert as_columns(read_rows(write(tmp_path / "rows.json", content))) == expected


def test_json_strings_are_not_dates_and_mixed_columns_are_said(tmp_path: Path) -> None:
    lines = [{"text": "2020-01-01", "label": 1}, {"text": "b", "label": "one"}, {"text": "c"}]
    rows = read_rows(write(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, lines))))
    assert as_columns(rows) == {"text": ["2020-01-01", "b", "c"], "label": ["1", "one", None]}
    assert "'label' holds values of several kinds (int, str)" in rows.notes[0]


def test_squad_files(tmp_path: Path) -> None:
    questions = [
        {"id": "1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 0}]},
        {"id": "2", "question": "Why?", "answers": [], "is_impossible": True},
    ]
    content = {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": "Ann ran.", "qas": questions}]}]}
    rows = read_rows(write(tmp_path / "train-v2.0.json", json.dumps(content)))
    assert rows.column("question") == ["Who?", "Why?"]
    assert rows.column("context") == ["Ann ran."] * 2
    assert rows.column("answers") == [{"text": ["Ann"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    del questions[0]["id"]
    with pytest.raises(InputError, match="no SQuAD file"):
        read_rows(write(tmp_path / "bad.json", json.dumps(content)))


def test_parquet_keeps_class_names_and_categories(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features).to_parquet(
        tmp_path / "a.parquet"
    )
    rows = read_rows(tmp_path / "a.parquet")
    assert as_columns(rows) == {"text": ["a", "b"], "label": [1, 0]}
    assert rows.class_names == {"label": ("no", "yes")}
    table = pa.table({"text": ["a", "b"], "label": pa.array(["x", "y"]).dictionary_encode()})
    pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
    assert read_rows(tmp_path / "b.parquet").column("label") == ["x", "y"]


COLUMNS = {"text": ["NA", "b", "c"], "label": [1, 0, 1]}


@pytest.mark.parametrize(
    "source",
    [
        datasets.Dataset.from_dict(COLUMNS),
        datasets.DatasetDict({"train": datasets.Dataset.from_dict(COLUMNS)}),
        pandas.DataFrame(COLUMNS),
        pa.table(COLUMNS),
        COLUMNS,
        [dict(zip(COLUMNS, row, strict=True)) for row in zip(*COLUMNS.values(), strict=True)],
    ],
    ids=lambda source: type(source).__name__,
)
def test_objects_in_memory(source: Any) -> None:
    assert as_columns(read_rows(source)) == COLUMNS


def test_a_selected_data_set_gives_the_rows_selected() -> None:
    rows = read_rows(datasets.Dataset.from_dict(COLUMNS).select([2, 0]))
    assert as_columns(rows) == {"text": ["c", "NA"], "label": [1, 1]}


@pytest.mark.parametrize(
    "source",
    [
        [],
        {},
        {"a": [1], "b": []},
        3,
        pandas.Series(["a"], name="text"),
        datasets.IterableDataset.from_generator(lambda: []),
    ],
)
def test_objects_that_hold_no_rows_are_refused(source: Any) -> None:
    with pytest.raises(InputError):
        read_rows(source)


def test_saved_data_sets_and_folders_of_splits(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_dict(COLUMNS)
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "validation": whole.select([0])}).save_to_disk(tmp_path / "two")
    assert as_columns(read_rows(tmp_path / "one")) == COLUMNS
    assert {name: len(rows) for name, rows in read_splits(tmp_path / "two").items()} == {"train": 3, "validation": 1}
    write(tmp_path / "files" / "train.csv", "text,label\na,1\nb,0\n")
    write(tmp_path / "files" / "dev.jsonl", '{"text": "c", "label": "1"}\n')
    write(tmp_path / "files" / "README.md", "about")
    write(tmp_path / "files" / "extra.csv", "text,label\na,1\n")
    splits = read_splits(tmp_path / "files")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "validation": 1}
    assert any("extra.csv" in note for rows in splits.values() for note in rows.notes)
    with pytest.raises(InputError, match="no split 'test'; it has"):
        read_rows(tmp_path / "files", "test")


def test_a_split_may_be_two() -> None:
    """As MNLI's validation is: of the genres of training, and of others."""
    names = {
        "train.tsv": "train",
        "dev_matched.tsv": "validation_matched",
        "dev_mismatched.tsv": "validation_mismatched",
        "validation-matched": "validation_matched",
        "dev_set.csv": "validation",
        "testing.jsonl.gz": "test",
        "matched.tsv": None,
    }
    assert {name: _split_of(Path(name)) for name in names} == names


def test_shards_and_folders_of_classes(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "shards" / f"part-{number}.csv", f"text,label\nrow {number},1\n")
    assert read_rows(tmp_path / "shards").column("text") == ["row 0", "row 1", "row 2"]
    for name in ("pos", "neg", "unsup"):
        write(tmp_path / "acl" / "train" / name / "0_1.txt", f"a {name} review\nof two lines")
    rows = read_rows(tmp_path / "acl")
    assert rows.column("label") == ["neg", "pos", None]
    assert rows.column("text")[0] == "a neg review\nof two lines"
    write(tmp_path / "shards" / "part-3.csv", "text,class\nrow 3,1\n")
    with pytest.raises(InputError, match=r"part-3\.csv has the columns"):
        read_rows(tmp_path / "shards")
    with pytest.raises(InputError, match="holds no rows"):
        read_rows(write(tmp_path / "empty" / "README.md", "x").parent)


def test_a_name_that_is_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is not there"):
        read_rows(tmp_path / "absent.csv")

    def unreachable(*_: Any) -> None:
        raise ConnectionError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match="no file or folder here, nor a data set"):
        read_rows("nobody/nothing")
