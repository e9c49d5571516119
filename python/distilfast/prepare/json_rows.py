"""json and jsonl: an object a line, an array of objects, `{"data": [...]}`, columns, or SQuAD's articles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._core import InputError
from .records import Rows, file_text, listed, rows_of_columns, rows_of_records


def read_json_rows(path: Path) -> Rows:
    """The rows of a `.json` or `.jsonl` file, told apart by what is in it.

    Strings and numbers stay as they are; NaN, which Python writes for what is not there, is null. Raises `InputError`
    naming the line that is no JSON or no object, and, for SQuAD, the question whose answer is not in its passage at
    the place it names.
    """
    text = file_text(path)
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        raise InputError(f"{path} holds no JSON objects: it begins with {text.lstrip()[:20]!r}")
    if start == "{" and _is_lines(text):
        return rows_of_records(_records_of_lines(text, path), str(path))
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON that can be read: {error}") from None
    return _rows_of_content(content, path)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different; `json` would keep the last of equal ones without a word."""
    content = dict(pairs)
    if len(content) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has the name {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


def _constant(word: str) -> float | None:
    return None if word == "NaN" else float(word)


def _is_lines(text: str) -> bool:
    """Whether the first line that is not blank is an object of its own."""
    line = text.lstrip().partition("\n")[0]
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        # A first line that is broken, in a file of lines: the reader of lines says which.
        return line.rstrip()[-1:] == "}" and "\n" in text.strip()
    return "\n" in text.strip() or not _holds_rows(json.loads(line))


def _holds_rows(content: Mapping[str, Any]) -> bool:
    """Whether an object is a whole file: `data`, or columns."""
    values = list(content.values())
    columns = bool(values) and all(isinstance(value, list) for value in values)
    return isinstance(content.get("data"), list) or (columns and len({len(value) for value in values}) == 1)


def _records_of_lines(text: str, path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_once, parse_constant=_constant)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: no JSON that can be read: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}, line {number}: {type(record).__name__}, not an object with named values")
        records.append(record)
    return records


def _rows_of_content(content: Any, path: Path) -> Rows:
    if isinstance(content, dict):
        data = content.get("data")
        if isinstance(data, list):
            if data and isinstance(data[0], dict) and "paragraphs" in data[0]:
                return rows_of_columns(_questions(data, path), str(path))
            content = data
        elif content and _holds_rows(content):
            return rows_of_columns(content, str(path))
        else:
            raise InputError(
                f"{path} holds one object with {listed(content)}; an array of objects, an object a line, or "
                '{"data": [...]} is read'
            )
    if not content:
        raise InputError(f"{path} holds no rows")
    other = next((number for number, record in enumerate(content) if not isinstance(record, dict)), None)
    if other is not None:
        kind = type(content[other]).__name__
        raise InputError(f"{path}: element {other} of its array is {kind}, not an object with named values")
    return rows_of_records(content, str(path))


def _questions(articles: Sequence[Any], path: Path) -> dict[str, list[Any]]:
    """SQuAD 1.1 and 2.0 as the columns that `datasets` has for them; a question without an answer has empty lists."""
    columns: dict[str, list[Any]] = {"id": [], "title": [], "context": [], "question": [], "answers": []}
    try:
        for article in articles:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = question.get("answers", [])
                    starts = [int(answer["answer_start"]) for answer in answers]
                    columns["id"].append(str(question["id"]))
                    columns["title"].append(str(article.get("title", "")))
                    columns["context"].append(paragraph["context"])
                    columns["question"].append(question["question"])
                    columns["answers"].append({"text": [each["text"] for each in answers], "answer_start": starts})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is no SQuAD file: {type(error).__name__}: {error}") from None
    return columns
