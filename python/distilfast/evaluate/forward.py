"""What a finished model says about rows: forwards in batches of like length, results in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .._core import InputError
from .._files import first_line
from ..batches.encode import EncodedRows, encode_texts, encode_words
from ..batches.labelled import batch_starts
from ..batches.question_windows import encode_questions, passage_stride
from ..metrics.questions import best_answers
from ..models.families import evaluating, longest_row, model_input_names, reads_padding

BATCH = 32


def room_for(model: Any, tokenizer: Any, max_length: int) -> int:
    """The most tokens of a row: `max_length`, or what the model has positions for where that is less."""
    most = longest_row(model, tokenizer=tokenizer)
    return max_length if most is None else min(max_length, most)


def sequence_logits(
    model: Any,
    tokenizer: Any,
    first: Sequence[str],
    second: Sequence[str] | None,
    max_length: int,
    device: torch.device,
    progress: bool = False,
) -> tuple[np.ndarray, Mapping[str, int]]:
    """Logits [rows, classes] of texts or pairs, float32, and what was cut, counted."""
    rows = encode_texts(tokenizer, first, second, max_length=room_for(model, tokenizer, max_length))
    found: np.ndarray | None = None
    for numbers, outputs in forwards(model, tokenizer, rows, device, progress):
        logits = outputs.logits.float().cpu().numpy()
        if found is None:
            found = np.zeros((len(rows), logits.shape[-1]), np.float32)
        found[numbers] = logits
    assert found is not None
    return found, rows.counts


def word_classes(
    model: Any,
    tokenizer: Any,
    words: Sequence[Sequence[str]],
    max_length: int,
    device: torch.device,
    progress: bool = False,
) -> tuple[list[np.ndarray], Mapping[str, int]]:
    """The likeliest class of each word, by its first token; -1 for words that were cut off or have no token; and what
    was cut, counted."""
    # The number of each word stands where its label would: at its first token, wherever that is.
    places = [range(len(row)) for row in words]
    rows = encode_words(tokenizer, words, places, max_length=room_for(model, tokenizer, max_length))
    assert rows.word_labels is not None
    found = [np.full(len(row), -1, np.int64) for row in words]
    for numbers, outputs in forwards(model, tokenizer, rows, device, progress):
        best = outputs.logits.argmax(-1).cpu().numpy()
        for row, classes in zip(numbers, best, strict=True):
            place = rows.word_labels[row]
            here = place >= 0
            found[row][place[here]] = classes[: len(place)][here]
    return found, rows.counts


def answers(
    model: Any,
    tokenizer: Any,
    questions: Sequence[str],
    passages: Sequence[str],
    max_length: int,
    device: torch.device,
    unanswerable: bool,
    progress: bool = False,
) -> tuple[list[str], Mapping[str, int]]:
    """The likeliest span of each question over the windows of its passage ("" for none, where `unanswerable`), and what
    was cut, counted."""
    length = room_for(model, tokenizer, max_length)
    rows = encode_questions(tokenizer, questions, passages, max_length=length, stride=passage_stride(length))
    assert rows.offsets is not None
    widest = int(rows.input_ids.lengths.max())
    start = np.full((len(rows), widest), -np.inf, np.float32)
    end = np.full((len(rows), widest), -np.inf, np.float32)
    for numbers, outputs in forwards(model, tokenizer, rows, device, progress):
        for whole, logits in ((start, outputs.start_logits), (end, outputs.end_logits)):
            part = logits.float().cpu().numpy()
            whole[np.asarray(numbers)[:, None], np.arange(part.shape[1])[None]] = part
    columns = {
        "example": rows.row_numbers.tolist(),
        "offsets": [[None if a < 0 else (int(a), int(b)) for a, b in spans] for spans in rows.offsets],
    }
    return best_answers(passages, columns, start, end, unanswerable), rows.counts


def forwards(
    model: Any, tokenizer: Any, rows: EncodedRows, device: torch.device, progress: bool = False
) -> Iterator[tuple[list[int], Any]]:
    """(numbers of the rows, the model's outputs for them), the longest rows first, padded to the longest of a batch;
    not padded where that would change what the model says.

    Raises `InputError` for token ids that the model has no embedding for, another model's tokenizer lies beside it, and
    for a model that cannot read them.
    """
    size = int(model.get_input_embeddings().num_embeddings)
    if len(rows.input_ids.flat) and int(rows.input_ids.flat.max()) >= size:
        raise InputError(
            f"the tokenizer beside {type(model).__name__} gives token {int(rows.input_ids.flat.max())}, but the model "
            f"has {size} embeddings; save the tokenizer that it was trained with"
        )
    taken = model_input_names(model)
    order = np.argsort(-rows.input_ids.lengths, kind="stable")
    starts = batch_starts(rows.input_ids.lengths[order], BATCH, reads_padding(model))
    with evaluating(model, device=device), torch.inference_mode():
        for at, end in tqdm(pairwise(starts), total=len(starts) - 1, desc=type(model).__name__, disable=not progress):
            numbers = order[at:end].tolist()
            inputs = [
                {"input_ids": rows.input_ids[row]}
                | ({} if rows.token_type_ids is None else {"token_type_ids": rows.token_type_ids[row]})
                for row in numbers
            ]
            batch = tokenizer.pad(inputs, padding_side="right", return_tensors="pt")
            given = {name: value.long().to(device) for name, value in batch.items() if name in taken}
            try:
                outputs = model(**given, return_dict=True)
            except (AttributeError, IndexError, TypeError, ValueError) as error:
                raise InputError(f"this {type(model).__name__} cannot read the rows: {first_line(error)}") from None
            yield numbers, outputs
