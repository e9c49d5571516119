"""Task folders as they are found in the wild, and what is said about those that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from distilfast import InputError
from distilfast.evaluate.tasks import load_task


def write(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8", newline="")


def rte(folder: Path) -> Path:
    header = "index\tsentence1\tsentence2\tlabel"
    write(
        folder / "RTE" / "train.tsv",
        header,
        '0\tHe said "no.\tNo.\tentailment',
        "1\tOne\u2028line\tTwo\tnot_entailment",
    )
    write(folder / "RTE" / "dev.tsv", header, "0\tA\tB\tnot_entailment")
    return folder


def test_a_folder_with_header(tmp_path: Path) -> None:
    data = load_task("rte", str(rte(tmp_path)))
    # A quote opens nothing, and only a line feed ends a row.
    assert data.train.column("sentence1") == ['He said "no.', "One\u2028line"]
    assert data.train.column("sentence2") == ["No.", "Two"]
    assert data.dev["dev"].column("label") == ["not_entailment"]
    assert data.kind == "text"
    assert str(tmp_path) not in " ".join(data.notes)
    other = load_task("rte", str(rte(tmp_path / "other" / "glue").parent))
    assert other.fingerprint == data.fingerprint
    assert other.notes == data.notes


def test_mnli_has_two_dev_splits_and_qqp_rows_cut_short(tmp_path: Path) -> None:
    header = "index\tsentence1\tsentence2\tgold_label"
    for name in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        write(tmp_path / "MNLI" / name, header, "0\tA\tB\tneutral", "1\tA\tB\tcontradiction")
    assert list(load_task("mnli", str(tmp_path)).dev) == ["matched", "mismatched"]
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / "QQP" / name, "question1\tquestion2\tis_duplicate", "a?\tb?\t1", "c?\td?\t0", "a?")
    qqp = load_task("qqp", str(tmp_path))
    assert len(qqp.train) == 2
    assert any("cells left out" in note for note in qqp.notes)


def test_a_tenth_is_held_out_where_there_is_no_dev_file(tmp_path: Path) -> None:
    rows = [f"sentence {i}\t{i % 2}" for i in range(100)]
    write(tmp_path / "SST-2" / "train.tsv", "sentence\tlabel", *rows)
    data = load_task("sst2", str(tmp_path))
    (held,) = data.dev.values()
    assert 2 <= len(held) <= 20
    assert len(held) + len(data.train) == 100
    assert not set(data.train.column("sentence")) & set(held.column("sentence"))
    assert any("held out by a hash" in note for note in data.notes)
    assert "does not compare with published" in data.notes[-1]
    write(tmp_path / "SST-2" / "dev.tsv", "sentence\tlabel", "dev\t1")
    assert not any("held out" in note for note in load_task("sst2", str(tmp_path)).notes)


def test_imdb_as_folders_is_scored_on_its_test_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label, text in (("pos", "Good.<br />Fine."), ("neg", "Bad."), ("unsup", "What?")):
            write(tmp_path / "aclImdb" / split / label / "0_9.txt", text)
    data = load_task("imdb", str(tmp_path))
    assert data.dev["test"].column("label") == ["neg", "pos"]
    assert data.train.column("label") == ["neg", "pos"]
    assert data.notes[0] == "scored on the test split"
    assert "1 training rows without a label left out" in data.notes


def test_tasks_of_your_own(tmp_path: Path) -> None:
    write(tmp_path / "weather" / "train.tsv", "text\tlabel", "rain\twet", "sun\tdry")
    write(tmp_path / "weather" / "dev.tsv", "text\tlabel", "snow\twet")
    data = load_task("weather", str(tmp_path))
    assert not data.task.glue
    assert data.task.metrics == ()
    for name in ("train", "dev"):
        write(tmp_path / "names" / f"{name}.conll", "Ada B-PER", "wrote O", "", "Rome B-LOC", "")
    assert load_task("names", str(tmp_path)).kind == "tokens"


def test_so_many_rows_and_no_more(tmp_path: Path) -> None:
    write(tmp_path / "SST-2" / "train.tsv", "sentence\tlabel", *[f"s {i}\t{i % 2}" for i in range(100)])
    write(tmp_path / "SST-2" / "dev.tsv", "sentence\tlabel", *[f"d {i}\t{i % 2}" for i in range(10)])
    cut = load_task("sst2", str(tmp_path), max_train_rows=12, max_dev_rows=3)
    (dev,) = cut.dev.values()
    assert (len(cut.train), len(dev)) == (12, 3)
    assert any(note.startswith("trained on 12 of 100 rows") for note in cut.notes)
    assert "scored on 3 of 10 rows" in cut.notes[-1]
    assert cut.fingerprint == load_task("sst2", str(tmp_path), 12, 3).fingerprint
    assert cut.fingerprint != load_task("sst2", str(tmp_path)).fingerprint
    with pytest.raises(InputError, match="max_train_rows is 0"):
        load_task("sst2", str(tmp_path), max_train_rows=0)


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        load_task("rte", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"task 'rte': .* has a folder of that name"):
        load_task("rte", str(tmp_path))
    folder = rte(tmp_path) / "RTE"
    header = "index\tsentence1\tsentence2\tlabel"
    cases = {
        r"dev\.tsv: the labels 'maybe' are none of the training rows' classes": (
            header,
            "0\tA\tB\tentailment",
            "1\tA\tB\tmaybe",
        ),
        r"dev\.tsv, line 2: 2 cells where the header has 4": (header, "0\tA"),
        r"dev\.tsv has a header and no rows": (header,),
        r"no row has a label": (header, "0\tA\tB\t"),
    }
    for message, rows in cases.items():
        write(folder / "dev.tsv", *rows)
        with pytest.raises(InputError, match=message):
            load_task("rte", str(tmp_path))
    (folder / "dev.tsv").write_bytes(b"index\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        load_task("rte", str(tmp_path))
    write(folder / "dev.tsv", header, "0\tA\tB\tentailment")
    (folder / "train.tsv").unlink()
    with pytest.raises(InputError, match="has no split train"):
        load_task("rte", str(tmp_path))


def squad_file(path: Path, **answer: Any) -> None:
    question = {"id": "q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 4, **answer}]}
    content = {"data": [{"paragraphs": [{"context": "Now Ada wrote.", "qas": [question]}]}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_squad_files(tmp_path: Path) -> None:
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        squad_file(tmp_path / "squad" / name)
    data = load_task("squad", str(tmp_path))
    assert data.kind == "questions"
    assert data.train.column("answers") == [{"text": ["Ada"], "answer_start": [4]}]
    (tmp_path / "squad" / "dev-v1.1.json").write_text('{"data": [{"paragraphs": [{}]}]}')
    with pytest.raises(InputError, match="no SQuAD file"):
        load_task("squad", str(tmp_path))


def test_the_hub_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None]] = []

    def load_dataset(path: str, configuration: str | None) -> dict[str, datasets.Dataset]:
        asked.append((path, configuration))
        names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
        features = {"premise": datasets.Value("string"), "hypothesis": datasets.Value("string"), "label": names}
        rows = datasets.Dataset.from_dict(
            {"premise": ["A", "B"], "hypothesis": ["B", "C"], "label": [2, 0]}, datasets.Features(features)
        )
        return {"train": rows, "validation_matched": rows, "validation_mismatched": rows}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_task("mnli", None)
    assert asked == [("nyu-mll/glue", "mnli")]
    assert list(data.dev) == ["matched", "mismatched"]
    assert data.train.column("premise") == ["A", "B"]

    def offline(*_: Any) -> Any:
        raise ConnectionError("Couldn't reach the hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=r"Couldn't reach the hub"):
        load_task("rte", None)
    with pytest.raises(InputError, match=r"task 'weather' is none of cola, sst2.*--data_dir"):
        load_task("weather", None)


def test_the_real_folders(data_dir: Path) -> None:
    """GLUE's official numbers of rows."""
    expected = {"cola": (8551, 527), "rte": (2490, 277), "mrpc": (3668, 408), "stsb": (5749, 1500), "wnli": (635, 71)}
    for name, rows in expected.items():
        data = load_task(name, str(data_dir))
        (dev,) = data.dev.values()
        assert (len(data.train), len(dev)) == rows
    for name, total in {"sst2": 67349, "imdb": 24996}.items():
        data = load_task(name, str(data_dir))
        (dev,) = data.dev.values()
        assert len(data.train) + len(dev) == total
        assert 0.08 < len(dev) / total < 0.12
