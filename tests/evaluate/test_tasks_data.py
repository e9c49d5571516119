"""Task folders as they are found in the wild, and what is said about those that are broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from distilfast import InputError
from distilfast.evaluate.task_data import load_task


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
    data = load_task("rte", rte(tmp_path))
    # A quote opens nothing, and only a line feed ends a row.
    assert data.train.first == ['He said "no.', "One\u2028line"]
    assert data.train.second == ["No.", "Two"]
    assert data.train.labels == [0, 1]
    assert data.dev["dev"].labels == [1]
    assert load_task("rte", rte(tmp_path / "glue")).fingerprint == data.fingerprint


def test_cola_without_header_and_mrpc_with_byte_order_mark(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / "CoLA" / name, "gj04\t1\t\tBirds sing.", "gj04\t0\t*\tSing birds the.")
        write(tmp_path / "MRPC" / name, "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tA b\tB a\r")
    cola, mrpc = load_task("cola", tmp_path), load_task("mrpc", tmp_path)
    assert cola.train.first == ["Birds sing.", "Sing birds the."]
    assert cola.train.second is None
    assert cola.train.labels == [1, 0]
    assert (mrpc.train.first, mrpc.train.second, mrpc.train.labels) == (["A b"], ["B a"], [1])


def test_mnli_has_two_dev_splits_and_qqp_rows_cut_short(tmp_path: Path) -> None:
    header = "index\tsentence1\tsentence2\tgold_label"
    for name in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        write(tmp_path / "MNLI" / name, header, "0\tA\tB\tneutral", "1\tA\tB\tcontradiction")
    assert list(load_task("mnli", tmp_path).dev) == ["matched", "mismatched"]
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / "QQP" / name, "question1\tquestion2\tis_duplicate", "a?\tb?\t1", "a?")
    assert len(load_task("qqp", tmp_path).train) == 1


def test_a_tenth_is_held_out_where_sst2_has_no_dev(tmp_path: Path) -> None:
    rows = [f"sentence {i}\t{i % 2}" for i in range(25)]
    write(tmp_path / "SST-2" / "train.tsv", "sentence\tlabel", *rows)
    data = load_task("sst2", tmp_path)
    assert data.dev["dev"].first == ["sentence 9", "sentence 19"]
    assert len(data.train) == 23
    assert not set(data.train.first) & set(data.dev["dev"].first)
    assert "every tenth row" in data.notes[0]
    write(tmp_path / "SST-2" / "dev.tsv", "sentence\tlabel", "dev\t1")
    assert load_task("sst2", tmp_path).notes == ()


def test_imdb_as_folders_is_scored_on_its_test_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label, text in (("pos", "Good.<br />Fine."), ("neg", "Bad.")):
            write(tmp_path / "aclImdb" / split / label / "0_9.txt", text)
    data = load_task("imdb", tmp_path)
    assert data.dev["test"].first == ["Bad.", "Good. Fine."]
    assert data.dev["test"].labels == [0, 1]


def test_a_task_of_your_own(tmp_path: Path) -> None:
    write(tmp_path / "weather" / "train.tsv", "text\tlabel", "rain\twet", "sun\tdry")
    write(tmp_path / "weather" / "dev.tsv", "text\tlabel", "snow\twet")
    data = load_task("weather", tmp_path)
    assert data.task.labels == ("dry", "wet")
    assert data.dev["dev"].labels == [1]
    assert not data.task.glue


def test_so_many_rows_and_no_more(tmp_path: Path) -> None:
    write(tmp_path / "SST-2" / "train.tsv", "sentence\tlabel", *[f"s {i}\t{i % 2}" for i in range(100)])
    cut = load_task("sst2", tmp_path, max_train_rows=12, max_dev_rows=3)
    assert (len(cut.train), len(cut.dev["dev"])) == (12, 3)
    assert cut.notes[1:] == ("trained on 12 of 90 rows", "scored on 3 of 10 rows of dev")
    assert cut.fingerprint == load_task("sst2", tmp_path, 12, 3).fingerprint
    assert cut.fingerprint != load_task("sst2", tmp_path).fingerprint


def test_broken_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        load_task("rte", tmp_path / "gone")
    with pytest.raises(InputError, match=r"no folder RTE in"):
        load_task("rte", tmp_path)
    with pytest.raises(InputError, match="none of cola, sst2"):
        load_task("weather", tmp_path)
    folder = rte(tmp_path) / "RTE"
    (folder / "dev.tsv").unlink()
    with pytest.raises(InputError, match=r"dev\.tsv: missing"):
        load_task("rte", tmp_path)
    header = "index\tsentence1\tsentence2\tlabel"
    cases = {
        r"dev\.tsv:3: label 'maybe' is none of entailment, not_entailment": (
            header,
            "0\tA\tB\tentailment",
            "1\tA\tB\tmaybe",
        ),
        r"dev\.tsv:2: 2 columns where at least 4": (header, "0\tA"),
        r"no column 'sentence2'; its header has index, sentence1, label": (
            "index\tsentence1\tlabel",
            "0\tA\tentailment",
        ),
        r"its dev split has no rows": (header,),
        r"dev\.tsv: empty": (),
    }
    for message, rows in cases.items():
        write(folder / "dev.tsv", *rows)
        with pytest.raises(InputError, match=message):
            load_task("rte", tmp_path)
    (folder / "dev.tsv").write_bytes(b"index\xff")
    with pytest.raises(InputError, match="not UTF-8 at byte 5"):
        load_task("rte", tmp_path)
    with pytest.raises(InputError, match="max_train_rows is 0"):
        load_task("rte", rte(tmp_path), max_train_rows=0)


def test_similarities_out_of_range_are_named(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev.tsv"):
        write(tmp_path / "STS-B" / name, "sentence1\tsentence2\tscore", "A\tB\t2.5", "A\tB\t5.5")
    with pytest.raises(InputError, match=r"train\.tsv:3: score '5\.5' is no number from 0 to 5"):
        load_task("stsb", tmp_path)


def squad_file(path: Path, **answer: Any) -> None:
    question = {"id": "q1", "question": "Who?", "answers": [{"text": "Ada", "answer_start": 4, **answer}]}
    content = {"data": [{"paragraphs": [{"context": "Now Ada wrote.", "qas": [question]}]}]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_squad_files(tmp_path: Path) -> None:
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        squad_file(tmp_path / "squad" / name)
    data = load_task("squad", tmp_path)
    assert data.train.labels == [{"id": "q1", "answers": ["Ada"], "starts": [4]}]
    assert data.train.second == ["Now Ada wrote."]
    squad_file(tmp_path / "squad" / "dev-v1.1.json", answer_start=5)
    with pytest.raises(InputError, match="q1: an answer is not in the passage"):
        load_task("squad", tmp_path)
    (tmp_path / "squad" / "dev-v1.1.json").write_text("{}")
    with pytest.raises(InputError, match="not a SQuAD file"):
        load_task("squad", tmp_path)


def test_the_hub_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[tuple[str, str | None]] = []

    def load_dataset(path: str, configuration: str | None) -> dict[str, datasets.Dataset]:
        asked.append((path, configuration))
        rows = datasets.Dataset.from_dict({"premise": ["A"], "hypothesis": ["B"], "label": [2]})
        return {"train": rows, "validation_matched": rows, "validation_mismatched": rows}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_task("mnli", None)
    assert asked == [("nyu-mll/glue", "mnli")]
    assert list(data.dev) == ["matched", "mismatched"]
    assert (data.train.first, data.train.second, data.train.labels) == (["A"], ["B"], [2])

    def offline(*_: Any) -> Any:
        raise ConnectionError("Couldn't reach the hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=r"Couldn't reach the hub.*--data_dir"):
        load_task("rte", None)
    with pytest.raises(InputError, match="unknown task 'weather'"):
        load_task("weather", None)


def test_the_real_folders(data_dir: Path) -> None:
    """GLUE's official numbers of rows."""
    expected = {"cola": (8551, 527), "rte": (2490, 277), "mrpc": (3668, 408), "stsb": (5749, 1500), "wnli": (635, 71)}
    for name, rows in expected.items():
        data = load_task(name, data_dir)
        assert (len(data.train), len(data.dev["dev"])) == rows
    sst2 = load_task("sst2", data_dir)
    assert len(sst2.train) + len(sst2.dev["dev"]) == 67349
    assert len(load_task("imdb", data_dir).dev["dev"]) == 2499
