"""The models of a run: the teachers as they were given or are loaded, the student that is cut, loaded or built, and
both of fewer words."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from .._core import InputError
from ..models.classes import align_classes
from ..models.head import head_called
from ..models.load import existing, head_in, load_model, load_student, load_teacher
from ..models.narrow import Widths, check_widths
from ..models.student import build_from_config, create_student, read_student_config
from ..models.vocabulary import keep_words
from ..prepare.labelled import LabelledData
from ..prepare.labels import new_classes
from ..prepare.targets import label_kind, label_lists, label_values
from ..vocabulary.from_files import Fitted, fit_vocabulary
from . import text
from .arguments import DistillationArguments
from .inputs import Arguments, Given
from .layer_choice import Vectors, choose_by_loss
from .model_arguments import ModelArguments
from .sample import Sample

logger = logging.getLogger(__name__)


def load_teachers(
    models: ModelArguments, args: DistillationArguments, given: Given, say: bool = True
) -> list[PreTrainedModel]:
    """The teachers, each with the head that was asked for or that its checkpoint holds; the classes of all in the order
    of the first's."""
    names, loaded = models.teacher or [], list(given.teachers) or [None] * len(models.teacher or [])
    wanted = "auto" if args.head is None else head_called(args.head)
    for name, model in zip(names, loaded, strict=True):
        if model is None:
            existing(name, "--teacher")
    teachers = [
        load_teacher(name, wanted, revision=models.revision, trust_remote_code=models.trust_remote_code)
        if model is None
        else model
        for name, model in zip(names, loaded, strict=True)
    ]
    if teachers:
        for note in align_classes(teachers, names):
            logger.log(logging.WARNING if say else logging.DEBUG, "%s", note)
    return teachers


def make_student(
    models: ModelArguments,
    args: DistillationArguments,
    teachers: Sequence[PreTrainedModel],
    given: Given,
    sample: Sample,
    head: str = "auto",
    mask_id: int | None = None,
    vectors: Vectors | None = None,
    **of_config: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """The student: the one given, loaded (with a new head like the teacher's, where it has none), built, or cut; and
    what is to be said of it, a line each.

    `sample`, `mask_id`, `vectors`: what widths and layers are chosen on, see `choose_by_loss`. `of_config`: what a
    --student_config takes where it is silent.
    """
    widths = {name: getattr(models, name) for name in ("hidden_size", "intermediate_size", "num_attention_heads")}
    chosen = [name for name, value in (("layers", models.layers), *widths.items()) if value is not None]
    if chosen and (given.student is not None or models.student is not None or models.student_config is not None):
        raise InputError(f"--{chosen[0]} is for a student that is cut out of its teacher, not for one that is given")
    if given.student is not None:
        return given.student, []
    if models.student is not None:
        like = teachers[0] if teachers and head != "auto" else None
        return load_student(models.student, models.trust_remote_code, head, like, args.seed), []
    if models.student_config is not None:
        if head != "auto":
            raise InputError(f"--student_config builds a model for masked words, not for {head}; give --student")
        return build_from_config(read_student_config(models.student_config, **of_config), args.seed), []
    teacher, notes = teachers[0], []
    layers, automatic = layers_asked(models.layers)
    if any(value is not None for value in widths.values()):
        check_widths(teacher.config, Widths(**widths))  # before any sample is made
    batches = sample() if automatic or any(widths.values()) else []
    if automatic:
        choice = choose_by_loss(teacher, cast("int | None", layers), batches, args.seed, mask_id, vectors)
        layers = choice.taken
        notes.append(choice.note())
    student = create_student(teacher, layers, models.init, args.seed, models.student_type, sample=batches, **widths)
    return student, notes


def layers_asked(words: Sequence[Any] | None) -> tuple[int | list[int] | None, bool]:
    """What `--layers` says, as `create_student` takes it, and whether the layers are to be chosen by their loss.

    Raises `InputError` for words that are neither numbers nor "auto", and for numbers of layers beside "auto".
    """
    automatic = "auto" in (words or [])
    try:
        numbers = [int(word) for word in words or [] if word != "auto"]
    except ValueError:
        raise InputError(
            f"--layers {' '.join(map(str, words or []))}: it takes a number of layers, their numbers, or auto (auto 3: "
            "three that are chosen)"
        ) from None
    if automatic and len(numbers) > 1:
        raise InputError(f"--layers auto chooses the layers itself; give it how many, not {numbers}")
    if not numbers:
        return None, automatic
    return (numbers[0] if len(numbers) == 1 else numbers), automatic


def fine_tuned_student(
    models: ModelArguments,
    args: DistillationArguments,
    given: Given,
    head: str,
    data: LabelledData,
    separator: str | None,
) -> PreTrainedModel:
    """The model that learns from labels alone; a checkpoint without this head gets a new one, for the labels there are.

    Labels that are no whole numbers make a regression, lists of labels a model that gives several. Raises `InputError`
    without labels.
    """
    if given.student is not None:
        return given.student
    assert models.student is not None
    if head_in(models.student) == head:
        return load_student(models.student, models.trust_remote_code, head)
    if head == "questions":
        places = {0: "LABEL_0", 1: "LABEL_1"}  # transformers counts starts and ends as labels
        return _with_new_head(models, args, head, id2label=places, label2id={name: n for n, name in places.items()})
    columns, rows = data.train.columns, data.train.rows
    if not columns.labels:
        raise InputError("without a teacher there must be labels to learn from; name their column with --label_column")
    problem = "single_label_classification"
    # Rows that were held out of the training file may have classes that none of the others has.
    parts = [data.train, *([data.validation] if data.validation.rows.source == rows.source else [])]
    values: list[Any] = [value for part in parts for value in label_values(part.rows, columns.labels[0])]
    names: Any = rows.class_names.get(columns.labels[0])
    kind = label_kind(values)
    several = len(columns.labels) > 1 or separator is not None or kind == "lists"
    if head == "classification" and several:
        problem, names = "multi_label_classification", columns.labels if len(columns.labels) > 1 else names
        values = _flat(one for part in parts for one in label_lists(part.rows, columns.labels, separator)[0])
    elif head == "tokens":
        values = _flat(values)
    elif kind == "floats":
        problem = "regression"
    id2label = {0: "LABEL_0"} if problem == "regression" else new_classes(values, names)
    changes: dict[str, Any] = {
        "id2label": id2label,
        "label2id": {name: number for number, name in id2label.items()},
        "problem_type": problem if head == "classification" else None,
    }
    return _with_new_head(models, args, head, **changes)


def _with_new_head(models: ModelArguments, args: DistillationArguments, head: str, **changes: Any) -> PreTrainedModel:
    """The student's encoder under a head that is drawn from the seed; `changes`: of its configuration."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        student: PreTrainedModel = load_model(
            str(models.student), head, new_head=True, trust_remote_code=models.trust_remote_code, **changes
        )
    student.requires_grad_(True)
    student.train()
    return student


def _flat(lists: Iterable[Sequence[Any] | None]) -> list[Any]:
    return [one for each in lists for one in each or ()]


def check_words(arguments: Arguments, takes_rows: bool) -> None:
    """Refuses, with `InputError`, flags of the vocabulary that do nothing or cannot be followed."""
    models = arguments.models
    if models.vocabulary is None:
        if models.vocabulary_text is not None or models.characters != "all":
            raise InputError("--vocabulary_text and --characters do nothing without --vocabulary; say how many words")
    elif takes_rows:
        raise InputError(
            "--vocabulary is for text; for rows and for sentence encoders give --teacher what distilfast trim "
            "--vocabulary makes of the teacher"
        )
    elif models.teacher is None or arguments.data.text is None:
        raise InputError(
            "--vocabulary chooses from a teacher's words and needs raw --text, which the student's tokenizer then reads"
        )


def with_fewer_words(
    arguments: Arguments, given: Given, teachers: Sequence[PreTrainedModel]
) -> tuple[Fitted, Given, list[PreTrainedModel]]:
    """The vocabulary that is asked for; `given` with its tokenizer; and the teachers with its words.

    Such a teacher has the embeddings of the words that are kept, and a head over these, whose softmax is its
    distribution renormalised over them: it reads the student's ids as its own.
    """
    models, data = arguments.models, arguments.data
    assert models.vocabulary is not None
    whole = given.tokenizer or text.choose_tokenizer(models, data, given.teachers)
    if whole is None:
        raise InputError("--vocabulary needs the teacher's tokenizer: give --tokenizer, or a teacher that has one")
    for name, teacher in zip(models.teacher or [], teachers, strict=True):
        text.check_vocabulary(teacher, whole, f"the teacher {name}")
    words_of = models.vocabulary_text or data.text or []
    fitted = fit_vocabulary(whole, models.vocabulary, words_of, models.characters, text.column_of(arguments))
    fewer = [keep_words(teacher, fitted.vocabulary.teacher_ids) for teacher in teachers]
    return fitted, given._replace(tokenizer=fitted.vocabulary.tokenizer), fewer
