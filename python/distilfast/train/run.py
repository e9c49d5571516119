"""`distil`, the road from a teacher and data to a student; `distilfast train` calls it with what its flags say.

From top to bottom: arguments, teachers and their head, batches, student, training, the student's directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .. import _command as command
from .._core import InputError
from .._files import first_line, may_be_folder
from ..batches.labelled import LabelledBatches
from ..heads.choice import HEADS
from ..models.head import head_called, head_of, is_sentence_encoder, modules_of
from ..models.load import head_in, load_model
from ..models.saved_tokenizer import save_tokenizer
from ..prepare.directory import PreparedTokens
from ..tokenizer import Tokenizer
from ..vocabulary.from_files import describe
from . import labelled, output, text
from .defaults import defaults_of, evaluation_defaults
from .evaluation import check_best_metric
from .guard import forgetting, forgetting_lines, measure, start_lines
from .inputs import (
    KINDS,
    Arguments,
    Given,
    Model,
    arguments_of,
    as_list,
    name_of,
    reads,
    refuse_foreign,
    refuse_idle,
    refuse_unknown,
)
from .kept_outputs import keep_teachers
from .material import Material, rows_material, text_material
from .report import next_commands, report, report_lines
from .row_arguments import COLUMNS
from .sample import of_tokens
from .sentence_material import sentence_material
from .stopped import TrainingInterruptedError, resume, told_when_stopped
from .student import check_words, load_teachers, make_student, with_fewer_words
from .trainer import DistillationTrainer


def distil(
    teacher: Model | Sequence[Model] | None,
    train: Any,
    output_dir: str | PathLike[str],
    validation: Any = None,
    unlabelled: Any = None,
    student: Model | None = None,
    layers: int | Sequence[int] | str | None = None,
    tokenizer: Any = None,
    report: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Distils `teacher` into a student in `output_dir`, and returns what `train_summary.json` there holds.

    teacher: a directory, a Hub id or a loaded model; several are an ensemble; None trains `student` on labels alone, or
        pretrains `student_config`. What it is says what is learned from:
    train: for masked-language models and encoders text files, or tokens that `prepare` wrote (their directory, or what
        `load_tokens` gave); for classifiers, taggers and question answerers rows: a file (csv, tsv, json, jsonl,
        parquet, CoNLL), a folder, a data set's name, a `datasets.Dataset`, `pandas.DataFrame`, `pyarrow.Table`, a list
        of dictionaries or a dictionary of columns.
    validation: held-out text files, or rows; scored while training as `eval_strategy` says (default: "epoch"). None
        holds out a tenth of the rows, unless `train` has a split for it.
    unlabelled: more rows, whose labels are not read.
    student: a model to train on, instead of one that is cut. layers: how many of the teacher's layers, which, or
        "auto".
    tokenizer: needed with a loaded teacher that is from nowhere; otherwise the teacher's.
    report: False leaves out what a run ends with: the evaluation of the last student, and the scores, size and speed
        of the saved one.
    options: every flag of `distilfast train` by its name, the fields of `DistillationArguments` among them.

    A loaded model is changed as training asks (`models.adapt`); the student is trained in place. Raises `InputError`
    for what cannot work, before anything is written; `NonFiniteLossError`, `CheckpointError` and
    `TrainingInterruptedError` while training.
    """
    teachers: list[Model] = as_list(teacher)
    is_tokens = isinstance(train, PreparedTokens)
    is_prepared = not is_tokens and text.is_prepared(train)
    asked: Any = layers.split() if isinstance(layers, str) else layers
    by_name = tokenizer is None or isinstance(tokenizer, str | PathLike)
    values: dict[str, Any] = {
        "teacher": [name_of(each, "teacher") for each in teachers] or None,
        "tokens": str(train) if is_prepared else None,
        "output_dir": output_dir,
        "student": None if student is None else name_of(student, "student"),
        "layers": list(asked) if isinstance(asked, Iterable) else None if asked is None else [asked],
        "tokenizer": str(tokenizer) if tokenizer is not None and by_name else None,
    }
    if not isinstance(output_dir, str | PathLike):
        raise InputError(f"output_dir is {output_dir!r}; give the directory that the student goes to")
    if not (by_name or isinstance(tokenizer, Tokenizer | PreTrainedTokenizerBase)):
        raise InputError(
            f"tokenizer is a {type(tokenizer).__name__}; give a directory, an id on the Hub, or a tokenizer"
        )
    values = {name: value for name, value in values.items() if value is not None}
    refuse_unknown(options)
    values |= {name: value for name, value in options.items() if value is not None}
    given = Given(
        [each if isinstance(each, PreTrainedModel) else None for each in teachers],
        student if isinstance(student, PreTrainedModel) else None,
        None if by_name else tokenizer,
        train if is_tokens else None,
        None if is_tokens or is_prepared else train,
        validation,
        unlabelled,
    )
    return run(values, given, report)


def cut_student(
    teacher: str | PathLike[str], tokens: str | PathLike[str], output_dir: str | PathLike[str], **options: Any
) -> None:
    """Writes the student that `distil` with the same arguments starts from, and its tokenizer."""
    values = {"teacher": [str(teacher)], "tokens": str(tokens), "output_dir": str(output_dir), **options}
    models, _, data, args = arguments_of(values)
    teachers = load_teachers(models, args, Given())
    found = text.open_tokens(models, data, args, text.choose_tokenizer(models, data), None, write=False)
    student, _ = make_student(models, args, teachers, Given(), partial(of_tokens, found))
    text.check_vocabularies(models, teachers, student, found.tokenizer)
    student.save_pretrained(output_dir)
    save_tokenizer(found.tokenizer, student, output_dir)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        run(command.given(KINDS, arguments), Given())
    except TrainingInterruptedError as error:
        if os.environ.get("RANK", "0") != "0":  # the first rank says it for all
            raise SystemExit(error.exit_code) from None
        if not error.resumable:
            raise
        raise TrainingInterruptedError(f"{error}. Go on with: {resume(arguments)}", error.exit_code - 128) from None


def run(values: Mapping[str, Any], given: Given, scored: bool = True) -> dict[str, Any]:
    """The whole run; `values` are the fields of `Arguments` that were given, and win over the head's defaults.

    `scored`: it ends with an evaluation and a report."""
    arguments = arguments_of({**evaluation_defaults(values), **values})
    _check_sources(arguments, given)
    args = arguments.training
    first = args.process_index == 0
    if first:
        output.prepare(args, reads(arguments, given))
        if arguments.models.cache_teacher is not None:
            may_be_folder(arguments.models.cache_teacher)
    with output.nothing_left_if_refused(args, first):
        teachers = load_teachers(arguments.models, args, given)
        name = choose_head_name(arguments, given, teachers)
        values = {**_placed(values, given, name), "head": name}
        arguments = arguments_of(_with_defaults(values, name, given))
        args = arguments.training
        refuse_idle(values, arguments)
        check_words(arguments, HEADS[name].takes_rows or name == "embedding")
        of_words: dict[str, Any] = {}
        if arguments.models.vocabulary is not None:
            sizes = [teacher.num_parameters() for teacher in teachers]
            fitted, given, teachers = with_fewer_words(arguments, given, teachers)
            of_words = {"vocabulary": fitted.report, "teacher_parameters": sizes}
            if first:
                print("\n".join(describe(fitted.report)), flush=True)
        with args.main_process_first(desc="preparing the data"):
            build = sentence_material if name == "embedding" else text_material
            build = rows_material if HEADS[name].takes_rows else build
            material = build(arguments, given._replace(named=frozenset(values)), teachers, first)
        trainer = build_trainer(arguments, teachers, material)
        trainer.adapt_models()
        check_best_metric(values.get("metric_for_best_model"), trainer.step, args, material.held_out)
        guard = material.guard if scored else None
        start = None if guard is None else measure(guard, trainer.step, args.device)
        if first:
            before = [] if start is None else start_lines(start)
            print(output.describe(trainer, material), *before, sep="\n", flush=True)
    if args.dry_run:
        return output.summarise(arguments, trainer, material, 0.0) | of_words
    if arguments.models.cache_teacher is not None and isinstance(material.batches, LabelledBatches):
        with args.main_process_first(desc="what the teacher says"):
            lines = keep_teachers(trainer, material.batches, arguments.models.cache_teacher, first)
        print("\n".join(lines if first else []), end="\n" * first, flush=True)
    if first and args.overwrite and not args.resume_from_checkpoint:
        output.remove_replaced_run(args, arguments.models.cache_teacher)
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trainer.interrupted:
        number = trainer.interruption.signal
        raise TrainingInterruptedError(
            f"stopped by {number.name} at step {trainer.state.global_step}; the checkpoint of that moment is in "
            f"{args.output_dir}, and --resume_from_checkpoint last goes on from it",
            number,
        )
    stands = output.whole_checkpoint(args)
    kept = f"{stands} is whole, with all its steps" if stands else "no checkpoint was kept"
    with told_when_stopped(f"stopped after the last step, before the student was saved; {kept}", stands is not None):
        unknown = args.load_best_model_at_end or not output.evaluated_last(trainer)
        if scored and material.held_out is not None and unknown:
            trainer.evaluate()
        summary = output.summarise(arguments, trainer, material, trainer.meter.seconds) | of_words
        if guard is not None and start is not None:
            summary["guard"] = forgetting(start, measure(guard, trainer.step, args.device), guard)
            if first:
                print(*forgetting_lines(summary["guard"]), sep="\n", flush=True)
        output.save_student(trainer, summary, material)
    if first:
        print(f"the student is in {args.output_dir}", flush=True)
    if first and scored and material.labelled is not None:
        missing = "what it keeps of its teacher was not measured; distilfast evaluate measures it"
        with told_when_stopped(f"stopped; the student in {args.output_dir} is whole, but {missing}", False):
            summary |= final_report(arguments, given, trainer, material)
            output.write_summary(trainer, summary)
    if first and stands is not None:
        print(output.how_to_train_on(stands))
    if args.push_to_hub:
        trainer.push_to_hub()
    return summary


def _check_sources(arguments: Arguments, given: Given) -> None:
    models, rows, data, _ = arguments
    in_python = given.train is not None or given.tokens is not None
    sources = [name for name in ("text", "tokens") if getattr(data, name) is not None]
    sources += ["train_file"] if labelled.source_of(rows)[0] is not None else []
    if len(sources) + in_python > 1:
        raise InputError(
            f"give what to learn from with one of {', '.join('--' + name for name in sources)}, and not both"
        )
    if not sources and not in_python:
        raise InputError(
            "give what to learn from: text, either raw with --text or prepared with --tokens; or for classifiers, "
            "taggers and question answerers rows, with --train_file, --dataset_name or --task"
        )
    if models.teacher is None and models.student_config is None and models.student is None:
        raise InputError(
            "give --teacher to distil, or --student_config to pretrain a model without one, or --student and rows to "
            "fine-tune one"
        )


def choose_head_name(arguments: Arguments, given: Given, teachers: Sequence[PreTrainedModel]) -> str:
    """The head that was asked for, or the first teacher's; without a teacher that of the student, where it has one that
    learns from rows, else classification for rows and masked_lm for text."""
    name: str
    if arguments.training.head is not None:
        name = head_called(arguments.training.head)
    elif teachers:
        name = head_of(teachers[0])
        path = teachers[0].name_or_path
        if name == "hidden_states" and (arguments.models.pooling or (path and is_sentence_encoder(path))):
            name = "embedding"
        elif name == "hidden_states" and path and (modules := modules_of(path)):
            kinds = ", ".join(str(module.get("type")) for module in modules)
            raise InputError(
                f"{path} is made of {kinds}, which gives no vector of a text that is known here; --head hidden_states "
                "distils its encoder alone"
            )
    else:
        named = arguments.models.student
        holds = head_of(given.student) if given.student is not None else None if named is None else head_in(named)
        learns_rows = labelled.source_of(arguments.rows)[0] is not None or labelled.are_rows(given.train)
        of_text = "masked_lm" if given.student is None else str(holds)
        name = str(holds) if holds in labelled.KINDS else "classification" if learns_rows else of_text
    if name not in HEADS:
        kind = f"the teacher is a {type(teachers[0]).__name__}" if teachers else f"--head {name}"
        raise InputError(f"{kind}: the head {name} cannot be trained; there is {', '.join(HEADS)}")
    return name


def _placed(values: Mapping[str, Any], given: Given, head: str) -> dict[str, Any]:
    """`values` with the text that Python handed over under the names of its flags; rows stay objects."""
    kind = HEADS[head]
    if kind.takes_rows:
        return dict(values)
    found = dict(values)
    if given.unlabelled is not None:
        raise InputError(f"unlabelled is for heads that learn from rows with labels, not for {head}; give it as train")
    for name, value in (("text", given.train), ("validation_text", given.validation)):
        files = as_list(value)
        if not all(isinstance(each, str | PathLike) for each in files):
            raise InputError(
                f"{head} learns from text: give files, or what load_tokens gave, not {type(value).__name__}"
            )
        if files:
            found[name] = [str(each) for each in files]
    return found


def _with_defaults(values: Mapping[str, Any], head: str, given: Given) -> dict[str, Any]:
    """`values` over the head's defaults. Raises `InputError` for flags of other heads."""
    takes_rows, teacher = HEADS[head].takes_rows, (values.get("teacher") or [None])[0]
    refuse_foreign(values, head, takes_rows, f"that of {teacher}" if teacher else "asked for")
    defaults = defaults_of(head, teacher is not None, values.get("recipe"))
    files = ("validation_text", "sts_file", "retrieval_dir")
    held_out = takes_rows or any(values.get(name) is not None for name in files)
    return {**defaults, **(evaluation_defaults(values) if held_out else {}), **values}


def build_trainer(arguments: Arguments, teachers: Sequence[PreTrainedModel], material: Material) -> DistillationTrainer:
    try:
        return DistillationTrainer(
            material.student,
            teachers if material.runs_teachers else (),
            arguments.training,
            material.batches,
            eval_dataset=material.held_out,
            processing_class=material.tokenizer,
            teacher_weights=arguments.models.teacher_weights,
            head=material.head,
        )
    except (ValueError, ImportError) as error:
        # Trainer's own, of arguments such as --report_to.
        raise InputError(first_line(error)) from None


def final_report(
    arguments: Arguments, given: Given, trainer: DistillationTrainer, material: Material
) -> dict[str, Any]:
    """{"report": ...} of the student as it was saved and the teachers as they were given, printed as well."""
    assert material.labelled is not None
    assert isinstance(material.held_out, LabelledBatches)
    models, args = arguments.models, arguments.training
    run = material.labelled
    names, length = list(run.id2label.values()), run.max_length
    by_name = not any(model is not None for model in given.teachers)
    student = load_model(str(args.output_dir), material.head.name)
    teachers = load_teachers(models, args, given, say=False) if by_name else trainer.step.teachers
    mixture = trainer.step.teacher_weights
    labels = run.validation.targets.values
    found = report(student, teachers, mixture, material.head, material.held_out, labels, names, args.device, by_name)
    for line in report_lines(found):
        print(line)
    teacher, validation = models.teacher[0] if models.teacher else None, arguments.rows.validation_file
    if validation is None and isinstance(given.validation, str | PathLike):
        validation = str(given.validation)
    columns = {name: getattr(arguments.rows, name) for name in COLUMNS}
    for line in next_commands(str(args.output_dir), teacher, validation, material.head.name, length, columns):
        print(line)
    return {"report": found}
