"""What a run is told: the dataclasses of its flags, and the objects that Python hands over in their place."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from .. import _command as command
from .._core import InputError
from .._files import is_path
from ..prepare.directory import PreparedTokens
from .arguments import DataArguments, DistillationArguments
from .model_arguments import ModelArguments
from .row_arguments import RowArguments

Model = str | PathLike[str] | PreTrainedModel
"""A directory, a Hub id, or a model that is loaded."""

KINDS: tuple[Any, ...] = (ModelArguments, RowArguments, DataArguments, DistillationArguments)

OF_ROWS = (
    *(field.name for field in dataclasses.fields(RowArguments) if field.name != "text_column"),
    "per_device_train_batch_size",
)
OF_SENTENCES = (
    *("pooling", "normalize", "keep_dimension", "teacher_vectors", "concatenate_teachers"),
    *("sts_file", "retrieval_dir"),
)
"""Flags of sentence encoders alone."""
NOT_OF_SENTENCES = (
    *("tokens", "alpha_ce", "alpha_mlm", "alpha_task", "alpha_mse", "kl_positions", "cos_positions", "student_config"),
    *("mlm_mask_prop", "word_mask", "word_rand", "mlm_smoothing", "whole_word_mask", "recipe", "min_length"),
)
OF_TEXT = (
    *(field.name for field in dataclasses.fields(DataArguments) if field.name not in ("tokenizer", "max_length")),
    "batches_per_step",
)


HUB = ("hub_model_id", "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision")
LOSSES: command.Parts = (
    (("alpha_ce", "alpha_listnet"), ("temperature",)),
    (("alpha_ce", "alpha_mse"), ("kl_positions", "kl_sample_share", "restrict_ce_to_mask")),
    (("alpha_cos",), ("cos_positions",)),
    (("alpha_task",), ("class_weights",)),
    (("alpha_hidden",), ("hidden_map", "hidden_kind")),
    (("alpha_rel",), ("relation_heads", "relation_layers")),
    (("alpha_similarity",), ("similarity_temperature",)),
    (("alpha_embedding", "alpha_similarity"), ("dimensions",)),
)
"""Flags of losses: nobody reads them where the losses have no weight."""
PARTS: command.Parts = (
    *LOSSES,
    (("push_to_hub",), HUB),
    (("teacher",), ("teacher_weights", "revision", "cache_teacher")),
    (("text",), ("min_length",)),
)


OF_OTHERS = {
    "train_dataset": "train",
    "eval_dataset": "validation",
    "validation_dataset": "validation",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "device": "use_cpu",
    "num_layers": "layers",
    "processing_class": "tokenizer",
    "no_dropout": "dropout=False",
}
"""What other packages call the options of `distil`."""
OF_TRAINER = ("args", "callbacks", "compute_metrics", "data_collator", "optimizers")


class Arguments(NamedTuple):
    """What a run is told."""

    models: ModelArguments
    rows: RowArguments
    data: DataArguments
    training: DistillationArguments


class Given(NamedTuple):
    """What is handed over in Python where a flag could only name it."""

    teachers: Sequence[PreTrainedModel | None] = ()
    """For each of `ModelArguments.teacher` the model, if it is loaded."""
    student: PreTrainedModel | None = None
    tokenizer: Any = None
    tokens: PreparedTokens | None = None
    train: Any = None
    """Text files or rows: the teacher's head says which."""
    validation: Any = None
    unlabelled: Any = None
    named: frozenset[str] = frozenset()
    """The fields of `Arguments` that were given, and are not defaults."""


def reads(arguments: Arguments, given: Given) -> list[str]:
    """The names of all that a run reads, which may be files, folders, or ids on the Hub: none of them may be lost."""
    named: list[Any] = []
    for part, names in (
        (arguments.models, ("teacher", "vocabulary_text", "student", "student_config", "vocabulary")),
        (arguments.rows, ("train_file", "validation_file", "unlabelled_file", "dataset_name", "data_dir")),
        (arguments.data, ("text", "validation_text", "guard_text", "sts_file", "retrieval_dir", "tokens", "tokenizer")),
        (given, ("train", "validation", "unlabelled")),
    ):
        named += [each for name in names for each in as_list(getattr(part, name))]
    return [str(each) for each in named if isinstance(each, str | PathLike)]


def arguments_of(values: Mapping[str, Any]) -> Arguments:
    """The dataclasses with `values` in their fields, and their own defaults elsewhere."""
    of_kinds = (
        {field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values} for kind in KINDS
    )
    return Arguments(*(kind(**command.fitted(kind, given)) for kind, given in zip(KINDS, of_kinds, strict=True)))


def refuse_unknown(options: Mapping[str, Any]) -> None:
    """Raises `InputError` for a name that is no flag's, with the nearest."""
    known = {field.name for kind in KINDS for field in dataclasses.fields(kind) if field.init}
    for name in options:
        if name not in known:
            nearest = [OF_OTHERS[name]] if name in OF_OTHERS else difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            if name in OF_TRAINER:
                hint = "; DistillationTrainer has it, which distil() makes itself"
            raise InputError(f"distil() has no option {name!r}{hint}")


def refuse_foreign(values: Mapping[str, Any], head: str, takes_rows: bool, whose: str) -> None:
    """Refuses, with `InputError`, flags of text where the head learns from rows, and the reverse.

    `whose`: what has the head, in words.
    """
    instead = {
        "text": "give rows with --train_file, or distil the encoder alone with --head hidden_states",
        "tokens": "give rows with --train_file, or distil the encoder alone with --head hidden_states",
        "validation_text": "give rows with --validation_file",
        "batch_tokens": "a batch has a number of rows; use --per_device_train_batch_size",
        "batches_per_step": "use --gradient_accumulation_steps",
        "train_file": "give text with --text, or a teacher that was fine-tuned for a task",
        "validation_file": "give held-out text with --validation_text",
        "per_device_train_batch_size": "a batch has a number of tokens; use --batch_tokens",
    }
    if head != "embedding":
        for name in OF_SENTENCES:
            if values.get(name) is not None:
                raise InputError(f"--{name} is not for the head {head} ({whose}): it is for --head embedding")
    else:
        for name in NOT_OF_SENTENCES:
            if values.get(name) not in (None, 0, False):
                raise InputError(
                    f"--{name} is not for the head {head} ({whose}): texts stay as they are and vectors are compared; "
                    "use --alpha_embedding, --alpha_similarity, --alpha_cos or --alpha_hidden, or --head hidden_states"
                )
    for name, other in {
        "guard_text": "distilfast evaluate --sentences measures a sentence encoder on another text",
        "text_weights": "write the shares that you want into one file",
    }.items():
        if head == "embedding" and values.get(name) is not None:
            raise InputError(
                f"--{name} is not for the head {head} ({whose}): it is for masked_lm and hidden_states; {other}"
            )
    if not takes_rows and values.get("text_column") is not None and values.get("tokens") is not None:
        raise InputError("--text_column names a column of --text, and --tokens are prepared; leave it out")
    if values.get("cache_teacher") is not None and not takes_rows and head != "embedding":
        raise InputError(
            f"--cache_teacher is not for the head {head} ({whose}): its batches differ in every epoch, and with them "
            "what the teacher says; it is for heads that learn from rows and for --head embedding"
        )
    for name in OF_TEXT if takes_rows else OF_ROWS:
        if values.get(name) is not None:
            hint = instead.get(name, f"it is for {'text' if takes_rows else 'rows'}; leave it out")
            raise InputError(f"--{name} is not for the head {head} ({whose}): {hint}")


def refuse_idle(values: Mapping[str, Any], arguments: Arguments) -> None:
    """Refuses, with `InputError`, flags among `values` that the run that `arguments` describe would not read."""
    given = {
        field.name: values[field.name]
        for kind in KINDS
        for field in dataclasses.fields(kind)
        if field.name in values and values[field.name] != field.default
    }
    models, _, _, args = arguments
    everything = {name: value for part in arguments for name, value in vars(part).items()}
    command.refuse_idle(given, PARTS, everything.get)
    reasons = {} if args.kl_positions == "sampled" else {"kl_sample_share": "without --kl_positions sampled"}
    for what in ("eval", "save", "logging"):
        strategy = getattr(args, f"{what}_strategy")
        strategy = str(getattr(strategy, "value", strategy))
        if strategy != "steps" and (what, strategy) != ("eval", "no"):  # which the trainer has its own words for
            reasons[f"{what}_steps"] = f"with --{what}_strategy {strategy}; give --{what}_strategy steps"
    if args.head in ("masked_lm", "hidden_states"):
        reasons["per_device_eval_batch_size"] = f"with the head {args.head}, whose batches are of --batch_tokens"
    if models.student is not None or models.student_config is not None:
        of = "--student" if models.student is not None else "--student_config"
        reasons |= dict.fromkeys(("init", "student_type"), f"with {of}: nothing is cut out of the teacher")
    if models.student is not None:
        reasons["student_config"] = "with --student, which is the student"
    if models.teacher and all(is_path(name) or Path(name).is_dir() for name in models.teacher):
        reasons["revision"] = "with a teacher on this machine: it is one of those on the Hub"
    if models.vocabulary is not None and Path(models.vocabulary).is_file():
        reasons["characters"] = reasons["vocabulary_text"] = "with a file of the words that are kept"
    command.refuse_unread(given, {name: f"{why}, or leave it out" for name, why in reasons.items()})


def set_to_zero(args: DistillationArguments, named: frozenset[str], reasons: Mapping[str, str]) -> list[str]:
    """Sets losses that cannot be computed to 0 where their weights are defaults, and says so.

    reasons: by the names of the weights. Raises `InputError` for one that was asked for (is among `named`).
    """
    changed: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        if getattr(args, name) != 0:
            if name in named:
                raise InputError(f"--{name} {getattr(args, name):g} compares the states of tokens, but {reason}")
            setattr(args, name, 0.0)
            changed.setdefault(reason, []).append(name)
    return [f"{' and '.join(names)} set to 0: {reason}" for reason, names in changed.items()]


def as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def name_of(model: Model, whose: str) -> str:
    """The path or id of a model; of one that is loaded, where it is from, or its class. Raises `InputError` for what is
    none."""
    if isinstance(model, PreTrainedModel):
        return model.name_or_path or type(model).__name__
    if isinstance(model, str | PathLike):
        return str(model)
    given = model if isinstance(model, type) else type(model)
    hint = "; its .model is one" if isinstance(getattr(model, "model", None), PreTrainedModel) else ""
    raise InputError(
        f"{whose} is a {given.__name__}; give a directory, an id on the Hub, or a loaded model of transformers{hint}"
    )
