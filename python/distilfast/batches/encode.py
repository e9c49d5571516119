"""Rows with labels to token ids, once for the whole run: texts, pairs, words with tags, questions with passages."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .._core import InputError
from ..prepare.targets import IGNORED
from ..tokenizer import Tokenizer, tokenize

CHUNK = 2_000
"""How many rows are tokenised at a time: their ids stand in Python lists meanwhile."""


@dataclass(frozen=True)
class Ragged:
    """Lists of numbers end to end."""

    flat: NDArray[Any]
    offsets: NDArray[np.int64]
    """[rows + 1]: row i is flat[offsets[i] : offsets[i + 1]]."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[Any]:
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[rows]: how many numbers each row has."""
        return np.diff(self.offsets)

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: Any) -> Ragged:
        """The lists of `rows` as numbers of `dtype`."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = np.concatenate([np.asarray(row, dtype) for row in rows]) if len(rows) else np.zeros(0, dtype)
        return cls(flat.astype(dtype, copy=False), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @classmethod
    def of_arrow(cls, lists: pa.ChunkedArray) -> Ragged:
        """Lists of ids, int32."""
        parts = ((each.values.to_numpy(), each.offsets.to_numpy()) for each in lists.chunks)
        return cls.joined([cls(ids.astype(np.int32), offsets.astype(np.int64)) for ids, offsets in parts])

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Ragged:
        """The rows of all `parts`, in order."""
        lengths = np.concatenate([part.lengths for part in parts])
        flat = np.concatenate([part.flat for part in parts])
        return cls(flat, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


@dataclass(frozen=True)
class EncodedRows:
    """Token ids of rows with their targets; what `LabelledBatches` is made of.

    `targets`: "labels" of texts: int64 [rows], -100 for none; float32 [rows], NaN for none; or float32 [rows,
    classes], a row of -100 for none; for questions "start_positions" and "end_positions", int64 [rows], -100 for none.
    """

    input_ids: Ragged
    token_type_ids: Ragged | None
    targets: Mapping[str, NDArray[Any]]
    word_starts: Ragged | None = None
    """bool: the first token of each word, for words with tags; None for whole texts."""
    word_labels: Ragged | None = None
    """int64: the tag at the first token of a word, -100 elsewhere and where there is none."""
    words: Ragged | None = None
    """int64: which word of its row each first token is of; only for words with tags."""
    offsets: tuple[NDArray[np.int32], ...] | None = None
    """Of each window of a passage [tokens, 2]: where its tokens stand in the passage, in characters; -1 outside it."""
    answer_places: Ragged | None = None
    """bool: where an answer may begin or end: the tokens of the passage, and the one that stands for no answer; only
    for questions."""
    passages: tuple[str, ...] | None = None
    """The passage of each row of the table, only for questions."""
    answers: tuple[Sequence[str] | None, ...] | None = None
    """The right answers of each row of the table: none where its passage has none, None where nobody said; only for
    questions."""
    row_numbers: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Which row of the table each is: for questions several windows may be of one row."""
    groups: NDArray[np.int64] | None = None
    """The group of each row: those of one are compared with each other, as the passages of a query."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """{"rows cut to 256 tokens": 12, ...}; only what happened."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def take(self, rows: NDArray[np.int64]) -> EncodedRows:
        """The texts of these rows alone, without labels."""
        types = self.token_type_ids
        return EncodedRows(
            Ragged.of([self.input_ids[row] for row in rows], np.int32),
            None if types is None else Ragged.of([types[row] for row in rows], np.int32),
            {},
            row_numbers=np.arange(len(rows)),
        )


def encode_texts(
    tokenizer: Any,
    first: Sequence[str],
    second: Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
    max_length: int = 256,
) -> EncodedRows:
    """Texts or pairs, as `tokenizer` encodes them, of at most `max_length` tokens (pairs: the longer is cut first).

    labels: ints (-100: none), floats (NaN: none) or lists of floats (None: none), one a row; None: no row has one.
    Raises `InputError` for a `max_length` without room for a text.
    """
    check_length(tokenizer, max_length, pairs=second is not None)
    columns: dict[str, list[Ragged]] = {"input_ids": [], "token_type_ids": []}
    cut = 0
    if second is None and (fast := fast_tokenizer(tokenizer, first[:200])) is not None:
        whole = fast.encode_batch(list(first))
        long = np.flatnonzero(np.diff(whole.offsets.to_numpy()) > max_length)
        limited = fast.encode_batch(list(first), max_length=max_length) if len(long) else whole
        ids = Ragged.of_arrow(pa.chunked_array([limited]))
        columns["input_ids"].append(ids)
        cut = len(long)
        if "token_type_ids" in tokenizer.model_input_names:
            columns["token_type_ids"].append(Ragged(np.zeros(len(ids.flat), np.int32), ids.offsets))
    else:
        for start, stop in chunks(len(first)):
            encoded, long_rows = _encode_pairs(
                tokenizer, first[start:stop], None if second is None else second[start:stop], max_length
            )
            cut += long_rows
            for name, parts in columns.items():
                if name in encoded:
                    parts.append(Ragged.of(encoded[name], np.int32))
    types = Ragged.joined(columns["token_type_ids"]) if columns["token_type_ids"] else None
    return EncodedRows(
        Ragged.joined(columns["input_ids"]),
        types,
        {} if labels is None else {"labels": label_array(labels)},
        row_numbers=np.arange(len(first)),
        counts={f"rows cut to {max_length} tokens": cut} if cut else {},
    )


def encode_words(
    tokenizer: Any, words: Sequence[Sequence[str]], tags: Sequence[Sequence[int]] | None = None, max_length: int = 256
) -> EncodedRows:
    """Lists of words (`is_split_into_words`), a word's tag (-100: none) at its first token.

    Words past `max_length` tokens are cut off and counted with their rows, and so are words that the tokenizer makes
    no token of. Raises `InputError` for a tokenizer that does not know which token is of which word.
    """
    check_length(tokenizer, max_length, pairs=False)
    tokenizer = _for_words(tokenizer)
    parts: dict[str, list[Ragged]] = {"input_ids": [], "token_type_ids": [], "starts": [], "labels": [], "words": []}
    cut = lost = silent = 0
    for begin, end in chunks(len(words)):
        encoded = tokenize(
            tokenizer,
            [list(row) for row in words[begin:end]],
            is_split_into_words=True,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
        )
        starts, labels, firsts = [], [], []
        for row in range(end - begin):
            numbers = [-1 if number is None else number for number in encoded.word_ids(row)]
            place = np.array(numbers, np.int64)
            first = place >= 0
            first[1:] &= place[1:] != place[:-1]
            label = np.full(len(place), IGNORED, np.int64)
            if tags is not None:
                label[first] = np.asarray(tags[begin + row], np.int64)[place[first]]
            starts.append(first)
            labels.append(label)
            firsts.append(place[first])
            # The last word that has a token: what comes after it was cut, what has none before it never had one.
            last = int(place.max(initial=-1))
            total = len(words[begin + row])
            silent += last + 1 - int(first.sum())
            if last + 1 < total and len(place) >= max_length:
                cut, lost = cut + 1, lost + total - last - 1
            else:
                silent += total - last - 1
        parts["input_ids"].append(Ragged.of(encoded["input_ids"], np.int32))
        if "token_type_ids" in encoded:
            parts["token_type_ids"].append(Ragged.of(encoded["token_type_ids"], np.int32))
        parts["starts"].append(Ragged.of(starts, np.bool_))
        parts["labels"].append(Ragged.of(labels, np.int64))
        parts["words"].append(Ragged.of(firsts, np.int64))
    counts = {f"rows cut to {max_length} tokens": cut, "words cut off": lost, "words without a token": silent}
    return EncodedRows(
        Ragged.joined(parts["input_ids"]),
        Ragged.joined(parts["token_type_ids"]) if parts["token_type_ids"] else None,
        {},
        Ragged.joined(parts["starts"]),
        Ragged.joined(parts["labels"]),
        Ragged.joined(parts["words"]),
        row_numbers=np.arange(len(words)),
        counts={name: count for name, count in counts.items() if count},
    )


def joined(parts: Sequence[EncodedRows]) -> EncodedRows:
    """Several lots of rows as one, such as unlabelled ones after labelled ones; their row numbers go on counting.

    Raises `InputError` where some have tags of words, places of answers or groups, and some do not.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    kinds = {(part.word_starts is None, part.offsets is None) for part in parts}
    if len(kinds) > 1:
        raise InputError("rows of words, of questions and of whole texts do not go together in one run")
    names = list(dict.fromkeys(name for part in parts for name in part.targets))
    targets = {}
    for name in names:
        known = next(part.targets[name] for part in parts if name in part.targets)
        targets[name] = np.concatenate([part.targets.get(name, _none_like(known, len(part))) for part in parts])
    numbers, total = [], 0
    counts: dict[str, int] = {}
    for part in parts:
        numbers.append(part.row_numbers + total)
        total += int(part.row_numbers.max(initial=-1)) + 1
        for name, count in part.counts.items():
            counts[name] = counts.get(name, 0) + count

    def ragged(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if any(value is None for value in values) else Ragged.joined(values)

    groups = [part.groups for part in parts if part.groups is not None]
    if 0 < len(groups) < len(parts):
        raise InputError("some rows are grouped and some are not; give all of them a group, or none")
    firsts = np.cumsum([0, *(int(each.max(initial=-1)) + 1 for each in groups)])

    def listed(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else tuple(one for value in values for one in value)

    return EncodedRows(
        Ragged.joined([part.input_ids for part in parts]),
        ragged("token_type_ids"),
        targets,
        ragged("word_starts"),
        ragged("word_labels"),
        ragged("words"),
        listed("offsets"),
        ragged("answer_places"),
        listed("passages"),
        listed("answers"),
        np.concatenate(numbers),
        np.concatenate([each + first for each, first in zip(groups, firsts, strict=False)]) if groups else None,
        counts,
    )


def label_array(labels: Sequence[Any]) -> NDArray[Any]:
    """int64 of ints; float32 of floats, or [rows, classes] of lists, where None is a row of -100."""
    classes = next((len(row) for row in labels if isinstance(row, list | tuple)), None)
    if classes is not None:
        return np.array([[IGNORED] * classes if row is None else row for row in labels], np.float32)
    if all(isinstance(label, int | np.integer) and not isinstance(label, bool) for label in labels):
        return np.array(labels, np.int64)
    return np.array([np.nan if label is None else label for label in labels], np.float32)


def check_length(tokenizer: Any, max_length: int, pairs: bool) -> None:
    """Raises `InputError` where a row has no room for a token of each of its texts, or the tokenizer cannot pad."""
    special = tokenizer.num_special_tokens_to_add(pair=pairs)
    if max_length < special + 1 + pairs:
        raise InputError(f"max_length={max_length} leaves no room for text beside {special} special tokens")
    if tokenizer.pad_token_id is None:
        raise InputError(
            "the tokenizer has no pad token, so rows of several lengths cannot stand in one batch; set pad_token in "
            "its tokenizer_config.json"
        )


def chunks(rows: int) -> Iterator[tuple[int, int]]:
    """The first row of every `CHUNK` rows, and the one behind the last."""
    return ((start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK))


def fast_tokenizer(tokenizer: Any, sample: Sequence[str]) -> Tokenizer | None:
    """The same tokenizer in `distilfast.Tokenizer`, where that has an engine of its own for it and gives the same for
    `sample`, special tokens and cutting included; None otherwise."""
    if not getattr(tokenizer, "is_fast", False) or tokenizer.truncation_side != "right":
        return None
    try:
        fast = Tokenizer.from_transformers(tokenizer)
    except (InputError, FileNotFoundError):
        return None
    if fast.engine != "wordpiece" or not len(sample):
        return None
    texts = [*sample, "A test, [SEP] of [MASK] them."]
    for max_length in (None, 8):
        expected = tokenize(tokenizer, texts, truncation=max_length is not None, max_length=max_length)
        if fast.encode_batch(texts, max_length=max_length).to_pylist() != expected["input_ids"]:
            return None
    return None if any(any(row) for row in expected.get("token_type_ids", ())) else fast


def _encode_pairs(
    tokenizer: Any, first: Sequence[str], second: Sequence[str] | None, max_length: int
) -> tuple[dict[str, list[list[int]]], int]:
    """The ids and token types of a chunk, and how many rows were cut: those that are longer without a limit."""

    def run(rows: Sequence[int], **limits: Any) -> Any:
        pair = None if second is None else [second[row] for row in rows]
        texts = [first[row] for row in rows]
        return tokenize(tokenizer, texts, pair, return_attention_mask=False, **limits)

    encoded = run(range(len(first)))
    columns = {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}
    long = [row for row, ids in enumerate(columns["input_ids"]) if len(ids) > max_length]
    if long:
        limited = run(long, truncation="longest_first", max_length=max_length)
        for name, rows in columns.items():
            for row, ids in zip(long, limited[name], strict=True):
                rows[row] = ids
    return columns, len(long)


def _for_words(tokenizer: Any) -> Any:
    """A tokenizer that makes the same of words in a list as of words in a text.

    Byte-level ones (RoBERTa, ModernBERT) give a word in a text the blank before it, one in a list only where they are
    told to. Raises `InputError` where words cannot be told apart, or neither way is the same.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{type(tokenizer).__name__} does not say which word a token is of; a fast tokenizer does")
    if _splits_as_text(tokenizer):
        return tokenizer
    from transformers import AutoTokenizer

    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_pretrained(scratch)
        told = AutoTokenizer.from_pretrained(scratch, add_prefix_space=True)
    if not _splits_as_text(told):
        raise InputError(
            f"{type(tokenizer).__name__} makes other tokens of a list of words than of the text, with add_prefix_space "
            "as without; words cannot be given to it"
        )
    return told


def _splits_as_text(tokenizer: Any) -> bool:
    try:
        listed = tokenize(tokenizer, [["a", "word"]], is_split_into_words=True, add_special_tokens=False)
    except (AssertionError, ValueError):  # how releases 4 of transformers say that they need add_prefix_space
        return False
    # What stands before the first word may differ, before the others it may not.
    texts = [tokenize(tokenizer, text, add_special_tokens=False)["input_ids"] for text in ("a word", " a word")]
    return listed["input_ids"][0] in texts


def _none_like(known: NDArray[Any], rows: int) -> NDArray[Any]:
    """As many rows without a label."""
    none = np.nan if known.dtype.kind == "f" and known.ndim == 1 else IGNORED
    return np.full((rows, *known.shape[1:]), none, known.dtype)
