"""Which files names stand for: files, patterns and folders of text; what is passed over is counted."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._core import InputError
from .._files import describe_fault

TEXT_SUFFIXES = (".txt", ".text", ".tokens")
JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")
COMPRESSED_SUFFIXES = (".gz", ".zst", ".zstd", ".bz2", ".lz4")
"""After one of the others, as in `corpus.txt.gz`; read by what the file begins with."""
TEXT_COLUMN = "text"
"""Where the text of jsonl and parquet is, if nothing is said."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_NOT_TEXT = {
    (
        ".csv",
        ".tsv",
    ): "is a table, not a text on every line; save it as parquet or jsonl and name its text with --column "
    "(distilfast prepare takes it as it is, with --dataset {path} and --column)",
    (".xls", ".xlsx", ".ods"): "is a spreadsheet; save it as csv and pass that with --dataset and --column",
    (".arrow", ".feather"): "is a file of Arrow; pass its folder with --dataset",
    (".html", ".htm", ".xhtml", ".xml", ".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub"): (
        "holds more than its text; write the text alone into a .txt file, a text or paragraph on every line"
    ),
    (".zip", ".tar", ".tgz", ".tbz", ".txz", ".xz", ".7z", ".rar", ".lzma"): (
        "is an archive; unpack it and name what was in it"
    ),
    (".safetensors", ".bin", ".pt", ".npy", ".npz", ".onnx"): "holds numbers, not text; name files of text",
}
"""Endings of files that would be read as nonsense, and what to do instead."""

# Files that stand beside text and models, and are JSON without being text.
_SETTINGS = re.compile(
    r"(.*config|dataset_info|dataset_infos|dataset_dict|state|tokens|tokenizer|vocab|added_tokens|special_tokens_map|"
    r"\w+_summary|trainer_state|modules|package|export|evaluate|.*\.index)\.json"
)
# What a folder holds that is a data set, a prepared directory or a model.
_OTHER_FOLDERS = ("tokens.json", "dataset_info.json", "dataset_dict.json", "model.safetensors", "trainer_state.json")


@dataclass
class TextCounts:
    """What was read and what was left out, counted while it happens."""

    skip_bad_rows: bool = False
    """Whether rows without text, and lines and rows that are not UTF-8, are left out instead of refused."""
    files: int = 0
    """Files that are read."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files and folders in named folders that are not read, by why: an ending, "hidden", "checkpoints", "empty", ..."""
    without_text: int = 0
    """Rows left out because they have no text (null)."""
    not_utf8: int = 0
    """Lines and rows left out because they are not UTF-8."""

    def as_dict(self) -> dict[str, Any]:
        """The counts, as `tokens.json` keeps them."""
        return {
            "text_files": self.files,
            "passed_over": dict(sorted(self.passed_over.items())),
            "skipped_without_text": self.without_text,
            "skipped_not_utf8": self.not_utf8,
        }

    def sentence(self) -> str:
        """What was left out, in words; empty where nothing was."""
        parts = [f"{count:,} {kind}" for kind, count in sorted(self.passed_over.items())]
        told = [f"passed over in the folders: {', '.join(parts)}"] if parts else []
        if self.without_text or self.not_utf8:
            told.append(f"left out {self.without_text:,} rows without text, {self.not_utf8:,} that are not UTF-8")
        return "; ".join(told)


def shown(path: str | os.PathLike[str]) -> str:
    """`path` for a message: bytes of a name that are not UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def text_suffix(path: Path) -> str:
    """The ending that says what a file holds: of `a.jsonl.gz` it is `.jsonl`."""
    if path.suffix.lower() in COMPRESSED_SUFFIXES:
        path = path.with_suffix("")
    return path.suffix.lower()


def refuse_not_text(path: Path) -> None:
    """Raises `InputError` for a file whose ending says that its lines are no texts."""
    for suffixes, instead in _NOT_TEXT.items():
        if text_suffix(path) in suffixes:
            raise InputError(f"{shown(path)} {instead.format(path=shown(path))}")


def find_text_files(names: Sequence[str | Path] | str | Path, counts: TextCounts | None = None) -> list[Path]:
    """The files that `names` (or one name) stand for, in their order; see `find_texts`."""
    return [path for paths in find_texts(names, counts).values() for path in paths]


def find_texts(names: Sequence[str | Path] | str | Path, counts: TextCounts | None = None) -> dict[str, list[Path]]:
    """The files that each of `names` (or one name) stands for: a file, a pattern with `*`, or a folder searched for
    text and tables, links followed.

    In folders and patterns hidden files and folders, checkpoints, models, data sets, settings and endings of no known
    text are passed over and counted in `counts`; a file that several names or links lead to is read once.
    Raises `InputError` for a name that stands for nothing, a folder that cannot be searched, and a file named outright
    that is empty or no text by its ending.
    """
    counts = counts or TextCounts()
    texts: dict[str, list[Path]] = {}
    for name in [names] if isinstance(names, (str, Path)) else names:
        path, found = Path(name), texts.setdefault(str(name), [])
        try:
            if path.is_file():
                refuse_not_text(path)
                if path.stat().st_size == 0:
                    raise InputError(f"{shown(path)} is empty; name a file with text in it")
                found.append(path)
            elif path.is_dir():
                found += _search(path, counts)
            elif glob.has_magic(str(name)) and not os.path.lexists(path):
                found += _matches(str(name), counts)
            elif path.exists():
                raise InputError(
                    f"{shown(path)} is no regular file (a pipe or a device?); write the text to a file first"
                )
            else:
                os.stat(path)  # says why: not there, a circle of links, a name too long
        except FileNotFoundError:
            raise InputError(f"{shown(path)}: there is no such file or directory") from None
        except OSError as error:
            raise InputError(f"{describe_fault(error, shown(path))}") from None
    seen: set[str] = set()
    for paths in texts.values():
        kept: list[Path] = []
        for path in paths:
            if (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                kept.append(path)
        paths[:] = kept
    files = [path for paths in texts.values() for path in paths]
    if not any(path.stat().st_size for path in files):
        raise InputError(f"all {len(files)} text files are empty; name files with text in them")
    counts.files += len(files)
    return texts


def _matches(pattern: str, counts: TextCounts) -> list[Path]:
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True) if Path(match).is_file())
    if not matches:
        raise InputError(f"no file matches {pattern!r}")
    for path in matches:
        refuse_not_text(path)
    return [path for path in matches if not _passed_over(path, counts, endings=False)]


def _search(folder: Path, counts: TextCounts) -> list[Path]:
    """The files of text in `folder` and the folders in it, in the order of their names."""
    if (folder / "tokens.json").is_file():
        raise InputError(f"{shown(folder)} holds prepared tokens, not text; pass it to train with --tokens")
    if any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json")):
        raise InputError(f"{shown(folder)} is a data set of save_to_disk, not a folder of text; pass it with --dataset")
    known = TEXT_SUFFIXES + JSONL_SUFFIXES + PARQUET_SUFFIXES
    inside = sorted(path for path in _walk(folder, counts) if not _passed_over(path, counts))
    if not inside:
        passed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.passed_over.items()))
        told = f" ({passed} passed over)" if passed else ""
        raise InputError(f"{shown(folder)} holds no file ending in {', '.join(known)}{told}; name the files themselves")
    return inside


def _walk(folder: Path, counts: TextCounts) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{describe_fault(error)}; the text in it cannot be read") from None

    seen = {os.path.realpath(folder)}
    for parent, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        searched = []
        for name in sorted(folders):
            path = Path(parent, name)
            real = os.path.realpath(path)
            if name.startswith("."):
                counts.passed_over["hidden"] += 1
            elif re.fullmatch(r"checkpoint-\d+", name):
                counts.passed_over["checkpoints"] += 1
            elif any((path / other).is_file() for other in _OTHER_FOLDERS):
                counts.passed_over["folders of data sets or models"] += 1
            elif real in seen:
                counts.passed_over["links to folders that are searched already"] += 1
            else:
                seen.add(real)
                searched.append(name)
        folders[:] = searched
        yield from (Path(parent, name) for name in files)


def _passed_over(path: Path, counts: TextCounts, endings: bool = True) -> bool:
    """Whether a file in a folder is none of the text, counted; `endings`: by its ending too."""
    known = TEXT_SUFFIXES + JSONL_SUFFIXES + PARQUET_SUFFIXES
    if path.name.startswith("."):
        why = "hidden"
    elif not path.is_file():
        why = "broken links or special files"
    elif endings and text_suffix(path) not in known:
        why = f"{path.suffix.lower() or 'without an ending'}"
    elif _SETTINGS.fullmatch(path.name):
        why = "settings (.json)"
    else:
        return False
    counts.passed_over[why] += 1
    return True


def refuse_idle_column(column: str, names: Sequence[str | Path]) -> None:
    """Raises `InputError` for a `column` that was named where no file that `names` stand for has any."""
    if column == TEXT_COLUMN:
        return
    paths = find_text_files(names)
    if not any(text_suffix(path) in JSONL_SUFFIXES + PARQUET_SUFFIXES for path in paths):
        raise InputError(
            f"--column {column} names the text of jsonl and parquet, and {shown(paths[0])} is plain text, where every "
            "line is one; leave it out"
        )
