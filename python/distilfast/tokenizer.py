"""`Tokenizer`: text to token ids, the same as Hugging Face's `tokenizers` gives, many times faster."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from . import _core
from ._core import InputError
from ._files import is_path, write_json, write_text
from .tokenizer_files import (
    TOKENIZER_FILES,
    bert_tokenizer,
    canonical_settings,
    check_wordpiece,
    has_tokenizer,
    is_bare_vocabulary,
    other_setting,
    read_config,
    read_json,
    told,
    with_lowercase,
)

logger = logging.getLogger(__name__)

# What the usual families call them, in the order in which they are tried where no tokenizer_config.json says.
_USUAL_NAMES = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "mask_token": ("[MASK]", "<mask>"),
    "unk_token": ("[UNK]", "<unk>"),
}


class Tokenizer:
    """A tokenizer file, ready to encode; immutable, and safe to share between threads and forked processes.

    Made by `from_file` or `from_pretrained`. Encoding releases the GIL.

    The `truncation` and `padding` blocks that a `tokenizer.json` may carry are never applied: rows are ragged, and cut
    only where `max_length` asks for it.
    """

    def __init__(self, json_text: str, config: dict[str, Any] | None = None, source: str = "tokenizer.json") -> None:
        """`json_text`: the content of a `tokenizer.json`; `config`: of a `tokenizer_config.json`; `source`: for errors.

        Raises `InputError` where the text is no tokenizer.
        """
        content = read_json(json_text, source)
        if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
            raise InputError(f"{source} is no tokenizer.json: it has no 'model' block")
        if str(content.get("version", "1.0")) != "1.0":
            raise InputError(
                f"{source} is a tokenizer.json of format version {content['version']!r}; this release reads '1.0'"
            )
        if content["model"].get("type") == "WordPiece" or "max_input_chars_per_word" in content["model"]:
            check_wordpiece(content, source)
        try:
            self._core = _core.Tokenizer(json_text)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None
        self._config = dict(config or {})
        self._names = {key: self._special_name(key, content["model"]) for key in _USUAL_NAMES}
        self.vocab_size: int = self._core.vocab_size
        self.cls_id, self.sep_id, self.pad_id, self.mask_id, self.unk_id = (
            None if name is None else self._core.token_to_id(name) for name in self._names.values()
        )

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], lowercase: bool | None = None) -> Tokenizer:
        """The tokenizer of a `tokenizer.json`, or of a BERT `vocab.txt` (one token a line, the line number is the id).

        A `tokenizer.json` is taken as it stands, and where the settings beside it make other ids of the folder, the log
        says so. A `tokenizer_config.json` beside the file is read for the names of the special tokens and, for a
        `vocab.txt`, for `do_lower_case`, `strip_accents` and `tokenize_chinese_chars`. `lowercase` overrides; without
        either, a `vocab.txt` is taken as cased where any token holds an ASCII capital letter ("[UNK]" and the like
        aside). White space at the ends of its lines, lines that stand there twice and blank ones are taken as Hugging
        Face does.

        Raises `InputError` for a file that is no tokenizer (not text, not JSON, of a later format, with two tokens of
        one id, without its special tokens), `FileNotFoundError` where there is none.
        """
        path = Path(path)
        if path.is_dir():
            raise InputError(f"{path} is a folder; pass the tokenizer.json or vocab.txt in it, or use from_pretrained")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8 text ({error}), so it is no tokenizer.json or vocab.txt") from None
        config = read_config(path.with_name("tokenizer_config.json"))
        if text.lstrip()[:1] == "{":
            if lowercase is not None:
                text = with_lowercase(text, lowercase, str(path))
            elif (setting := other_setting(text, config, str(path))) is not None:
                logger.warning(
                    "%s is read as it stands; the tokenizer_config.json beside it has %s=%s, with which transformers "
                    "reads the folder: for the ids of its model give %s",
                    *(path, setting, config[setting], path.parent),
                )
        elif path.suffix == ".json":
            raise InputError(f"{path} is no tokenizer.json: it does not hold a JSON object")
        else:
            text = bert_tokenizer(path, lowercase, config).backend_tokenizer.to_str()
        return cls(text, _portable(config), str(path))

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike[str], lowercase: bool | None = None, **kwargs: Any
    ) -> Tokenizer:
        """The tokenizer that `transformers.AutoTokenizer.from_pretrained` loads from a folder or the Hugging Face Hub.

        `kwargs` (`revision`, `token`, `local_files_only`, ...) are passed on to it. A folder that it cannot make sense
        of is searched for `tokenizer.json` and `vocab.txt`. A `vocab.txt` that no settings go with is read as
        `from_file` does, and for such a folder alone is `lowercase`. Raises `InputError` where there is no tokenizer to
        be had.
        """
        if not isinstance(name_or_path, str | os.PathLike):
            return as_tokenizer(name_or_path)
        folder = Path(name_or_path)
        if folder.is_dir() and is_bare_vocabulary(folder):
            return cls.from_file(folder / "vocab.txt", lowercase)
        if lowercase is not None:
            raise InputError(f"--lowercase is for a vocab.txt; {name_or_path} brings its own settings")
        try:
            tokenizer = load_transformers_tokenizer(name_or_path, **kwargs)
        except InputError:
            for name in ("tokenizer.json", "vocab.txt"):
                if (folder / name).is_file():
                    return cls.from_file(folder / name)
            raise
        return cls.from_transformers(tokenizer, str(name_or_path))

    @classmethod
    def from_transformers(cls, tokenizer: Any, source: str | None = None) -> Tokenizer:
        """The same tokenizer as `tokenizer`, a fast one of `transformers` that is loaded; `source`: for errors.

        Raises `InputError` for a slow one and for what is no tokenizer.
        """
        source = type(tokenizer).__name__ if source is None else source
        if not hasattr(tokenizer, "save_pretrained") or not hasattr(tokenizer, "is_fast"):
            raise InputError(f"a {type(tokenizer).__name__} is no tokenizer; give a distilfast.Tokenizer or its path")
        if not tokenizer.is_fast:
            raise InputError(f"{source} has only a slow tokenizer ({type(tokenizer).__name__}); a fast one is needed")
        with tempfile.TemporaryDirectory() as scratch:
            tokenizer.save_pretrained(scratch)
            text = (Path(scratch) / "tokenizer.json").read_text(encoding="utf-8")
            config = json.loads((Path(scratch) / "tokenizer_config.json").read_text(encoding="utf-8"))
        return cls(text, _portable(config), source)

    @property
    def engine(self) -> str:
        """What does the work: "wordpiece" (BERT-style files) or "tokenizers" (everything else)."""
        return self._core.engine

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        split_special_tokens: bool = False,
    ) -> list[int]:
        """The ids of one text; see `encode_batch`."""
        try:
            return self._core.encode(text, add_special_tokens, max_length, split_special_tokens)
        except OverflowError:
            raise InputError(f"max_length={max_length} is below 0 or far too large") from None

    def encode_batch(
        self,
        texts: Iterable[str] | pa.Array | pa.ChunkedArray,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        threads: int | None = None,
        split_special_tokens: bool = False,
    ) -> pa.ListArray:
        """The ids of many texts, row by row: a `pyarrow.ListArray` of uint16 (`vocab_size` <= 65,536) or uint32.

        texts: strings, or an Arrow array (string, large_string, string_view; sliced and chunked too; from pyarrow,
            polars or anything else that speaks the Arrow PyCapsule interface), whose buffers are read in place.
        add_special_tokens: put the template's tokens ([CLS] ... [SEP]) round each row.
        max_length: the most ids of a row, [CLS] and [SEP] included; the end of the text is cut off. None: no limit.
        threads: the most threads to use; None: `RAYON_NUM_THREADS`, else one for each core.
        split_special_tokens: take "[SEP]" or "[MASK]" written in a text for ordinary text, so that text cannot inject
            special tokens. False, the default, does as Hugging Face does: they become the special tokens.

        Raises `InputError` naming the row for a null, for bytes that are not UTF-8 and for lone surrogates, and for a
        `max_length` without room for the special tokens; `TypeError` for rows that are not strings.
        """
        if not isinstance(texts, (list, tuple)):
            if isinstance(texts, (str, bytes)):
                raise TypeError(f"texts is one {type(texts).__name__}, not many texts; use encode, or pass a list")
            if isinstance(texts, (Mapping, Set)):
                raise TypeError(
                    f"texts: a {type(texts).__name__} has no rows in an order; pass a list or an Arrow column"
                )
            if not (hasattr(texts, "__arrow_c_array__") or hasattr(texts, "__arrow_c_stream__")):
                texts = list(texts)
        try:
            return self._core.encode_batch(texts, add_special_tokens, max_length, threads, split_special_tokens)
        except OverflowError:
            raise InputError(f"max_length={max_length}, threads={threads}: one is below 0 or far too large") from None

    @cached_property
    def special_ids(self) -> list[int]:
        """The ids of the special tokens, ascending."""
        return self._core.special_ids()

    @cached_property
    def word_starts(self) -> npt.NDArray[np.bool_]:
        """Bool, shape (vocab_size,): True where a token begins a word, so that whole words can be told from ids alone.

        Special tokens are True. Where the vocabulary does not mark words (characters, plain BPE) all are True.
        """
        content = self._content
        tokens = [token or "" for token in self._core.tokens()]
        prefix = content["model"].get("continuing_subword_prefix")
        kinds = json.dumps([content.get("pre_tokenizer"), content.get("decoder")])
        if prefix:
            starts = np.array([not token.startswith(prefix) for token in tokens], dtype=bool)
        elif '"ByteLevel"' in kinds:
            starts = np.array([token[:1] in ("Ġ", "Ċ", "ĉ", "č") for token in tokens], dtype=bool)
        elif '"Metaspace"' in kinds:
            starts = np.array([token.startswith("▁") for token in tokens], dtype=bool)
        else:
            starts = np.ones(len(tokens), dtype=bool)
        starts[self.special_ids] = True
        return starts

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hex, over the vocabulary and every setting that changes ids, however the file spells them."""
        canonical = json.dumps(
            canonical_settings(self._content), sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def settings(self) -> dict[str, Any]:
        """The `tokenizer_config.json` beside the tokenizer, as far as it holds for the file alone; a copy."""
        return dict(self._config)

    def tokens(self) -> list[str | None]:
        """The token of each id, [vocab_size]; None for an id that no token has."""
        return self._core.tokens()

    def check_words(self, other: Tokenizer, whose: str) -> None:
        """Raises `InputError`, naming a word, where `other` (that of `whose`) has another word under an id of both.

        A vocabulary that goes on where this one ends is welcome.
        """
        for index, (word, theirs) in enumerate(zip(self._core.tokens(), other._core.tokens(), strict=False)):
            if word != theirs and word is not None and theirs is not None:
                raise InputError(
                    f"{whose} has another vocabulary: its id {index} is {theirs!r}, where the tokens have {word!r}; "
                    "teacher, student and tokens must read the same ids"
                )

    def to_json(self) -> str:
        """The content of a `tokenizer.json` that says the same and neither truncates nor pads."""
        return self._core.to_json()

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes the `tokenizer.json` and `tokenizer_config.json` that `transformers.AutoTokenizer` loads.

        The saved `tokenizer.json` neither truncates nor pads.
        """
        directory = Path(directory)
        names = {key: name for key, name in self._names.items() if name is not None}
        config = {"tokenizer_class": "PreTrainedTokenizerFast", **names, **self._config}
        write_text(directory / "tokenizer.json", self._core.to_json())
        write_json(directory / "tokenizer_config.json", config)

    def __repr__(self) -> str:
        return f"Tokenizer(vocab_size={self.vocab_size}, engine={self.engine!r})"

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[str, dict[str, Any], str]]:
        return Tokenizer, (self._core.to_json(), self._config, "pickle")

    @cached_property
    def _content(self) -> dict[str, Any]:
        """The settings as the `tokenizers` crate writes them: the same however the file that was read spelt them."""
        content: dict[str, Any] = json.loads(self._core.to_json())
        return content

    def _special_name(self, key: str, model: dict[str, Any]) -> str | None:
        """The token that plays the part `key` ("cls_token", ...), if the vocabulary has it."""
        named = self._config.get(key)
        if isinstance(named, dict):
            named = named.get("content")
        if named is None and key == "unk_token":
            named = model.get("unk_token")
        candidates = (named,) if isinstance(named, str) else _USUAL_NAMES[key]
        return next((name for name in candidates if self._core.token_to_id(name) is not None), None)


def load_tokenizer(name: str | os.PathLike[str], lowercase: bool | None = None) -> Tokenizer:
    """The tokenizer that a file (`vocab.txt`, `tokenizer.json`), a folder or a name on the Hub stands for; one of
    `transformers` is taken as it is."""
    if not isinstance(name, str | os.PathLike):
        return as_tokenizer(name)
    if Path(name).is_file():
        return Tokenizer.from_file(name, lowercase=lowercase)
    return Tokenizer.from_pretrained(name, lowercase=lowercase)


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """A `Tokenizer` as it is, made of a fast one of `transformers`, or loaded from a path or a name on the Hub.

    Raises `InputError` for what is none of these.
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if isinstance(tokenizer, str | os.PathLike):
        return load_tokenizer(tokenizer)
    return Tokenizer.from_transformers(tokenizer)


def load_transformers_tokenizer(name_or_path: str | os.PathLike[str], **kwargs: Any) -> Any:
    """The tokenizer of `transformers` for a folder or a name on the Hub, for models and for what is saved beside them.

    `kwargs` go to `AutoTokenizer.from_pretrained`. A folder with a `vocab.txt` and no settings gives the ids that
    `Tokenizer` gives for it. Raises `InputError` where there is none, or it does not load.
    """
    folder = Path(name_or_path)
    if is_path(name_or_path) and not folder.exists():
        raise InputError(f"{name_or_path}: there is no such file or directory")
    if folder.is_file():
        raise InputError(f"{name_or_path} is a file; give the folder of the tokenizer, or its id on the Hub")
    # AutoTokenizer makes up a tokenizer of a few special tokens for a folder that holds a model alone.
    if folder.is_dir() and not has_tokenizer(folder):
        raise InputError(
            f"{name_or_path} has no tokenizer: none of {', '.join(TOKENIZER_FILES)} is there; save one beside the "
            "model (tokenizer.save_pretrained)"
        )
    if folder.is_dir() and is_bare_vocabulary(folder):
        return bert_tokenizer(folder / "vocab.txt", None, {})
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(name_or_path), **kwargs)
    except Exception as error:  # the tokenizers crate raises bare Exception, AutoTokenizer whatever its files make it
        raise InputError(f"{name_or_path} has no tokenizer that can be loaded: {told(error)}") from None


def tokenize(tokenizer: Any, *texts: Any, **options: Any) -> Any:
    """What a `tokenizer` of transformers, called with these, gives; the tokenizer stays as it was, and says nothing of
    texts that are longer than its model takes.

    A call leaves in it how it cut and padded, and whoever saves it then writes that into its tokenizer.json.
    """
    options.setdefault("verbose", False)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(*texts, **options)
    truncation, padding = backend.truncation, backend.padding
    try:
        return tokenizer(*texts, **options)
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)


def _portable(config: dict[str, Any]) -> dict[str, Any]:
    """What of a `tokenizer_config.json` still holds when the tokenizer is read from its file alone."""
    sides = ("padding_side", "truncation_side")
    kept = (*_USUAL_NAMES, "model_max_length", "model_input_names", "bos_token", "eos_token", *sides)
    return {key: value for key, value in config.items() if key in kept}
