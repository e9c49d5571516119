"""Training, validation and unlabelled rows together: what is held out, chosen, shared, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
from distilfast._core import InputError
from distilfast.prepare.labelled import load_labelled

ROWS = {"text": [f"row {number}" for number in range(200)], "label": ["yes", "no"] * 100}


def write(path: Path, rows: dict[str, list[str]]) -> Path:
    lines = [",".join(rows), *(",".join(row) for row in zip(*rows.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_a_tenth_is_held_out_and_said(tmp_path: Path) -> None:
    data = load_labelled(write(tmp_path / "rows.csv", ROWS))
    texts = data.train.rows.column("text") + data.validation.rows.column("text")
    assert sorted(texts) == sorted(ROWS["text"])
    assert any(f"{len(data.validation)} of 200 rows" in note for note in data.notes)
    assert any("text 'text' (found); label 'label' (found)" in note for note in data.notes)
    # The choice is made after the split: fewer training rows change no validation row.
    few = load_labelled(tmp_path / "rows.csv", max_train_rows=20)
    assert few.validation.rows.column("text") == data.validation.rows.column("text")
    assert len(few.train) == 20
    assert set(few.train.rows.column("text")) < set(data.train.rows.column("text"))
    assert any(f"trained on 20 of {len(data.train)} rows" in note for note in few.notes)


def test_rows_that_are_in_both_files_are_counted(tmp_path: Path) -> None:
    train = write(tmp_path / "train.csv", ROWS)
    other = {"text": ["ROW  3", "row 4", "new"], "label": ["yes", "no", "no"]}
    data = load_labelled(train, write(tmp_path / "dev.csv", other))
    assert (len(data.train), len(data.validation)) == (200, 3)
    assert any(note.startswith("2 of 3 validation rows are also among the training rows") for note in data.notes)
    unlabelled = write(tmp_path / "more.csv", {"text": ["new", "newer"], "label": ["?", "?"]})
    more = load_labelled(train, other, unlabelled)
    assert more.unlabelled is not None
    assert more.unlabelled.columns.labels == ()
    assert any(note.startswith("1 of 3 validation rows are also among the unlabelled rows") for note in more.notes)


def test_the_splits_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / "dev.csv", {"text": ["a", "b"], "label": ["yes", "no"]})
    data = load_labelled(tmp_path)
    assert data.validation.rows.column("text") == ["a", "b"]
    assert any("its split validation, 2 rows" in note for note in data.notes)


def test_validation_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    pairs = {"sentence1": ["a"], "sentence2": ["b"], "label": ["yes"]}
    with pytest.raises(InputError, match="2 columns of text"):
        load_labelled(ROWS, pairs)
    with pytest.raises(InputError, match="2 columns of text"):
        load_labelled(ROWS, {"text": ["a"], "label": ["yes"]}, pairs)


@pytest.mark.parametrize(("task", "rows"), [("MRPC", (3668, 408)), ("STS-B", (5749, 1500))])
def test_real_folders(data_dir: Path, task: str, rows: tuple[int, int]) -> None:
    data = load_labelled(data_dir / "glue" / task)
    assert (len(data.train), len(data.validation)) == rows
    assert len(data.train.texts) == 2
