"""Files of rows that are not whole: refused, or what does not fit is left out and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import distilfast as df
import pytest
from film_rows import QUICK, save_blank

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = {0: "bad", 1: "good"}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save_blank(tmp_path / "teacher", layers=2, id2label=NAMES, problem_type="single_label_classification")


def notes_of(summary: dict[str, Any]) -> str:
    return " | ".join(summary["data"]["notes"])


def test_ragged_rows_are_refused_and_can_be_skipped(teacher: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    lines = [f"film number {number},{NAMES[number % 2]}" for number in range(20)]
    file.write_text("\n".join(["text,label", *lines, "no label at all", "a, b, bad"]) + "\n")
    with pytest.raises(df.InputError, match=r"line 22: 1 cells where the header has 2 .*--ragged skip"):
        df.distil(teacher, file, tmp_path / "out", dry_run=True, **QUICK)
    summary = df.distil(teacher, file, tmp_path / "out", dry_run=True, ragged="skip", **QUICK)
    assert "2 rows with other numbers of cells left out" in notes_of(summary)
    options: dict[str, Any] = {"validation_file": str(file), "speed": False, "device": "cpu"}
    with pytest.raises(df.InputError, match="--ragged skip"):
        df.evaluate_models(str(teacher), [], str(tmp_path / "report"), **options)
    report = df.evaluate_models(str(teacher), [], str(tmp_path / "report"), ragged="skip", **options)
    part = report["rows"]["rows"]
    assert part["rows"] == 20
    assert "2 rows with other numbers of cells left out" in part["notes"]


def test_a_separator_of_labels_where_a_row_has_one_is_refused(teacher: Path, tmp_path: Path) -> None:
    rows = [{"text": f"film {number}", "label": NAMES[number % 2]} for number in range(20)]
    with pytest.raises(df.InputError, match=r"--label_separator ';': the model gives a row one label"):
        df.distil(teacher, rows, tmp_path / "out", dry_run=True, label_separator=";", **QUICK)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("labels", "warned"), [(["bad"], True), (["bad", "good"], False)])
def test_labels_that_are_all_the_same_are_warned_of(
    labels: list[str], warned: bool, teacher: Path, tmp_path: Path
) -> None:
    rows = [{"text": f"film {number}", "label": labels[number % len(labels)]} for number in range(40)]
    said = notes_of(df.distil(teacher, rows, tmp_path / "out", dry_run=True, **QUICK))
    for part in ("train", "validation"):
        assert (f"warning: {part}: all labels are the same" in said) == warned
