"""Files and folders that are whole or not there: write beside, then rename."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ._core import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system: what a killed process left is not recognised, and stays
    fcntl = None  # type: ignore[assignment]


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

    What `path` held before is kept until that moment and lost then; after an exception `path` is as it was. What a
    killed process left beside `path` is removed; the folder of one that still runs is not. Where `path` is a link, the
    folder that it names is written, and the link stays. Folder and files may be read by whom the umask lets read,
    whatever wrote them (safetensors leaves its files to their owner alone).
    Raises `InputError` as `refuse_occupied` does, at the end as well, where something came meanwhile; where `path` lies
    in a file; and where it is the current directory, which cannot be replaced.
    """
    path = Path(os.path.realpath(refuse_occupied(path, overwrite)))
    if path == Path.cwd():
        raise InputError(f"{path} is the current directory; name a folder in it, or run from another one")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next(parent for parent in path.parents if parent.exists())
        raise InputError(f"{path} cannot be a folder: {file} is a file") from None
    for left in path.parent.glob(f".{path.name}.*.partial"):
        lock = _lock(left)
        if lock is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(lock)
    beside, lock = _new_locked_directory(path)
    try:
        yield beside
        open_to_umask(beside)
        replaced = None
        refuse_occupied(path, overwrite)
        if path.exists():
            replaced = beside.with_name(beside.name + ".replaced")
            os.rename(path, replaced)
        os.rename(beside, path)
        if replaced is not None:
            shutil.rmtree(replaced) if replaced.is_dir() else replaced.unlink()
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def open_to_umask(directory: Path) -> None:
    """Gives `directory` and what is in it the modes that new folders and files have."""
    umask = os.umask(0o077)
    os.umask(umask)
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _lock(directory: Path) -> int | None:
    """A descriptor that holds the lock of `directory` until it is closed; None where another process holds it."""
    if fcntl is None:
        return None
    descriptor = None
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, gone by now, or on a file system without locks
        if descriptor is not None:
            os.close(descriptor)
        return None
    return descriptor


def _new_locked_directory(path: Path) -> tuple[Path, int | None]:
    """A new folder beside `path` and its lock, which the process loses by dying; no lock where there are none."""
    for _ in range(3):
        beside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        lock = _lock(beside)
        if lock is not None and beside.is_dir():
            break
        # Between the two lines above, another process may have taken the new folder for one that was left behind.
        if lock is not None:
            os.close(lock)
            lock = None
    beside.mkdir(exist_ok=True)
    return beside, lock


def write_text(path: str | Path, text: str) -> None:
    """`text` in UTF-8 as the whole content of `path`; a reader sees the old file or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    finally:
        with suppress(FileNotFoundError):
            beside.unlink()


def write_json(path: str | Path, value: Any) -> None:
    """`value` as indented JSON in `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
