"""The vocabulary that a user asks for, by number, share or file, of text in files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from .._core import InputError
from ..prepare.sources import find_text_files
from ..prepare.text import read_files
from ..tokenizer import Tokenizer
from .choice import Characters, choose_tokens, count_tokens, read_vocabulary
from .measure import measure
from .trimmed import Vocabulary, trim_tokenizer


@dataclass(frozen=True)
class Fitted:
    """A vocabulary that is fitted to a text, and what is said about it."""

    vocabulary: Vocabulary
    report: dict[str, Any]
    """Sizes, and what `Measured.shares` says of the text."""


def fit_vocabulary(
    tokenizer: Tokenizer,
    size: int | float | str | Path,
    text: Sequence[str | Path],
    characters: Characters = "all",
    column: str = "text",
) -> Fitted:
    """The vocabulary of `size` (see `parse_size`) for the files, folders or patterns `text`, which are read twice.

    Raises `InputError` for text that cannot be read, and as `choose_tokens` and `read_vocabulary` do.
    """
    wanted = parse_size(size)
    files = find_text_files(text)
    if not files:
        raise InputError(f"{' '.join(map(str, text))}: there is no file of text")
    added = 0
    if isinstance(wanted, Path):
        if characters != "all":
            raise InputError(f"--characters {characters} does nothing with a file of the words that stay; leave it out")
        kept, added = read_vocabulary(tokenizer, wanted)
    else:
        kept = choose_tokens(tokenizer, count_tokens(tokenizer, _texts(files, column)), wanted, characters)
    vocabulary = trim_tokenizer(tokenizer, kept)
    sizes = {
        "vocabulary_before": tokenizer.vocab_size,
        "vocabulary_after": len(kept),
        "vocabulary_added": added,
    }
    return Fitted(vocabulary, sizes | measure(tokenizer, vocabulary, _texts(files, column)).shares())


def describe(said: Mapping[str, Any]) -> list[str]:
    """The report of `Fitted` in a few lines."""
    lines = [
        f"vocabulary: {said['vocabulary_before']:,} tokens before, {said['vocabulary_after']:,} after",
        f"coverage: {said['coverage']:.3%} of the text's {said['tokens_before']:,} tokens; "
        f"{said['texts_same']:,} of {said['texts']:,} texts are spelt as before",
        f"tokens a word: {said['tokens_per_word_before']:.3f} before, {said['tokens_per_word_after']:.3f} after",
        f"unknown tokens: {said['unknown_share_before']:.3%} before, {said['unknown_share_after']:.3%} after",
    ]
    if said["vocabulary_added"]:
        added = said["vocabulary_added"]
        lines.insert(1, f"added to the file's tokens: {added:,} single characters and halves of merges")
    return lines


def parse_size(size: int | float | str | Path) -> int | float | Path:
    """How many tokens (8000, "8000"), the share of a text's tokens that they must be (0.999, "99.9%"), or a file with a
    token on every line.

    Raises `InputError` for what is none of these.
    """
    if isinstance(size, (int, float)):
        return size
    said = str(size)
    if re.fullmatch(r"\d[\d_,]*", said):
        return int(re.sub("[_,]", "", said))
    if re.fullmatch(r"\d+(\.\d+)?\s*%", said):
        return float(said.rstrip("% ")) / 100
    if not Path(said).is_file():
        raise InputError(
            f"--vocabulary {said}: is no number of tokens (8000), no share of the text (99.9%) "
            "and no file that is there"
        )
    return Path(said)


def _texts(files: Sequence[Path], column: str) -> Iterator[pa.Array]:
    return (block.texts for block in read_files(files, column))
