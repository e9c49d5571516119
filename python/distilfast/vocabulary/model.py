"""The `model` block of a `tokenizer.json`: its tokens, what a token is made of, and the block with fewer of them.

Each kind keeps its definition. WordPiece and WordLevel look words up in what is there. Byte-pair encoding applies the
merges that are there in their old order, so a token needs the two halves of every merge that makes it. Unigram finds
the path of the highest score; its score of an unknown character hangs on the lowest score of all, so that the piece
with that score stays.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .._core import InputError

Block = Mapping[str, Any]

KINDS = ("WordPiece", "WordLevel", "BPE", "Unigram")


def check_kind(model: Block) -> str:
    """The kind of the model. Raises `InputError` for one that is not known."""
    kind = str(model.get("type"))
    if kind not in KINDS:
        raise InputError(f"a tokenizer of the kind {kind} cannot be trimmed; those of {', '.join(KINDS)} can")
    return kind


def tokens_of(model: Block) -> dict[str, int]:
    """{token: id} of the model, without tokens that were added to it."""
    if check_kind(model) == "Unigram":
        return {piece: index for index, (piece, _) in enumerate(model["vocab"])}
    return dict(model["vocab"])


def halves_of(model: Block) -> dict[str, list[tuple[str, str]]]:
    """{token: the halves of every merge that makes it} of byte-pair encoding; empty for other kinds."""
    made: dict[str, list[tuple[str, str]]] = {}
    if check_kind(model) == "BPE":
        for left, right in _merges(model):
            made.setdefault(_product(model, left, right), []).append((left, right))
    return made


def always_kept(content: Mapping[str, Any]) -> set[str]:
    """The tokens without which ids would change that have nothing to do with those left out, or text would get lost:
    added and unknown tokens, bytes, the lowest score of Unigram.

    content: a `tokenizer.json`.
    """
    model = content["model"]
    kind, tokens = check_kind(model), tokens_of(model)
    kept = {token["content"] for token in content.get("added_tokens") or []}
    if kind == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept.add(model["vocab"][scores.index(min(scores))][0])
        if model.get("unk_id") is not None:
            kept.add(model["vocab"][model["unk_id"]][0])
    elif model.get("unk_token") is not None:
        kept.add(model["unk_token"])
    if model.get("byte_fallback"):
        kept |= {f"<0x{byte:02X}>" for byte in range(256)} & tokens.keys()
    if loses_characters(content):
        kept |= {token for token in tokens if len(bare(model, token)) == 1}
    return kept


def loses_characters(content: Mapping[str, Any]) -> bool:
    """Whether a character without a token of its own vanishes from the ids without a word: where no token stands for
    the unknown, as in byte-level encoding, whose characters are bytes."""
    model = content["model"]
    unknown = model.get("unk_id") if model.get("type") == "Unigram" else model.get("unk_token")
    byte_level = '"ByteLevel"' in json.dumps([content.get("normalizer"), content.get("pre_tokenizer")])
    return unknown is None or byte_level


def bare(model: Block, token: str) -> str:
    """`token` without what marks its place in a word, "##" or "</w>"."""
    prefix, suffix = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    return token.removeprefix(prefix).removesuffix(suffix) or token


def restricted(model: Block, kept: Sequence[str]) -> dict[str, Any]:
    """The block with the tokens `kept` only, numbered in this order."""
    ids = {token: index for index, token in enumerate(kept)}
    block = dict(model)
    if check_kind(model) == "Unigram":
        scores = dict(model["vocab"])
        block["vocab"] = [[token, scores[token]] for token in kept]
        if model.get("unk_id") is not None:
            block["unk_id"] = ids[model["vocab"][model["unk_id"]][0]]
        return block
    block["vocab"] = ids
    if model["type"] == "BPE":
        block["merges"] = [
            [left, right]
            for left, right in _merges(model)
            if left in ids and right in ids and _product(model, left, right) in ids
        ]
    return block


def _merges(model: Block) -> list[tuple[str, str]]:
    """The merges, first to last; old files write the two halves with a space between."""
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _product(model: Block, left: str, right: str) -> str:
    return left + right.removeprefix(model.get("continuing_subword_prefix") or "")
