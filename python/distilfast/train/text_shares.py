"""Several texts in the shares of an epoch's tokens that were asked for.

No text loses a row: that which is longest for its weight is taken once, and the others are repeated, whole and then in
part, until they have their share. Rows are not copied: all are read where they lie.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .._core import InputError
from ..prepare.directory import PreparedTokens

MOST_TIMES = 1_000
"""No text is repeated more often in an epoch: nothing but it would be learned."""
PIECES = 64
"""Of where a part of a text is taken from: so many places, evenly spread."""


def check_weights(weights: Sequence[float], names: Sequence[str] | None) -> None:
    """Raises `InputError` for weights that are no shares of these texts; `names` are not known where None."""
    said = f"--text_weights {' '.join(f'{weight:g}' for weight in weights)}"
    for weight in weights:
        if not (math.isfinite(weight) and weight > 0):
            raise InputError(f"{said}: {weight:g} is no share of a text; give a finite weight above 0 for each --text")
    if names is None:
        return
    if len(names) < 2:
        raise InputError(f"{said}: shares are of several texts, and there is {len(names)}; give more with --text")
    if len(weights) != len(names):
        raise InputError(
            f"{said}: {len(weights)} weights for {len(names)} texts ({', '.join(names[:5])}"
            f"{', ...' if len(names) > 5 else ''}); give one for each"
        )


def with_shares(tokens: PreparedTokens, weights: Sequence[float]) -> PreparedTokens:
    """`tokens` with as many rows of each of the texts that they were prepared from that its tokens are to all tokens as
    its weight to all weights, to within two rows; what became of each stands in `info["shares"]`.

    Raises `InputError` for tokens that do not tell their texts, for other numbers of weights, for a text without rows,
    and for one that would be repeated more than `MOST_TIMES`.
    """
    texts: list[dict[str, Any]] = tokens.info.get("texts", [])
    if not texts:
        raise InputError(
            "--text_weights needs tokens that were prepared from several --text by this version; these are of a data "
            "set or older"
        )
    check_weights(weights, [text["name"] for text in texts])
    for text in texts:
        if not text["tokens"]:
            raise InputError(f"--text_weights: no row of {text['name']} is left (too short, or read already)")
    column: pa.ChunkedArray = tokens.dataset.data.column("input_ids")
    sparseness = [weight / text["tokens"] for weight, text in zip(weights, texts, strict=True)]
    chunks: list[pa.ListArray] = []
    counts, shares, start = np.zeros_like(tokens.token_counts), [], 0
    for text, each in zip(texts, sparseness, strict=True):
        times = each / min(sparseness)
        if times > MOST_TIMES:
            raise InputError(
                f"--text_weights: {text['name']} with its {text['tokens']:,} tokens would be repeated {times:,.0f} "
                f"times an epoch, more than {MOST_TIMES:,}; give it less weight, or more text"
            )
        whole = column.slice(start, text["rows"]).chunks
        start += text["rows"]
        part = _part(whole, round((times - int(times)) * text["tokens"]))
        of_text = int(times) * _counts(whole, len(counts)) + _counts(part, len(counts))
        counts += of_text
        chunks += whole * int(times) + part
        shares.append({"text": text["name"], "tokens": int(of_text.sum()), "times": times})
    for share in shares:
        share["share"] = share["tokens"] / int(counts.sum())
    # Made here: that of `datasets` would be a hash of every row.
    fingerprint = hashlib.sha256(f"{tokens.dataset._fingerprint} {list(weights)}".encode()).hexdigest()[:16]
    mixed = datasets.Dataset(pa.table({"input_ids": pa.chunked_array(chunks)}), fingerprint=fingerprint)
    return replace(tokens, dataset=mixed, token_counts=counts, info={**tokens.info, "shares": shares})


def _part(rows: list[pa.ListArray], wanted: int) -> list[pa.ListArray]:
    """Slices of `rows` with `wanted` tokens together, to within two rows, from `PIECES` places evenly spread."""
    column = pa.chunked_array(rows)
    ends = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy())])
    bounds = np.searchsorted(ends, ends[-1] * np.arange(PIECES + 1) / PIECES)
    slices: list[pa.ListArray] = []
    taken = 0
    for number, (start, end) in enumerate(pairwise(map(int, bounds)), start=1):
        missing = wanted * number / PIECES - taken
        length = int(np.argmin(np.abs(ends[start : end + 1] - ends[start] - missing)))
        slices += column.slice(start, length).chunks if length else []
        taken += int(ends[start + length] - ends[start])
    return slices


def _counts(rows: list[pa.ListArray], words: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64 [words]: how often each id occurs."""
    found = np.zeros(words, np.int64)
    for chunk in rows:
        found += np.bincount(chunk.flatten().to_numpy(), minlength=words)
    return found


def shares_notes(info: Mapping[str, Any]) -> list[str]:
    """The share of each text, in a line; none where there are none."""
    if "shares" not in info:
        return []
    said = []
    for share in info["shares"]:
        times = share["times"]
        often = "once" if times == 1 else f"{times:.2f} times" if times < 10 else f"{times:.0f} times"
        said.append(f"{share['text']} {share['share']:.1%} ({share['tokens']:,} tokens, each text {often})")
    return [f"shares of an epoch (--text_weights): {', '.join(said)}"]
