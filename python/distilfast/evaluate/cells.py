"""The cells of an evaluation: one (model, task, seed, learning rate) each, kept as JSON, never run twice.

Several processes may work on one results folder: a cell is claimed through a lock on its file, which the system lets go
of when its process ends, and each process takes the cells that nobody has.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock, Timeout

from .._core import InputError
from .._files import whole_directory, write_json
from .finetune import FineTuneSettings, fine_tune
from .tasks import TaskData


@dataclass(frozen=True)
class Cell:
    """row: the table's row, the model's name or that with " (D)"; path: the model. teacher: the cell whose tuned model
    stands beside the student while it is tuned, where one does."""

    row: str
    path: str
    task: str
    seed: int
    settings: FineTuneSettings
    teacher: Cell | None = None

    def name(self) -> str:
        return f"{self.row} on {self.task}, seed {self.seed}, learning rate {self.settings.learning_rate:g}"

    def file(self, folder: Path) -> Path:
        row = self.row.replace(" ", "_")
        return folder / "cells" / self.task / row / f"lr{self.settings.learning_rate:g}-seed{self.seed}.json"


def model_fingerprint(path: str) -> str:
    """sha256 of the weights and configuration in a directory; the commit of a model from the hub."""
    folder = Path(path)
    if not folder.is_dir():
        commit = getattr(transformers.AutoConfig.from_pretrained(path), "_commit_hash", None)
        return f"commit {commit}"
    digest = hashlib.sha256()
    for file in [folder / "config.json", *sorted(folder.glob("*.safetensors"))]:
        digest.update(file.name.encode())
        with open(file, "rb") as content:
            for block in iter(lambda: content.read(1 << 22), b""):
                digest.update(block)
    return digest.hexdigest()


def conditions(cell: Cell, data: TaskData, fingerprints: dict[str, str]) -> dict[str, Any]:
    """All that a cell's score depends on; kept with it and compared before it is used again."""
    settings = asdict(cell.settings)
    if cell.teacher is None:
        for key in ("alpha_ce", "alpha_task", "temperature"):
            del settings[key]
    kept: dict[str, Any] = {"model": fingerprints[cell.path], "data": data.fingerprint, "settings": settings}
    if cell.teacher is not None:
        kept["teacher"] = fingerprints[cell.teacher.path]
    return kept


def read_cell(cell: Cell, folder: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """The finished cell, or None. Raises `InputError`, naming the difference, where it was made otherwise."""
    file = cell.file(folder)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        made = found["conditions"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a finished cell ({type(error).__name__}: {error}); remove it") from None
    if made != wanted:
        raise InputError(f"{file} was made with {_difference(made, wanted)}; use another --output_dir, or remove it")
    return dict(found)


def _difference(made: dict[str, Any], wanted: dict[str, Any]) -> str:
    here, there = _flat(wanted), _flat(made)
    keys = [key for key in sorted(here.keys() | there.keys()) if here.get(key) != there.get(key)]
    return "other settings: " + ", ".join(f"{key} {there.get(key)} where {here.get(key)} is asked for" for key in keys)


def _flat(made: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = made.get("settings", {})
    return settings | {f"{key} fingerprint": str(value)[:12] for key, value in made.items() if key != "settings"}


@contextmanager
def claim(file: Path, wait: bool = False) -> Iterator[bool]:
    """True while this process alone works on `file`; False where another does, unless `wait`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file.with_suffix(".lock"), timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def parse_shard(shard: str) -> tuple[int, int]:
    """(i, n) of "i/n", 1 <= i <= n."""
    first, _, second = shard.partition("/")
    if not (first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second)):
        raise InputError(f"--shard {shard!r} is not i/n with 1 <= i <= n, as 1/4")
    return int(first), int(second)


@dataclass
class Runner:
    """Runs cells into `folder`. data: by task; fingerprints: of the models by path."""

    folder: Path
    data: dict[str, TaskData]
    fingerprints: dict[str, str]
    device: torch.device

    def finished(self, cell: Cell) -> dict[str, Any] | None:
        return read_cell(cell, self.folder, conditions(cell, self.data[cell.task], self.fingerprints))

    def run(self, cells: Sequence[Cell], shard: str = "1/1") -> None:
        """Runs those cells of the shard that are not finished and not claimed by another process."""
        part, parts = parse_shard(shard)
        for cell in cells:  # differences are named before any hour is spent
            self.finished(cell)
        teachers = {cell.teacher for cell in cells if cell.teacher is not None}
        mine = [cell for i, cell in enumerate(cells) if i % parts == part - 1]
        for i, cell in enumerate(mine, 1):
            with claim(cell.file(self.folder)) as claimed:
                if claimed and self.finished(cell) is None:
                    print(f"[{i}/{len(mine)}] {cell.name()}", flush=True)
                    self._make(cell, keep=cell in teachers)

    def _make(self, cell: Cell, keep: bool) -> None:
        """Fine-tunes and writes the cell; `keep`: the tuned model too."""
        data = self.data[cell.task]
        teacher = None if cell.teacher is None else str(self._tuned(cell.teacher))
        if keep:
            with whole_directory(self._kept(cell), overwrite=True) as beside:
                result = fine_tune(cell.path, data, cell.seed, cell.settings, self.device, beside)
        else:
            with tempfile.TemporaryDirectory(prefix="distilfast-") as scratch:
                folder = Path(scratch)
                result = fine_tune(cell.path, data, cell.seed, cell.settings, self.device, folder, teacher)
        found = {"row": cell.row, "task": cell.task, "seed": cell.seed, **asdict(result), "device": str(self.device)}
        write_json(cell.file(self.folder), found | {"conditions": conditions(cell, data, self.fingerprints)})
        print(f"    {result.score:.2f} after {result.steps} steps in {result.seconds:.0f} s", flush=True)

    def _tuned(self, teacher: Cell) -> Path:
        """The folder of the tuned teacher, made first where it is not there."""
        folder = self._kept(teacher)
        with claim(teacher.file(self.folder), wait=True):
            if self.finished(teacher) is None or not folder.is_dir():
                print(f"    first {teacher.name()}, to teach", flush=True)
                self._make(teacher, keep=True)
        return folder

    def _kept(self, cell: Cell) -> Path:
        file = cell.file(self.folder)
        return self.folder / "tuned" / cell.task / file.parent.name / file.stem
