"""Text as batches: prepared where it is raw, checked against the models that are to read it, planned and masked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .. import _files as files
from .._core import InputError
from ..batches.masked import MaskedBatches
from ..batches.settings import Masking
from ..metrics.held_out import read_text
from ..prepare.directory import PreparedTokens, load_tokens
from ..prepare.run import prepare
from ..tokenizer import Tokenizer, load_tokenizer
from ..tokenizer_files import has_tokenizer
from .arguments import DataArguments, DistillationArguments, ModelArguments

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
) -> PreparedTokens:
    """The prepared tokens; raw text is prepared into the output directory first, and found there on a resume."""
    if data.tokens is not None:
        tokens = load_tokens(data.tokens)
    elif tokens is None:
        folder = Path(str(args.output_dir)) / "tokens"
        if tokenizer is None:
            raise InputError("text needs a tokenizer: give --tokenizer, or a teacher that has one")
        if args.resume_from_checkpoint and folder.is_dir():
            refuse_other_text(folder, data.text)
        elif write:
            prepare(
                folder,
                tokenizer,
                data.text,
                max_length=data.max_length,
                overwrite=args.overwrite or bool(args.resume_from_checkpoint),
                progress=not args.disable_tqdm,
            )
            files.write_json(folder / TEXT, {"text": data.text})
        tokens = load_tokens(folder)
    if tokenizer is not None:
        tokens.check_tokenizer(tokenizer, data.tokenizer or (models.teacher or ["the teacher"])[0])
    return tokens


def refuse_other_text(folder: Path, text: list[str] | None) -> None:
    """Refuses to resume with --text `text` where what was prepared into `folder` is another."""
    try:
        before = json.loads((folder / TEXT).read_text(encoding="utf-8"))["text"]
    except FileNotFoundError:
        return
    if before != text:
        raise InputError(
            f"cannot resume: --text was {' '.join(before)} and is {' '.join(text or [])}. Pass what the run was started"
            f" with, or its tokens with --tokens {folder}, or start a new run with --student"
        )


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
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and model.config.model_type in ("roberta", "xlm-roberta", "camembert"):
            positions -= model.config.pad_token_id + 1  # their positions begin after the padding's
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
    """Masked batches of the tokens, planned for the optimiser steps of all ranks together."""
    assert args.batches_per_step is not None
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


def build_held_out(data: DataArguments, args: DistillationArguments, tokens: PreparedTokens) -> MaskedBatches | None:
    """The held-out text as batches, the same in every epoch: 15 % of its tokens masked, as `distilfast evaluate` does.

    None where there is none. Raises `InputError` for held-out text that is never looked at, or the reverse.
    """
    evaluates = str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no" or args.eval_on_start
    if data.validation_text is None:
        if evaluates:
            raise InputError("--eval_strategy and --eval_on_start need held-out text: give --validation_text")
        return None
    if not evaluates:
        raise InputError("--validation_text is never looked at with --eval_strategy no; give --eval_strategy epoch")
    rows = tokens.tokenizer.encode_batch(read_text(data.validation_text), max_length=data.max_length)
    return MaskedBatches(
        rows,
        tokens.tokenizer,
        batch_tokens=data.batch_tokens,
        max_length=data.max_length,
        masking=Masking(),
        layout=data.layout,
        threads=data.loader_threads or torch.get_num_threads(),
    )
