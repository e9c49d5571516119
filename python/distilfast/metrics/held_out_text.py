"""Held-out text as masked batches, the same for every model and every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._core import InputError
from ..batches import masked as data
from ..prepare.directory import load_tokens
from ..prepare.text import read_texts
from ..tokenizer import Tokenizer


def read_text(files: Sequence[str], max_lines: int | None = None) -> list[str]:
    """The texts of `files` as `distilfast.prepare` reads them, at most `max_lines`.

    Raises `InputError` for a file that is missing or not UTF-8 (with the byte offset) and where no line is left.
    """
    return read_texts(files, max_lines)


def shared_tokenizer(paths: Mapping[str, str]) -> Tokenizer:
    """The tokenizer of all the models; raises `InputError` where two models would see different ids."""
    tokenizers = {name: Tokenizer.from_pretrained(path) for name, path in paths.items()}
    first = next(iter(tokenizers))
    for name, tokenizer in tokenizers.items():
        if tokenizer.fingerprint != tokenizers[first].fingerprint:
            raise InputError(
                f"{first} and {name} have different tokenizers, so their masked-LM numbers cannot be compared; "
                "evaluate them on tasks instead"
            )
    return tokenizers[first]


def held_out_batches(
    paths: Mapping[str, str],
    *,
    lines: Sequence[str] = (),
    tokens: str | None = None,
    max_length: int = 512,
    batch_tokens: int = 8192,
    seed: int = 0,
) -> tuple[data.MaskedBatches, dict[str, Any]]:
    """Masked batches of `lines` or of the prepared directory `tokens`, and what the report says about them."""
    tokenizer = shared_tokenizer(paths)
    if tokens is not None:
        prepared = load_tokens(tokens)
        prepared.check_tokenizer(tokenizer, "the models")
        rows: Any = prepared.dataset
        number = len(prepared.dataset)
    else:
        rows = tokenizer.encode_batch(list(lines), max_length=max_length)
        number = len(lines)
    batches = data.MaskedBatches(
        rows,
        tokenizer,
        batch_tokens=batch_tokens,
        max_length=max_length,
        masking=data.Masking(),
        layout="padded",
        seed=seed,
    )
    info = {
        "rows": number,
        "batches": len(batches),
        "max_length": max_length,
        "mask_seed": seed,
        "fingerprint": batches.state_fingerprint,
    }
    return batches, info
