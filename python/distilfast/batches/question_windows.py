"""Questions with passages to token ids, a passage that is too long in several windows or cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .._core import InputError
from ..prepare.targets import IGNORED
from ..tokenizer import tokenize
from .encode import EncodedRows, Ragged, check_length, chunks

PASSAGE_STRIDE = 128
"""Tokens that the windows of a long passage share, as in the published baselines of SQuAD."""


def passage_stride(max_length: int) -> int:
    """What windows of `max_length` tokens share: the published number, or a quarter of short windows."""
    return min(PASSAGE_STRIDE, max_length // 4)


def encode_questions(
    tokenizer: Any,
    questions: Sequence[str],
    passages: Sequence[str],
    answers: Sequence[Mapping[str, Sequence[Any]] | None] | None = None,
    max_length: int = 384,
    stride: int | None = None,
) -> EncodedRows:
    """Windows of at most `max_length` tokens: the question, then the passage or a part of it.

    answers: {"text": [...], "answer_start": [...]} for each question, both empty where the passage has no answer, None
        where nobody said. The first answer gives "start_positions" and "end_positions", token numbers in the window,
        the end counted in; without an answer both are the place of [CLS], as in SQuAD 2.0.
    stride: None cuts a passage where the window ends; a question whose answer is cut off has no label then, and is
        counted. A number makes further windows, each beginning so many tokens before the last one ended; a window
        without the answer is one of a passage without an answer. Where no window holds all of the answer, none of them
        has a label, and the question is counted.

    A question longer than half a window is cut to that and counted. Raises `InputError` for a tokenizer that does not
    say where its tokens stand, or a stride that leaves no room.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(f"{type(tokenizer).__name__} does not say where a token stands; a fast tokenizer does")
    check_length(tokenizer, max_length, pairs=True)
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    if stride is not None and not 0 <= stride < room - room // 2:
        raise InputError(f"a stride of {stride} leaves no room in windows of {max_length} tokens; at most half of them")
    questions, questions_cut = _cut_questions(tokenizer, questions, room // 2)
    ids: list[Any] = []
    types: list[Any] = []
    offsets: list[Any] = []
    places: list[Any] = []
    rows: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    whole: dict[int, bool] = {}
    cut = 0
    for begin, stop in chunks(len(questions)):
        encoded = tokenize(
            tokenizer,
            list(questions[begin:stop]),
            list(passages[begin:stop]),
            truncation="only_second",
            max_length=max_length,
            stride=0 if stride is None else stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        before = -1
        for window, number in enumerate(encoded["overflow_to_sample_mapping"]):
            row = begin + number
            again = row == before
            before = row
            if again and stride is None:
                cut += window == 1 or encoded["overflow_to_sample_mapping"][window - 2] != number
                continue
            place = np.array(encoded["offset_mapping"][window], np.int32)
            inside = np.array([part == 1 for part in encoded.sequence_ids(window)])
            place[~inside] = -1
            ids.append(np.array(encoded["input_ids"][window], np.int32))
            if "token_type_ids" in encoded:
                types.append(np.array(encoded["token_type_ids"][window], np.int32))
            offsets.append(place)
            inside[_no_answer(ids[-1], tokenizer)] = True
            places.append(inside)
            rows.append(row)
            found = _places(place, ids[-1], answers[row] if answers is not None else None, tokenizer)
            whole.setdefault(row, found is not None)
            whole[row] |= found is not None
            if found is None:
                nothing = _no_answer(ids[-1], tokenizer)
                found = nothing, nothing
            starts.append(found[0])
            ends.append(found[1])
    lost = [row for row, held in whole.items() if not held]
    numbers = np.array(rows, np.int64)
    unknown = np.isin(numbers, lost)
    counts = {
        f"passages cut to fit {max_length} tokens": cut,
        "questions whose answer was cut off, left without label": len(lost),
        f"questions cut to {room // 2} tokens": questions_cut,
        "windows beyond the first of a passage": len(rows) - len(questions) if stride is not None else 0,
    }
    targets = {
        "start_positions": np.where(unknown, IGNORED, np.array(starts, np.int64)),
        "end_positions": np.where(unknown, IGNORED, np.array(ends, np.int64)),
    }
    return EncodedRows(
        Ragged.of(ids, np.int32),
        Ragged.of(types, np.int32) if types else None,
        targets if answers is not None else {},
        offsets=tuple(offsets),
        answer_places=Ragged.of(places, np.bool_),
        passages=tuple(passages),
        answers=tuple(None if one is None else tuple(one["text"]) for one in answers or [None] * len(questions)),
        row_numbers=numbers,
        counts={name: int(count) for name, count in counts.items() if count},
    )


def _places(place: Any, ids: Any, answer: Mapping[str, Sequence[Any]] | None, tokenizer: Any) -> tuple[int, int] | None:
    """The first and last token of the first answer; None where it is not wholly in the window."""
    if answer is None:
        return IGNORED, IGNORED
    if not answer["text"]:
        nothing = _no_answer(ids, tokenizer)
        return nothing, nothing
    begin = int(answer["answer_start"][0])
    end = begin + len(answer["text"][0])
    passage = place[:, 0] >= 0
    # Tokens that hold a character of the answer; some tokens of a passage hold none of its characters at all.
    within = np.flatnonzero(passage & (place[:, 0] < end) & (place[:, 1] > begin))
    if not len(within) or place[passage, 0].min() > begin or place[passage, 1].max() < end:
        return None
    return int(within[0]), int(within[-1])


def _no_answer(ids: Any, tokenizer: Any) -> int:
    """Where a window without an answer points: at [CLS], or at its first token."""
    found = np.flatnonzero(ids == (-1 if tokenizer.cls_token_id is None else tokenizer.cls_token_id))
    return int(found[0]) if len(found) else 0


def _cut_questions(tokenizer: Any, questions: Sequence[str], most: int) -> tuple[list[str], int]:
    texts, cut = list(questions), 0
    for begin, stop in chunks(len(texts)):
        options = {"add_special_tokens": False, "return_offsets_mapping": True}
        encoded = tokenize(tokenizer, texts[begin:stop], **options)
        for number, places in enumerate(encoded["offset_mapping"], begin):
            if len(places) > most:
                texts[number] = texts[number][: places[most - 1][1]]
                cut += 1
    return texts, cut
