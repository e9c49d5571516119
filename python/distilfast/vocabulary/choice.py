"""Which tokens of a vocabulary are kept: those that a text needs most, and those that nothing goes without."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .._core import InputError
from ..tokenizer import Tokenizer
from .model import always_kept, bare, halves_of, loses_characters, tokens_of

Characters = Literal["all", "text"]


def count_tokens(tokenizer: Tokenizer, blocks: Iterable[pa.Array]) -> npt.NDArray[np.int64]:
    """How often each id occurs in the texts, [vocab_size]; what a template puts round a text is not counted.

    blocks: texts as arrays of Arrow strings. Raises `InputError` for text without a token.
    """
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for texts in blocks:
        ids = tokenizer.encode_batch(texts, add_special_tokens=False).values.to_numpy(zero_copy_only=False)
        counts += np.bincount(ids, minlength=len(counts))
    if not counts.any():
        raise InputError("the text that the vocabulary is to fit has no token in it")
    return counts


def choose_tokens(
    tokenizer: Tokenizer,
    counts: npt.NDArray[np.int64],
    size: int | float,
    characters: Characters = "all",
) -> npt.NDArray[np.int64]:
    """The ids that stay, ascending.

    counts: how often each id occurs (`count_tokens`). size: how many tokens stay (int), or the share of the text's
    tokens, above 0 and up to 1, that must be among them (float). Kept first are special and added tokens, bytes, and
    single characters: every one of the vocabulary, or with `characters` "text" those in the text's tokens and of ASCII.
    Then the most frequent follow, of equal ones those of lower id, each with what its merges need. Where the text has
    fewer than `size`, tokens that it does not need fill up, in the order of their ids.

    Raises `InputError` for a size below what is always kept or above the vocabulary, and a share out of range.
    """
    words = _Words(tokenizer)
    kept = words.always(counts, characters)
    if isinstance(size, float):
        if not 0 < size <= 1:
            raise InputError(f"a share of {size:.6g} of the text cannot be covered; give one above 0 % and up to 100 %")
        wanted, most = int(np.ceil(size * counts.sum())), words.number
    else:
        if size < len(kept):
            hint = "" if characters == "text" else "; --characters text keeps those of the text alone"
            raise InputError(
                f"a vocabulary of {size:,} tokens is too small: special tokens and single characters are "
                f"{len(kept):,}, and they are always kept{hint}"
            )
        if size > words.number:
            raise InputError(f"a vocabulary of {size:,} tokens was asked for, and the model's has {words.number:,}")
        wanted, most = int(counts.sum()) + 1, size
    covered = int(counts[list(kept)].sum())
    for index in np.argsort(-counts, kind="stable").tolist():
        if covered >= wanted or len(kept) == most:
            break
        if index in kept or index not in words.by_id:
            continue
        new = words.closure([index]) - kept
        if len(kept) + len(new) <= most:
            kept |= new
            covered += int(counts[list(new)].sum())
    return np.array(sorted(kept), np.int64)


def read_vocabulary(tokenizer: Tokenizer, file: str | Path) -> tuple[npt.NDArray[np.int64], int]:
    """The ids of the tokens in `file`, one a line, with single characters and halves of merges that it lacks, and how
    many these are. Their order does not matter: the ids keep the order that they have in the model's vocabulary.

    Raises `InputError` where the file lacks a special token, or has one that the vocabulary has not.
    """
    path = Path(file)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); give a file with a token on every line") from None
    named = {line.removesuffix("\r") for line in lines} - {""}
    words = _Words(tokenizer)
    unknown = sorted(named - words.ids.keys())
    if unknown:
        raise InputError(
            f"{path}: {len(unknown):,} of its tokens are not in the model's vocabulary, the first {unknown[0]!r}; a "
            "student can only keep what its teacher has"
        )
    missing = sorted(words.special - named)
    if missing:
        raise InputError(f"{path} lacks the special tokens {', '.join(missing)}; add each on a line of its own")
    chosen = {words.ids[token] for token in named}
    kept = words.closure(chosen | words.always(np.zeros(tokenizer.vocab_size, np.int64), "all"))
    return np.array(sorted(kept), np.int64), len(kept - chosen)


class _Words:
    """The tokens of a tokenizer with their ids, and what of them cannot go alone."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.content: dict[str, Any] = json.loads(tokenizer.to_json())
        self.model: dict[str, Any] = self.content["model"]
        added = self.content.get("added_tokens") or []
        self.ids = {**{token["content"]: int(token["id"]) for token in added}, **tokens_of(self.model)}
        self.by_id = {index: token for token, index in self.ids.items()}
        self.special = {token["content"] for token in added if token.get("special")}
        self.number = len(self.by_id)
        self._halves = halves_of(self.model)

    def always(self, counts: npt.NDArray[np.int64], characters: Characters) -> set[int]:
        """The ids that are kept however seldom they occur."""
        single = {token for token in self.ids if len(bare(self.model, token)) == 1}
        if characters == "text" and not loses_characters(self.content):
            seen = {letter for index in np.flatnonzero(counts).tolist() for letter in self.by_id[index]}
            single = {token for token in single if (letter := bare(self.model, token)) in seen or letter.isascii()}
        return self.closure(self.ids[token] for token in always_kept(self.content) | single)

    def closure(self, chosen: Iterable[int]) -> set[int]:
        """`chosen` with the halves of every merge that makes one of them, and theirs."""
        found: set[int] = set()
        open_ids = list(chosen)
        while open_ids:
            index = open_ids.pop()
            if index not in found:
                found.add(index)
                halves = self._halves.get(self.by_id[index], ())
                open_ids += [self.ids[half] for pair in halves for half in pair if half in self.ids]
        return found
