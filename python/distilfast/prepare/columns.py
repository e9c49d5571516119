"""Which columns of a table are text, label and group: by the usual names, or as named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from .._core import InputError
from .records import Rows, check_column, listed

Kind = Literal["text", "tokens", "questions"]
"""What a row is: one or two texts; a list of words; a question and its passage."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
    ("query", "text"),
    ("question", "passage"),
    ("question", "context"),
    ("question", "answer"),
    ("claim", "evidence"),
    ("anchor", "positive"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("sentence_a", "sentence_b"),
    ("#1 string", "#2 string"),
)
TEXTS = (
    *("text", "sentence", "content", "review", "document", "body", "comment", "tweet", "message", "utterance"),
    *("query", "question", "passage", "headline", "title"),
)
LABELS = (
    *("label", "labels", "gold_label", "class", "target", "category", "intent", "sentiment", "emotion"),
    *("score", "similarity", "similarity_score", "relevance", "rating", "stars", "is_duplicate", "quality", "y"),
)
WORDS = ("tokens", "words", "form")
TAGS = ("ner_tags", "tags", "ner", "labels", "label", "upos", "upos_tags", "pos_tags", "pos", "chunk_tags", "xpos")
GROUPS = ("group", "group_id", "query_id", "qid", "document_id", "doc_id")
NOT_TEXT = ("id", "idx", "index", "guid", "pairid", "promptid", "filename", "source", "url", "uid", "uuid")


@dataclass(frozen=True)
class Columns:
    """The columns that are read, and as `note` says to a reader, which of them were guessed."""

    kind: Kind
    texts: tuple[str, ...]
    """One or two columns of text; for "tokens" the column of words; for "questions" question and passage."""
    labels: tuple[str, ...] = ()
    """The label's column; several: one column of 0 and 1 for each class; none: rows without labels. For "questions" the
    column of answers, or those of the answers' texts and of their starts."""
    group: str | None = None
    """Rows with one value here stay on one side of a split."""
    note: str = ""


def find_columns(
    rows: Rows,
    kind: Kind | None = None,
    text_column: str | Sequence[str] | None = None,
    label_column: str | Sequence[str] | None = None,
    group_column: str | None = None,
) -> Columns:
    """The columns of `rows`, those named or else those with the usual names (case apart).

    `kind` None: "tokens" where a column holds lists of words, "questions" where there are answers with starts, else
    "text". Without a usual name a table's only column of strings is its text. `label_column` "none" leaves labels
    out. The group of pairs of a query and a passage is the query.

    Raises `InputError`, with the columns there are, for a name that is none, where no text is found or where it could
    be one of several, and for a text column that does not hold strings (or lists of strings).
    """
    named = (text_column,) if isinstance(text_column, str) else tuple(text_column or ())
    labels_named = (label_column,) if isinstance(label_column, str) else tuple(label_column or ())
    for name in (*named, *labels_named, *([group_column] if group_column else [])):
        if name != "none" or name in rows.column_names:
            check_column(name, rows.column_names, rows.source)
    kind = kind or _kind(rows, named)
    texts, label_names = (_words if kind == "tokens" else _questions if kind == "questions" else _texts)(rows, named)
    if len(set(texts)) != len(texts) or len(texts) > 2:
        raise InputError(f"{listed(texts)} as text columns: name one, or two different ones for pairs")
    for name in texts:
        _check_text(rows, name, kind)
    if labels_named:
        labels = () if labels_named == ("none",) and "none" not in rows.column_names else labels_named
    else:
        labels = _found(rows, label_names, but=texts)[: 2 if kind == "questions" else 1]
        if kind == "questions":
            labels = _answers(rows)
    if any(name in texts for name in labels):
        raise InputError(f"{listed(labels)} is both text and label; name two different columns")
    group = group_column or next(iter(_found(rows, GROUPS, but=(*texts, *labels))), None)
    if group is None and kind == "questions":
        group = texts[1]
    elif group is None and kind == "text" and len(texts) == 2 and texts[0].lower() == "query":
        group = texts[0]
    return Columns(kind, texts, labels, group, _note(rows, texts, labels, group, bool(named), bool(labels_named)))


def _note(
    rows: Rows, texts: tuple[str, ...], labels: tuple[str, ...], group: str | None, named: bool, labels_named: bool
) -> str:
    parts = [f"text {' and '.join(map(repr, texts))}" + ("" if named else " (found)")]
    parts.append(f"label {listed(labels)}" + ("" if labels_named else " (found)") if labels else "no label")
    if group is not None:
        parts.append(f"rows grouped by {group!r}")
    used = {*texts, *labels, group}
    unused = [name for name in rows.column_names if name not in used]
    if unused:
        parts.append(f"not used: {listed(unused, 8)}")
    return f"{rows.source}: " + "; ".join(parts)


def _kind(rows: Rows, named: tuple[str, ...]) -> Kind:
    if any(_is_list_of_strings(rows, name) for name in named or _found(rows, WORDS)):
        return "tokens"
    return "questions" if _answers(rows) and len(_found(rows, ("question", "context"))) == 2 else "text"


def _found(rows: Rows, usual: Sequence[str], but: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns with a usual name, in the order of those."""
    by_name: dict[str, list[str]] = {}
    for name in rows.column_names:
        by_name.setdefault(name.strip().lower(), []).append(name)
    return tuple(name for each in usual for name in by_name.get(each, ()) if name not in but)


def _texts(rows: Rows, named: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if named:
        return named, LABELS
    for pair in PAIRS:
        found = [_found(rows, (each,)) for each in pair]
        if all(len(names) == 1 for names in found) and all(_is_string(rows, names[0]) for names in found):
            return (found[0][0], found[1][0]), LABELS
    single = [name for name in _found(rows, TEXTS) if _is_string(rows, name)]
    # "text" and "sentence" are text whatever stands beside them; of the rest one alone may be there.
    if single and (len(single) == 1 or single[0].lower() in ("text", "sentence")):
        return (single[0],), LABELS
    if not single:
        if other := _found(rows, TEXTS[:2]):
            _check_text(rows, other[0], "text")
        labels = _found(rows, LABELS)[:1]
        used = {*labels, *_found(rows, (*GROUPS, *NOT_TEXT, *LABELS))}
        single = [name for name in rows.column_names if name not in used and _is_string(rows, name)]
        if len(single) == 1:
            return (single[0],), LABELS
    words = [name for name in rows.column_names if _is_list_of_strings(rows, name)]
    if words and not single:
        raise InputError(
            f"{rows.source}: its rows are lists of words ({listed(words)}), which the head tokens reads and this run's "
            "does not; pass --head tokens, with a model for it"
        )
    what = f"its text could be any of {listed(single)}" if single else "none of its columns is text by its name"
    raise InputError(
        f"{rows.source}: {what}; name one with --text_column, or two for pairs. It has the columns "
        f"{listed(rows.column_names)}"
    )


def _words(rows: Rows, named: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = named or _found(rows, WORDS)[:1]
    if len(found) != 1:
        raise InputError(
            f"{rows.source}: no column of words; name one that holds lists of words with --text_column. It has the "
            f"columns {listed(rows.column_names)}"
        )
    return found, TAGS


def _questions(rows: Rows, named: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = named or (_found(rows, ("question",)) + _found(rows, ("context", "passage")))
    if len(found) != 2:
        raise InputError(
            f"{rows.source}: no question and context; name both, the question first, with --text_column. It has the "
            f"columns {listed(rows.column_names)}"
        )
    return found, ()


def _answers(rows: Rows) -> tuple[str, ...]:
    """The column of answers as `datasets` has SQuAD's or as its files have them, a list of objects; or flat columns of
    text and start."""
    for name in _found(rows, ("answers", "answer")):
        kind = _type(rows, name)
        if pa.types.is_struct(kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind):
            return (name,)
    texts = _found(rows, ("answer_text", "answers.text", "answer", "answers"))
    starts = _found(rows, ("answer_start", "answers.answer_start", "start", "answer_starts"))
    return (texts[0], starts[0]) if texts and starts else ()


def _type(rows: Rows, name: str) -> Any:
    return rows.table.schema.field(name).type


def _is_string(rows: Rows, name: str) -> bool:
    return _string_type(_type(rows, name))


def _string_type(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_list_of_strings(rows: Rows, name: str) -> bool:
    kind = _type(rows, name)
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _string_type(kind.value_type)


def _check_text(rows: Rows, name: str, kind: Kind) -> None:
    good = _is_list_of_strings(rows, name) if kind == "tokens" else _is_string(rows, name)
    if not good:
        wanted = "lists of words" if kind == "tokens" else "strings"
        raise InputError(f"{rows.source}: column {name!r} holds {_type(rows, name)}, not {wanted}")
