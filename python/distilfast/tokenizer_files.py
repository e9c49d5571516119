"""Tokenizer files: which there are, reading and checking them, and what of them decides about ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ._core import InputError

# What a folder with a tokenizer in it holds at least one of.
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "*.model", "*.spm", "*.bpe.codes")

_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def has_tokenizer(folder: Path) -> bool:
    """Whether `folder` holds a file that `transformers` could make a tokenizer of."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES)


def is_bare_vocabulary(folder: Path) -> bool:
    """Whether the tokenizer of `folder` is a BERT `vocab.txt` and nothing there says how text is to be spelt for it.

    `transformers` lower-cases for such a folder whatever the vocabulary holds.
    """
    vocabulary = folder / "vocab.txt"
    if not vocabulary.is_file() or (folder / "tokenizer.json").is_file():
        return False
    if "do_lower_case" in read_config(folder / "tokenizer_config.json"):
        return False
    with vocabulary.open("rb") as file:
        return {b"[PAD]", b"[UNK]", b"[CLS]"} <= {line.strip() for line in file}


def read_config(path: Path) -> dict[str, Any]:
    """The content of a `tokenizer_config.json`; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        config = read_json(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    if not isinstance(config, dict):
        raise InputError(f"{path} holds a {type(config).__name__}, not a JSON object of settings")
    return config


def other_setting(text: str, config: dict[str, Any], source: str) -> str | None:
    """The first setting of a `tokenizer_config.json` that is not that of the `tokenizer.json` with this content, and
    that `transformers` follows where it reads the folder: not with the class PreTrainedTokenizerFast."""
    named = [key for key in _SETTINGS if isinstance(config.get(key), bool)]
    if not named or str(config.get("tokenizer_class", "")).startswith("PreTrainedTokenizer"):
        return None
    content = read_json(text, source)
    if not isinstance(content, dict):
        return None
    for key in named:
        part, name = _SETTINGS[key]
        value = _found(content.get(part), name)
        if isinstance(value, bool) and value != config[key]:
            return key
    return None


# Where a `tokenizer.json` has what a `tokenizer_config.json` calls so.
_SETTINGS = {
    "do_lower_case": ("normalizer", "lowercase"),
    "strip_accents": ("normalizer", "strip_accents"),
    "tokenize_chinese_chars": ("normalizer", "handle_chinese_chars"),
    "add_prefix_space": ("pre_tokenizer", "add_prefix_space"),
}


def _found(part: Any, name: str) -> Any:
    """The value called `name` in a block, or in the first of its parts that has one."""
    if isinstance(part, list):
        return next((value for each in part if (value := _found(each, name)) is not None), None)
    if not isinstance(part, dict):
        return None
    return part[name] if name in part else _found(list(part.values()), name)


def told(error: BaseException) -> str:
    """What an exception says, on one line, no longer than is read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 400 else text[:400] + " ..."


def read_json(text: str, source: str) -> Any:
    """The content of a `tokenizer.json`: the JSON `text` of `source`. Raises `InputError` for what is no JSON, and for
    an object that has a name twice."""
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
    """Refuses a WordPiece vocabulary with two tokens of one id, or without its unknown token."""
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
    new = {token: index for token, index in added.items() if token not in vocab}
    if new and max(by_id) != len(by_id) - 1:  # the crate numbers new tokens by how many there are
        gap = next(index for index in range(len(by_id)) if index not in by_id)
        raise InputError(f"{source}: the ids have a gap, no token has id {gap} though ids go up to {max(by_id)}")
    if model.get("unk_token") not in vocab:
        raise InputError(f"{source}: the vocabulary has no {model.get('unk_token')!r}, the token for unknown words")


def bert_tokenizer(path: Path, lowercase: bool | None, config: dict[str, Any]) -> Any:
    """The `transformers.BertTokenizer` of a BERT `vocab.txt`; see `Tokenizer.from_file`.

    Of a line that stands there twice the last counts, as in `tokenizers`; no token has the other's id then.
    """
    from tokenizers.models import WordPiece
    from transformers import BertTokenizer

    if path.read_bytes().startswith(b"\xef\xbb\xbf"):
        raise InputError(f"{path} begins with a byte order mark; save it as UTF-8 without one")
    try:
        vocabulary: dict[str, int] = WordPiece.read_file(str(path))
    except Exception as error:  # what the crate raises
        raise InputError(f"{path} does not read as a vocab.txt: {told(error)}") from None
    missing = [token for token in _BERT_SPECIALS if token not in vocabulary]
    if missing:
        raise InputError(f"{path} has no {', '.join(missing)}, so it is no BERT vocab.txt")
    if lowercase is None:
        lowercase = config.get("do_lower_case")
    if lowercase is None:
        words = (token for token in vocabulary if token.isascii() and token[:1] not in ("[", "<"))
        lowercase = not any(token != token.lower() for token in words)
    return BertTokenizer(
        vocab=vocabulary,
        do_lower_case=lowercase,
        tokenize_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
    )


def canonical_settings(content: dict[str, Any]) -> dict[str, Any]:
    """What of a `tokenizer.json` (as the `tokenizers` crate writes it) decides about ids, spelt in one way.

    Files of the same ids differ in how they name the tokens round a text (BertProcessing, RobertaProcessing, a
    template), in empty prefixes (null or ""), in the order of added tokens, and in settings of offsets.
    """
    model = {key: (None if value == "" else value) for key, value in content["model"].items()}
    added = sorted(content.get("added_tokens") or [], key=lambda token: token["id"])
    return {
        "model": model,
        "normalizer": content.get("normalizer"),
        "pre_tokenizer": _without_offsets(content.get("pre_tokenizer")),
        "post_processor": _around(content.get("post_processor")),
        "added_tokens": added,
    }


def _without_offsets(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: _without_offsets(value) for key, value in part.items() if key != "trim_offsets"}
    return [_without_offsets(each) for each in part] if isinstance(part, list) else part


def _around(processor: Any) -> Any:
    """The ids before, between and after texts that a post-processor puts there; the processor itself where it is of
    another kind."""
    if not isinstance(processor, dict):
        return processor
    kind = processor.get("type")
    if kind == "Sequence":
        parts = [_around(part) for part in processor["processors"]]
        parts = [part for part in parts if part is not None]
        return parts[0] if len(parts) == 1 else parts or None
    if kind == "ByteLevel":  # offsets alone
        return None
    if kind in ("BertProcessing", "RobertaProcessing"):
        cls_id, sep_id = processor["cls"][1], processor["sep"][1]
        between = [sep_id] if kind == "BertProcessing" else [sep_id, sep_id]
        return {"single": [cls_id, "A", sep_id], "pair": [cls_id, "A", *between, "B", sep_id]}
    if kind == "TemplateProcessing":
        tokens = {name: token["ids"] for name, token in processor["special_tokens"].items()}
        return {name: _flat(processor[name], tokens) for name in ("single", "pair")}
    return processor


def _flat(template: list[dict[str, Any]], tokens: dict[str, list[int]]) -> list[Any]:
    found: list[Any] = []
    for piece in template:
        if "Sequence" in piece:
            found.append(piece["Sequence"]["id"])
        else:
            found += tokens[piece["SpecialToken"]["id"]]
    return found


def with_lowercase(text: str, lowercase: bool, source: str) -> str:
    """The same `tokenizer.json` with another `lowercase` in its `BertNormalizer`."""
    content = read_json(text, source)
    normalizer = content.get("normalizer") if isinstance(content, dict) else None
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        raise InputError(f"lowercase={lowercase} was asked for, but {source} has no BertNormalizer that could do it")
    normalizer["lowercase"] = lowercase
    return json.dumps(content, ensure_ascii=False)
