"""`python -m distilfast.prepare`: text to a prepared directory of token ids, at the speed of tokeniser and disk.

Text is read ahead in blocks by one thread, tokenised by as many as asked for, cut into rows and written by another;
nothing is held but the blocks on their way.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
from tqdm import tqdm

from .._command import REQUIRED, changed, flag, parse, refuse_idle, watch_hub
from .._core import InputError, RowCutter
from .._files import first_line, is_path, refuse_occupied, whole_directory
from ..tokenizer import Tokenizer
from ..tokenizer import load_tokenizer as load_tokenizer
from .directory import PreparedTokens as PreparedTokens
from .directory import TokenWriter, unknown_note, write_description
from .directory import load_tokens as load_tokens
from .records import check_column
from .rules import RowRuleFields, RowRules
from .sources import TEXT_COLUMN, TextCounts, find_texts, refuse_idle_column
from .text import TextBlock, read_dataset, read_files

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass
class PrepareArguments:
    """Flags of `python -m distilfast.prepare`."""

    tokenizer: str = flag(
        REQUIRED, "vocab.txt, tokenizer.json, a directory that holds one of them, or a name on the hub"
    )
    output_dir: str = flag(REQUIRED, "directory to write; must not hold anything yet")
    text: list[str] | None = flag(
        None,
        "files of text (a line is a text, a blank line ends a document), jsonl or parquet; directories and patterns "
        "of them",
    )
    dataset: str | None = flag(
        None, "instead of --text: a dataset on the hub, a folder of save_to_disk, or a file (csv, tsv, jsonl)"
    )
    dataset_config: str | None = flag(None, "configuration of the dataset, if it has several")
    split: str = flag("train", "split of the dataset")
    column: str = flag(TEXT_COLUMN, "column of the text in jsonl, parquet and datasets")
    mode: str = flag(
        RowRules.mode,
        "lines: a text is a row, cut where it is longer than --max_length; packed: the texts of a document are "
        "joined, whole, up to --max_length",
        choices=["lines", "packed"],
    )
    max_length: int = flag(RowRules.max_length, "most tokens of a row, [CLS] and [SEP] included")
    min_length: int = flag(RowRules.min_length, "rows with fewer tokens are dropped; 0 keeps all")
    max_unknown: float = flag(RowRules.max_unknown, "rows with this share of [UNK] or more are dropped; 2 keeps all")
    lowercase: bool | None = flag(
        None, "whether a vocab.txt is of lower-case text (default: as the file's own settings say)"
    )
    skip_bad_rows: bool = flag(False, "leave out, and count, rows without text and lines that are not UTF-8")
    threads: int | None = flag(None, "threads of the tokeniser (default: RAYON_NUM_THREADS or all)")
    overwrite: bool = flag(False, "replace what output_dir holds, once the new is whole")
    disable_tqdm: bool = flag(False, "no progress bar")


def prepare(
    output_dir: str | Path,
    tokenizer: Tokenizer | str | Path,
    text: Sequence[str | Path] | str | Path | None = None,
    dataset: Any = None,
    *,
    column: str = "text",
    skip_bad_rows: bool = False,
    threads: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    **rules: Unpack[RowRuleFields],
) -> dict[str, Any]:
    """Writes the prepared directory `output_dir` from files or a `datasets.Dataset` and returns its `tokens.json`.

    Exactly one of `text` (a name as for `--text`, or several) and `dataset` is given. rules: the fields of `RowRules`.
    Special tokens written in the text are ordinary text. skip_bad_rows: leave out rows without text and lines that are
    not UTF-8 and count them, rather than refuse them. `output_dir` appears when it is whole: an exception or a kill
    leaves what was there before.

    Raises `InputError` for what cannot be read, for a tokenizer without [CLS], [SEP], [PAD] or [MASK], for an
    `output_dir` that holds something, and where no row is left.
    """
    if (text is None) == (dataset is None):
        raise InputError("name the text, either files (--text) or a dataset (--dataset), not both")
    reads = [tokenizer] if isinstance(tokenizer, str | Path) else []
    refuse_occupied(output_dir, overwrite, reads)
    tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
    row_rules = RowRules(**rules)
    cutter = row_rules.cutter(tokenizer)
    counts = TextCounts(skip_bad_rows)
    texts: dict[str, list[Path]] = {}
    blocks: Iterator[tuple[int, TextBlock]]
    if text is not None:
        texts = find_texts(text, counts)
        reads += (paths := [path for files in texts.values() for path in files])
        blocks = (
            (number, block)
            for number, files in enumerate(texts.values())
            for block in read_files(files, column, counts=counts)
        )
        total, unit = sum(path.stat().st_size for path in paths), "B"
    else:
        _refuse_other_datasets(dataset)
        check_column(column, dataset.column_names, "the dataset", "--column")
        reads += [file["filename"] for file in getattr(dataset, "cache_files", [])]
        blocks = ((0, block) for block in read_dataset(dataset, column, counts=counts))
        total, unit = len(dataset), " rows"

    started = time.perf_counter()
    with (
        whole_directory(output_dir, overwrite, reads) as directory,
        closing(TokenWriter(directory, tokenizer.vocab_size)) as writer,
        tqdm(total=total, unit=unit, unit_scale=True, desc="prepare", disable=not progress) as bar,
    ):
        text_bytes, ends = _write_rows(blocks, max(1, len(texts)), tokenizer, cutter, writer, threads, bar.update)
        totals = cutter.totals_by_name
        if not totals["rows"]:
            raise InputError(
                f"no row is left of {totals['lines']:,} texts: {totals['dropped_short']:,} rows had fewer than "
                f"{row_rules.min_length} tokens (--min_length), {totals['dropped_unknown']:,} a share of [UNK] of "
                f"{row_rules.max_unknown} or more (--max_unknown: does the vocabulary fit the language?)"
                + (f"; {counts.sentence()}" if counts.sentence() else "")
            )
        info = {**vars(row_rules), **totals, **counts.as_dict(), "text_bytes": text_bytes}
        starts = [(0, 0), *ends]
        info["texts"] = [
            {"name": Path(name).name, "rows": end[0] - start[0], "tokens": end[1] - start[1]}
            for name, start, end in zip(texts, starts, ends, strict=False)  # a data set has no texts
        ]
        described = write_description(directory, tokenizer, cutter.token_counts, writer.finish(), info)
    return {**described, "seconds": time.perf_counter() - started}


def _refuse_other_datasets(dataset: Any) -> None:
    """Raises `InputError` for what is not one `datasets.Dataset` of known length."""
    import datasets

    if isinstance(dataset, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        raise InputError(f"the dataset has the splits {', '.join(dataset)}; give one of them, as dataset['train']")
    if not isinstance(dataset, datasets.Dataset):
        raise InputError(
            f"dataset is a {type(dataset).__name__}, not a datasets.Dataset; make one with datasets.Dataset.from_list, "
            "from_pandas, from_generator or load_dataset without streaming"
        )


def _write_rows(
    blocks: Iterator[tuple[int, TextBlock]],
    texts: int,
    tokenizer: Tokenizer,
    cutter: RowCutter,
    writer: TokenWriter,
    threads: int | None,
    update: Callable[[int], Any],
) -> tuple[int, list[tuple[int, int]]]:
    """Tokenises, cuts and writes all blocks, each with the number of its text, of so many `texts`; the number of bytes
    of text in them, and the rows and tokens that are written when each text has ended."""
    text_bytes = 0
    ends: list[tuple[int, int]] = []

    def end_text() -> None:
        rest = cutter.finish()
        if len(rest):
            writer.write(rest)
        totals = cutter.totals_by_name
        ends.append((totals["rows"], totals["tokens"]))

    def cut_and_write(token_ids: Any, number: int, block: TextBlock) -> None:
        while len(ends) < number:
            end_text()
        rows = cutter.push(token_ids, block.document_starts)
        if len(rows):
            writer.write(rows)
        update(block.progress)

    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as writing:
        written: Future[None] | None = None
        reader = reading.submit(next, blocks, None)
        while (read := reader.result()) is not None:
            number, block = read
            reader = reading.submit(next, blocks, None)
            token_ids = tokenizer.encode_batch(
                block.texts, add_special_tokens=False, threads=threads, split_special_tokens=True
            )
            text_bytes += pc.sum(pc.binary_length(block.texts)).as_py() or 0
            if written is not None:
                written.result()
            written = writing.submit(cut_and_write, token_ids, number, block)
        if written is not None:
            written.result()
    while len(ends) < texts:
        end_text()
    return text_bytes, ends


def load_dataset(name: str, config: str | None = None, split: str = "train") -> Any:
    """A split of a dataset on the hub, of a directory written by `save_to_disk`, or the rows of a file (csv, tsv,
    jsonl, parquet), every text as it is written.

    Raises `InputError` where there is no such dataset, configuration or split.
    """
    import datasets  # here, so that preparing files starts without its second of imports

    directory = Path(name)
    if directory.exists() and config is not None:
        raise InputError(f"--dataset_config {config} is of a dataset on the Hub, and {name} is here; leave it out")
    if directory.is_file():
        from .table import read_rows

        if split != "train":
            raise InputError(f"--split {split}: {name} is one file, which has no splits; leave it out")
        return datasets.Dataset(read_rows(directory, split).table)
    if is_path(name) and not directory.exists():
        raise InputError(f"--dataset {name}: there is no such file or directory")
    try:
        if (directory / "state.json").is_file() or (directory / "dataset_dict.json").is_file():
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.Dataset):
                if split != "train":
                    raise InputError(f"--split {split}: {name} is one split that was saved alone; leave it out")
                return loaded
            if split not in loaded:
                raise InputError(f"{name} has no split {split!r}, only {', '.join(loaded)}; pass --split")
            return loaded[split]
        return datasets.load_dataset(name, config, split=split)
    except InputError:
        raise
    except Exception as error:  # whatever reads the files of a data set raises, as the class that it likes
        told = first_line(error)
        cause = error.__cause__ or error.__context__
        if cause is not None and first_line(cause) not in told:
            told = f"{told}: {first_line(cause)}"
        raise InputError(f"--dataset {name}: {told}") from None


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([PrepareArguments], argv)
    idle = (("dataset",), ("split", "dataset_config"))
    refuse_idle(changed(arguments), (idle,), partial(getattr, arguments))
    if (arguments.text is None) == (arguments.dataset is None):
        raise InputError("name the text, either files (--text) or a dataset (--dataset), not both")
    refuse_occupied(arguments.output_dir, arguments.overwrite, [arguments.tokenizer, arguments.dataset])
    if arguments.text is not None:
        refuse_idle_column(arguments.column, arguments.text)
    if arguments.dataset is not None or not Path(arguments.tokenizer).exists():
        watch_hub()
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
        skip_bad_rows=arguments.skip_bad_rows,
        threads=arguments.threads,
        overwrite=arguments.overwrite,
        progress=not arguments.disable_tqdm,
    )
    print(report(info, arguments.output_dir))


def report(info: dict[str, Any], output_dir: str | os.PathLike[str]) -> str:
    """What `prepare` did and what it left out, in two or three lines."""
    megabytes = info["text_bytes"] / 1e6
    dropped = f"dropped {info['dropped_short']:,} short rows, {info['dropped_unknown']:,} of unknown words"
    files = f"{info['text_files']:,} files, " if info["text_files"] else ""
    counts = TextCounts(False, 0, Counter(info["passed_over"]), info["skipped_without_text"], info["skipped_not_utf8"])
    left_out = f"{counts.sentence()}\n" if counts.sentence() else ""
    warning = unknown_note(info["unknown_share"])
    left_out += f"{warning}\n" if warning else ""
    return (
        f"{files}{info['lines']:,} texts, {megabytes:.1f} MB -> {info['rows']:,} rows, {info['tokens']:,} tokens, "
        f"{info['unknown_share']:.1%} [UNK] ({dropped})\n{left_out}"
        f"{info['seconds']:.2f} s, {megabytes / info['seconds']:.1f} MB/s -> {output_dir}"
    )
