"""Files and folders: what may be written where, whole or not there (written beside, then renamed), and what failed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from ._core import InputError

_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}

# What belongs to no mistake of this package and has a better sentence than the system's.
_FAULTS = {
    errno.EFBIG: "it would be larger than files may be here (ulimit -f)",
    errno.ENAMETOOLONG: "its name is longer than the file system allows",
    errno.ELOOP: "its links lead round in a circle",
    errno.EBUSY: "it is in use; a mount point cannot be replaced: name a folder in it",
    errno.EACCES: "permission denied",
}

# How libraries of other languages, and torch of shared memory, write the number of a fault into their messages.
_NUMBER = re.compile(r"(?:errno|os error) (\d+)|unable to \w+ (?:file|shared memory)\b.*\((\d+)\)", re.IGNORECASE)


def first_line(error: BaseException) -> str:
    """The first line of what `error` says that says something; its class where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def is_path(name: str | os.PathLike[str]) -> bool:
    """Whether `name` can only be meant as a path on this machine, and not as an id on the Hub ("name", "owner/name").

    So it is where something of that name is here, where it is written as a path (`./`, `/`, `~`, an ending of a file,
    more than one slash), and where the folder that it would lie in is here.
    """
    if not isinstance(name, str):
        return True
    path = Path(name)
    return (
        os.path.lexists(name)
        or name.startswith((".", "/", "~"))
        or name.count("/") > 1
        or path.suffix.lower() in (".txt", ".json", ".jsonl", ".model", ".safetensors", ".bin", ".csv", ".tsv")
        or ("/" in name and path.parent.is_dir())
    )


def describe_fault(error: BaseException, path: str | os.PathLike[str] | None = None) -> str | None:
    """One line on a fault of the machine (disk, permissions, names) that `error` reports; None where it reports none.

    Understands `OSError` and, since libraries write files in other languages, error numbers that stand in a message.
    `path` is named where `error` names no file.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None:
        written = _NUMBER.search(str(error))
        number = int(written[1] or written[2]) if written else None
    if number is None:
        return f"{path}: {first_line(error)}" if isinstance(error, OSError) and path is not None else None
    named = getattr(error, "filename", None)
    where = os.fsdecode(path if named is None and path is not None else named if named is not None else "a file")
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}: no space is left for it{_free_space(where)}; free some, or write to another disk"
    return f"{where}: {_FAULTS.get(number, os.strerror(number).lower())}"


def _free_space(where: str) -> str:
    with suppress(OSError, StopIteration):
        parent = next(path for path in (Path(where), *Path(where).absolute().parents) if path.exists())
        return f" ({shutil.disk_usage(parent).free / 1e6:,.1f} MB free)"
    return ""


def refuse_occupied(
    path: str | os.PathLike[str], overwrite: bool = False, reads: Sequence[str | os.PathLike[str] | None] = ()
) -> Path:
    """`path` as a `Path`, once it is known that a folder may be written there and that nothing would be lost.

    reads: what the run reads: files, folders, or names that are neither (ids on the Hub), which are no matter.

    Raises `InputError` where `path` is a folder that holds something, unless `overwrite`; and, whatever `overwrite`
    says, where it is a file, a device, a pipe or a socket (or a link to one), where it is or holds something of
    `reads`, and where it holds the current or the home directory.
    """
    path = Path(path)
    if not may_be_folder(path):
        return path
    real = Path(os.path.realpath(path))
    for source in reads:
        if source is not None and (inside := _first_inside(Path(source), real)) is not None:
            raise InputError(f"{inside} lies in {path} and would be lost; name another output directory")
    try:
        occupied = any(path.iterdir())
    except OSError as error:
        raise InputError(f"{describe_fault(error, path)}; name another directory") from None
    if occupied and not overwrite:
        raise InputError(f"{path} holds something already; name another directory, or pass --overwrite to replace it")
    for kept, name in ((Path.cwd(), "the current directory"), (Path.home(), "the home directory")):
        if occupied and (real == kept or real in kept.parents):
            raise InputError(f"{path} holds {name}; name a folder that may be replaced")
    return path


def may_be_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is there (True) or could be (False), for commands that go on in the one they find.

    Raises `InputError` where there is a file, a device, a pipe or a socket, where the path leads nowhere, and where
    nothing may be written.
    """
    path = Path(path)
    refuse_undecodable(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        _refuse_unwritable(path)
        return False
    except NotADirectoryError:
        file = next(parent for parent in path.parents if parent.exists())
        raise InputError(f"{path} cannot be a folder: {file} is a file") from None
    except OSError as error:
        raise InputError(f"{describe_fault(error, path)}; name another directory") from None
    if not stat.S_ISDIR(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no folder")
        raise InputError(f"{path} is {kind} and holds something already; name a directory that is not there yet")
    _refuse_unwritable(path)
    return True


def _refuse_unwritable(path: Path) -> None:
    """Refuses a place that nothing can be written to, before hours of work."""
    found = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not found.is_dir():
        raise InputError(f"{path} cannot be a folder: {found} is a file")
    if not os.access(found, os.W_OK | os.X_OK):
        raise InputError(f"{path}: {found} cannot be written to; name another directory")
    if found != path:
        try:  # root may do everything, and /proc still makes no folder
            tempfile.TemporaryDirectory(prefix=".distilfast-", dir=found).cleanup()
        except OSError as error:
            raise InputError(f"{path}: no folder can be made in {found} ({first_line(error)})") from None


def refuse_no_file(path: str | os.PathLike[str], overwrite: bool = True) -> Path:
    """`path` as a `Path`, once it is known that a file may be written there.

    Raises `InputError` for a folder, a device or a pipe, a name that is not UTF-8, a place that nothing can be
    written to, and, unless `overwrite`, for a file that holds something.
    """
    path = Path(path)
    refuse_undecodable(path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no file that could be replaced; name another")
    if not overwrite and path.exists() and path.stat().st_size:
        raise InputError(f"{path} holds something already; name another file, or pass --overwrite to replace it")
    _refuse_unwritable(path.absolute().parent)
    return path


def refuse_undecodable(path: str | os.PathLike[str]) -> None:
    """Raises `InputError` for a name that is not UTF-8, which the libraries that write files cannot spell."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{os.fspath(path)!a} is not a name in UTF-8; name another output") from None


def _first_inside(source: Path, folder: Path) -> Path | None:
    """`source`, or one of the files in it, if that lies in `folder` (a real path), links followed."""
    if not source.exists():
        return None
    files = sorted(source.iterdir()) if source.is_dir() and os.access(source, os.R_OK) else []
    for each in (source, *files):
        real = Path(os.path.realpath(each))
        if real == folder or folder in real.parents:
            return each
    return None


@contextmanager
def whole_directory(
    path: str | os.PathLike[str], overwrite: bool = False, reads: Sequence[str | os.PathLike[str] | None] = ()
) -> Iterator[Path]:
    """A new folder beside `path` to write into, renamed to `path` when the block ends without an exception.

    What `path` held before is kept until that moment and lost then; after an exception `path` is as it was. What a
    killed process left beside `path` is removed; the folder of one that still runs is not. Where `path` is a link, the
    folder that it names is written, and the link stays. Folder and files may be read by whom the umask lets read,
    whatever wrote them (safetensors leaves its files to their owner alone).
    Raises `InputError` as `refuse_occupied` does, at the end as well, where something came meanwhile; where `path` lies
    in a file or is the current directory, which cannot be replaced; and where disk or permissions do not allow it.
    """
    path = Path(os.path.realpath(refuse_occupied(path, overwrite, reads)))
    if path == Path.cwd():
        raise InputError(f"{path} is the current directory; name a folder in it, or run from another one")
    hidden = lock = None
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            file = next(parent for parent in path.parents if parent.exists())
            raise InputError(f"{path} cannot be a folder: {file} is a file") from None
        _remove_leftovers(path)
        hidden, lock = _new_hidden_directory(path)
        beside = hidden / "whole"
        beside.mkdir()
        yield beside
        open_to_umask(beside)
        refuse_occupied(path, overwrite, reads)
        if path.exists():
            os.rename(path, hidden / "replaced")
        os.rename(beside, path)
    except InputError:
        raise
    except Exception as error:
        told = describe_fault(error, path) if isinstance(error, OSError) or "os error" in str(error) else None
        if told is None or (isinstance(error, FileNotFoundError) and hidden is not None):
            raise
        raise InputError(told) from error
    finally:
        if hidden is not None:
            _remove(hidden, path)
        if lock is not None:
            _release(lock)


def open_to_umask(directory: Path) -> None:
    """Gives `directory` and what is in it the modes that new folders and files have."""
    umask = os.umask(0o077)
    os.umask(umask)
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def _hidden_prefix(path: Path) -> str:
    """How the hidden folders beside `path` begin; a digest where its name is nearly as long as names may be."""
    if len(os.fsencode(path.name)) <= 200:
        return f".{path.name}."
    return f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}."


def _remove_leftovers(path: Path) -> None:
    """Removes the hidden folders beside `path` that no living process holds."""
    prefix = _hidden_prefix(path)
    for name in os.listdir(path.parent):
        # The middle is what `mkdtemp` draws: without a dot, so that other outputs, as `out.bak`, are not touched.
        if name.startswith(prefix) and re.fullmatch(r"\w+\.partial", name[len(prefix) :]):
            left = path.parent / name
            lock = _lock(left)
            if lock is not None:
                _remove(left, path)
                _release(lock)


def _remove(hidden: Path, path: Path) -> None:
    """Removes a hidden folder; what `path` held goes back there where the process died between its two renames."""
    replaced = hidden / "replaced"
    if replaced.exists() and not path.exists():
        with suppress(OSError):
            os.rename(replaced, path)
    shutil.rmtree(hidden, ignore_errors=True)


def _lock(hidden: Path) -> BaseFileLock | None:
    """The lock of a hidden folder, which a process loses by dying; None where another holds it or there are none."""
    lock = FileLock(hidden / "lock")
    try:
        lock.acquire(blocking=False)
    except (Timeout, OSError, NotImplementedError):  # held, gone by now, or on a file system without locks
        return None
    return lock


def _release(lock: BaseFileLock) -> None:
    with suppress(OSError):  # its file went with the hidden folder
        lock.release()


def _new_hidden_directory(path: Path) -> tuple[Path, BaseFileLock | None]:
    """A new hidden folder beside `path` and its lock; no lock where the file system has none."""
    for _ in range(3):
        hidden = Path(tempfile.mkdtemp(prefix=_hidden_prefix(path), suffix=".partial", dir=path.parent))
        lock = _lock(hidden)
        if lock is not None and hidden.is_dir():
            break
        # Between the two lines above, another process may have taken the new folder for one that was left behind.
        if lock is not None:
            _release(lock)
            lock = None
    hidden.mkdir(exist_ok=True)
    return hidden, lock


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """`text` in UTF-8 as the whole content of `path`; a reader sees the old file or the new one, never a part.

    Raises `InputError` where `path` is a folder, a device or a pipe, and where disk or permissions do not allow it;
    folders that were made for it are gone then.
    """
    try:
        path = refuse_no_file(path)
    except OSError as error:
        raise InputError(str(describe_fault(error, path))) from error
    beside = path.with_name(f"{_hidden_prefix(path)}{os.getpid()}.partial")
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, path)
    except OSError as error:
        raise InputError(str(describe_fault(error, path))) from error
    finally:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
            for folder in made if not path.exists() else ():
                folder.rmdir()


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """`value` as indented JSON in `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
