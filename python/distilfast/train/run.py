"""`python -m distilfast.train`: a teacher and text become a student.

From top to bottom: arguments, tokens, models, batches, training, the student's directory.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from .. import _command as command
from .. import _files as files
from .._core import InputError, __version__
from ..batches.masked import MaskedBatches, Masking
from ..models.load import load_student, load_teacher, refuse_bare_directory
from ..models.student import build_from_config, create_student, read_config
from ..prepare.directory import PreparedTokens, load_tokens
from ..prepare.run import prepare
from ..tokenizer import Tokenizer, load_tokenizer
from ..tokenizer_files import has_tokenizer
from .arguments import DataArguments, DistillationArguments, ModelArguments, recipe
from .checkpoint import checkpoints, find_checkpoint
from .trainer import DistillationTrainer

SUMMARY = "train_summary.json"
TEXT = "text.json"  # beside tokens that were prepared here: of which text
PRETRAINING = {"alpha_ce": 0.0, "alpha_cos": 0.0, "alpha_mlm": 1.0}
PADDED_VOCABULARY = 128  # models round their vocabulary up to a multiple of this at most


def main(argv: Sequence[str] | None = None) -> None:
    models, data, args = parse(argv)
    first = args.process_index == 0
    if first:
        prepare_output(args)
    with nothing_left_if_refused(args, first):
        build_masking(data)  # what is wrong with it is said before the text is prepared
        teachers = load_teachers(models)
        with args.main_process_first(desc="preparing text"):
            tokens = open_tokens(models, data, args, write=first)
        student = load_or_cut_student(models, args, teachers, tokens)
        batches = build_batches(data, args, tokens)
        check_positions(batches, [*teachers, student])
        trainer = build_trainer(models, args, teachers, student, batches, tokens)
    if first:
        if not args.resume_from_checkpoint:
            for old in checkpoints(str(args.output_dir)):
                shutil.rmtree(old)  # of the run that is replaced: a later resume must not find them
        print(describe(trainer, batches), flush=True)
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    if trainer.interrupted:
        print(f"stopped by SIGTERM at step {trainer.state.global_step}; resume with --resume_from_checkpoint last")
        raise SystemExit(143)

    save_student(trainer, summarise(models, data, trainer, batches, time.perf_counter() - started))
    if first:
        print(f"the student is in {args.output_dir}")


def parse(argv: Sequence[str] | None) -> tuple[ModelArguments, DataArguments, DistillationArguments]:
    """The arguments; a recipe's values, and those of pretraining, are defaults under what is given."""
    dataclasses = [ModelArguments, DataArguments, DistillationArguments]
    models, data, args = command.parse(dataclasses, argv)
    defaults = dict(PRETRAINING) if models.teacher is None else {}
    if args.recipe is not None:
        defaults = {**recipe(args.recipe), **defaults}
    if defaults:
        models, data, args = command.parse(dataclasses, argv, defaults)
    if (data.text is None) == (data.tokens is None):
        raise InputError("give the text, either raw with --text or prepared with --tokens, and not both")
    if models.teacher is None and models.student_config is None and models.student is None:
        raise InputError("give --teacher to distil, or --student_config to pretrain a model without one")
    return models, data, args


def prepare_output(args: DistillationArguments) -> None:
    """Refuses an output directory with something in it, unless the run goes on in it or replaces it."""
    assert args.output_dir is not None
    if args.resume_from_checkpoint:
        find_checkpoint(args.resume_from_checkpoint, args.output_dir)  # refuses where there is none
        return
    folder = files.refuse_occupied(args.output_dir, args.overwrite)
    refuse_unwritable(folder)


def refuse_unwritable(folder: Path) -> None:
    """Refuses a place that nothing can be written to, before hours of work."""
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir():
        raise InputError(f"--output_dir {folder}: {parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--output_dir {folder}: {parent} cannot be written to")


@contextmanager
def nothing_left_if_refused(args: DistillationArguments, first: bool) -> Iterator[None]:
    """Removes what was prepared here where the arguments turn out wrong: the next attempt finds an empty place."""
    folder = Path(str(args.output_dir))
    was_there = folder.is_dir(), (folder / "tokens").exists()
    try:
        yield
    except InputError:
        if first and not was_there[1]:
            shutil.rmtree(folder / "tokens", ignore_errors=True)
        if first and not was_there[0] and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def open_tokens(
    models: ModelArguments, data: DataArguments, args: DistillationArguments, write: bool
) -> PreparedTokens:
    """The prepared tokens; raw text is prepared into the output directory first, and found there on a resume."""
    tokenizer = choose_tokenizer(models, data)
    if data.tokens is not None:
        tokens = load_tokens(data.tokens)
    else:
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


def choose_tokenizer(models: ModelArguments, data: DataArguments) -> Tokenizer | None:
    """The tokenizer named, or the teacher's; None where prepared tokens bring the only one there is."""
    if data.tokenizer is not None:
        return load_tokenizer(data.tokenizer)
    if models.teacher is None:
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


def load_teachers(models: ModelArguments) -> list[PreTrainedModel]:
    for name in models.teacher or []:
        refuse_bare_directory(name, "--teacher")
    return [
        load_teacher(name, revision=models.revision, trust_remote_code=models.trust_remote_code)
        for name in models.teacher or []
    ]


def load_or_cut_student(
    models: ModelArguments, args: DistillationArguments, teachers: list[PreTrainedModel], tokens: PreparedTokens
) -> PreTrainedModel:
    """The student, once all models are known to have the tokens' vocabulary."""
    tokenizer = tokens.tokenizer
    for name, teacher in zip(models.teacher or [], teachers, strict=True):
        check_vocabulary(teacher, tokenizer, f"the teacher {name}")
    if models.student is not None:
        student = load_student(models.student, models.trust_remote_code)
    elif models.student_config is not None:
        config = read_config(models.student_config, vocab_size=tokenizer.vocab_size, pad_token_id=tokenizer.pad_id)
        student = build_from_config(config, args.seed)
    else:
        layers: Any = models.layers
        if layers is not None and len(layers) == 1:
            layers = layers[0]
        student = create_student(teachers[0], layers, models.init, args.seed)
    check_vocabulary(student, tokenizer, "the student")
    return student


def check_vocabulary(model: PreTrainedModel, tokenizer: Tokenizer, whose: str) -> None:
    """Refuses a model that cannot be meant for the tokenizer; a vocabulary rounded up is fine."""
    spare = model.config.vocab_size - tokenizer.vocab_size
    if not 0 <= spare < PADDED_VOCABULARY:
        raise InputError(
            f"{whose} has a vocabulary of {model.config.vocab_size:,} entries, but the tokens come from a tokenizer of "
            f"{tokenizer.vocab_size:,}; use the tokenizer that the model was trained with"
        )


def check_positions(batches: MaskedBatches, models: list[PreTrainedModel]) -> None:
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


def build_trainer(
    models: ModelArguments,
    args: DistillationArguments,
    teachers: list[PreTrainedModel],
    student: PreTrainedModel,
    batches: MaskedBatches,
    tokens: PreparedTokens,
) -> DistillationTrainer:
    try:
        return DistillationTrainer(
            student, teachers, args, batches, processing_class=tokens.tokenizer, teacher_weights=models.teacher_weights
        )
    except (ValueError, ImportError) as error:
        # Trainer's own, of arguments such as --report_to.
        raise InputError((str(error).strip() or type(error).__name__).splitlines()[0]) from None


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
    )


def describe(trainer: DistillationTrainer, batches: MaskedBatches) -> str:
    """What is about to happen, in a few lines."""
    args, step = trainer.args, trainer.step
    student = f"student: {type(step.student).__name__}, {step.student.num_parameters():,} parameters"
    lines = [student]
    for teacher in reversed(step.teachers):
        lines.insert(0, f"teacher: {type(teacher).__name__}, {teacher.num_parameters():,} parameters")
    lines.append(
        f"data: {batches.num_tokens:,} tokens, {len(batches):,} batches an epoch, {args.batches_per_step} a step on "
        f"{args.world_size} rank{'s' * (args.world_size > 1)}, padding {batches.padding:.1%}"
    )
    lines.append(f"computing in {str(args.compute_dtype).removeprefix('torch.')} on {args.device}")
    return "\n".join(lines)


def summarise(
    models: ModelArguments, data: DataArguments, trainer: DistillationTrainer, batches: MaskedBatches, seconds: float
) -> dict[str, Any]:
    """What `train_summary.json` holds: first what a reader looks for, then all of it."""
    args, step, state = trainer.args, trainer.step, trainer.state
    lines = [entry for entry in state.log_history if "loss" in entry]
    return {
        "teacher": " and ".join(models.teacher or []) or None,
        "init": models.init if models.teacher else "random",
        **{name: value for name, value in dataclasses.asdict(step.objective).items() if name != "impl"},
        "mlm_mask_prop": data.mlm_mask_prop,
        "mlm_smoothing": data.mlm_smoothing,
        "batch_tokens": data.batch_tokens,
        "batches_per_step": args.batches_per_step,
        "learning_rate": args.learning_rate,
        "steps": state.global_step,
        "epochs": state.epoch,
        "seconds": seconds,
        "tokens_per_epoch": batches.num_tokens,
        "batches_per_epoch": len(batches),
        "padding": batches.padding,
        "data_fingerprint": batches.state_fingerprint,
        "ranks": args.world_size,
        "computing_dtype": str(args.compute_dtype).removeprefix("torch."),
        "student_parameters": step.student.num_parameters(),
        "teacher_parameters": [teacher.num_parameters() for teacher in step.teachers],
        "last_log": lines[-1] if lines else None,
        "log": lines,
        "run": trainer.describe_run(),
        "versions": {
            "distilfast": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def save_student(trainer: DistillationTrainer, summary: dict[str, Any]) -> None:
    """The student and its tokenizer in the output directory, each file whole, and the summary as the last."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    folder = Path(str(trainer.args.output_dir))
    beside = folder / ".student.partial"
    trainer.save_model(str(beside))
    if trainer.args.process_index != 0:
        return
    files.open_to_umask(beside)
    for path in sorted(beside.iterdir()):
        path.replace(folder / path.name)
    beside.rmdir()
    files.write_json(folder / SUMMARY, summary)
