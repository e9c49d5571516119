"""Text from files and data sets as Arrow strings, block after block, in bounded memory.

Plain text: a line is a text, a blank line ends a document. jsonl and parquet: a row is a text and a document.
"""

from __future__ import annotations

import difflib
import glob
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

from .._core import InputError, split_lines

BLOCK_BYTES = 8 << 20
"""How much of a file is read at a time; a longer line makes a longer block."""

MAX_LINE_BYTES = (1 << 31) - 1
"""The longest line: what the offsets of Arrow's strings count."""

TEXT_SUFFIXES = (".txt", ".text", ".tokens")
JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
PARQUET_SUFFIXES = (".parquet", ".pq")
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"BZh", b"\xfd7zX")
"""How the files of gzip, zstd, zip, bzip2 and xz begin."""

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class TextBlock:
    """Some texts in their order, none of them null."""

    texts: pa.Array
    """Strings: `string` or `large_string`."""
    document_starts: np.ndarray[Any, np.dtype[np.bool_]] | None
    """Whether a text is the first of its document, one per text; None: every text is a document."""
    progress: int
    """How much of the source this block was, in the unit of its total (bytes of files, rows of a data set)."""


def find_text_files(names: Sequence[str | Path]) -> list[Path]:
    """The files that `names` stand for: a file, a pattern with `*`, or a directory searched for text and tables.

    Raises `InputError` for a name that stands for nothing and for a file named outright that is empty.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_file():
            if path.stat().st_size == 0:
                raise InputError(f"{path} is empty; name a file with text in it")
            found.append(path)
        elif path.is_dir():
            known = TEXT_SUFFIXES + JSONL_SUFFIXES + PARQUET_SUFFIXES
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in known and file.is_file())
            if not inside:
                raise InputError(f"{path} holds no file ending in {', '.join(known)}; name the files themselves")
            found += inside
        elif glob.has_magic(str(name)):
            matches = sorted(Path(match) for match in glob.glob(str(name), recursive=True) if Path(match).is_file())
            if not matches:
                raise InputError(f"no file matches {str(name)!r}")
            found += matches
        elif path.exists():
            raise InputError(f"{path} is no regular file (a pipe or a device?); write the text to a file first")
        else:
            raise InputError(f"{path}: there is no such file or directory")
    found = list(dict.fromkeys(found))
    if not any(path.stat().st_size for path in found):
        raise InputError(f"all {len(found)} text files are empty; name files with text in them")
    return found


def read_files(paths: Sequence[Path], column: str = "text", block_bytes: int = BLOCK_BYTES) -> Iterator[TextBlock]:
    """The texts of `paths`, read by their endings: jsonl, parquet, anything else as plain text in UTF-8.

    `column` is the name of the text in jsonl and parquet. Raises `InputError` naming the file and the first byte that
    is not UTF-8, the row without text, or the columns there are where `column` is not one.
    """
    for path in paths:
        suffix = path.suffix.lower()
        if suffix in JSONL_SUFFIXES:
            yield from _read_jsonl(path, column, block_bytes)
        elif suffix in PARQUET_SUFFIXES:
            yield from _read_parquet(path, column, block_bytes)
        else:
            yield from _read_lines(path, block_bytes)


def read_dataset(dataset: Any, column: str = "text", block_bytes: int = BLOCK_BYTES) -> Iterator[TextBlock]:
    """The texts of a `datasets.Dataset`; raises `InputError` for a missing column and a row without text."""
    check_column(column, dataset.column_names, "the data set")
    rows = _rows_per_block(dataset.data.nbytes, len(dataset), block_bytes)
    start = 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=rows):
        yield column_block(table.column(column), column, "the data set", start, len(table))
        start += len(table)


def check_column(column: str, names: Sequence[str], where: str) -> None:
    """Raises `InputError` where `column` is not among `names`, naming those and the nearest."""
    if column in names:
        return
    nearest = difflib.get_close_matches(column, names, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else "; pass --column"
    raise InputError(f"{where} has no column {column!r}, only {', '.join(map(repr, names)) or 'none'}{hint}")


def _blocks_of_lines(path: Path, block_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Whole lines of the file in blocks of about `block_bytes`, each with the byte it begins at, the mark left out."""
    with path.open("rb", buffering=0) as file:
        if file.read(4).startswith(COMPRESSED):
            raise InputError(f"{path} begins like a compressed file; unpack it first")
        file.seek(0)
        position = len(BYTE_ORDER_MARK) if file.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0
        file.seek(position)
        pending: list[bytes] = []
        pending_bytes = 0
        while read := file.read(block_bytes):
            end = read.rfind(b"\n") + 1
            if pending_bytes + end > MAX_LINE_BYTES or (end == 0 and pending_bytes + len(read) > MAX_LINE_BYTES):
                raise InputError(
                    f"{path}: the line at byte {position} is longer than {MAX_LINE_BYTES:,} bytes; break it into lines "
                    "or documents"
                )
            if end == 0:
                pending.append(read)
                pending_bytes += len(read)
                continue
            block = b"".join([*pending, read[:end]])
            pending = [read[end:]]
            pending_bytes = len(read) - end
            yield block, position
            position += len(block)
        if block := b"".join(pending):
            yield block, position


def _read_lines(path: Path, block_bytes: int) -> Iterator[TextBlock]:
    starts_document = True
    for block, position in _blocks_of_lines(path, block_bytes):
        texts, document_starts, starts_document = split_lines(block, str(path), position, starts_document)
        yield TextBlock(texts, document_starts, len(block))


def _read_jsonl(path: Path, column: str, block_bytes: int) -> Iterator[TextBlock]:
    start = 0
    for block, position in _blocks_of_lines(path, block_bytes):
        if not (rows := block.lstrip(b" \t\r\n")):
            continue
        try:
            if not rows.startswith(b"{"):  # pyarrow crashes where the first row is `null`
                raise pa.ArrowInvalid(f"it begins with {rows[:20].splitlines()[0].decode(errors='replace')!r}")
            table = pyarrow.json.read_json(
                pa.BufferReader(block),
                read_options=pyarrow.json.ReadOptions(block_size=len(block) + 1),
                parse_options=pyarrow.json.ParseOptions(
                    explicit_schema=pa.schema([(column, pa.string())]), unexpected_field_behavior="ignore"
                ),
            )
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{path}: not a JSON object with a string {column!r} on every line ({error}, counted from row "
                f"{start} at byte {position})"
            ) from None
        texts = table.column(column)
        if start == 0 and len(texts) and texts[0].as_py() is None:
            first = json.loads(block.split(b"\n", 1)[0])
            check_column(column, list(first), str(path))
        yield column_block(texts, column, str(path), start, len(block))
        start += len(texts)


def _read_parquet(path: Path, column: str, block_bytes: int) -> Iterator[TextBlock]:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: not a parquet file: {error}") from None
    with file:
        check_column(column, file.schema_arrow.names, str(path))
        size, rows = path.stat().st_size, file.metadata.num_rows
        groups = (file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups))
        start = 0
        batches = file.iter_batches(_rows_per_block(sum(groups), rows, block_bytes), columns=[column])
        while (batch := _next_batch(batches, path)) is not None:
            end = start + len(batch)
            progress = size * end // rows - size * start // rows
            yield column_block(batch.column(0), column, str(path), start, progress)
            start = end


def _next_batch(batches: Iterator[pa.RecordBatch], path: Path) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: damaged, or of a kind that pyarrow does not read: {error}") from None


def _rows_per_block(size: int, rows: int, block_bytes: int) -> int:
    return max(1, block_bytes * rows // max(1, size))


def column_block(texts: Any, column: str, where: str, start: int, progress: int) -> TextBlock:
    """A block of a column whose first row is row `start` of its source."""
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.chunk(0) if texts.num_chunks == 1 else pa.concat_arrays(texts.chunks)
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if pa.types.is_string_view(texts.type):
        texts = texts.cast(pa.large_string())
    kind = texts.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{where}: column {column!r} holds {kind}, not strings")
    if texts.null_count:
        row = start + int(np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(
            f"{where}: row {row} (counted from 0) has no text in column {column!r}; leave it out or fill it"
        )
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        row = start + next(row for row, text in enumerate(texts.cast(pa.large_binary())) if not _is_utf8(text.as_py()))
        raise InputError(
            f"{where}: row {row} (counted from 0) is not UTF-8 in column {column!r}; convert the text first"
        ) from None
    return TextBlock(texts, None, progress)


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
