"""Rows of a task: from local folders (GLUE's tab-separated files, aclImdb, SQuAD's JSON) or from the hub by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._core import InputError
from .tasks import TASKS, Columns, Task

HELD_OUT_EVERY = 10
HELD_OUT_RULE = (
    "no dev file: every tenth row of train (rows 10, 20, 30, ...) is held out as dev and not trained on, so the score "
    "does not compare with published ones"
)


@dataclass(frozen=True)
class Split:
    """Rows as columns. labels: class numbers, floats for regression, and for questions a dictionary each:
    {"id", "answers": texts, "starts": character offsets in `second`, which is the passage}."""

    first: list[str]
    second: list[str] | None
    labels: list[Any]

    def __len__(self) -> int:
        return len(self.first)

    def take(self, rows: Sequence[int]) -> Split:
        second = None if self.second is None else [self.second[i] for i in rows]
        return Split([self.first[i] for i in rows], second, [self.labels[i] for i in rows])


@dataclass(frozen=True)
class TaskData:
    """notes: what a reader of the numbers must know. fingerprint: hex over every row and label."""

    task: Task
    train: Split
    dev: dict[str, Split]
    notes: tuple[str, ...]
    fingerprint: str


def load_task(
    name: str, data_dir: str | Path | None, max_train_rows: int | None = None, max_dev_rows: int | None = None
) -> TaskData:
    """The rows of a task by its name in `TASKS` or, with `data_dir`, of a folder of your own.

    data_dir: holds the task folders, in itself or in `glue/`; None reads the hub. Your own task is a folder with
    `train.tsv` and `dev.tsv`, each with a header line: `label` (any words, one class each) and `sentence` or `text`,
    or `sentence1` and `sentence2`. max_train_rows, max_dev_rows: a fixed random choice of so many.

    Raises `InputError` for a folder or file that is missing, a missing column, a row with too few, or a label that is
    none of the task's.
    """
    if data_dir is None:
        if name not in TASKS:
            raise InputError(f"unknown task {name!r}; known: {', '.join(TASKS)}; your own tasks need --data_dir")
        task = TASKS[name]
        train, dev, notes = _from_hub(task)
    else:
        task, folder = _find(name, Path(data_dir))
        train, dev, notes = _from_folder(task, folder)
    train, dev, cut = _cut(train, dev, max_train_rows, max_dev_rows)
    for split, rows in {"train": train, **dev}.items():
        if len(rows) == 0:
            raise InputError(f"{task.title}: its {split} split has no rows")
    return TaskData(task, train, dev, (*notes, *cut), _fingerprint(train, dev))


def _find(name: str, data_dir: Path) -> tuple[Task, Path]:
    """The task and its folder."""
    if not data_dir.is_dir():
        raise InputError(f"--data_dir {data_dir}: there is no such directory")
    task = TASKS.get(name)
    wanted = [folder.lower() for folder in task.folders] if task else [name.lower()]
    for place in (data_dir, data_dir / "glue", data_dir / "GLUE"):
        folders = sorted(place.iterdir()) if place.is_dir() else []
        for folder in folders:
            if folder.is_dir() and folder.name.lower() in wanted:
                return task or _own_task(name, folder), folder
    known = "" if task else f" and it is none of {', '.join(TASKS)}"
    spelled = task.folders[0] if task else name
    raise InputError(f"task {name!r}: there is no folder {spelled} in {data_dir} or {data_dir / 'glue'}{known}")


def _own_task(name: str, folder: Path) -> Task:
    """A classification task as the header and the labels of its train.tsv say."""
    header = _lines(folder / "train.tsv")[0].split("\t")
    if "sentence1" in header and "sentence2" in header:
        columns = Columns("sentence1", "sentence2", "label")
    else:
        columns = Columns("text" if "text" in header and "sentence" not in header else "sentence", None, "label")
    task = Task(name, name, "classification", ("accuracy",), (folder.name,), columns=columns, glue=False)
    spelled = sorted({row[2] for row in _rows(task, folder / "train.tsv")})
    if len(spelled) < 2:
        raise InputError(f"{folder / 'train.tsv'}: {len(spelled)} different labels; a task needs at least 2")
    return dataclasses.replace(task, labels=tuple(spelled))


def _from_folder(task: Task, folder: Path) -> tuple[Split, dict[str, Split], list[str]]:
    if task.kind == "questions":
        return (
            read_squad(folder / "train-v1.1.json"),
            {split: read_squad(folder / file) for split, file in task.dev},
            [],
        )
    if task.name == "imdb" and (folder / "train" / "pos").is_dir():
        return _read_acl_imdb(folder / "train"), {"test": _read_acl_imdb(folder / "test")}, ["scored on the test split"]
    train = _read_split(task, folder / "train.tsv")
    missing = [file for _, file in task.dev if not (folder / file).is_file()]
    if task.held_out and missing:
        dev_rows = range(HELD_OUT_EVERY - 1, len(train), HELD_OUT_EVERY)
        kept = [row for row in range(len(train)) if row % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
        return train.take(kept), {"dev": train.take(dev_rows)}, [HELD_OUT_RULE]
    return train, {split: _read_split(task, folder / file) for split, file in task.dev}, []


def _lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file without their ends; a byte-order mark is dropped."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
    except OSError:
        raise InputError(f"{path}: missing; the task cannot be read without it") from None
    # Only line feeds end a row: texts hold other characters that str.splitlines would cut at.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    lines = lines[:-1] if lines and not lines[-1] else lines
    if not lines:
        raise InputError(f"{path}: empty")
    return lines


def _rows(task: Task, path: Path) -> list[tuple[str, str | None, str, int]]:
    """(first text, second text, label as spelled, line number from 1) of each row."""
    assert task.columns is not None
    wanted = (task.columns.first, task.columns.second, task.columns.label)
    lines = _lines(path)
    places: list[int | None] = []
    start = 0
    header = lines[0].split("\t")
    for column in wanted:
        if isinstance(column, str):
            start = 1
            if column not in header:
                raise InputError(f"{path}: no column {column!r}; its header has {', '.join(header)}")
            places.append(header.index(column))
        else:
            places.append(column)
    first, second, label = places
    assert first is not None
    assert label is not None
    most = max(place for place in places if place is not None)
    rows: list[tuple[str, str | None, str, int]] = []
    for i, line in enumerate(lines[start:], start + 1):
        cells = line.split("\t")
        if len(cells) <= most:
            if task.ragged:
                continue  # the published QQP files hold a few rows that are cut short
            raise InputError(f"{path}:{i}: {len(cells)} columns where at least {most + 1} are needed")
        rows.append((cells[first], None if second is None else cells[second], cells[label], i))
    return rows


def _read_split(task: Task, path: Path) -> Split:
    rows = _rows(task, path)
    numbers = {label: i for i, label in enumerate(task.labels)}
    labels: list[Any] = []
    for *_, label, line in rows:
        if task.kind == "regression":
            labels.append(_similarity(label, path, line))
        elif label in numbers:
            labels.append(numbers[label])
        else:
            raise InputError(f"{path}:{line}: label {label!r} is none of {', '.join(task.labels)}")
    second = None if not rows or rows[0][1] is None else [str(row[1]) for row in rows]
    return Split([row[0] for row in rows], second, labels)


def _similarity(label: str, path: Path, line: int) -> float:
    """A similarity from 0 to 5."""
    try:
        value = float(label)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 5:
        raise InputError(f"{path}:{line}: score {label!r} is no number from 0 to 5")
    return value


def _read_acl_imdb(folder: Path) -> Split:
    """The reviews in `neg` and `pos`, one of each in turn."""
    files = {label: sorted((folder / name).glob("*.txt")) for label, name in ((0, "neg"), (1, "pos"))}
    for label, name in ((0, "neg"), (1, "pos")):
        if not files[label]:
            raise InputError(f"{folder / name}: no review (*.txt) in it")
    listed = sorted((i, label, file) for label, group in files.items() for i, file in enumerate(group))
    texts = ["\n".join(_lines(file)).replace("<br />", " ") for _, _, file in listed]
    return Split(texts, None, [label for _, label, _ in listed])


def read_squad(path: Path) -> Split:
    """A SQuAD 1.1 file. Raises `InputError` where an answer is not in its passage at the place it names."""
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    except OSError:
        raise InputError(f"{path}: missing; the task cannot be read without it") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a SQuAD file: {type(error).__name__}: {error}") from None
    split = Split([], [], [])
    assert split.second is not None
    try:
        for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
            passage = paragraph["context"]
            for question in paragraph["qas"]:
                answers = [answer["text"] for answer in question["answers"]]
                starts = [int(answer["answer_start"]) for answer in question["answers"]]
                if not answers or any(
                    passage[start : start + len(answer)] != answer
                    for answer, start in zip(answers, starts, strict=True)
                ):
                    raise InputError(
                        f"{path}: question {question['id']}: an answer is not in the passage where it says"
                    )
                split.first.append(question["question"])
                split.second.append(passage)
                split.labels.append({"id": question["id"], "answers": answers, "starts": starts})
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a SQuAD 1.1 file: {type(error).__name__}: {error}") from None
    return split


def _from_hub(task: Task) -> tuple[Split, dict[str, Split], list[str]]:
    import datasets

    path, configuration = task.hub
    try:
        loaded = datasets.load_dataset(path, configuration)
    except Exception as error:  # the hub's libraries raise many kinds, all of them meaning: not to be had
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"task {task.name!r}: {path} cannot be had from the hub ({line}); give --data_dir") from None
    names = [name for name, _ in task.dev] if len(task.hub_dev) > 1 else list(task.hub_dev)
    notes = [f"{path} {configuration or ''} from the hub".replace("  ", " ")]
    dev = {name: _hub_split(task, loaded[split]) for name, split in zip(names, task.hub_dev, strict=True)}
    return _hub_split(task, loaded["train"]), dev, notes


def _hub_split(task: Task, rows: Any) -> Split:
    if task.kind == "questions":
        labels = [
            {"id": name, "answers": list(answer["text"]), "starts": list(answer["answer_start"])}
            for name, answer in zip(rows["id"], rows["answers"], strict=True)
        ]
        return Split(list(rows["question"]), list(rows["context"]), labels)
    first, second = task.hub_columns
    known = range(len(task.labels))
    values: list[Any] = list(rows["label"])
    if task.kind == "classification" and any(value not in known for value in values):
        raise InputError(f"{task.title} from the hub holds a label that is not in 0..{len(task.labels) - 1}")
    return Split(list(rows[first]), None if second is None else list(rows[second]), values)


def _cut(
    train: Split, dev: dict[str, Split], max_train_rows: int | None, max_dev_rows: int | None
) -> tuple[Split, dict[str, Split], list[str]]:
    """Fixed random rows, as many as asked for, in their order."""
    notes = []
    for name, most in (("train", max_train_rows), ("dev", max_dev_rows)):
        if most is not None and most < 1:
            raise InputError(f"max_{name}_rows is {most}; at least 1 is needed")
    if max_train_rows is not None and len(train) > max_train_rows:
        notes.append(f"trained on {max_train_rows} of {len(train)} rows")
        train = train.take(_choice(len(train), max_train_rows))
    for split, rows in dev.items():
        if max_dev_rows is not None and len(rows) > max_dev_rows:
            notes.append(f"scored on {max_dev_rows} of {len(rows)} rows of {split}")
            dev = {**dev, split: rows.take(_choice(len(rows), max_dev_rows))}
    return train, dev, notes


def _choice(rows: int, most: int) -> list[int]:
    return sorted(random.Random(0).sample(range(rows), most))


def _fingerprint(train: Split, dev: dict[str, Split]) -> str:
    digest = hashlib.sha256()
    for name, split in {"train": train, **dev}.items():
        content = json.dumps([name, split.first, split.second, split.labels], ensure_ascii=False)
        digest.update(content.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
