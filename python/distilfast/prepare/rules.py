"""The rules by which token ids become rows, with their defaults: one place for every command and function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from .._core import InputError, RowCutter

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer


@dataclass(frozen=True)
class RowRules:
    """How texts are cut into rows `[CLS] ... [SEP]`, and which rows are dropped; the rules of the original DistilBERT
    code."""

    mode: str = "lines"
    """lines: a text is a row, cut where it is too long; packed: a document's texts are joined, whole, as they fit."""
    max_length: int = 512
    """Most tokens of a row, [CLS] and [SEP] included."""
    min_length: int = 12
    """Rows with fewer tokens are dropped; 0 keeps all."""
    max_unknown: float = 0.5
    """Rows with this share of [UNK] or more are dropped; 2 keeps all."""

    def cutter(self, tokenizer: Tokenizer) -> RowCutter:
        """What cuts the ids of `tokenizer`; raises `InputError` for values that no row could follow and for a tokenizer
        without [CLS], [SEP], [PAD] or [MASK]."""
        cls_id, sep_id = check_specials(tokenizer)
        try:
            return RowCutter(
                mode=self.mode,
                max_length=self.max_length,
                cls_id=cls_id,
                sep_id=sep_id,
                unk_id=tokenizer.unk_id,
                vocab_size=tokenizer.vocab_size,
                min_length=self.min_length,
                max_unknown=self.max_unknown,
            )
        except OverflowError:
            raise InputError(
                f"max_length={self.max_length}, min_length={self.min_length}: one is below 0 or far too large"
            ) from None


class RowRuleFields(TypedDict, total=False):
    """The fields of `RowRules` as keyword arguments."""

    mode: str
    max_length: int
    min_length: int
    max_unknown: float


def check_specials(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of [CLS] and [SEP]; raises `InputError` where `tokenizer` lacks a token that training a masked language
    model needs."""
    needed = {
        "[CLS] (or <s>)": tokenizer.cls_id,
        "[SEP] (or </s>)": tokenizer.sep_id,
        "[PAD]": tokenizer.pad_id,
        "[MASK]": tokenizer.mask_id,
    }
    missing = [name for name, token_id in needed.items() if token_id is None]
    if missing or tokenizer.cls_id is None or tokenizer.sep_id is None:
        raise InputError(
            f"the vocabulary has no {', no '.join(missing)}; training a masked language model needs it: "
            "use the tokenizer of a BERT-style encoder"
        )
    return tokenizer.cls_id, tokenizer.sep_id
