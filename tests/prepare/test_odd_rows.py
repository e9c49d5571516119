"""Rows as they come out of other programs: read as they are meant, or refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
from distilfast._core import InputError
from distilfast.prepare.columns import find_columns
from distilfast.prepare.labelled import load_labelled
from distilfast.prepare.labels import is_missing, match_labels, new_classes
from distilfast.prepare.table import read_rows
from distilfast.prepare.targets import number_targets, sequence_targets, with_text

ROWS = [("the boat, red", "good"), ("a town", "bad"), ("the river", "good")]


def delimited(mark: str) -> str:
    return "".join(f"{text.replace(mark, ' ')}{mark}{label}\n" for text, label in [("text", "label"), *ROWS])


@pytest.mark.parametrize(
    ("name", "mark", "said"),
    [
        ("rows.csv", "|", ["its columns are divided by bars"]),
        ("rows.csv", ";", ["its columns are divided by semicolons"]),
        ("rows.csv", "\t", ["its columns are divided by tabs"]),
        ("rows.csv", ",", []),
        ("rows.tsv", "\t", []),
        ("rows.tsv", ",", ["its columns are divided by commas"]),
        ("rows.tab", "|", ["its columns are divided by bars"]),
    ],
)
def test_what_divides_columns_is_what_divides_the_header(tmp_path: Path, name: str, mark: str, said: list[str]) -> None:
    (tmp_path / name).write_text(delimited(mark))
    rows = read_rows(tmp_path / name)
    assert rows.column_names == ["text", "label"]
    assert rows.column("text") == [text.replace(mark, " ") for text, _ in ROWS]
    assert rows.column("label") == [label for _, label in ROWS]
    assert [note.removeprefix(f"{tmp_path / name}: ") for note in rows.notes] == said


def test_one_column_has_no_delimiter(tmp_path: Path) -> None:
    for name in ("rows.csv", "rows.tsv"):
        (tmp_path / name).write_text("text\na | b\nc ; d\n")
        assert read_rows(tmp_path / name).column("text") == ["a | b", "c ; d"]


def test_a_label_of_blanks_is_none(tmp_path: Path) -> None:
    assert [is_missing(label) for label in ("", " ", "\t", None, math.nan, "0", 0, False)] == [True] * 5 + [False] * 3
    rows = read_rows({"text": ["a", "b", "c"], "label": ["good", " ", "bad "]})
    found = sequence_targets(rows, find_columns(rows), "single_label_classification", {0: "good", 1: "bad"})
    assert (found.values, found.labelled) == ([0, -100, 1], 2)


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_nan_in_json_is_nothing(tmp_path: Path, ending: str) -> None:
    """Python's `json` writes it for what pandas has not."""
    rows = [{"text": "a", "score": 1.5}, {"text": math.nan, "score": 2.0}, {"text": "b", "score": math.nan}]
    path = tmp_path / f"rows.{ending}"
    lines = [json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) if ending == "jsonl" else f"[{', '.join(lines)}]")
    read = read_rows(path)
    assert read.column("text") == ["a", None, "b"]
    kept = with_text(read, find_columns(read))
    assert (len(kept), kept.counts) == (2, {"rows without text left out": 1})
    numbers = number_targets(kept.column("score"), "rows")
    assert numbers[0] == 1.5
    assert math.isnan(numbers[1])


@pytest.mark.parametrize("label", ["1_000", "1,5", "4/5", "90%", "inf", "-inf", "1e999", "nan", "high"])
def test_what_is_no_number_to_everyone_is_refused(label: str) -> None:
    with pytest.raises(InputError, match=r"row 2: the label .* is no number"):
        number_targets(["1.5", label], "rows")


def test_folders_without_splits_are_rows_wherever_they_are_named(tmp_path: Path) -> None:
    shards, classes, saved = (tmp_path / name for name in ("shards", "classes", "saved"))
    shards.mkdir()
    (shards / "part-0.csv").write_text("text,label\na,good\n")
    (shards / "part-1.csv").write_text("label,text\nbad,b\n")
    for label, text in (("good", "a"), ("bad", "b")):
        (classes / label).mkdir(parents=True)
        (classes / label / "0.txt").write_text(text)
    datasets.Dataset.from_dict({"text": ["a", "b"], "label": ["good", "bad"]}).save_to_disk(str(saved))
    (tmp_path / "rows.csv").write_text("text,label\nc,good\nd,bad\n")
    for folder in (shards, classes, saved):
        rows = read_rows(folder, split="validation")
        assert sorted(zip(rows.column("text"), rows.column("label"), strict=True)) == [("a", "good"), ("b", "bad")]
        assert len(load_labelled(tmp_path / "rows.csv", validation=folder).validation) == 2


@pytest.mark.parametrize("splits", [("train", "test"), ("train",), ("test",)])
def test_rows_of_another_split_are_not_taken_for_validation(tmp_path: Path, splits: tuple[str, ...]) -> None:
    """Training rows stood in for the validation rows that a folder lacks."""
    folder = tmp_path / "task"
    folder.mkdir()
    for split in splits:
        (folder / f"{split}.csv").write_text("text,label\na,good\nb,bad\n")
    (tmp_path / "rows.csv").write_text("text,label\nc,good\nd,bad\n")
    for read in (
        lambda: load_labelled(tmp_path / "rows.csv", validation=folder),
        lambda: read_rows(folder, split="validation"),
    ):
        with pytest.raises(InputError, match="has no split 'validation'; it has '"):
            read()


def test_a_class_without_a_column_is_said() -> None:
    rows = read_rows({"text": ["a", "b"], "art": ["1", "0"], "news": ["0", "0"]})
    columns = find_columns(rows, label_column=["art", "news"])
    found = sequence_targets(rows, columns, "multi_label_classification", {0: "sport", 1: "art", 2: "news"})
    assert found.values == [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert found.labelled == 2
    assert found.notes[-1] == "warning: no column for the classes 'sport': they are taken to hold for no row"
    with pytest.raises(InputError, match="the labels 'news' are none"):  # though it holds for no row
        sequence_targets(rows, columns, "multi_label_classification", {0: "sport", 1: "art", 2: "music"})


@pytest.mark.parametrize(
    ("names", "told"), [(["a", "a ", "b"], "two classes called 'a'"), (["a", " ", "b"], "a class whose name is empty")]
)
def test_classes_that_no_label_can_tell_apart(names: list[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        match_labels(["b"], dict(enumerate(names)))


def test_classes_that_case_alone_tells_apart_are_said(caplog: pytest.LogCaptureFixture) -> None:
    labels: list[Any] = ["Good", "bad", "good", "bad "]
    assert new_classes(labels) == {0: "Good", 1: "bad", 2: "good"}
    assert [record.getMessage() for record in caplog.records] == [
        "the labels 'Good' and 'good' differ in case alone, and become two classes"
    ]
