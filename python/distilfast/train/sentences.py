"""Text for sentence encoders: every text whole, tokenised for each model, with the teachers' vectors where they are
kept or given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from .._core import InputError
from .._files import first_line
from ..batches.encode import Ragged
from ..batches.sentences import NOTHING_KNOWN, Known, SentenceBatches
from ..models.sentence_folder import Role, SentenceSettings
from ..prepare.records import check_column
from ..prepare.rows import encode_and_cut
from ..prepare.sentence_data import read_collection, read_pairs
from ..prepare.sources import find_text_files
from ..prepare.text import column_block, read_files
from ..tokenizer import Tokenizer
from .arguments import DataArguments, DistillationArguments

FEW_TEXTS = 10_000
"""Below so many texts a student learns little of how others relate."""
SAMPLE = 32


@dataclass(frozen=True)
class Reader:
    """How one model reads texts: its tokenizer, what stands before a text, and after how many tokens it is cut."""

    tokenizer: Tokenizer
    settings: SentenceSettings

    def encode(self, texts: pa.Array, role: Role = "text") -> tuple[pa.Array, int]:
        """The ids of `texts` (Arrow lists), and how many texts were cut."""
        prompt = self.prompt(role)
        if prompt or self.settings.do_lower_case:
            whole = [prompt + text for text in texts.to_pylist()]
            texts = pa.array([text.lower() for text in whole] if self.settings.do_lower_case else whole, pa.string())
        return encode_and_cut(self.tokenizer, texts, int(self.settings.max_length or 512))

    def prompt(self, role: Role) -> str:
        return self.settings.prompt(self.settings.prompt_name(role))

    def same_ids(self, other: Reader, roles: Sequence[Role] = ("text",)) -> bool:
        """Whether both give the same ids for every text in these roles."""
        mine, theirs = (
            ([each.prompt(role) for role in roles], each.settings.do_lower_case, each.settings.max_length)
            for each in (self, other)
        )
        return mine == theirs and self.tokenizer.fingerprint == other.tokenizer.fingerprint


class Block(NamedTuple):
    """Some texts, with the teachers' vectors of them where these are given."""

    texts: pa.Array
    vectors: np.ndarray | None = None
    left_out: int = 0
    """How many blank ones stood among them."""
    role: Role = "text"


@dataclass(frozen=True)
class Sentences:
    """The texts of one source as batches want them. `notes`: what a reader must know, a line each."""

    ids: pa.ChunkedArray
    teachers: Sequence[tuple[Ragged, int] | None]
    vectors: np.ndarray | None
    sample: Sequence[str]
    notes: Sequence[str]
    known: Known = NOTHING_KNOWN
    """What is known of held-out texts."""


def read_blocks(names: Sequence[str], vectors: str | None = None, column: str = "text") -> Iterator[Block]:
    """The texts of files (in jsonl and parquet those of `column`) in their order without white space at their ends,
    with the vectors in the column `vectors` of parquet files where it is named, and how many blank ones were left out.

    Raises `InputError` as `find_text_files` and `read_files` do, and for vectors that are missing, not finite or of
    several widths.
    """
    paths = find_text_files(list(names))
    if vectors is not None:
        yield from _with_vectors(paths, vectors, column)
        return
    for block in read_files(paths, column):
        texts = pc.utf8_trim_whitespace(block.texts)
        kept = texts.filter(pc.greater(pc.utf8_length(texts), 0))
        yield Block(kept, None, len(texts) - len(kept))


def _with_vectors(paths: Sequence[Path], column: str, text: str) -> Iterator[Block]:
    import pyarrow.parquet

    width = None
    for path in paths:
        if path.suffix not in (".parquet", ".pq"):
            raise InputError(f"--teacher_vectors {column}: {path} is no parquet file with such a column")
        try:
            file = pyarrow.parquet.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: not a parquet file, or a damaged one: {first_line(error)}") from None
        for name in (text, column):
            check_column(name, file.schema_arrow.names, str(path))
        start = 0
        for batch in file.iter_batches(columns=[text, column]):
            texts = pc.utf8_trim_whitespace(column_block(batch.column(text), text, str(path), start, 0).texts)
            start += len(batch)
            lists = batch.column(column)
            if not _holds_vectors(lists.type) or lists.null_count:
                raise InputError(f"{path}: column {column!r} holds {lists.type}, not a list of numbers in every row")
            lengths = set(pc.list_value_length(lists).to_pylist()) | ({width} if width is not None else set())
            if len(lengths) != 1:
                raise InputError(f"{path}: the vectors in {column!r} have {sorted(lengths)} numbers; all need as many")
            (width,) = lengths
            values = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(lists), width)
            if not np.isfinite(values).all() or not values.any(axis=1).all():
                raise InputError(f"{path}: a vector in {column!r} is all zeros, or has numbers that are not finite")
            kept = pc.greater(pc.utf8_length(texts), 0)
            blank = pc.sum(pc.invert(kept)).as_py() or 0
            yield Block(texts.filter(kept), values[kept.to_numpy(zero_copy_only=False)], blank)


def _holds_vectors(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return False
    return bool(pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def read_sentences(
    names: Sequence[str],
    student: Reader,
    teachers: Sequence[Reader] = (),
    vectors: str | None = None,
    column: str = "text",
) -> Sentences:
    """The texts of files, as the student and each of the `teachers` (those that are run) reads them; see
    `read_blocks`."""
    return encode_sentences(read_blocks(names, vectors, column), " ".join(names), student, teachers)


def read_sentence_pairs(file: str, student: Reader, teachers: Sequence[Reader] = ()) -> Sentences:
    """The texts of pairs, all first ones before all second ones, with people's scores; see `read_pairs`."""
    pairs = read_pairs(file)
    texts = pa.array([*pairs.first, *pairs.second], pa.string())
    found = encode_sentences([Block(texts)], file, student, teachers)
    return replace(found, known=Known(pair_scores=pairs.scores), notes=[*found.notes, *pairs.notes])


def read_search(folder: str, student: Reader, teachers: Sequence[Reader] = ()) -> Sentences:
    """The queries of a collection, then its documents, behind the prompts for them; see `read_collection`."""
    found = read_collection(folder)
    blocks = [
        Block(pa.array(found.queries, pa.string()), role="query"),
        Block(pa.array(found.documents, pa.string()), role="document"),
    ]
    texts = encode_sentences(blocks, folder, student, teachers, ("query", "document"))
    return replace(texts, known=Known(relevant=found.relevant), notes=[*texts.notes, *found.notes])


def encode_sentences(
    blocks: Iterable[Block],
    source: str,
    student: Reader,
    teachers: Sequence[Reader],
    roles: Sequence[Role] = ("text",),
) -> Sentences:
    """The texts of `blocks`, which are in these `roles`, as the student and each of the `teachers` reads them; `source`
    names them in messages."""
    own = [None if each.same_ids(student, roles) else each for each in teachers]
    ids: list[pa.Array] = []
    theirs: list[list[pa.Array]] = [[] for _ in own]
    found: list[np.ndarray] = []
    sample: list[str] = []
    blank = cut = 0
    for texts, values, left_out, role in blocks:
        blank += left_out
        if len(texts) == 0:
            continue
        encoded, long = student.encode(texts, role)
        cut += long
        ids.append(encoded)
        for parts, reader in zip(theirs, own, strict=True):
            if reader is not None:
                parts.append(reader.encode(texts, role)[0])
        if values is not None:
            found.append(values)
        sample += texts.slice(0, SAMPLE - len(sample)).to_pylist()
    if not ids:
        raise InputError(f"{source}: no line with text in it")
    whole = pa.chunked_array(ids)
    notes = [f"texts: {len(whole):,}"]
    if cut:
        notes.append(f"cut to {student.settings.max_length} tokens: {cut:,} ({cut / len(whole):.1%})")
    if blank:
        notes.append(f"blank ones left out: {blank:,}")
    return Sentences(
        whole,
        [
            None if reader is None else (Ragged.of_arrow(pa.chunked_array(parts)), int(reader.tokenizer.pad_id or 0))
            for parts, reader in zip(theirs, own, strict=True)
        ],
        np.concatenate(found) if found else None,
        sample,
        [", ".join(notes)],
    )


def batches_of(
    sentences: Sentences,
    student: Reader,
    data: DataArguments,
    args: DistillationArguments,
    training: bool,
) -> SentenceBatches:
    """Batches to train on, planned for the optimiser steps of all ranks together, or to evaluate on; the layout is
    chosen."""
    assert args.batches_per_step is not None
    assert data.layout != "auto"
    seed = args.seed if args.data_seed is None else args.data_seed
    return SentenceBatches(
        sentences.ids,
        student.tokenizer,
        batch_tokens=data.batch_tokens,
        max_length=int(student.settings.max_length or 512),
        layout=data.layout,
        seed=seed if training else 0,
        batches_per_step=args.batches_per_step if training else 1,
        threads=data.loader_threads or torch.get_num_threads(),
        teachers=sentences.teachers,
        vectors=sentences.vectors,
        shuffle=training,
        known=sentences.known,
    )
