"""Files and folders that are whole or not there: write beside, then rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._core import InputError


def refuse_occupied(path: str | Path, overwrite: bool = False) -> Path:
    """`path` as a `Path`, once it is known that nothing there would be lost.

    Raises `InputError` where `path` is a file or a folder that holds something, unless `overwrite`.
    """
    path = Path(path)
    if not overwrite and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        raise InputError(f"{path} holds something already; name another directory, or pass --overwrite to replace it")
    return path


@contextmanager
def whole_directory(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A new folder beside `path` to write into, renamed to `path` when the block ends without an exception.

    What `path` held before is kept until that moment and lost then; after an exception `path` is as it was.
    Raises `InputError` as `refuse_occupied` does.
    """
    path = refuse_occupied(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        beside.chmod(0o755)
        yield beside
        replaced = None
        if path.exists():
            replaced = beside.with_name(beside.name + ".replaced")
            os.rename(path, replaced)
        os.rename(beside, path)
        if replaced is not None:
            shutil.rmtree(replaced) if replaced.is_dir() else replaced.unlink()
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """`text` in UTF-8 as the whole content of `path`; a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """`value` as indented JSON in `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
