"""`distil`, the road from a teacher and data to a student; `distilfast train` calls it with what its flags say.

From top to bottom: arguments, teachers and their head, batches, student, training, the student's directory.
"""

from __future__ import annotations

import dataclasses
import difflib
import shutil
import time
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from .. import _command as command
from .._core import InputError
from ..batches.masked import MaskedBatches
from ..heads.choice import choose_head
from ..heads.head import Head
from ..models.head import head_called, head_of
from ..models.load import load_student, load_teacher, refuse_bare_directory
from ..models.saved_tokenizer import save_tokenizer
from ..models.student import build_from_config, create_student, read_config
from ..prepare.directory import PreparedTokens
from ..tokenizer import Tokenizer
from . import output, text
from .arguments import DataArguments, DistillationArguments, ModelArguments
from .checkpoint import checkpoints
from .defaults import defaults_of
from .trainer import DistillationTrainer

Model = str | PathLike[str] | PreTrainedModel
"""A directory, a Hub id, or a model that is loaded."""


KINDS: tuple[Any, ...] = (ModelArguments, DataArguments, DistillationArguments)


class Arguments(NamedTuple):
    """What a run is told."""

    models: ModelArguments
    data: DataArguments
    training: DistillationArguments


class Given(NamedTuple):
    """What is handed over in Python where a flag could only name it."""

    teachers: Sequence[PreTrainedModel | None] = ()
    """For each of `ModelArguments.teacher` the model, if it is loaded."""
    student: PreTrainedModel | None = None
    tokenizer: Tokenizer | None = None
    tokens: PreparedTokens | None = None


class TrainingInterruptedError(RuntimeError):
    """SIGTERM ended the training; a checkpoint of that moment is written, and the message says how to go on."""

    exit_code = 143  # of the command


def distil(
    teacher: Model | Sequence[Model] | None,
    train: str | PathLike[str] | Sequence[str | PathLike[str]] | PreparedTokens,
    output_dir: str | PathLike[str],
    validation: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    student: Model | None = None,
    layers: int | Sequence[int] | None = None,
    tokenizer: str | PathLike[str] | Tokenizer | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Distils `teacher` into a student in `output_dir`, and returns what `train_summary.json` there holds.

    teacher: a directory, a Hub id or a loaded model; several are an ensemble; None pretrains `student_config`.
    train: text files, or tokens that `prepare` wrote (their directory, or what `load_tokens` gave).
    validation: held-out text files, scored while training as `eval_strategy` says (default: "epoch").
    student: a model to train on, instead of one that is cut. layers: how many of the teacher's layers, or which.
    tokenizer: needed with a loaded teacher and raw text; otherwise the teacher's.
    options: every flag of `distilfast train` by its name, the fields of `DistillationArguments` among them.

    A loaded model is changed as training asks (`models.adapt`); the student is trained in place. Raises `InputError`
    for what cannot work, before anything is written; `NonFiniteLossError`, `CheckpointError` and
    `TrainingInterruptedError` while training.
    """
    teachers: list[Model] = _as_list(teacher)
    loaded = [each if isinstance(each, PreTrainedModel) else None for each in teachers]
    sources: list[Any] = _as_list(train)
    is_prepared = len(sources) == 1 and text.is_prepared(sources[0])
    values: dict[str, Any] = {
        "teacher": [_name_of(each) for each in teachers] or None,
        "text": None if isinstance(train, PreparedTokens) or is_prepared else [str(each) for each in sources],
        "tokens": str(sources[0]) if is_prepared else None,
        "output_dir": str(output_dir),
        "validation_text": [str(each) for each in _as_list(validation)] or None,
        "student": None if student is None else _name_of(student),
        "layers": None if layers is None else [layers] if isinstance(layers, int) else list(layers),
        "tokenizer": None if tokenizer is None or isinstance(tokenizer, Tokenizer) else str(tokenizer),
    }
    values = {name: value for name, value in values.items() if value is not None}
    _refuse_unknown(options)
    values |= options
    given = Given(
        loaded,
        student if isinstance(student, PreTrainedModel) else None,
        tokenizer if isinstance(tokenizer, Tokenizer) else None,
        train if isinstance(train, PreparedTokens) else None,
    )
    return run(values, given)


def cut_student(
    teacher: str | PathLike[str], tokens: str | PathLike[str], output_dir: str | PathLike[str], **options: Any
) -> None:
    """Writes the student that `distil` with the same arguments starts from, and its tokenizer."""
    values = {"teacher": [str(teacher)], "tokens": str(tokens), "output_dir": str(output_dir), **options}
    models, data, args = arguments_of(values)
    teachers = load_teachers(models, args, Given())
    tokenizer = text.choose_tokenizer(models, data)
    found = text.open_tokens(models, data, args, tokenizer, None, write=False)
    student = load_or_cut_student(models, args, teachers, found, Given())
    student.save_pretrained(output_dir)
    save_tokenizer(found.tokenizer, student, output_dir)


def main(argv: Sequence[str] | None = None) -> None:
    run(command.given(KINDS, argv), Given())


def run(values: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """The whole run; `values` are the fields of `Arguments` that were given, and win over the head's defaults."""
    models, data, args = arguments_of(values)
    _check_sources(models, data, given)
    first = args.process_index == 0
    if first:
        output.prepare(args)
    with output.nothing_left_if_refused(args, first):
        text.build_masking(data)  # what is wrong with it is said before the text is prepared
        teachers = load_teachers(models, args, given)
        name = choose_head_name(args, teachers)
        defaults = defaults_of(name, bool(models.teacher), args.recipe)
        if data.validation_text is not None:
            defaults["eval_strategy"] = "epoch"
        models, data, args = arguments_of({"head": name, **defaults, **values})
        with args.main_process_first(desc="preparing text"):
            tokenizer = given.tokenizer or text.choose_tokenizer(models, data, given.teachers)
            tokens = text.open_tokens(models, data, args, tokenizer, given.tokens, write=first)
        student = load_or_cut_student(models, args, teachers, tokens, given)
        head = choose_head(teachers[0] if teachers else student, name)
        batches = text.build_batches(data, args, tokens)
        held_out = text.build_held_out(data, args, tokens)
        text.check_positions(batches, [*teachers, student])
        trainer = build_trainer(models, args, teachers, student, batches, held_out, tokens, head)
        trainer.adapt_models()
    if first:
        if not args.resume_from_checkpoint:
            for old in checkpoints(str(args.output_dir)):
                shutil.rmtree(old)  # of the run that is replaced: a later resume must not find them
        print(output.describe(trainer, batches), flush=True)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trainer.interrupted:
        raise TrainingInterruptedError(
            f"stopped by SIGTERM at step {trainer.state.global_step}; resume with --resume_from_checkpoint last"
        )
    if held_out is not None and (args.load_best_model_at_end or not output.evaluated_last(trainer)):
        trainer.evaluate()
    summary = output.summarise(models, data, trainer, batches, time.perf_counter() - started)
    output.save_student(trainer, summary)
    if first:
        print(f"the student is in {args.output_dir}")
    return summary


def _check_sources(models: ModelArguments, data: DataArguments, given: Given) -> None:
    if (data.text is None) == (data.tokens is None and given.tokens is None):
        raise InputError("give the text, either raw with --text or prepared with --tokens, and not both")
    if models.teacher is None and models.student_config is None and models.student is None:
        raise InputError("give --teacher to distil, or --student_config to pretrain a model without one")


def load_teachers(models: ModelArguments, args: DistillationArguments, given: Given) -> list[PreTrainedModel]:
    """The teachers, each with the head that was asked for or that its checkpoint holds."""
    names, loaded = models.teacher or [], list(given.teachers) or [None] * len(models.teacher or [])
    wanted = "auto" if args.head is None else head_called(args.head)
    for name, model in zip(names, loaded, strict=True):
        if model is None:
            refuse_bare_directory(name, "--teacher")
    return [
        load_teacher(name, wanted, revision=models.revision, trust_remote_code=models.trust_remote_code)
        if model is None
        else model
        for name, model in zip(names, loaded, strict=True)
    ]


def choose_head_name(args: DistillationArguments, teachers: Sequence[PreTrainedModel]) -> str:
    """The head that was asked for, or that of the first teacher; masked_lm where there is none."""
    if args.head is not None:
        name: str = head_called(args.head)
    else:
        name = head_of(teachers[0]) if teachers else "masked_lm"
    if name not in text.HEADS:
        kind = f"the teacher is a {type(teachers[0]).__name__}" if teachers else f"--head {name}"
        raise InputError(
            f"{kind}: for {name} give rows to distilfast task_distillation, or "
            "distil its encoder alone with --head hidden_states"
        )
    return name


def load_or_cut_student(
    models: ModelArguments,
    args: DistillationArguments,
    teachers: Sequence[PreTrainedModel],
    tokens: PreparedTokens,
    given: Given,
) -> PreTrainedModel:
    """The student, once all models are known to have the tokens' vocabulary."""
    tokenizer = tokens.tokenizer
    for name, teacher in zip(models.teacher or [], teachers, strict=True):
        text.check_vocabulary(teacher, tokenizer, f"the teacher {name}")
    if given.student is not None:
        student = given.student
    elif models.student is not None:
        student = load_student(models.student, models.trust_remote_code)
    elif models.student_config is not None:
        config = read_config(models.student_config, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id)
        student = build_from_config(config, args.seed)
    else:
        layers: Any = models.layers
        if layers is not None and len(layers) == 1:
            layers = layers[0]
        student = create_student(teachers[0], layers, models.init, args.seed)
    text.check_vocabulary(student, tokenizer, "the student")
    return student


def build_trainer(
    models: ModelArguments,
    args: DistillationArguments,
    teachers: Sequence[PreTrainedModel],
    student: PreTrainedModel,
    batches: MaskedBatches,
    held_out: MaskedBatches | None,
    tokens: PreparedTokens,
    head: Head,
) -> DistillationTrainer:
    try:
        return DistillationTrainer(
            student,
            teachers,
            args,
            batches,
            eval_dataset=held_out,
            processing_class=tokens.tokenizer,
            teacher_weights=models.teacher_weights,
            head=head,
        )
    except (ValueError, ImportError) as error:
        # Trainer's own, of arguments such as --report_to.
        raise InputError((str(error).strip() or type(error).__name__).splitlines()[0]) from None


def arguments_of(values: Mapping[str, Any]) -> Arguments:
    """The dataclasses with `values` in their fields, and their own defaults elsewhere."""
    return Arguments(
        *(
            kind(**{field.name: values[field.name] for field in dataclasses.fields(kind) if field.name in values})
            for kind in KINDS
        )
    )


def _refuse_unknown(options: Mapping[str, Any]) -> None:
    known = {field.name for kind in KINDS for field in dataclasses.fields(kind) if field.init}
    for name in options:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise InputError(f"distil() has no option {name!r}{hint}")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _name_of(model: Model) -> str:
    """The path or id of a model; of one that is loaded, where it is from, or its class."""
    if isinstance(model, PreTrainedModel):
        return model.name_or_path or type(model).__name__
    return str(model)
