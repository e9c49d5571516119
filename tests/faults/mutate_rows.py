"""Files of rows as people have them: columns renamed, labels of another task, other encodings, rows cut short."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

ENDINGS = (".csv", ".tsv", ".jsonl", ".conll")
RowChange = Callable[[random.Random, list[str], str], list[str] | bytes]
"""The lines of a file and what divides its cells, changed."""


def a_column_renamed(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    names = [("text", "txet"), ("label", "class_of"), ("sentence1", "first"), ("score", "s"), ("_id", "id")]
    found = [(old, new) for old, new in names if old in lines[0]] or [(lines[0][:4], "x")]
    old, new = chance.choice(found)
    return [lines[0].replace(old, new), *lines[1:]]


def a_column_renamed_everywhere(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    names = ["text", "label", "context", "answers", "answer_start", "question", "_id"]
    old = chance.choice([name for name in names if f'"{name}"' in lines[0]] or [lines[0].split(mark)[-1]])
    return [line.replace(f'"{old}"', '"other"').replace(f"{mark}{old}", f"{mark}other") for line in lines]


def a_label_that_fits_nowhere(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    at = _filled(chance, lines)
    cells = lines[at].split(mark)
    cells[-1] = chance.choice(["unheard-of", "GOOD", "2", "-1", "1e400", "nan", "B-OTHER", "None", "1.0}"])
    return [*lines[:at], mark.join(cells), *lines[at + 1 :]]


def all_of_one_label(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    last = lines[-1].split(mark)[-1]
    return [mark.join([*line.split(mark)[:-1], last]) if number and line else line for number, line in enumerate(lines)]


def bad_utf8(chance: random.Random, lines: list[str], mark: str) -> bytes:
    data = "\n".join(lines).encode()
    at = chance.randrange(len(data))
    return data[:at] + chance.choice([b"\xff", b"\xe9", b"\xed\xa0\x80", b"\x00", b"\xc3"]) + data[at:] + b"\n"


def utf16(chance: random.Random, lines: list[str], mark: str) -> bytes:
    return ("\n".join(lines) + "\n").encode("utf-16")


def a_mark_of_utf8(chance: random.Random, lines: list[str], mark: str) -> bytes:
    return b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n"


def other_ends_of_lines(chance: random.Random, lines: list[str], mark: str) -> bytes:
    return chance.choice(["\r\n", "\r", "\n\n", "\n\r\n", "\u2028"]).join(lines).encode()


def a_ragged_row(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    at = _filled(chance, lines)
    more = chance.choice([lines[at] + mark, lines[at] + f"{mark}more", lines[at].split(mark)[0], mark + lines[at]])
    return [*lines[:at], more, *lines[at + 1 :]]


def an_empty_cell(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    at = _filled(chance, lines)
    cells = lines[at].split(mark)
    cells[chance.randrange(len(cells))] = chance.choice(["", " ", '""', "null", "NA"])
    return [*lines[:at], mark.join(cells), *lines[at + 1 :]]


def a_header_twice(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    return chance.choice(
        [
            [f"{lines[0]}{mark}{lines[0].split(mark)[-1]}", *(f"{line}{mark}x" for line in lines[1:])],
            [lines[0], *lines],
            [lines[0]],
            [lines[0], lines[0]],
            lines[1:],
        ]
    )


def a_huge_cell(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    at = _filled(chance, lines)
    return [*lines[:at], lines[at].replace("a", "a" * 300_000, 1), *lines[at + 1 :]]


def an_open_quote(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    at = _filled(chance, lines)
    cells = lines[at].split(mark)
    place = chance.randrange(len(cells))
    cells[place] = chance.choice(['"{}', '{}"', 'a "{}', '"{}" b', "'{}"]).format(cells[place])
    return [*lines[:at], mark.join(cells), *lines[at + 1 :]]


def few_rows(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    return lines[: chance.randint(1, 4)]


def rows_again(chance: random.Random, lines: list[str], mark: str) -> list[str]:
    return [*lines, *lines[1:]]


CHANGES: list[RowChange] = [
    a_column_renamed,
    a_column_renamed_everywhere,
    a_label_that_fits_nowhere,
    all_of_one_label,
    bad_utf8,
    utf16,
    a_mark_of_utf8,
    other_ends_of_lines,
    a_ragged_row,
    an_empty_cell,
    a_header_twice,
    a_huge_cell,
    an_open_quote,
    few_rows,
    rows_again,
]


def change_rows(chance: random.Random, path: Path) -> str:
    """Changes the content of a file of rows; returns how."""
    change = chance.choice(CHANGES)
    mark = "," if path.suffix in (".csv", ".jsonl") else "\t"
    changed = change(chance, path.read_text(encoding="utf-8").rstrip("\n").split("\n"), mark)
    path.write_bytes(changed if isinstance(changed, bytes) else ("\n".join(changed) + "\n").encode())
    return f"{path.name}: {change.__name__.replace('_', ' ')}"


def _filled(chance: random.Random, lines: list[str]) -> int:
    """The number of a line behind the first that is not blank."""
    return chance.choice([number for number, line in enumerate(lines) if line and number] or [0])
