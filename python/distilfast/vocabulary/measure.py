"""What a trimmed tokenizer makes of a text, beside the whole one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..tokenizer import Tokenizer
from .trimmed import Vocabulary


@dataclass(frozen=True)
class Measured:
    """Counts over a text; what a template puts round a text is left out."""

    texts: int
    texts_same: int
    """Texts whose ids are those of the whole tokenizer, mapped."""
    words: int
    """Runs of characters between white space."""
    tokens_before: int
    tokens_after: int
    tokens_kept: int
    """Of the tokens before, those that the trimmed vocabulary has."""
    unknown_before: int
    unknown_after: int

    @property
    def coverage(self) -> float:
        """The share of the whole tokenizer's tokens of the text that are kept."""
        return self.tokens_kept / max(1, self.tokens_before)

    def shares(self) -> dict[str, Any]:
        """The counts, and what follows from them."""
        words, before, after = max(1, self.words), max(1, self.tokens_before), max(1, self.tokens_after)
        return {
            **asdict(self),
            "coverage": self.coverage,
            "tokens_per_word_before": self.tokens_before / words,
            "tokens_per_word_after": self.tokens_after / words,
            "unknown_share_before": self.unknown_before / before,
            "unknown_share_after": self.unknown_after / after,
        }


def measure(whole: Tokenizer, vocabulary: Vocabulary, blocks: Iterable[pa.Array]) -> Measured:
    """Both tokenizers on the texts (arrays of Arrow strings)."""
    trimmed, teacher_ids = vocabulary.tokenizer, vocabulary.teacher_ids
    has = np.zeros(whole.vocab_size, np.bool_)
    has[teacher_ids] = True
    totals = np.zeros(8, np.int64)
    for texts in blocks:
        before, after = (each.encode_batch(texts, add_special_tokens=False) for each in (whole, trimmed))
        old = before.values.to_numpy(zero_copy_only=False)
        new = after.values.to_numpy(zero_copy_only=False)
        mapped = teacher_ids[new]
        totals += [
            len(texts),
            _same_rows(old, _bounds(before), mapped, _bounds(after)),
            sum(len(text.split()) for text in texts.to_pylist()),
            len(old),
            len(new),
            int(has[old].sum()),
            int((old == -1 if whole.unk_id is None else old == whole.unk_id).sum()),
            int((new == -1 if trimmed.unk_id is None else new == trimmed.unk_id).sum()),
        ]
    return Measured(*(int(total) for total in totals))


def _bounds(rows: pa.ListArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.asarray(rows.offsets, np.int64)


def _same_rows(old: Any, old_bounds: Any, new: Any, new_bounds: Any) -> int:
    """How many rows of two ragged arrays are equal."""
    same = np.diff(old_bounds) == np.diff(new_bounds)
    count = 0
    for row in np.flatnonzero(same).tolist():
        count += bool(
            np.array_equal(old[old_bounds[row] : old_bounds[row + 1]], new[new_bounds[row] : new_bounds[row + 1]])
        )
    return count
