"""A sample of what a run learns from, in batches: what a student's widths and layers are chosen on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..batches.tensors import padded_batch
from ..prepare.directory import PreparedTokens
from ..prepare.labelled import Part
from ..tokenizer import tokenize
from .sentences import Reader, read_blocks

Batch = dict[str, Tensor]
"""`input_ids` and `attention_mask` [rows, width] int64, and `token_type_ids` where the tokenizer gives them."""
Sample = Callable[[], list[Batch]]
"""Makes the batches where they are asked for."""

BATCHES, ROWS, LONGEST = 8, 16, 128


def spread_numbers(count: int) -> list[int]:
    """The numbers of up to BATCHES * ROWS of `count` rows, spread evenly. Every BATCHES-th lands in one batch, so that
    each batch is of all the data."""
    wanted = min(count, BATCHES * ROWS)
    numbers = [row * count // wanted for row in range(wanted)]
    return [number for first in range(BATCHES) for number in numbers[first::BATCHES]]


def of_tokens(tokens: PreparedTokens) -> list[Batch]:
    """Of prepared text."""
    rows = tokens.dataset[spread_numbers(len(tokens.dataset))]["input_ids"]
    return _batches(rows, int(tokens.tokenizer.pad_id or 0))


def of_rows(part: Part, head: str, tokenizer: Any) -> list[Batch]:
    """Of labelled rows, read by a tokenizer of transformers."""
    numbers = spread_numbers(len(part))
    columns = [[texts[number] for number in numbers] for texts in part.texts]
    found = []
    for start in range(0, len(numbers), ROWS):
        here = [
            [each or ("" if head != "tokens" else []) for each in column[start : start + ROWS]] for column in columns
        ]
        encoded = tokenize(
            tokenizer,
            *here,
            is_split_into_words=head == "tokens",
            truncation=True,
            max_length=LONGEST,
            padding=True,
            padding_side="right",
            return_tensors="pt",
            return_attention_mask=True,
        )
        names = ("input_ids", "attention_mask", "token_type_ids")
        found.append({name: encoded[name] for name in names if name in encoded})
    return found


def of_texts(files: Sequence[str], reader: Reader, column: str) -> list[Batch]:
    """Of the first block of files of text, as a sentence encoder reads them."""
    for texts, *_ in read_blocks(files, column=column):
        if len(texts):
            ids, _ = reader.encode(texts.take(spread_numbers(len(texts))))
            return _batches(ids.to_pylist(), int(reader.tokenizer.pad_id or 0))
    return []


def _batches(rows: Sequence[Sequence[int]], pad_id: int) -> list[Batch]:
    cut = [row[:LONGEST] for row in rows]
    return [padded_batch(cut[start : start + ROWS], pad_id) for start in range(0, len(cut), ROWS)]
