"""Text as Arrow strings, block after block, in bounded memory: the one reader of text for every command.

Plain text: a line is a text (lines end at `\\n` or `\\r\\n` and nowhere else), a blank line ends a document. jsonl,
parquet and data sets: a row is a text and a document. Files of gzip, zstd, bzip2 and lz4 are unpacked while they are
read.
"""

from __future__ import annotations

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
from .._files import describe_fault
from .records import check_column
from .sources import (
    BYTE_ORDER_MARK,
    JSONL_SUFFIXES,
    PARQUET_SUFFIXES,
    TextCounts,
    find_text_files,
    shown,
    text_suffix,
)

BLOCK_BYTES = 8 << 20
"""How much of a file is read at a time; a longer line makes a longer block."""

MAX_LINE_BYTES = (1 << 31) - 1
"""The longest line: what the offsets of Arrow's strings count."""

CODECS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\x04\x22\x4d\x18", "lz4"))
"""How the files begin that pyarrow unpacks; bzip2 is told by more than its first bytes."""

ARCHIVES = ((b"PK\x03\x04", "zip"), (b"\xfd7zXZ", "xz"), (b"7z\xbc\xaf", "7z"))
"""How the files begin that it does not."""


@dataclass(frozen=True)
class TextBlock:
    """Some texts in their order, none of them null."""

    texts: pa.Array
    """Strings: `string` or `large_string`."""
    document_starts: np.ndarray[Any, np.dtype[np.bool_]] | None
    """Whether a text is the first of its document, one per text; None: every text is a document."""
    progress: int
    """How much of the source this block was, in the unit of its total (bytes of files, rows of a data set)."""


def read_texts(
    names: Sequence[str | Path],
    most: int | None = None,
    column: str = "text",
    counts: TextCounts | None = None,
) -> list[str]:
    """The texts of the files that `names` stand for (see `find_text_files`), trimmed, blank ones left out, in order,
    at most `most`.

    Raises `InputError` as `find_text_files` and `read_files` do, and where no text is left.
    """
    texts: list[str] = []
    for block in read_files(find_text_files(names, counts), column, counts=counts):
        texts += [stripped for text in block.texts.to_pylist() if (stripped := text.strip())]
        if most is not None and len(texts) >= most:
            texts = texts[:most]
            break
    if not texts:
        raise InputError(f"{' '.join(map(str, names))}: no line with text in it")
    return texts


def read_files(
    paths: Sequence[Path], column: str = "text", block_bytes: int = BLOCK_BYTES, counts: TextCounts | None = None
) -> Iterator[TextBlock]:
    """The texts of `paths`, read by their endings: jsonl, parquet, anything else as plain text in UTF-8.

    `column` is the name of the text in jsonl and parquet. Raises `InputError` naming the file and the first byte that
    is not UTF-8, the row without text, or the columns there are where `column` is not one; with `counts.skip_bad_rows`
    such lines and rows are left out and counted there.
    """
    counts = counts or TextCounts()
    for path in paths:
        suffix = text_suffix(path)
        try:
            if suffix in JSONL_SUFFIXES:
                yield from _read_jsonl(path, column, block_bytes, counts)
            elif suffix in PARQUET_SUFFIXES:
                yield from _read_parquet(path, column, block_bytes, counts)
            else:
                yield from _read_lines(path, block_bytes, counts)
        except OSError as error:
            raise InputError(f"{describe_fault(error, shown(path))}") from None


def read_dataset(
    dataset: Any, column: str = "text", block_bytes: int = BLOCK_BYTES, counts: TextCounts | None = None
) -> Iterator[TextBlock]:
    """The texts of a `datasets.Dataset`; raises `InputError` for a missing column and a row without text."""
    check_column(column, dataset.column_names, "the data set", "--column")
    rows = _rows_per_block(dataset.data.nbytes, len(dataset), block_bytes)
    start = 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=rows):
        texts = table.column(column)
        yield column_block(texts, column, "the data set", start, len(table), counts)
        start += len(table)


class _Reader:
    """A file, unpacked while it is read where it begins like one that is packed."""

    def __init__(self, path: Path) -> None:
        self.raw = path.open("rb", buffering=0)
        try:
            head = self.raw.read(16)
            codec = next((name for begin, name in CODECS if head.startswith(begin)), None)
            if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
                codec = "bz2"
            packed = next((name for begin, name in ARCHIVES if head.startswith(begin)), None)
            if packed is not None:
                raise InputError(f"{shown(path)} is a file of {packed}; unpack it first, and name what was in it")
            self.raw.seek(0)
            self.unpacked = None if codec is None else pa.CompressedInputStream(pa.PythonFile(self.raw, "r"), codec)
        except BaseException:
            self.raw.close()
            raise
        self.path, self.codec = path, codec

    def read(self, count: int) -> bytes:
        if self.unpacked is None:
            return self.raw.read(count)
        try:
            return bytes(self.unpacked.read(count))
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{shown(self.path)}: damaged, or cut off, as a file of {self.codec}: {error}") from None


def _blocks_of_lines(path: Path, block_bytes: int) -> Iterator[tuple[bytes, int, int]]:
    """Whole lines of the file in blocks of about `block_bytes`, the byte each begins at in the unpacked file, and how
    much of the file it took; the byte order mark is left out."""
    reader = _Reader(path)
    with reader.raw:
        head = reader.read(len(BYTE_ORDER_MARK))
        while 0 < len(head) < len(BYTE_ORDER_MARK) and (more := reader.read(len(BYTE_ORDER_MARK) - len(head))):
            head += more
        position = len(BYTE_ORDER_MARK) if head == BYTE_ORDER_MARK else 0
        pending = [] if position else [head]
        pending_bytes = 0 if position else len(head)
        told = 0
        while read := reader.read(block_bytes):
            end = read.rfind(b"\n") + 1
            if pending_bytes + end > MAX_LINE_BYTES or (end == 0 and pending_bytes + len(read) > MAX_LINE_BYTES):
                raise InputError(
                    f"{shown(path)}: the line at byte {position} is longer than {MAX_LINE_BYTES:,} bytes; break it "
                    "into lines or documents"
                )
            if end == 0:
                pending.append(read)
                pending_bytes += len(read)
                continue
            block = b"".join([*pending, read[:end]])
            pending = [read[end:]]
            pending_bytes = len(read) - end
            at = reader.raw.tell()
            yield block, position, at - told
            told = at
            position += len(block)
        if block := b"".join(pending):
            yield block, position, reader.raw.tell() - told


def _read_lines(path: Path, block_bytes: int, counts: TextCounts) -> Iterator[TextBlock]:
    starts_document = True
    for block, position, progress in _blocks_of_lines(path, block_bytes):
        if position <= len(BYTE_ORDER_MARK) and block.count(b"\r") > 1 and b"\n" not in block:
            raise InputError(
                f"{shown(path)}: its lines end in \\r alone, as on old Macs; convert them, as with tr '\\r' '\\n'"
            )
        wide = block.startswith((b"\xff\xfe", b"\xfe\xff")) and position == 0
        if counts.skip_bad_rows and not wide:
            lines = block.split(b"\n")
            good = [line for line in lines if _is_utf8(line)]
            counts.not_utf8 += len(lines) - len(good)
            block = block if len(good) == len(lines) else b"\n".join(good)
        texts, document_starts, starts_document = split_lines(block, shown(path), position, starts_document)
        yield TextBlock(texts, document_starts, progress)


def _read_jsonl(path: Path, column: str, block_bytes: int, counts: TextCounts) -> Iterator[TextBlock]:
    start = 0
    for block, position, progress in _blocks_of_lines(path, block_bytes):
        if not (rows := block.lstrip(b" \t\r\n")):
            continue
        where = f"counted from row {start} at byte {position}"
        if start == 0 and rows.startswith(b"[") and rows[1:].lstrip().startswith(b"{"):
            raise InputError(
                f"{shown(path)} is one JSON array; text is read from a JSON object with a string {column!r} on every "
                f"line: jq -c '.[]' {shown(path)} > {shown(path.with_suffix('.jsonl'))}"
            )
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
                f"{shown(path)}: not a JSON object with a string {column!r} on every line ({_one_line(error)}, {where})"
            ) from None
        lines = sum(1 for line in block.split(b"\n") if line.strip())
        if lines != len(table):
            raise InputError(
                f"{shown(path)}: not a JSON object with a string {column!r} on every line ({lines:,} lines hold "
                f"{len(table):,} objects, {where}); write each on a line of its own, for instance with jq -c ."
            )
        texts = table.column(column)
        if start == 0 and texts.null_count == len(texts) and (names := _keys(rows)) is not None:
            check_column(column, names, shown(path), "--column")
        yield column_block(texts, column, shown(path), start, progress, counts)
        start += len(texts)


def _keys(rows: bytes) -> list[str] | None:
    """The keys of the first row of a block of jsonl; None where it is no object."""
    try:
        first = json.loads(rows.split(b"\n", 1)[0].decode(errors="replace"))
    except ValueError:
        return None
    return list(first) if isinstance(first, dict) else None


def _read_parquet(path: Path, column: str, block_bytes: int, counts: TextCounts) -> Iterator[TextBlock]:
    with path.open("rb") as opened:
        try:
            file = pyarrow.parquet.ParquetFile(opened)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{shown(path)}: not a parquet file, or a damaged one: {_one_line(error)}") from None
        check_column(column, file.schema_arrow.names, shown(path), "--column")
        size, rows = path.stat().st_size, file.metadata.num_rows
        groups = (file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups))
        start = 0
        batches = file.iter_batches(_rows_per_block(sum(groups), rows, block_bytes), columns=[column])
        while (batch := _next_batch(batches, path)) is not None:
            end = start + len(batch)
            progress = size * end // rows - size * start // rows
            # By name: asked for "a.b", pyarrow gives the field b of a column a as well.
            texts = batch.column(batch.schema.get_field_index(column))
            yield column_block(texts, column, shown(path), start, progress, counts)
            start = end


def _next_batch(batches: Iterator[pa.RecordBatch], path: Path) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{shown(path)}: damaged, or of a kind that pyarrow does not read: {_one_line(error)}"
        ) from None


def _rows_per_block(size: int, rows: int, block_bytes: int) -> int:
    return max(1, block_bytes * rows // max(1, size))


def column_block(
    texts: Any, column: str, where: str, start: int, progress: int, counts: TextCounts | None = None
) -> TextBlock:
    """A block of a column whose first row is row `start` of its source."""
    counts = counts or TextCounts()
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.chunk(0) if texts.num_chunks == 1 else pa.concat_arrays(texts.chunks)
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if pa.types.is_string_view(texts.type):
        texts = texts.cast(pa.large_string())
    kind = texts.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"{where}: column {column!r} holds {kind}, not strings")
    if texts.null_count and counts.skip_bad_rows:
        counts.without_text += texts.null_count
        texts = texts.drop_null()
    if texts.null_count:
        row = start + int(np.flatnonzero(texts.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(
            f"{where}: row {row} (counted from 0) has no text in column {column!r}; leave it out or fill it, or pass "
            "--skip_bad_rows to leave such rows out"
        )
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        good = np.array([_is_utf8(text.as_py()) for text in texts.cast(pa.large_binary())], dtype=bool)
        if counts.skip_bad_rows:
            counts.not_utf8 += int((~good).sum())
            return TextBlock(texts.filter(pa.array(good)), None, progress)
        raise InputError(
            f"{where}: row {start + int(np.flatnonzero(~good)[0])} (counted from 0) is not UTF-8 in column {column!r}; "
            "convert the text first, or pass --skip_bad_rows to leave such rows out"
        ) from None
    return TextBlock(texts, None, progress)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
