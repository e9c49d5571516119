"""The tokenizer of fewer words, and which id of the whole one each of its ids is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .._core import InputError
from .._files import write_json, write_text
from ..tokenizer import Tokenizer, load_transformers_tokenizer
from .choice import Characters, choose_tokens, count_tokens
from .model import restricted, tokens_of


@dataclass(frozen=True)
class Vocabulary:
    """A trimmed tokenizer beside the whole one that it comes from."""

    tokenizer: Tokenizer
    teacher_ids: npt.NDArray[np.int64]
    """[tokenizer.vocab_size]: the whole tokenizer's id of each token, ascending."""

    @classmethod
    def from_texts(
        cls, tokenizer: Tokenizer, texts: Iterable[str], size: int | float, characters: Characters = "all"
    ) -> Vocabulary:
        """The words of `tokenizer` that `texts` need: `size` of them, or as many as cover that share of their tokens
        (a float). Arguments and errors as those of `choose_tokens`."""
        counts = count_tokens(tokenizer, [pa.array(texts, pa.large_string())])
        return trim_tokenizer(tokenizer, choose_tokens(tokenizer, counts, size, characters))


def trim_tokenizer(tokenizer: Tokenizer, kept: npt.NDArray[np.int64]) -> Vocabulary:
    """`tokenizer` with the tokens of the ids `kept` alone (ascending, closed as `choose_tokens` gives them).

    Everything else of its file stays: normalisation, splitting, templates (their ids changed), the order of tokens and
    of merges, scores. So where all tokens of a text are kept, its new ids are its old ones, mapped.

    Raises `InputError` where the library that reads the result numbers its tokens otherwise.
    """
    content = json.loads(tokenizer.to_json())
    old = {token["content"]: int(token["id"]) for token in content.get("added_tokens") or []}
    inside = tokens_of(content["model"])
    old.update(inside)
    new_ids = {int(index): place for place, index in enumerate(kept)}
    order = sorted((token for token, index in old.items() if index in new_ids), key=lambda token: old[token])
    content["model"] = restricted(content["model"], [token for token in order if token in inside])
    content["added_tokens"] = [
        {**token, "id": new_ids[int(token["id"])]} for token in content.get("added_tokens") or []
    ]
    try:
        for part in ("post_processor", "padding"):
            content[part] = _renumbered(content.get(part), old, new_ids)
    except KeyError as error:
        raise InputError(
            f"this tokenizer cannot be trimmed: it puts the id {error} round a text, which is not among the tokens kept"
        ) from None
    config = tokenizer.settings
    trimmed = Tokenizer(json.dumps(content, ensure_ascii=False), config, "the trimmed tokenizer")
    if trimmed.tokens() != order:
        raise InputError(
            "this tokenizer cannot be trimmed: tokens were added to it in an order that its file does not keep"
        )
    return Vocabulary(trimmed, np.asarray(kept, np.int64))


def trim_transformers_tokenizer(tokenizer: Any, vocabulary: Vocabulary) -> Any:
    """The tokenizer of `transformers` (a fast one) with the words of `vocabulary`, loaded from its own saved files.

    Raises `InputError` where it then has other ids.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokenizer.save_pretrained(folder)
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        for file in folder.iterdir():
            if file.name != "chat_template.jinja":
                file.unlink()  # vocab.txt, merges.txt, added_tokens.json of the whole vocabulary
        places = {int(index): place for place, index in enumerate(vocabulary.teacher_ids)}
        added = config.get("added_tokens_decoder")
        if isinstance(added, dict):
            config["added_tokens_decoder"] = {str(places[int(index)]): token for index, token in added.items()}
        write_text(folder / "tokenizer.json", vocabulary.tokenizer.to_json())
        write_json(folder / "tokenizer_config.json", config)
        loaded = load_transformers_tokenizer(folder)
    loaded.name_or_path = tokenizer.name_or_path
    words = sorted(loaded.get_vocab().items(), key=lambda item: item[1])
    if [token for token, _ in words] != vocabulary.tokenizer.tokens():
        raise InputError(
            f"a {type(tokenizer).__name__} cannot be trimmed: transformers loads its tokens with other ids"
        )
    return loaded


def _renumbered(part: Any, old: Mapping[str, int], new_ids: Mapping[int, int]) -> Any:
    """A block of a `tokenizer.json` with the ids of the tokens that it names changed."""
    if isinstance(part, list):
        # ("[SEP]", 102), as BertProcessing and RobertaProcessing have it
        if len(part) == 2 and isinstance(part[0], str) and part[1] == old.get(part[0]) and type(part[1]) is int:
            return [part[0], new_ids[part[1]]]
        return [_renumbered(each, old, new_ids) for each in part]
    if not isinstance(part, dict):
        return part
    changed = {key: _renumbered(value, old, new_ids) for key, value in part.items()}
    if isinstance(part.get("ids"), list) and "tokens" in part:  # a special token of a template
        changed["ids"] = [new_ids[int(index)] for index in part["ids"]]
    if "pad_id" in part:
        changed["pad_id"] = new_ids[int(part["pad_id"])]
    return changed
