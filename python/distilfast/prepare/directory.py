"""The prepared directory: an ordinary `datasets` folder of token ids, with what is needed to trust it.

data-00000-of-00001.arrow ...   the column `input_ids`, memory-mapped by `datasets.load_from_disk`
dataset_info.json state.json    what `datasets` wants to know
tokens.json                     how the rows were made, counts, sizes of the files, fingerprint of the tokenizer
token_counts.npy                int64 [vocab_size]: how often each id occurs, for the smoothed masking
tokenizer/                      the tokenizer itself
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .._core import InputError
from .._files import first_line, write_json
from ..tokenizer import Tokenizer

if TYPE_CHECKING:
    import datasets

FORMAT = 2
_DESCRIPTION = {
    "fingerprint": str,
    "vocab_size": int,
    "mode": str,
    "max_length": int,
    "rows": int,
    "tokens": int,
    "files": dict,
}
SHARD_BYTES = 512 << 20
"""Size from which on another file is begun."""
UNKNOWN_IS_MUCH = 0.1
"""The share of [UNK] from which on it is said; of a vocabulary that fits its language it is some per mille."""


@dataclass(frozen=True)
class PreparedTokens:
    """A prepared directory that was found whole."""

    dataset: datasets.Dataset
    """Rows with the column `input_ids`, memory-mapped."""
    tokenizer: Tokenizer
    """The tokenizer that made them."""
    token_counts: np.ndarray[Any, np.dtype[np.int64]]
    """int64 [vocab_size]: how often each id occurs."""
    info: dict[str, Any]
    """The content of `tokens.json`."""

    def check_tokenizer(self, tokenizer: Tokenizer, whose: str) -> None:
        """Raises `InputError` where `tokenizer` (that of `whose`) gives other ids than the one that made the rows."""
        if tokenizer.fingerprint != self.info["fingerprint"]:
            raise InputError(
                f"the tokens were prepared with another vocabulary (fingerprint {self.info['fingerprint'][:12]}, "
                f"{self.info['vocab_size']:,} tokens) than {whose} has ({tokenizer.fingerprint[:12]}, "
                f"{tokenizer.vocab_size:,} tokens); run distilfast.prepare with the tokenizer of {whose}"
            )


def id_type(vocab_size: int) -> str:
    """The type in which ids are stored."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class TokenWriter:
    """Writes rows into the Arrow files of a directory that `datasets.load_from_disk` opens."""

    def __init__(self, directory: Path, vocab_size: int, shard_bytes: int = SHARD_BYTES) -> None:
        kind = id_type(vocab_size)
        self._features = {"input_ids": {"feature": {"dtype": kind, "_type": "Value"}, "_type": "List"}}
        self._schema = pa.schema(
            [pa.field("input_ids", pa.list_(pa.type_for_alias(kind)))],
            metadata={"huggingface": json.dumps({"info": {"features": self._features}})},
        )
        self._directory = directory
        self._shard_bytes = shard_bytes
        self._shards: list[Path] = []
        self._sink: pa.NativeFile | None = None
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None
        self._digest = hashlib.sha256()

    def write(self, rows: pa.ListArray) -> None:
        """Appends `rows`, lists of ids without nulls."""
        if self._sink is not None and self._sink.tell() >= self._shard_bytes:
            self.close()
        if self._stream is None:
            self._shards.append(self._directory / f"data-{len(self._shards):05d}.arrow.partial")
            self._sink = pa.OSFile(str(self._shards[-1]), "wb")
            self._stream = pa.ipc.new_stream(self._sink, self._schema)
        batch = pa.record_batch([rows], schema=self._schema)
        self._stream.write_batch(batch)
        for buffer in rows.buffers():
            if buffer is not None:
                self._digest.update(buffer)

    def finish(self) -> dict[str, int]:
        """Closes the files, describes them for `datasets`, and returns the size in bytes of each by name."""
        if not self._shards:
            self.write(pa.array([], self._schema.field("input_ids").type))
        self.close()
        sizes = {}
        for index, shard in enumerate(self._shards):
            whole = shard.with_name(f"data-{index:05d}-of-{len(self._shards):05d}.arrow")
            shard.rename(whole)
            sizes[whole.name] = whole.stat().st_size
        description = {"citation": "", "description": "", "features": self._features, "homepage": "", "license": ""}
        write_json(self._directory / "dataset_info.json", description)
        state: dict[str, Any] = {
            "_data_files": [{"filename": name} for name in sizes],
            "_fingerprint": self._digest.hexdigest()[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        }
        write_json(self._directory / "state.json", state)
        return sizes

    def close(self) -> None:
        """Closes the file in progress, if there is one; without `finish` the directory stays incomplete."""
        if self._stream is not None and self._sink is not None:
            self._stream.close()
            self._sink.close()
        self._stream = self._sink = None


def unknown_share(tokenizer: Tokenizer, token_counts: np.ndarray[Any, Any]) -> float:
    """The share of [UNK] among the tokens of a text, the special ones round it aside; `token_counts` [vocab_size]."""
    unknown = 0 if tokenizer.unk_id is None else int(token_counts[tokenizer.unk_id])
    words = int(token_counts.sum()) - int(token_counts[tokenizer.special_ids].sum())
    words += unknown if tokenizer.unk_id in tokenizer.special_ids else 0
    return unknown / words if words else 0.0


def unknown_note(share: float) -> str | None:
    """What is to be said of a share of [UNK]; None for one that is usual."""
    if share < UNKNOWN_IS_MUCH:
        return None
    return f"warning: {share:.0%} of the tokens are [UNK]: the vocabulary does not have the words of this text"


def write_description(
    directory: Path,
    tokenizer: Tokenizer,
    token_counts: np.ndarray[Any, np.dtype[np.int64]],
    files: dict[str, int],
    info: dict[str, Any],
) -> dict[str, Any]:
    """Writes `tokenizer/`, `token_counts.npy` and, last, `tokens.json`; returns the content of the last."""
    tokenizer.save_pretrained(directory / "tokenizer")
    np.save(directory / "token_counts.npy", token_counts)
    described = {
        "format": FORMAT,
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        **info,
        "unknown_share": unknown_share(tokenizer, token_counts),
        "files": files,
    }
    write_json(directory / "tokens.json", described)
    return described


def load_tokens(directory: str | Path) -> PreparedTokens:
    """The prepared directory, opened and checked.

    Raises `InputError` where it is none, was written by a later version, or is not whole: a file missing or of another
    size, counts that do not add up, a tokenizer that is not the one that made the rows.
    """
    import datasets  # here, so that `prepare` itself starts without its second of imports

    if not isinstance(directory, str | PathLike):
        raise InputError(f"a {type(directory).__name__} is no directory that prepare wrote; give its path")
    directory = Path(directory)
    info = _read_info(directory)
    again = "it is not whole; run distilfast.prepare again"
    for name, size in info["files"].items():
        path = directory / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            raise InputError(f"{path} {'is missing' if found is None else f'has {found} of {size} bytes'}: {again}")
    try:
        token_counts = np.load(directory / "token_counts.npy", allow_pickle=False)
        dataset = datasets.load_from_disk(str(directory))
    except Exception as error:  # numpy and datasets raise whatever damaged files lead them to
        raise InputError(f"{directory}: {first_line(error)}: {again}") from None
    if token_counts.shape != (info["vocab_size"],) or int(token_counts.sum()) != info["tokens"]:
        raise InputError(f"{directory / 'token_counts.npy'} does not add up to the tokens of tokens.json: {again}")
    if len(dataset) != info["rows"] or dataset.column_names != ["input_ids"]:
        raise InputError(f"{directory} holds {len(dataset):,} rows, tokens.json says {info['rows']:,}: {again}")
    tokenizer = Tokenizer.from_pretrained(directory / "tokenizer")
    if tokenizer.fingerprint != info["fingerprint"]:
        raise InputError(
            f"{directory / 'tokenizer'} is not the tokenizer that made the tokens (fingerprint "
            f"{tokenizer.fingerprint[:12]}, not {info['fingerprint'][:12]}): {again}"
        )
    return PreparedTokens(dataset, tokenizer, token_counts, info)


def _read_info(directory: Path) -> dict[str, Any]:
    """`tokens.json`, once it is known to be one that this version reads."""
    path = directory / "tokens.json"
    if not directory.is_dir():
        raise InputError(f"{directory}: there is no such directory; make it with python -m distilfast.prepare")
    if not path.is_file():
        raise InputError(
            f"{directory} is no prepared directory: it has no tokens.json; use python -m distilfast.prepare"
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {first_line(error)}; run distilfast.prepare again") from None
    if not isinstance(info, dict):
        raise InputError(f"{path} holds a {type(info).__name__}, not a description; run distilfast.prepare again")
    missing = [name for name, kind in _DESCRIPTION.items() if not isinstance(info.get(name), kind)]
    if info.get("format") != FORMAT:
        raise InputError(f"{path} has format {info.get('format')!r}; this version of distilfast reads format {FORMAT}")
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; run distilfast.prepare again")
    return dict(info)
