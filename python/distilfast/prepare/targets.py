"""The labels of rows as numbers that a head learns: classes, 0 or 1 a class, real numbers, tags, places of answers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute

from .._core import InputError
from .columns import Columns
from .labels import NOT_SCORED, LabelMapping, is_missing, is_not_scored, match_labels, spelled
from .records import Rows, listed

IGNORED = -100
"""The class of a row or word without a label, which no loss counts."""

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
"""As `config.problem_type` of `transformers` calls it."""

LabelKind = Literal["none", "names", "integers", "floats", "lists"]

_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True)
class Targets:
    """What the rows' labels say, one element a row.

    values: int, -100 without a label (single label); a list of 0.0 and 1.0, one a class, or None (multi-label); float,
        NaN without a label (regression); a list of ints, one a word (tokens); for questions a dictionary
        {"text": answers, "answer_start": their places in the passage, in characters}, or None.
    """

    values: list[Any]
    mapping: LabelMapping | None
    labelled: int
    """How many rows have a label."""
    notes: tuple[str, ...]


def label_values(rows: Rows, column: str) -> list[Any]:
    """A label column as it stands, the integers of a `ClassLabel` as its names; its -1 is no label, as `datasets` has
    it for test splits, and -100 stays. Raises `InputError` for other integers that no class of it has."""
    values = rows.column(column)
    names = rows.class_names.get(column)
    if names is None:
        return values
    try:
        return [_named(value, names) for value in values]
    except IndexError as error:
        raise InputError(
            f"{rows.source}: column {column!r} holds {error}, and its classes are numbered from 0 to {len(names) - 1}"
        ) from None


def _named(value: Any, names: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    if value is None or value == -1:
        return None
    if value == IGNORED:
        return NOT_SCORED
    if not 0 <= value < len(names):
        raise IndexError(value)
    return names[value]


def label_kind(values: Iterable[Any]) -> LabelKind:
    """What labels are by their spelling; "integers" where all are whole numbers, also 1.0."""
    given = [value for value in values if not is_missing(value)]
    if not given:
        return "none"
    if any(isinstance(value, list) for value in given):
        return "lists"
    words = {spelled(value) for value in given}
    if all(word.lstrip("+-").isdecimal() for word in words):
        return "integers"
    try:
        return "floats" if all(math.isfinite(float(word)) for word in words) else "names"
    except ValueError:
        return "names"


def sequence_targets(
    rows: Rows,
    columns: Columns,
    problem: Problem,
    id2label: Mapping[int, str],
    separator: str | None = None,
    mapping: LabelMapping | None = None,
) -> Targets:
    """The targets of texts and pairs.

    `mapping`: that of the training rows, for rows that are to be read in the same way; labels that it lacks are matched
    to `id2label` anew. `separator` divides several labels in one string.
    Raises `InputError` for labels that fit no class, that are no number (regression), or that are lists where a row has
    one class, and for a separator there.
    """
    if separator is not None and problem != "multi_label_classification":
        raise InputError(f"--label_separator {separator!r}: the model gives a row one label; leave it out")
    if not columns.labels:
        missing: Any = {"single_label_classification": IGNORED, "regression": math.nan}.get(problem)
        return Targets([missing] * len(rows), mapping, 0, ())
    if problem == "multi_label_classification":
        return _multi_label(rows, columns, id2label, separator, mapping)
    if len(columns.labels) > 1:
        raise InputError(f"{rows.source}: {len(columns.labels)} label columns, but the model has one label a row")
    values = label_values(rows, columns.labels[0])
    if label_kind(values) == "lists":
        raise InputError(
            f"{rows.source}: column {columns.labels[0]!r} holds lists of labels, but the model has one label a row"
        )
    if problem == "regression":
        names = rows.class_names.get(columns.labels[0])
        given = rows.column(columns.labels[0]) if names else values
        numbers = number_targets(given, rows.source)
        answers = any(isinstance(value, bool) or str(value).lower() in ("true", "false") for value in given)
        said = (f"{rows.source}: true and false in {columns.labels[0]!r} are the numbers 1 and 0",) if answers else ()
        return Targets(numbers, None, sum(not math.isnan(number) for number in numbers), said)
    mapping, notes = _matched(values, id2label, mapping, rows.class_names.get(columns.labels[0]))
    classes = [_class_of(value, mapping, rows.source, row) for row, value in enumerate(values)]
    notes += _not_scored_note(values, mapping, rows.source, "rows")
    return Targets(classes, mapping, sum(one != IGNORED for one in classes), notes)


def tag_targets(
    rows: Rows, columns: Columns, id2label: Mapping[int, str], mapping: LabelMapping | None = None
) -> Targets:
    """The targets of words; one tagged -100, or null, has none. Raises `InputError` for a row with other numbers of
    tags and words, and for tags that fit no class."""
    words = rows.column(columns.texts[0])
    if not columns.labels:
        return Targets([[IGNORED] * len(row) for row in words], mapping, 0, ())
    values = label_values(rows, columns.labels[0])
    for number, (row, tags) in enumerate(zip(words, values, strict=True), 1):
        if tags is not None and (not isinstance(tags, list) or len(tags) != len(row)):
            found = f"{len(tags)} tags" if isinstance(tags, list) else f"{tags!r}"
            raise InputError(f"{rows.source}, row {number}: {len(row)} words and {found}; each word needs one")
    mapping, notes = _matched(
        (tag for tags in values for tag in tags or ()), id2label, mapping, rows.class_names.get(columns.labels[0])
    )
    classes = [
        [IGNORED] * len(row) if tags is None else [_class_of(tag, mapping, rows.source, number) for tag in tags]
        for number, (row, tags) in enumerate(zip(words, values, strict=True))
    ]
    notes += _not_scored_note([tag for tags in values for tag in tags or ()], mapping, rows.source, "words")
    return Targets(classes, mapping, sum(any(tag != IGNORED for tag in tags) for tags in classes), notes)


def answer_targets(rows: Rows, columns: Columns) -> Targets:
    """The targets of questions: {"text": [...], "answer_start": [...]}, both empty where the passage has no answer; an
    answer without text is none.

    Raises `InputError` naming the row whose answer is not in its passage at the place it names.
    """
    if not columns.labels:
        return Targets([None] * len(rows), None, 0, ())
    passages = rows.column(columns.texts[1])
    if len(columns.labels) == 1:
        values = rows.column(columns.labels[0])
    else:
        parts = (rows.column(name) for name in columns.labels)
        values = [_flat_answer(text, start) for text, start in zip(*parts, strict=True)]
    answers: list[dict[str, list[Any]] | None] = []
    without = 0
    for number, (value, passage) in enumerate(zip(values, passages, strict=True), 1):
        if value is None:
            answers.append(None)
            continue
        try:
            if isinstance(value, list):  # of an object an answer
                value = {name: [answer[name] for answer in value] for name in ("text", "answer_start")}
            pairs = zip(value["text"], value["answer_start"], strict=True)
            given = [(text, int(start)) for text, start in pairs if not is_missing(text)]
        except (KeyError, TypeError, ValueError):
            raise InputError(
                f"{rows.source}, row {number}: {value!r} is no answer with text and answer_start"
            ) from None
        if any(passage[start : start + len(text)] != text or start < 0 for text, start in given):
            raise InputError(f"{rows.source}, row {number}: an answer is not in the passage where it says")
        without += not given
        answers.append({"text": [text for text, _ in given], "answer_start": [start for _, start in given]})
    notes = (f"{without} of {len(rows)} questions have no answer in their passage",) if without else ()
    return Targets(answers, None, sum(answer is not None for answer in answers), notes)


def number_targets(values: Sequence[Any], source: str) -> list[float]:
    """Each row's number, NaN where it has none; true and false are 1 and 0.

    Raises `InputError` naming the row whose label is no finite number.
    """
    numbers = []
    for row, value in enumerate(values):
        try:
            # Python reads 1_000 as a number, nobody else does.
            number = math.nan if is_missing(value) else float(_TRUTH.get(str(value).lower(), value))
            number = math.inf if "_" in str(value) else number
        except (TypeError, ValueError):
            number = math.inf
        if not is_missing(value) and not math.isfinite(number):
            raise InputError(f"{source}, row {row + 1}: the label {value!r} is no number, which regression needs")
        numbers.append(number)
    return numbers


def with_text(rows: Rows, columns: Columns) -> Rows:
    """The rows that have all their texts; those with null for one, or without a word, are left out and counted.

    A text of blanks alone is a text, and stays: some rows may have nothing to say. It is counted, and rows that are
    all such are refused.
    """
    keep: Any = None
    for name in columns.texts:
        column = rows.table.column(name)
        good = pa.compute.is_valid(column)
        if columns.kind == "tokens":
            good = pa.compute.and_(
                good, pa.compute.fill_null(pa.compute.greater(pa.compute.list_value_length(column), 0), False)
            )
        keep = good if keep is None else pa.compute.and_(keep, good)
    kept = [number for number, good in enumerate(keep.to_pylist()) if good]
    found = rows if len(kept) == len(rows) else rows.take(kept)
    blank = 0 if columns.kind == "tokens" else _blank(found, columns)
    if blank == len(found):
        raise InputError(f"{rows.source}: no row has text in {listed(columns.texts)}")
    return found.noting(rows_without_text_left_out=len(rows) - len(kept), rows_with_a_blank_text=blank)


def _blank(rows: Rows, columns: Columns) -> int:
    """How many rows have a text of blanks alone."""
    blank: Any = None
    for name in columns.texts:
        texts = rows.table.column(name).cast(pa.large_string())
        found = pa.compute.equal(pa.compute.utf8_trim_whitespace(texts), "")
        blank = found if blank is None else pa.compute.or_(blank, found)
    return pa.compute.sum(blank).as_py() or 0


def _flat_answer(text: Any, start: Any) -> dict[str, list[Any]] | None:
    if isinstance(text, list):
        return {"text": text, "answer_start": start if isinstance(start, list) else [start]}
    if is_missing(text):
        return {"text": [], "answer_start": []}
    return {"text": [text], "answer_start": [start]}


def _matched(
    values: Iterable[Any],
    id2label: Mapping[int, str],
    mapping: LabelMapping | None,
    class_names: Sequence[str] | None,
) -> tuple[LabelMapping, tuple[str, ...]]:
    known = set(id2label.values())
    labels = {spelled(value) for value in values if not is_missing(value) and not is_not_scored(value, known)}
    if mapping is not None and labels <= mapping.ids.keys():
        return mapping, ()
    found = match_labels(labels | (mapping.ids.keys() if mapping else set()), id2label, class_names)
    return found, (found.note,) if found.ids else ()


def _class_of(label: Any, mapping: LabelMapping, source: str, row: int) -> int:
    if is_missing(label) or is_not_scored(label, mapping.ids):
        return IGNORED
    number = mapping.ids.get(spelled(label))
    if number is None:
        raise InputError(f"{source}, row {row + 1}: the label {label!r} is none of {listed(mapping.ids)}")
    return number


def _not_scored_note(values: Sequence[Any], mapping: LabelMapping, source: str, what: str) -> tuple[str, ...]:
    """How many of the labels are -100, in words; nothing where none is."""
    count = sum(is_not_scored(value, mapping.ids) for value in values)
    if not count:
        return ()
    return (f"{source}: {count:,} of {len(values):,} {what} have the label -100, and count in no loss and no measure",)


def _multi_label(
    rows: Rows, columns: Columns, id2label: Mapping[int, str], separator: str | None, mapping: LabelMapping | None
) -> Targets:
    lists, notes = label_lists(rows, columns.labels, separator)
    given = [labels for labels in lists if labels is not None]
    if all(_is_hot(labels, len(id2label)) for labels in given) and given:
        hot = [None if labels is None else [float(one) for one in labels] for labels in lists]
        notes += (f"column {columns.labels[0]!r} holds 0 or 1 for every class, in the teacher's order",)
        return Targets(hot, mapping, len(given), notes)
    twice = next((labels for labels in given if len(labels) > len(set(labels))), None)
    if twice is not None and all(_is_hot(labels, len(labels)) for labels in given):
        raise InputError(
            f"{rows.source}: column {columns.labels[0]!r} holds lists of 0 and 1, one of {len(twice)}, and the model "
            f"has {len(id2label)} classes; each needs one number for every class, or the names of its classes"
        )
    if any(is_not_scored(label, id2label.values()) for labels in given for label in labels):
        raise InputError(
            f"{rows.source}: column {columns.labels[0]!r} holds -100 among the labels of a row, where a class holds or "
            "does not; give null for a row that nobody labelled"
        )
    if len(columns.labels) > 1:  # a class that holds for no row is a class all the same
        given += [list(columns.labels)]
    mapping, more = _matched(
        (label for labels in given for label in labels), id2label, mapping, rows.class_names.get(columns.labels[0])
    )
    if len(columns.labels) > 1 and len(columns.labels) < len(id2label):
        lacking = [name for number, name in id2label.items() if number not in mapping.ids.values()]
        more += (f"warning: no column for the classes {listed(lacking)}: they are taken to hold for no row",)
    targets: list[list[float] | None] = []
    for number, labels in enumerate(lists):
        if labels is None:
            targets.append(None)
            continue
        classes = {_class_of(label, mapping, rows.source, number) for label in labels}
        targets.append([1.0 if one in classes else 0.0 for one in range(len(id2label))])
    return Targets(targets, mapping, sum(row is not None for row in targets), notes + more)


def label_lists(
    rows: Rows, columns: Sequence[str], separator: str | None = None
) -> tuple[list[list[Any] | None], tuple[str, ...]]:
    """The labels of each row, a list or None where nobody labelled it, and what is to be said.

    Several `columns`: one for each class, 0 or 1 (or true and false), the class its name. One: lists; with `separator`
    strings such as "a|b" (an empty one: no class holds); else one label a row, a list of one. Raises `InputError` for
    other values.
    """
    if len(columns) > 1:
        parts = [[_yes(value, rows.source, name) for value in rows.column(name)] for name in columns]
        table = zip(*parts, strict=True)
        lists: list[list[Any] | None] = [
            None if None in row else [name for name, one in zip(columns, row, strict=True) if one] for row in table
        ]
        return lists, (f"a class for each of the columns {listed(columns)}",)
    values = label_values(rows, columns[0])
    if separator is not None:
        words = [None if value is None else str(value).split(separator) for value in values]
        return [None if row is None else [one.strip() for one in row if one.strip()] for row in words], ()
    if label_kind(values) == "lists":
        return values, ()
    note = f"column {columns[0]!r} holds one label a row, though the model may give several"
    return [None if is_missing(value) else [value] for value in values], (note,)


def _is_hot(labels: Sequence[Any], num_labels: int) -> bool:
    return len(labels) == num_labels and all(isinstance(one, int | float) and one in (0, 1) for one in labels)


def _yes(value: Any, source: str, column: str) -> bool | None:
    if is_missing(value):
        return None
    word = spelled(value).lower()
    if word not in ("0", "1", "true", "false"):
        raise InputError(f"{source}: {value!r} in column {column!r} is not 0 or 1, as a class's own column holds")
    return word in ("1", "true")
