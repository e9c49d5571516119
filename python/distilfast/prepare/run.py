"""`python -m distilfast.prepare`: text to a prepared directory of token ids, at the speed of tokeniser and disk.

Text is read ahead in blocks by one thread, tokenised by as many as asked for, cut into rows and written by another;
nothing is held but the blocks on their way.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from tqdm import tqdm

from .. import _command as command
from .._core import InputError, RowCutter
from .._files import refuse_occupied, whole_directory
from ..tokenizer import Tokenizer
from .directory import PreparedTokens as PreparedTokens
from .directory import TokenWriter, write_description
from .directory import load_tokens as load_tokens
from .text import TextBlock, check_column, find_text_files, read_dataset, read_files


@dataclass
class PrepareArguments:
    """Flags of `python -m distilfast.prepare`."""

    tokenizer: str = field(
        metadata={"help": "vocab.txt, tokenizer.json, a directory that holds one of them, or a name on the hub"}
    )
    output_dir: str = field(metadata={"help": "directory to write; must not hold anything yet"})
    text: list[str] | None = field(
        default=None,
        metadata={
            "help": "files of text (a line is a text, a blank line ends a document), jsonl or parquet; directories and "
            "patterns of them"
        },
    )
    dataset: str | None = field(
        default=None, metadata={"help": "instead of --text: a dataset on the hub, or a directory of save_to_disk"}
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "configuration of the dataset, if it has several"}
    )
    split: str = field(default="train", metadata={"help": "split of the dataset"})
    column: str = field(default="text", metadata={"help": "column of the text in jsonl, parquet and datasets"})
    mode: str = field(
        default="lines",
        metadata={
            "choices": ["lines", "packed"],
            "help": "lines: a text is a row, cut where it is longer than --max_length; packed: the texts of a document "
            "are joined, whole, up to --max_length",
        },
    )
    max_length: int = field(default=512, metadata={"help": "most tokens of a row, [CLS] and [SEP] included"})
    min_length: int = field(default=12, metadata={"help": "rows with fewer tokens are dropped; 0 keeps all"})
    max_unknown: float = field(
        default=0.5, metadata={"help": "rows with this share of [UNK] or more are dropped; 2 keeps all"}
    )
    lowercase: bool | None = field(
        default=None,
        metadata={"help": "whether a vocab.txt is of lower-case text (default: as the file's own settings say)"},
    )
    threads: int | None = field(
        default=None, metadata={"help": "threads of the tokeniser (default: RAYON_NUM_THREADS or all)"}
    )
    overwrite: bool = field(default=False, metadata={"help": "replace what output_dir holds, once the new is whole"})
    disable_tqdm: bool = field(default=False, metadata={"help": "no progress bar"})


def prepare(
    output_dir: str | Path,
    tokenizer: Tokenizer | str | Path,
    text: Sequence[str | Path] | None = None,
    dataset: Any = None,
    *,
    column: str = "text",
    mode: str = "lines",
    max_length: int = 512,
    min_length: int = 12,
    max_unknown: float = 0.5,
    threads: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Writes the prepared directory `output_dir` from files or a `datasets.Dataset` and returns its `tokens.json`.

    Exactly one of `text` (names as for `--text`) and `dataset` is given. The rules of the rows are those of
    `distilfast._core.RowCutter`. Special tokens written in the text are ordinary text. `output_dir` appears when it is
    whole: an exception or a kill leaves what was there before.

    Raises `InputError` for what cannot be read, for a tokenizer without [CLS], [SEP], [PAD] or [MASK], for an
    `output_dir` that holds something, and where no row is left.
    """
    if isinstance(tokenizer, (str, Path)):
        refuse_replaced([tokenizer], output_dir)
        tokenizer = load_tokenizer(tokenizer)
    check_specials(tokenizer)
    refuse_occupied(output_dir, overwrite)
    cutter = new_cutter(tokenizer, mode, max_length, min_length, max_unknown)
    if (text is None) == (dataset is None):
        raise InputError("name the text, either files (--text) or a dataset (--dataset), not both")
    if text is not None:
        paths = find_text_files(text)
        refuse_replaced(paths, output_dir)
        blocks, total, unit = read_files(paths, column), sum(path.stat().st_size for path in paths), "B"
    else:
        check_column(column, dataset.column_names, "the dataset")
        refuse_replaced([file["filename"] for file in getattr(dataset, "cache_files", [])], output_dir)
        blocks, total, unit = read_dataset(dataset, column), len(dataset), " rows"

    started = time.perf_counter()
    with (
        whole_directory(output_dir, overwrite) as directory,
        closing(TokenWriter(directory, tokenizer.vocab_size)) as writer,
        tqdm(total=total, unit=unit, unit_scale=True, desc="prepare", disable=not progress) as bar,
    ):
        text_bytes = _write_rows(blocks, tokenizer, cutter, writer, threads, bar.update)
        totals = cutter.totals_by_name
        if not totals["rows"]:
            raise InputError(
                f"no row is left of {totals['lines']:,} texts: {totals['dropped_short']:,} rows had fewer than "
                f"{min_length} tokens (--min_length), {totals['dropped_unknown']:,} a share of [UNK] of {max_unknown} "
                "or more (--max_unknown: does the vocabulary fit the language?)"
            )
        rules = {"mode": mode, "max_length": max_length, "min_length": min_length, "max_unknown": max_unknown}
        info = {**rules, **totals, "text_bytes": text_bytes}
        described = write_description(directory, tokenizer, cutter.token_counts, writer.finish(), info)
    return {**described, "seconds": time.perf_counter() - started}


def _write_rows(
    blocks: Iterator[TextBlock],
    tokenizer: Tokenizer,
    cutter: RowCutter,
    writer: TokenWriter,
    threads: int | None,
    update: Callable[[int], Any],
) -> int:
    """Tokenises, cuts and writes all blocks; the number of bytes of text in them."""
    text_bytes = 0

    def cut_and_write(token_ids: Any, block: TextBlock) -> None:
        rows = cutter.push(token_ids, block.document_starts)
        if len(rows):
            writer.write(rows)
        update(block.progress)

    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        written: Future[None] | None = None
        reader = reading.submit(next, blocks, None)
        while (block := reader.result()) is not None:
            reader = reading.submit(next, blocks, None)
            token_ids = tokenizer.encode_batch(
                block.texts, add_special_tokens=False, threads=threads, split_special_tokens=True
            )
            text_bytes += pc.sum(pc.binary_length(block.texts)).as_py() or 0
            if written is not None:
                written.result()
            written = writing.submit(cut_and_write, token_ids, block)
        if written is not None:
            written.result()
    rest = cutter.finish()
    if len(rest):
        writer.write(rest)
    return text_bytes


def new_cutter(
    tokenizer: Tokenizer, mode: str = "lines", max_length: int = 512, min_length: int = 12, max_unknown: float = 0.5
) -> RowCutter:
    """A `RowCutter` for the ids of `tokenizer`, which has passed `check_specials`."""
    assert tokenizer.cls_id is not None
    assert tokenizer.sep_id is not None
    try:
        return RowCutter(
            mode=mode,
            max_length=max_length,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            unk_id=tokenizer.unk_id,
            vocab_size=tokenizer.vocab_size,
            min_length=min_length,
            max_unknown=max_unknown,
        )
    except OverflowError:
        raise InputError(f"max_length={max_length}, min_length={min_length}: one is below 0 or far too large") from None


def refuse_replaced(sources: Sequence[str | Path], output_dir: str | Path) -> None:
    """Raises `InputError` where one of `sources` lies in `output_dir`: replacing that would lose it."""
    output = Path(output_dir).resolve()
    for source in sources:
        path = Path(source)
        if path.exists() and (path.resolve() == output or output in path.resolve().parents):
            raise InputError(f"{source} lies in {output_dir} and would be lost; name another output directory")


def check_specials(tokenizer: Tokenizer) -> None:
    """Raises `InputError` where `tokenizer` lacks a token that masked-language-model training needs."""
    needed = {
        "[CLS] (or <s>)": tokenizer.cls_id,
        "[SEP] (or </s>)": tokenizer.sep_id,
        "[PAD]": tokenizer.pad_id,
        "[MASK]": tokenizer.mask_id,
    }
    missing = [name for name, token_id in needed.items() if token_id is None]
    if missing:
        raise InputError(
            f"the vocabulary has no {', no '.join(missing)}; training a masked language model needs it: "
            "use the tokenizer of a BERT-style encoder"
        )


def load_tokenizer(name: str | Path, lowercase: bool | None = None) -> Tokenizer:
    """The tokenizer that a file (`vocab.txt`, `tokenizer.json`), a directory or a hub name stands for."""
    path = Path(name)
    if path.is_file():
        return Tokenizer.from_file(str(path), lowercase=lowercase)
    if lowercase is not None:
        raise InputError(f"--lowercase is for a vocab.txt; {name} brings its own settings")
    if not path.is_dir() and (path.suffix in (".txt", ".json") or path.is_absolute() or str(name).count("/") > 1):
        raise InputError(f"--tokenizer {name}: there is no such file or directory")
    return Tokenizer.from_pretrained(str(name))


def load_dataset(name: str, config: str | None = None, split: str = "train") -> Any:
    """A split of a dataset on the hub, or of a directory written by `save_to_disk`.

    Raises `InputError` where there is no such dataset, configuration or split.
    """
    import datasets  # here, so that preparing files starts without its second of imports

    directory = Path(name)
    try:
        if (directory / "state.json").is_file() or (directory / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.Dataset):
                return loaded
            if split not in loaded:
                raise InputError(f"{name} has no split {split!r}, only {', '.join(loaded)}; pass --split")
            return loaded[split]
        return datasets.load_dataset(name, config, split=split)
    except (ValueError, OSError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"--dataset {name}: {str(error).strip().splitlines()[0]}") from None


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = command.parse([PrepareArguments], argv)
    if (arguments.text is None) == (arguments.dataset is None):
        raise InputError("name the text, either files (--text) or a dataset (--dataset), not both")
    refuse_occupied(arguments.output_dir, arguments.overwrite)
    refuse_replaced([arguments.tokenizer], arguments.output_dir)
    info = prepare(
        arguments.output_dir,
        load_tokenizer(arguments.tokenizer, arguments.lowercase),
        arguments.text,
        arguments.dataset and load_dataset(arguments.dataset, arguments.dataset_config, arguments.split),
        column=arguments.column,
        mode=arguments.mode,
        max_length=arguments.max_length,
        min_length=arguments.min_length,
        max_unknown=arguments.max_unknown,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
        progress=not arguments.disable_tqdm,
    )
    print(report(info, arguments.output_dir))


def report(info: dict[str, Any], output_dir: str | os.PathLike[str]) -> str:
    """What `prepare` did, in two lines."""
    megabytes = info["text_bytes"] / 1e6
    dropped = f"dropped {info['dropped_short']:,} short rows, {info['dropped_unknown']:,} of unknown words"
    return (
        f"{info['lines']:,} texts, {megabytes:.1f} MB -> {info['rows']:,} rows, {info['tokens']:,} tokens ({dropped})\n"
        f"{info['seconds']:.2f} s, {megabytes / info['seconds']:.1f} MB/s -> {output_dir}"
    )
