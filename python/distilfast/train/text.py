"""Text as batches: prepared where it is raw, checked against the models that are to read it, planned and masked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from transformers import PreTrainedModel

from .. import _files as files
from .._core import InputError
from ..batches.masked import MaskedBatches
from ..batches.settings import Masking
from ..models.families import longest_row
from ..prepare.directory import PreparedTokens, load_tokens, unknown_note, unknown_share
from ..prepare.rows import encode_and_cut
from ..prepare.run import prepare
from ..prepare.sources import TEXT_COLUMN, refuse_idle_column
from ..prepare.text import read_texts
from ..tokenizer import Tokenizer, load_tokenizer
from ..tokenizer_files import has_tokenizer
from .arguments import DataArguments, DistillationArguments
from .inputs import Arguments
from .model_arguments import ModelArguments
from .text_shares import shares_notes, with_shares

TEXT = "text.json"  # beside tokens that were prepared here: of which text
PADDED_VOCABULARY = 128  # models round their vocabulary up to a multiple of this at most


def is_prepared(source: Any) -> bool:
    """Whether `source` is a directory that `prepare` wrote."""
    return isinstance(source, str | PathLike) and (Path(source) / "tokens.json").is_file()


def open_tokens(
    models: ModelArguments,
    data: DataArguments,
    args: DistillationArguments,
    tokenizer: Tokenizer | None,
    tokens: PreparedTokens | None,
    write: bool,
    column: str = "text",
) -> PreparedTokens:
    """The prepared tokens; raw text is prepared into the output directory first, and found there on a resume.

    column: of the text in jsonl and parquet.
    """
    if data.tokens is not None:
        tokens = load_tokens(data.tokens)
    elif tokens is None:
        folder = Path(str(args.output_dir)) / "tokens"
        if tokenizer is None:
            raise InputError("text needs a tokenizer: give --tokenizer, or a teacher that has one")
        read = {name: getattr(data, name) for name in ("text", "text_weights", "min_length")} | {"text_column": column}
        if args.resume_from_checkpoint and folder.is_dir():
            refuse_other_text(folder, read)
        elif write:
            prepare(
                folder,
                tokenizer,
                data.text,
                max_length=data.max_length,
                min_length=data.min_length,
                column=column,
                overwrite=args.overwrite or bool(args.resume_from_checkpoint),
                progress=not args.disable_tqdm,
            )
            files.write_json(folder / TEXT, read)
        tokens = load_tokens(folder)
    if tokenizer is not None:
        tokens.check_tokenizer(tokenizer, data.tokenizer or (models.teacher or ["the teacher"])[0])
    return tokens if data.text_weights is None else with_shares(tokens, data.text_weights)


def refuse_other_text(folder: Path, read: Mapping[str, Any]) -> None:
    """Refuses to resume with text, or a way to read it (`read`), that is not what was prepared into `folder`."""
    try:
        before = json.loads((folder / TEXT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    for name, value in read.items():
        if before.get(name, value) != value:
            was, given = (
                " ".join(map(str, each)) if isinstance(each, list) else each for each in (before[name], value)
            )
            raise InputError(
                f"cannot resume: --{name} was {was} and is {given}. Pass what the run was started with, or its tokens "
                f"with --tokens {folder}, or start a new run with --student"
            )


def column_of(arguments: Arguments) -> str:
    """The column of raw text in jsonl and parquet. Raises `InputError` for several, and for one where no text that is
    read has any."""
    models, rows, data, _ = arguments
    named = rows.text_column or [TEXT_COLUMN]
    if len(named) > 1:
        raise InputError(f"--text_column {' '.join(named)}: text has one column; two are of rows that are pairs")
    read = (data.text, data.validation_text, data.guard_text, models.vocabulary_text)
    refuse_idle_column(named[0], [name for names in read for name in names or ()])
    return named[0]


def read_notes(tokens: PreparedTokens) -> list[str]:
    """What the texts came to, and what of them was left out, a line each."""
    info, notes = tokens.info, []
    if "lines" in info:
        dropped = f"{info['dropped_short']:,} of fewer than {info['min_length']} tokens (--min_length)"
        notes.append(
            f"text: {info['lines']:,} texts made {info['rows']:,} rows; left out {dropped}, "
            f"{info['dropped_unknown']:,} of unknown words"
        )
    warning = unknown_note(unknown_share(tokens.tokenizer, tokens.token_counts))
    return [*notes, *shares_notes(info), *([warning] if warning else [])]


def choose_tokenizer(
    models: ModelArguments, data: DataArguments, loaded: Sequence[PreTrainedModel | None] = ()
) -> Tokenizer | None:
    """The tokenizer named, or the teacher's; None where prepared tokens bring the only one there is."""
    if data.tokenizer is not None:
        return load_tokenizer(data.tokenizer)
    if models.teacher is None or (loaded and loaded[0] is not None and not loaded[0].name_or_path):
        return None
    directory = Path(models.teacher[0])
    if directory.is_dir() and not has_tokenizer(directory):
        return None
    try:
        return Tokenizer.from_pretrained(models.teacher[0])
    except InputError:
        if data.tokens is None:
            raise
        return None


def holds_tokenizer(path: str) -> bool:
    """Whether the directory `path` holds a tokenizer."""
    return has_tokenizer(Path(path))


def check_vocabularies(
    models: ModelArguments, teachers: Sequence[PreTrainedModel], student: PreTrainedModel, tokenizer: Tokenizer
) -> None:
    """Refuses models that cannot be meant for the tokenizer."""
    for name, teacher in zip(models.teacher or [], teachers, strict=True):
        check_vocabulary(teacher, tokenizer, f"the teacher {name}")
    check_vocabulary(student, tokenizer, "the student")


def check_vocabulary(model: PreTrainedModel, tokenizer: Tokenizer, whose: str) -> None:
    """Refuses a model that cannot be meant for the tokenizer: with fewer entries, or other words under its ids.

    A vocabulary rounded up is fine, and any number of spare entries where the model's own tokenizer has the same words,
    or the model was made for these tokens here.
    """
    own = tokenizer_beside(model)
    if own is not None:
        tokenizer.check_words(own, whose)
    spare = model.config.vocab_size - tokenizer.vocab_size
    unknown = own is None and bool(model.name_or_path)
    if spare < 0 or (unknown and spare >= PADDED_VOCABULARY):
        raise InputError(
            f"{whose} has a vocabulary of {model.config.vocab_size:,} entries, but the tokens come from a tokenizer of "
            f"{tokenizer.vocab_size:,}; use the tokenizer that the model was trained with"
        )


def tokenizer_beside(model: PreTrainedModel) -> Tokenizer | None:
    """The tokenizer that lies where `model` was loaded from, if there is one that loads."""
    name = model.name_or_path
    if not name or (files.is_path(name) and not (Path(name).is_dir() and has_tokenizer(Path(name)))):
        return None
    try:
        return load_tokenizer(name)
    except InputError:
        return None


def check_positions(batches: MaskedBatches, models: Sequence[PreTrainedModel]) -> None:
    """Refuses rows longer than a model has positions for, which would end in an index out of range."""
    for model in models:
        positions = longest_row(model)
        if positions is not None and batches.longest > positions:
            raise InputError(
                f"the longest row has {batches.longest} tokens, but {type(model).__name__} has positions for "
                f"{positions}; prepare the text with --max_length {positions}"
            )


def build_masking(data: DataArguments) -> Masking:
    return Masking(
        prob=data.mlm_mask_prop,
        mask=data.word_mask,
        keep=data.word_keep,
        random=data.word_rand,
        smoothing=data.mlm_smoothing,
        whole_word=data.whole_word_mask,
        count=data.mask_count,
        compat="distilbert" if data.masking_compat == "distilbert" else None,
    )


def build_batches(data: DataArguments, args: DistillationArguments, tokens: PreparedTokens) -> MaskedBatches:
    """Masked batches of the tokens, planned for the optimiser steps of all ranks together; the layout is chosen."""
    assert args.batches_per_step is not None
    assert data.layout != "auto"
    return MaskedBatches(
        tokens.dataset,
        tokens.tokenizer,
        batch_tokens=data.batch_tokens,
        max_length=data.max_length,
        masking=build_masking(data),
        layout=data.layout,
        seed=args.seed if args.data_seed is None else args.data_seed,
        batches_per_step=args.batches_per_step,
        token_counts=tokens.token_counts,
        threads=data.loader_threads or torch.get_num_threads(),
        kl_sample_share=args.kl_sample_share if args.kl_positions == "sampled" else 0.0,
    )


def evaluates(args: DistillationArguments) -> bool:
    """Whether the student is evaluated while it is trained."""
    return args.eval_strategy != "no" or args.eval_on_start


def build_held_out(
    data: DataArguments, args: DistillationArguments, tokenizer: Tokenizer, column: str = "text"
) -> tuple[MaskedBatches | None, list[str]]:
    """The batches of --validation_text, None where there is none, and what is to be said of them.

    Raises `InputError` for held-out text that is never looked at, or the reverse.
    """
    if data.validation_text is None:
        if evaluates(args) and data.guard_text is None:
            raise InputError("--eval_strategy and --eval_on_start need held-out text: give --validation_text")
        return None, []
    if not evaluates(args):
        raise InputError("--validation_text is never looked at with --eval_strategy no; give --eval_strategy epoch")
    rows, cut = encode_and_cut(tokenizer, read_texts(data.validation_text, column=column), data.max_length)
    notes = [f"held-out text: {len(rows):,} texts, {cut:,} of them cut to {data.max_length} tokens"] if cut else []
    return fixed_batches(rows, data, tokenizer), notes


def fixed_batches(rows: pa.ListArray, data: DataArguments, tokenizer: Tokenizer) -> MaskedBatches:
    """Batches that are the same in every epoch and run: 15 % of the tokens masked, as `distilfast evaluate` does."""
    assert data.layout != "auto"
    return MaskedBatches(
        rows,
        tokenizer,
        batch_tokens=data.batch_tokens,
        max_length=data.max_length,
        masking=Masking(),
        layout=data.layout,
        threads=data.loader_threads or torch.get_num_threads(),
    )
