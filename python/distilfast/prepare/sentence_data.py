"""What sentence encoders are scored on: pairs with people's scores, and collections as BEIR lays them out."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .._core import InputError
from .columns import find_columns
from .records import file_text
from .table import read_rows
from .targets import label_values, number_targets, with_text


@dataclass(frozen=True)
class Pairs:
    """Pairs of sentences and how alike people find them, [pairs]. `notes`: what was guessed and left out."""

    first: list[str]
    second: list[str]
    scores: np.ndarray
    notes: list[str]


@dataclass(frozen=True)
class Collection:
    """Documents, queries, and for each query {document's number: judgement}. `notes`: what was left out."""

    documents: list[str]
    queries: list[str]
    relevant: list[dict[int, float]]
    notes: list[str]


def read_pairs(file: str, text_column: Sequence[str] = (), label_column: Sequence[str] = ()) -> Pairs:
    """The rows of a csv, tsv, jsonl or parquet file: two columns of text and one of numbers, by the usual names or as
    named; rows with other numbers of cells, without a text or without a score are left out and counted. Raises
    `InputError` for files without such columns, and for scores that are not numbers."""
    rows = read_rows(file, ragged="skip")
    columns = find_columns(rows, "text", text_column, label_column)
    if len(columns.texts) != 2:
        raise InputError(f"--sts_file {file}: one column of text ({columns.texts[0]}); pairs have two (--text_column)")
    if not columns.labels:
        raise InputError(f"--sts_file {file}: no column of scores was found; name it with --label_column")
    rows = with_text(rows, columns)
    scores = np.asarray(number_targets(label_values(rows, columns.labels[0]), file), np.float64)
    known = np.isfinite(scores)
    if known.sum() < 2:
        raise InputError(f"--sts_file {file}: {int(known.sum())} pairs with a score; give two or more")
    if np.ptp(scores[known]) == 0:
        raise InputError(
            f"--sts_file {file}: all pairs have the score {scores[known][0]:g}, which nothing correlates with"
        )
    first, second = ([str(text) for text in rows.table.column(name).to_pylist()] for name in columns.texts)
    kept = np.flatnonzero(known)
    rows = rows.noting(pairs_without_a_score_left_out=len(scores) - len(kept))
    notes = [columns.note, *rows.notes, *(f"{count:,} {what}" for what, count in rows.counts.items())]
    notes = [note.replace(file, Path(file).name) for note in notes]
    return Pairs([first[row] for row in kept], [second[row] for row in kept], scores[kept], notes)


def read_collection(folder: str) -> Collection:
    """A folder with corpus.jsonl ("_id", "text", perhaps "title"), queries.jsonl ("_id", "text") and qrels/test.tsv
    (or dev.tsv, or the only one there: query, document, judgement).

    Queries without a relevant document are left out and counted; of texts with one "_id" the last counts, and so does
    the last of two judgements, which is said. Raises `InputError` for files that are missing or of another form, and
    for judgements none of which names a query and a document that are there.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"--retrieval_dir {folder}: there is no such folder")
    texts: dict[str, dict[str, str]] = {}
    again: Counter[str] = Counter()
    for name in ("corpus", "queries"):
        texts[name] = {}
        for row in _json_lines(path / f"{name}.jsonl"):
            title = str(row.get("title") or "")
            again[f"lines of {name}.jsonl"] += str(row["_id"]) in texts[name]
            texts[name][str(row["_id"])] = f"{title} {row['text']}".strip() if title else str(row["text"])
    documents = {name: number for number, name in enumerate(texts["corpus"])}
    judged: dict[str, dict[int, float]] = {}
    unknown = 0
    qrels = _qrels(path)
    judgements = {}
    for query, document, judgement in _judgements(qrels):
        again[f"judgements of {qrels.name}"] += (query, document) in judgements
        judgements[query, document] = judgement
    for (query, document), judgement in judgements.items():
        if query not in texts["queries"] or document not in documents:
            unknown += 1
        elif judgement > 0:
            judged.setdefault(query, {})[documents[document]] = judgement
    if not judged:
        raise InputError(
            f"{qrels}: none of its {unknown:,} judgements names a query of queries.jsonl and a document of corpus.jsonl"
            if unknown
            else f"{qrels} judges no document relevant"
        )
    left_out = len(set(texts["queries"]) - set(judged))
    notes = [f"{left_out:,} queries of which {qrels.name} judges no document relevant left out"] if left_out else []
    notes += [
        f"{count:,} {what} say again what stands there already: the last counts"
        for what, count in again.items()
        if count
    ]
    notes += [f"{unknown:,} judgements of queries or documents that are not there"] if unknown else []
    queries = [query for query in texts["queries"] if query in judged]
    return Collection(
        list(texts["corpus"].values()),
        [texts["queries"][query] for query in queries],
        [judged[query] for query in queries],
        notes,
    )


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or "_id" not in row or not isinstance(row.get("text"), str):
            raise InputError(f'{path}: line {number} is no object with "_id" and "text"')
        yield row


def _qrels(folder: Path) -> Path:
    found = sorted((folder / "qrels").glob("*.tsv"))
    for name in ("test.tsv", "dev.tsv"):
        if folder / "qrels" / name in found:
            return folder / "qrels" / name
    if len(found) != 1:
        raise InputError(f"--retrieval_dir {folder}: there is no qrels/test.tsv")
    return found[0]


def _judgements(path: Path) -> Iterator[tuple[str, str, float]]:
    """Query, document, judgement; a first line of names is passed over."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        cells = line.split("\t")
        try:
            judgement = float(cells[-1])
        except ValueError:
            judgement = math.nan
            if number == 1 and len(cells) == 3:
                continue
        if len(cells) != 3 or not math.isfinite(judgement):
            raise InputError(f"{path}: line {number} is not a query, a document and a number between tabs")
        yield cells[0], cells[1], judgement


def _lines(path: Path) -> list[str]:
    if not path.exists():
        raise InputError(f"{path}: there is no such file; a collection has corpus.jsonl, queries.jsonl, qrels/")
    return file_text(path).split("\n")
