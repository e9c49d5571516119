"""`Rows`: a table as it was read, with what reading it left out and guessed; and how values become its columns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .._core import InputError
from .sources import BYTE_ORDER_MARK

COMPRESSED = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "bz2": b"BZh", "lz4": b"\x04\x22\x4d\x18"}
"""How the files begin that `pyarrow` unpacks as it reads."""

REFUSED = {"zip": b"PK\x03\x04", "xz": b"\xfd7zX", "UTF-16": b"\xff\xfe", "UTF-16 (big-endian)": b"\xfe\xff"}


@dataclass(frozen=True)
class Rows:
    """Rows as they stand in a file or data set: strings as written, nothing guessed to be a number or missing."""

    table: pa.Table
    source: str
    """What messages call it: a path, a name."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What was left out or changed, and how often: {"rows without text left out": 3}; only what happened."""
    notes: tuple[str, ...] = ()
    """What was guessed, a sentence each."""
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """{column: names of its integers}, of `datasets.ClassLabel` columns (or lists of them)."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def column_names(self) -> list[str]:
        return list(self.table.column_names)

    def column(self, name: str) -> list[Any]:
        """The values of a column as Python objects, None for null; raises `InputError` naming the columns there are."""
        check_column(name, self.column_names, self.source)
        values: list[Any] = self.table.column(name).to_pylist()
        return values

    def take(self, rows: Sequence[int]) -> Rows:
        """These rows, by number from 0, in this order."""
        return replace(self, table=self.table.take(pa.array(rows, pa.int64())))

    def noting(self, *notes: str, **counts: int) -> Rows:
        """With more to say; `counts` of 0 are not said, underscores in their names are spaces."""
        said = {name.replace("_", " "): count for name, count in counts.items() if count}
        added = {name: self.counts.get(name, 0) + count for name, count in said.items()}
        return replace(self, notes=(*self.notes, *notes), counts={**self.counts, **added})


def listed(names: Iterable[object], most: int = 30) -> str:
    """The names with quotes and commas, the first `most` of them."""
    shown = [repr(name) for name in names]
    rest = f" and {len(shown) - most} more" if len(shown) > most else ""
    return (", ".join(shown[:most]) or "none") + rest


def check_column(column: str, names: Sequence[str], where: str, flag: str = "") -> None:
    """Raises `InputError` where `column` is not among `names`, with those, and the nearest or the `flag` to pass."""
    if column not in names:
        nearest = difflib.get_close_matches(column, names, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else f"; pass {flag}" if flag else ""
        raise InputError(f"{where} has no column {column!r}, only {listed(names)}{hint}")


def refuse_twice(names: Sequence[str], source: str) -> None:
    """Raises `InputError` for two columns of one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{source} has more than one column {listed(twice)}; its columns are {listed(names)}")


def file_bytes(path: Path) -> bytes:
    """The content of a file without a byte-order mark, unpacked where it is gzip, zstd, bzip2 or lz4.

    Raises `InputError` for what is no regular file, is empty, or is of an encoding or packing that is not read.
    """
    if not path.is_file():
        what = "no regular file (a pipe or a device?)" if path.exists() else "not there"
        raise InputError(f"{path} is {what}; name a csv, tsv, jsonl, json, parquet or CoNLL file")
    try:
        with path.open("rb") as file:
            begin = file.read(8)
        for name, magic in REFUSED.items():
            if begin.startswith(magic):
                raise InputError(f"{path} is {name}; save it as plain UTF-8 text first")
        packing = next((name for name, magic in COMPRESSED.items() if begin.startswith(magic)), None)
        with pa.input_stream(str(path), compression=packing) as stream:
            data: bytes = stream.read()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    data = data.removeprefix(BYTE_ORDER_MARK)
    if not data.strip():
        raise InputError(f"{path} is empty; name a file with rows in it")
    return data


def file_text(path: Path) -> str:
    """The content of a UTF-8 file; see `file_bytes`. Raises `InputError` with the first byte that is not UTF-8."""
    return decoded(file_bytes(path), path)


def decoded(data: bytes, path: Path) -> str:
    """`data`, what `path` holds, as text. Raises `InputError` with the first byte that is not UTF-8 and its line."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} in line {line}; convert it first "
            "(iconv -f WINDOWS-1252 -t UTF-8, or the encoding that it has)"
        ) from None


def rows_of_records(records: Sequence[Mapping[str, Any]], source: str) -> Rows:
    """Rows from dictionaries; a key that one lacks is null there, and the columns are in order of appearance."""
    names = list(dict.fromkeys(name for record in records for name in record))
    if not names:
        raise InputError(f"{source} has no columns")
    return rows_of_columns({name: [record.get(name) for record in records] for name in names}, source)


def rows_of_columns(columns: Mapping[str, Sequence[Any]], source: str) -> Rows:
    """Rows from one sequence of Python values for each column.

    Strings, numbers and lists (also as arrays, tuples and sets) stay what they are. A column of several kinds becomes
    strings, which a note says.
    Raises `InputError` for a string that is no text (half of a surrogate pair).
    """
    arrays, notes = {}, []
    for name, column in columns.items():
        values = [_as_list(value) for value in column]
        kinds = {type(value) for value in values} - {type(None)}
        mixed = len(kinds) > 1 and not kinds <= {int, float}
        array = None if mixed else _array(values, source, str(name))
        if array is None:
            found = ", ".join(sorted(kind.__name__ for kind in kinds))
            notes.append(f"{source}: column {name!r} holds values of several kinds ({found}), all read as strings")
            array = _array([_spelled(value) for value in values], source, str(name))
        arrays[str(name)] = array
    return Rows(pa.table(arrays), source, notes=tuple(notes))


def _as_list(value: Any) -> Any:
    if isinstance(value, np.ndarray) or type(value).__module__ == "torch":
        return value.tolist()
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def _array(values: Sequence[Any], source: str, name: str) -> Any:
    """An Arrow array; None where the values do not fit one type."""
    try:
        return pa.array(values, pa.string() if all(value is None for value in values) else None)
    except UnicodeEncodeError:
        raise InputError(f"{source}: column {name!r} holds half a surrogate pair, which is no text") from None
    except (pa.ArrowException, OverflowError):
        return None


def _spelled(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
