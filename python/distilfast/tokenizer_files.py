"""Tokenizer files: reading them, checking them, and the `tokenizer.json` that says the same as a `vocab.txt`."""

from __future__ import annotations

import json
from typing import Any

from ._core import InputError

_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_json(text: str, source: str) -> Any:
    if text.startswith("\ufeff"):
        raise InputError(f"{source} begins with a byte order mark; save it as UTF-8 without one")
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _unique(pairs, source))
    except json.JSONDecodeError as error:
        raise InputError(f"{source} is not JSON: {error}") from None
    except RecursionError:
        raise InputError(f"{source} is nested too deeply to be a tokenizer.json") from None


def _unique(pairs: list[tuple[str, Any]], source: str) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(f"{source} holds {twice!r} twice; each token or setting may stand there once")
    return content


def check_wordpiece(content: dict[str, Any], source: str) -> None:
    """Refuses a WordPiece vocabulary with gaps or duplicates among its ids, or without its unknown token."""
    model = content["model"]
    vocab = model.get("vocab")
    if not isinstance(vocab, dict) or not all(type(index) is int and index >= 0 for index in vocab.values()):
        raise InputError(f"{source}: model.vocab is no mapping of tokens to ids")
    tokens = content.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise InputError(f"{source}: added_tokens is no list but {tokens!r:.40}")
    if bad := [token for token in tokens if not isinstance(token, dict) or not {"id", "content"} <= set(token)]:
        raise InputError(f"{source}: added_tokens holds {bad[0]!r:.80}, which has no id and content")
    added = {token["content"]: token["id"] for token in tokens}
    by_id: dict[int, str] = {}
    for token, index in (vocab | {token: index for token, index in added.items() if token not in vocab}).items():
        if by_id.setdefault(index, token) != token:
            raise InputError(f"{source}: the tokens {by_id[index]!r} and {token!r} share the id {index}")
    if len(by_id) and max(by_id) != len(by_id) - 1:
        gap = next(index for index in range(len(by_id)) if index not in by_id)
        raise InputError(f"{source}: the ids have a gap, no token has id {gap} though ids go up to {max(by_id)}")
    if model.get("unk_token") not in vocab:
        raise InputError(f"{source}: the vocabulary has no {model.get('unk_token')!r}, the token for unknown words")


def vocab_to_json(text: str, source: str, lowercase: bool | None, config: dict[str, Any]) -> str:
    """The `tokenizer.json` that says the same as a BERT `vocab.txt`."""
    if text.startswith("\ufeff"):
        raise InputError(f"{source} begins with a byte order mark; save it as UTF-8 without one")
    tokens = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    vocab: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not token:
            raise InputError(
                f"{source}: line {index + 1} is empty, a gap in the ids; a vocab.txt has a token on every line"
            )
        if token in vocab:
            raise InputError(f"{source}: {token!r} stands on line {vocab[token] + 1} and on line {index + 1}")
        vocab[token] = index
    missing = [token for token in _BERT_SPECIALS if token not in vocab]
    if missing:
        raise InputError(f"{source} has no {', '.join(missing)}, so it is no BERT vocab.txt")
    if lowercase is None:
        lowercase = config.get("do_lower_case")
    if lowercase is None:
        lowercase = not any(token != token.lower() and token[0] not in "[<" for token in tokens if token.isascii())
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": vocab[token],
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token in sorted(_BERT_SPECIALS, key=vocab.__getitem__)
        ],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "strip_accents": config.get("strip_accents"),
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "BertProcessing",
            "sep": ["[SEP]", vocab["[SEP]"]],
            "cls": ["[CLS]", vocab["[CLS]"]],
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    return json.dumps(content, ensure_ascii=False)


def with_lowercase(text: str, lowercase: bool, source: str) -> str:
    """The same `tokenizer.json` with another `lowercase` in its `BertNormalizer`."""
    content = read_json(text, source)
    normalizer = content.get("normalizer") if isinstance(content, dict) else None
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise InputError(f"lowercase={lowercase} was asked for, but {source} has no BertNormalizer that could do it")
    normalizer["lowercase"] = lowercase
    return json.dumps(content, ensure_ascii=False)
