"""CoNLL files: a word and its tags a line, a blank line between sentences."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from .._core import InputError
from .records import Rows, file_text, rows_of_columns

UNIVERSAL_DEPENDENCIES = ("id", "tokens", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The ten columns of CoNLL-U, the words under the name that `datasets` gives them."""

TAG = re.compile(r"O|[BIESLUM]-.+")
RANGE = re.compile(r"\d+[-.]\d+")
"""Ids of CoNLL-U that are no word of their own: 3-4 for a contraction, 8.1 for a word left out."""


def looks_like_conll(text: str) -> bool:
    """Whether blank lines come between groups of lines with as many cells each, as no table of rows has them."""
    lines = text.split("\n", 400)[:400]
    blank = [number for number, line in enumerate(lines[:-1]) if not line.strip()]
    filled = [line for line in lines if line.strip() and not line.startswith("#")]
    if not blank or not filled:
        return False
    tabs = "\t" in filled[0]
    cells = [_cells(line, tabs) for line in filled[:-1] or filled]
    # Words hold no blanks, texts do; and what a header calls text or label is no word and tag.
    texts = sum(any(" " in cell for cell in row) for row in cells)
    header = {cell.strip().lower() for cell in cells[0]} & {"text", "sentence", "sentence1", "label"}
    return len({len(row) for row in cells}) == 1 and len(cells[0]) > 1 and texts <= len(cells) / 10 and not header


def read_conll(path: Path) -> Rows:
    """A row a sentence: `tokens`, lists of words, and a column of lists for each column of tags.

    Cells are divided by tabs, or by blanks where the file has no tab. Lines that begin with `#` and have another number
    of cells than the rest are comments. Words stand in the first column, or in the second where the first counts them.
    Ten columns are CoNLL-U's, by name. Otherwise `tags` is the last column of chunk tags (B-, I-, O), or the last of
    all, and other columns are `column_3` and so on, counted from 1. Contractions, words left out and -DOCSTART- lines
    are no words.

    Raises `InputError` naming the line with another number of cells, and for a file with one column.
    """
    text = file_text(path)
    lines = [line.rstrip("\r") for line in text.split("\n")]
    tabs = any("\t" in line.strip() for line in lines)
    widths = Counter(len(_cells(line, tabs)) for line in lines if line.strip() and not line.startswith("#"))
    if not widths or (width := widths.most_common(1)[0][0]) < 2:
        raise InputError(f"{path} holds no words with tags: a word and its tag a line, a blank line between sentences")
    sentences: list[list[list[str]]] = [[]]
    comments = skipped = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            if sentences[-1]:
                sentences.append([])
            continue
        cells = _cells(line, tabs)
        if line.startswith("#") and len(cells) != width:
            comments += 1
        elif len(cells) != width:
            raise InputError(f"{path}, line {number}: {len(cells)} cells where most lines have {width}: {line[:60]!r}")
        elif cells[0] == "-DOCSTART-":
            skipped += 1
        else:
            sentences[-1].append(cells)
    sentences = [sentence for sentence in sentences if sentence]
    if not sentences:
        raise InputError(f"{path} holds no sentences")
    words = [[cells for cells in sentence if not RANGE.fullmatch(cells[0])] for sentence in sentences]
    counted = all([cells[0] for cells in each] == [str(n) for n in range(1, len(each) + 1)] for each in words)
    if counted:
        skipped += sum(map(len, sentences)) - sum(map(len, words))
        sentences = [sentence for sentence in words if sentence]
    columns = list(zip(*(zip(*sentence, strict=True) for sentence in sentences), strict=True))
    names, note = _names(columns, 1 if counted else 0, path)
    values = {name: [list(cells) for cells in column] for name, column in zip(names, columns, strict=True)}
    if counted:
        del values[names[0]]
    rows = rows_of_columns(values, str(path))
    return rows.noting(note, lines_of_comments_left_out=comments, lines_that_are_no_word_left_out=skipped)


def _cells(line: str, tabs: bool) -> list[str]:
    return line.split("\t") if tabs else line.split()


def _names(columns: list[tuple[tuple[str, ...], ...]], word: int, path: Path) -> tuple[list[str], str]:
    """The columns' names, and which were taken for words and tags."""
    if len(columns) == len(UNIVERSAL_DEPENDENCIES) and word == 1:
        return list(UNIVERSAL_DEPENDENCIES), f"{path}: the ten columns of CoNLL-U"
    names = [f"column_{number}" for number in range(1, len(columns) + 1)]
    chunks = [
        number
        for number, column in enumerate(columns)
        if number > word and all(TAG.fullmatch(cell) for sentence in column for cell in sentence)
    ]
    tags = chunks[-1] if chunks else len(columns) - 1
    if tags == word:
        raise InputError(f"{path} has words and no column of tags")
    names[word], names[tags] = "tokens", "tags"
    return names, f"{path}: words from column {word + 1} of {len(columns)}, tags from column {tags + 1}"
