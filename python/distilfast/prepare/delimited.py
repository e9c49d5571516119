"""csv and tsv: every cell as it is written. `NA`, `None`, `007` and nothing at all are strings like any other."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv

from .._core import InputError
from .._files import first_line
from .records import Rows, decoded, file_bytes, listed, refuse_twice

RaggedRows = Literal["refuse", "skip"]

BLOCK_BYTES = 64 << 20
"""How much `pyarrow.csv` parses at a time; a row is no longer than that."""

DELIMITERS = {False: ",\t;|", True: "\t,;|"}
"""What divides the cells of csv and (True) tsv, the first that is in the header."""
NAMES = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}

COLA = ("source", "label", "original_label", "sentence")
"""The columns of GLUE's CoLA, whose files have no header."""


def read_delimited(path: Path, ragged: RaggedRows = "refuse") -> Rows:
    """The rows of a csv or tsv file with a header line, all columns strings.

    The delimiter is a tab for `.tsv` and a comma for `.csv`, or what divides the header where those do not: a comma, a
    tab, a semicolon or a bar, which a note says. Quotes in csv are those of RFC 4180. In tsv, which many write without
    quoting, a quote is text unless every cell that begins with one is quoted well and some need it. `ragged`: rows with
    too many or too few cells are refused or left out and counted.

    Raises `InputError` naming line and file for ragged rows, a quoted cell without an end, two columns of one name,
    bytes that are not UTF-8, and a file without rows.
    """
    data = file_bytes(path)
    decoded(data, path)
    first = data[: data.find(b"\n") + 1 or len(data)].decode().rstrip("\r\n")
    notes: list[str] = []
    delimiter = _delimiter(path, first)
    if delimiter != DELIMITERS[_is_tsv(path)][0]:
        notes.append(f"{path}: its columns are divided by {NAMES[delimiter]}")
    quoted = _is_quoted(data, delimiter, path)
    if b'"' in data and delimiter == "\t":
        notes.append(f"{path}: quotation marks are {'quoting, and taken off' if quoted else 'text, and kept'}")
    names = _header(data, delimiter, quoted)
    no_header = len(names) == 4 and names[1] in ("0", "1") and names[2] in ("", "*")
    if no_header:
        names = list(COLA)
        notes.append(f"{path}: no header; its columns are taken for CoLA's, {listed(names)}")
    names = [name if name.strip() else f"Unnamed: {number}" for number, name in enumerate(names)]
    refuse_twice(names, str(path))
    bad: list[Any] = []

    def handle(row: Any) -> str:
        bad.append(row)
        return "skip"

    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            pyarrow.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, column_names=names, skip_rows=0),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter,
                quote_char='"' if quoted else False,
                newlines_in_values=quoted,
                invalid_row_handler=handle,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=False,
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as rows of {len(names)} cells: {first_line(error)}") from None
    table = table.slice(0 if no_header else 1)
    if bad and ragged == "refuse":
        row = bad[0]
        more = f" (and {len(bad) - 1} more such rows)" if len(bad) > 1 else ""
        line = _line_of_row(data, delimiter, quoted, len(names))
        raise InputError(
            f"{path}, line {line}: {row.actual_columns} cells where the header has {row.expected_columns}{more}; quote "
            "cells that hold the delimiter, or pass --ragged skip to leave such rows out"
        )
    if table.num_rows == 0:
        raise InputError(f"{path} has a header and no rows")
    return Rows(table, str(path), notes=tuple(notes)).noting(rows_with_other_numbers_of_cells_left_out=len(bad))


def _is_tsv(path: Path) -> bool:
    return any(suffix.lower() in (".tsv", ".tab") for suffix in path.suffixes)


def _delimiter(path: Path, header: str) -> str:
    usual = DELIMITERS[_is_tsv(path)]
    return next((mark for mark in usual if mark in header), usual[0])


def _is_quoted(data: bytes, delimiter: str, path: Path) -> bool:
    """Whether quotes divide cells; raises `InputError` where csv has a quoted cell that does not end as one."""
    if delimiter != "\t" and b'"' not in data:
        return True
    mark = re.escape(delimiter.encode())
    # A cell that begins with a quote, and how it goes on if it is quoted well.
    cell = re.compile(rb"(?:\A|(?<=[\n\r" + mark + rb']))"(?:([^"]*(?:""[^"]*)*)"(?=[\r\n' + mark + rb"]|\Z))?")
    needed = b'\t\n\r"'
    needs_quotes = False
    for match in cell.finditer(data):
        content = match.group(1)
        if content is None:
            if delimiter == "\t":
                return False
            line = data.count(b"\n", 0, match.start()) + 1
            raise InputError(
                f"{path}, line {line}: a cell begins with a quotation mark and does not end with one; double the marks "
                "within a cell and quote all of it"
            )
        needs_quotes = needs_quotes or match.start() == 0 or any(byte in needed for byte in content)
    return delimiter != "\t" or needs_quotes


def _records(data: bytes, delimiter: str, quoted: bool) -> Any:
    """A `csv.reader` of what `pyarrow` reads, a line at a time: for the header, and to find a line again."""
    csv.field_size_limit(1 << 30)
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="")
    return csv.reader(text, delimiter=delimiter, quoting=quoting)


def _header(data: bytes, delimiter: str, quoted: bool) -> list[str]:
    """The cells of the first line that is not blank."""
    names: list[str] = next(row for row in _records(data, delimiter, quoted) if row)
    return names


def _line_of_row(data: bytes, delimiter: str, quoted: bool, cells: int) -> int:
    """The line (from 1) on which the first row begins that has not so many cells."""
    reader = _records(data, delimiter, quoted)
    before = 0
    for row in reader:
        if row and len(row) != cells:
            return before + 1
        before = reader.line_num
    return before
