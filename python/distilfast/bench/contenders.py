"""The tokenisers that `bench tokenize` compares: ours, Hugging Face's, and the others that are installed."""

from __future__ import annotations

import importlib
import importlib.metadata
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tokenizer import Tokenizer

Rows = list[str]

# By the size of the vocabulary, the model of blingfire for it.
BLINGFIRE_MODELS = {30522: "bert_base_tok", 28996: "bert_base_cased_tok", 119547: "bert_multi_cased"}


@dataclass
class Contender:
    """A tokeniser under test: `encode(rows, threads)`, `ids(rows)` as lists, and `forget` to empty its cache."""

    name: str
    encode: Callable[[Rows, int], Any]
    ids: Callable[[Rows], list[list[int]]]
    forget: Callable[[], object] | None = None
    slow: bool = False
    instructions: str | None = None
    """The vector instructions that ours runs with, as `DISTILFAST_SIMD` names them."""


def contenders(vocab: Path) -> tuple[Contender, list[Contender]]:
    """Ours, and what is installed beside it; `tokenizers`, whose ids are the measure, is the first of those."""
    tok = Tokenizer.from_file(vocab)
    scratch = tempfile.TemporaryDirectory()  # goes when what is made from its files does
    folder = Path(scratch.name)
    (folder / "tokenizer.json").write_text(tok.to_json(), encoding="utf-8")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tok._core.tokens()), encoding="utf-8")
    ours, arrow = _ours(tok)
    others = [*_hugging_face(tok.to_json()), arrow]
    for made in (_nanotoken(tok), _tokie(folder), _flash(tok, folder), _blingfire(tok)):
        others += [] if made is None else [made]
    scratch.cleanup()
    return ours, others


def _ours(tok: Tokenizer) -> tuple[Contender, Contender]:
    import pyarrow as pa

    holder = {"tok": tok}
    json_text = tok.to_json()

    def forget() -> None:
        holder["tok"] = Tokenizer(json_text)

    def ids(rows: Rows) -> list[list[int]]:
        found: list[list[int]] = holder["tok"].encode_batch(rows).to_pylist()
        return found

    arrow_rows: dict[int, tuple[Rows, pa.Array]] = {}

    def from_arrow(rows: Rows, threads: int) -> None:
        if id(rows) not in arrow_rows:
            arrow_rows[id(rows)] = rows, pa.array(rows)
        holder["tok"].encode_batch(arrow_rows[id(rows)][1], threads=threads)

    def from_list(rows: Rows, threads: int) -> None:
        holder["tok"].encode_batch(rows, threads=threads)

    level = tok._core.instructions
    return (
        Contender("distilfast", from_list, ids, forget, instructions=level),
        Contender("distilfast, from Arrow", from_arrow, ids, forget, instructions=level),
    )


def _hugging_face(json_text: str) -> list[Contender]:
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    library = tokenizers.Tokenizer.from_str(json_text)
    fast: Any = PreTrainedTokenizerFast
    wrapped = fast(tokenizer_object=tokenizers.Tokenizer.from_str(json_text))

    def encode_library(rows: Rows, threads: int) -> None:
        for start in range(0, len(rows), 1000):
            library.encode_batch_fast(rows[start : start + 1000])

    def encode_wrapped(rows: Rows, threads: int) -> None:
        for start in range(0, len(rows), 1000):
            wrapped(rows[start : start + 1000])

    return [
        Contender(
            f"tokenizers {tokenizers.__version__} encode_batch_fast",
            encode_library,
            lambda rows: [encoding.ids for encoding in library.encode_batch_fast(rows)],
            slow=True,
        ),
        Contender(
            f"transformers {importlib.metadata.version('transformers')} call",
            encode_wrapped,
            lambda rows: wrapped(rows)["input_ids"],
            slow=True,
        ),
    ]


def _nanotoken(tok: Tokenizer) -> Contender | None:
    if (nanotoken := _module("nanotoken")) is None:
        return None
    nano = nanotoken.Tokenizer.from_json(tok.to_json())
    return Contender(
        f"nanotoken {importlib.metadata.version('nanotoken')} encode_batch",
        lambda rows, threads: nano.encode_batch(rows, parallel=threads > 1),
        lambda rows: [list(map(int, row)) for row in nano.encode_batch_list(rows)],
        nano.clear_cache,
    )


def _tokie(folder: Path) -> Contender | None:
    if (tokie := _module("tokie")) is None:
        return None
    other = tokie.Tokenizer.from_json(str(folder / "tokenizer.json"))
    return Contender(
        f"tokie {importlib.metadata.version('tokie')} encode_batch",
        lambda rows, threads: other.encode_batch(rows),
        lambda rows: [list(encoding.ids) for encoding in other.encode_batch(rows)],
    )


def _flash(tok: Tokenizer, folder: Path) -> Contender | None:
    if (flash := _module("flash_tokenizer")) is None:
        return None
    lowercase = tok.encode("A", add_special_tokens=False) == tok.encode("a", add_special_tokens=False)
    other = flash.BertTokenizerFlash(str(folder / "vocab.txt"), do_lower_case=lowercase, model_max_length=1 << 30)

    def encode(rows: Rows, threads: int) -> list[list[int]]:
        found: list[list[int]] = other.tokenizer.batch_encode(rows, "do_not_pad", 1 << 30, threads > 1)
        return found

    name = f"flash-tokenizer {importlib.metadata.version('flash-tokenizer')} batch_encode"
    return Contender(name, encode, lambda rows: encode(rows, 1))


def _blingfire(tok: Tokenizer) -> Contender | None:
    """Its models are its own, so it takes part for the vocabularies that it brings; it adds no special tokens."""
    blingfire, model = _module("blingfire"), BLINGFIRE_MODELS.get(tok.vocab_size)
    if blingfire is None or model is None:
        return None
    handle = blingfire.load_model(str(Path(blingfire.__file__).with_name(f"{model}.bin")))

    def encode_row(row: str) -> Any:
        # Room for every character to be a token, a Hangul syllable three.
        return blingfire.text_to_ids(handle, row, 3 * len(row) + 1, tok.unk_id, True)

    def encode(rows: Rows, threads: int) -> None:
        if threads == 1:
            for row in rows:
                encode_row(row)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda first: encode(rows[first::threads], 1), range(threads)))

    return Contender(
        f"blingfire {importlib.metadata.version('blingfire')} text_to_ids",
        encode,
        lambda rows: [[tok.cls_id, *encode_row(row).tolist(), tok.sep_id] for row in rows],  # type: ignore[list-item]
    )


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
