"""What a run is made of, once everything is read: student, head, batches, held-out batches, tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from transformers import PreTrainedModel

from .._core import InputError
from .._files import is_path
from ..batches.labelled import LabelledBatches
from ..batches.masked import MaskedBatches
from ..batches.sentences import SentenceBatches
from ..heads.choice import choose_head
from ..heads.head import Head
from ..models.attention import choose_layout
from ..tokenizer import Tokenizer, load_transformers_tokenizer
from . import labelled, text
from .arguments import ALPHAS, DataArguments, DistillationArguments
from .guard import GUARD, Guard, build_guard
from .inputs import Arguments, Given, set_to_zero
from .kept_outputs import check_cache
from .labelled import LabelledRun
from .sample import of_rows, of_tokens
from .student import fine_tuned_student, make_student
from .teacher_answers import mixing_of, with_pseudo_labels
from .text_shares import check_weights

EVALUATION_ROWS = 32


class Material(NamedTuple):
    """What a trainer takes. `tokenizer`: the one that is saved beside the student."""

    student: PreTrainedModel
    head: Head
    batches: MaskedBatches | LabelledBatches | SentenceBatches
    held_out: MaskedBatches | LabelledBatches | SentenceBatches | dict[str, Any] | None
    """One set of batches, or several by name."""
    tokenizer: Any
    labelled: LabelledRun | None = None
    """The rows, where the head learns from rows."""
    notes: tuple[str, ...] = ()
    """What a reader must know of the data, a line each."""
    sample: tuple[str, ...] = ()
    """Some of the texts, on which what is saved is compared."""
    runs_teachers: bool = True
    """Whether teachers are run while training; not where their vectors are kept."""
    guard: Guard | None = None
    text_shares: list[dict[str, Any]] | None = None
    """Of several texts with weights, what share each has."""


def text_material(arguments: Arguments, given: Given, teachers: Sequence[PreTrainedModel], write: bool) -> Material:
    """Text for masked-language models and encoders; `write`: this process prepares it, where it is raw."""
    models, _, data, args = arguments
    assert args.head is not None
    column = text.column_of(arguments)
    text.build_masking(data)  # what is wrong with it is said before the text is prepared
    if data.text_weights is not None:
        check_weights(data.text_weights, data.text)
    if given.tokenizer is not None and not isinstance(given.tokenizer, Tokenizer):
        raise InputError(
            f"tokenizer is a {type(given.tokenizer).__name__}; text needs a distilfast.Tokenizer or a path"
        )
    tokenizer = given.tokenizer or text.choose_tokenizer(models, data, given.teachers)
    tokens = text.open_tokens(models, data, args, tokenizer, given.tokens, write, column)
    of_config: dict[str, Any] = {"vocab_size": tokens.tokenizer.vocab_size, "pad_token_id": tokens.tokenizer.pad_id}
    mask_id = tokens.tokenizer.mask_id if args.head == "masked_lm" else None
    sample = partial(of_tokens, tokens)
    student, said = make_student(models, args, teachers, given, sample, mask_id=mask_id, **of_config)
    said += other_widths(args, given, student, teachers)
    text.check_vocabularies(models, teachers, student, tokens.tokenizer)
    head = choose_head(teachers[0] if teachers else student, args.head)
    data, chosen = with_layout(data, args, [*teachers, student])
    batches = text.build_batches(data, args, tokens)
    held_out, notes = text.build_held_out(data, args, tokens.tokenizer, column)
    guard = build_guard(data, tokens, column)
    evaluated: dict[str, MaskedBatches] = {}
    if guard is not None:
        notes += guard.notes
        evaluated = {GUARD: guard.guard} if text.evaluates(args) else {}
        evaluated |= {} if held_out is None else {"": held_out}  # the last chooses the best model
    for each in (batches, held_out, None if guard is None else guard.guard):
        if each is not None:
            text.check_positions(each, [*teachers, student])
    notes = [*text.read_notes(tokens), *said, *chosen, *notes]
    return Material(
        student,
        head,
        batches,
        evaluated or held_out,
        tokens.tokenizer,
        notes=tuple(notes),
        guard=guard,
        text_shares=tokens.info.get("shares"),
    )


def rows_material(arguments: Arguments, given: Given, teachers: Sequence[PreTrainedModel], write: bool) -> Material:
    """Rows for classifiers, taggers and question answerers, their labels matched to the teacher's classes."""
    models, rows, data, args = arguments
    assert args.head is not None
    name, seed = args.head, args.seed if args.data_seed is None else args.data_seed
    found = labelled.read(rows, name, seed, given.train, given.validation, given.unlabelled)
    saved = rows_tokenizer(arguments, given)
    tokenizer = copy.deepcopy(saved)
    tokenizer.padding_side = "right"  # on the left it would move the positions of the text, as far as a batch is wide
    if teachers:
        sample = partial(of_rows, found.train, name, tokenizer)
        student, said = make_student(models, args, teachers, given, sample, name)
        said += other_widths(args, given, student, teachers)
    else:
        said = []
        student = fine_tuned_student(models, args, given, name, found, rows.label_separator)
    named = {f"the teacher {each}": model for each, model in zip(models.teacher or [], teachers, strict=True)}
    others = {f"the teacher {each}": each for each in (models.teacher or [])[1:]}
    others |= {f"the student {models.student}": models.student} if models.student else {}
    others = {each: path for each, path in others.items() if _brings_tokenizer(path, given)}
    named["the student"] = student
    whose = data.tokenizer or (models.teacher[0] if models.teacher else str(models.student))
    labelled.check_models(tokenizer, whose, named, others)
    truth = teachers[0] if teachers else student
    readers = [*teachers, student]
    compares_groups = args.alpha_margin_mse != 0 or args.alpha_listnet != 0
    run = labelled.encode(
        found, name, truth.config, readers, tokenizer, data.max_length, rows.label_separator, compares_groups
    )
    ranks = run.validation.rows.groups is not None
    head = choose_head(truth, name, labelled.class_weights(rows.class_weights, run, name), ranks)
    notes = check_cache(arguments, given, head, len(teachers))
    for teacher in teachers:
        teacher.to(args.device)  # type: ignore[arg-type]
    if rows.min_confidence is not None:
        run = with_pseudo_labels(run, teachers, head, rows.min_confidence, EVALUATION_ROWS)
    if not run.num_labelled and not teachers:
        raise InputError("there is no teacher and no row with a label, so there is nothing to learn from")
    student.config.problem_type = getattr(head, "problem_type", None)
    assert args.batches_per_step is not None
    size = args.per_device_train_batch_size
    mixing, note = mixing_of(run, teachers, head, size, seed)
    run = run if note is None else replace(run, notes=(*run.notes, note))
    batches = run.batches(size, args.batches_per_step, seed, mixing)
    held_out = run.held_out(args.per_device_eval_batch_size)
    return Material(student, head, batches, held_out, saved, run, notes=(*said, *notes))


def with_layout(
    data: DataArguments, args: DistillationArguments, models: Sequence[PreTrainedModel]
) -> tuple[DataArguments, list[str]]:
    """`data` with the layout that suits models and device where it is "auto", and what there is to say of it."""
    if data.layout != "auto":
        return data, []
    if args.alpha_rel != 0:
        # Relations are within a sequence: of a packed batch they are taken one by one.
        return replace(data, layout="padded"), []
    layout, note = choose_layout(models, args.compute_dtype, args.device)
    return replace(data, layout=layout), [] if note is None else [note]


def other_widths(
    args: DistillationArguments, given: Given, student: PreTrainedModel, teachers: Sequence[PreTrainedModel]
) -> list[str]:
    """Sets the cosine of hidden states to 0 where the models differ in width and it was not asked for, and says so.

    Where nothing else is compared, --alpha_hidden takes its place, which learns a projection. Raises `InputError` where
    it was asked for."""
    widths = sorted({int(model.config.hidden_size) for model in (student, *teachers)})
    if len(widths) == 1:
        return []
    notes = set_to_zero(args, given.named, {"alpha_cos": f"the models are {' and '.join(map(str, widths))} wide"})
    if args.head == "hidden_states" and notes and not any(getattr(args, name) for name in ALPHAS):
        args.alpha_hidden = 1.0
        notes.append("alpha_hidden set to 1: with a projection it compares states of different widths")
    return notes


def rows_tokenizer(arguments: Arguments, given: Given) -> Any:
    """The tokenizer of transformers that is given, named, or the teacher's; without a teacher the student's."""
    if given.tokenizer is not None:
        if isinstance(given.tokenizer, Tokenizer):
            raise InputError("rows need a tokenizer of transformers, not a distilfast.Tokenizer; pass its directory")
        return given.tokenizer
    models = arguments.models
    name = arguments.data.tokenizer or (models.teacher[0] if models.teacher else models.student)
    loaded = given.teachers[0] if given.teachers else given.student
    if arguments.data.tokenizer is None and loaded is not None and not loaded.name_or_path:
        raise InputError(f"the {type(loaded).__name__} does not say where its tokenizer is; give one with tokenizer=")
    return load_transformers_tokenizer(str(name))


def _brings_tokenizer(path: str, given: Given) -> bool:
    """Whether a model comes with a tokenizer of its own to compare: one on disk that holds none does not."""
    loaded = [model.name_or_path or type(model).__name__ for model in (*given.teachers, given.student) if model]
    return path not in loaded and (not is_path(path) or text.holds_tokenizer(path))
