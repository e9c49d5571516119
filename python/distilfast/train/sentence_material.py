"""What a run on a sentence encoder is made of: each model with what follows it and how it reads texts, the head,
batches of whole texts, and the teachers' vectors where they are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from .._core import InputError
from ..batches.encode import Ragged
from ..batches.tensors import on_device, padded_batch
from ..heads.embedding import Embedding
from ..models.attention import model_inputs
from ..models.families import encoder_of, longest_row, model_input_names
from ..models.pooling import SentenceModules
from ..models.sentence import SentenceEncoder, load_sentence_encoder, sentence_parts, student_modules
from ..models.sentence_folder import read_sentence_folder, transformer_folder
from ..tokenizer import Tokenizer, load_transformers_tokenizer
from .arguments import DistillationArguments
from .checkpoint import fingerprint
from .inputs import Arguments, Given, set_to_zero
from .kept_outputs import AT_ONCE, ids_digest, kept_outputs
from .material import Material, with_layout
from .model_arguments import ModelArguments
from .sample import of_texts
from .sentences import FEW_TEXTS, Reader, Sentences, batches_of, read_search, read_sentence_pairs, read_sentences
from .student import make_student
from .text import column_of


@dataclass(frozen=True)
class Sentence:
    """A model with what makes vectors of its states, and how it reads texts."""

    model: PreTrainedModel
    modules: SentenceModules
    reader: Reader


def teacher_sentence(
    name: str, model: PreTrainedModel, models: ModelArguments, max_length: int | None, tokenizer: str | None
) -> Sentence:
    """A teacher that was loaded from `name`, as its folder or the flags say. Raises `InputError` as `sentence_parts`
    does."""
    of_folder = model.name_or_path or ""
    modules, settings = sentence_parts(
        of_folder or name, model, models.pooling, models.normalize, max_length, models.revision
    )
    path = tokenizer or of_folder
    if not path:
        raise InputError(f"the {type(model).__name__} does not say where its tokenizer is; give one with tokenizer=")
    return Sentence(model, modules, Reader(Tokenizer.from_pretrained(transformer_folder(path)), settings))


def student_sentence(
    model: PreTrainedModel, teachers: Sequence[Sentence], models: ModelArguments, max_length: int | None, seed: int
) -> Sentence:
    """The student with what follows it: its own where it came with modules.json, otherwise the first teacher's, copied;
    and with its own tokenizer where it has one."""
    teacher = teachers[0]
    own, settings, reader = None, teacher.reader.settings, teacher.reader
    if models.student is not None:
        found = read_sentence_folder(models.student, int(model.config.hidden_size))
        if found is not None:
            own, settings = found
        if Path(transformer_folder(models.student)).is_dir():
            reader = Reader(Tokenizer.from_pretrained(transformer_folder(models.student)), settings)
    limits = [each for each in (settings.max_length, max_length, longest_row(model)) if each is not None]
    settings = replace(settings, max_length=min(limits, default=512))
    width = sum(each.modules.width for each in teachers) if models.concatenate_teachers else None
    modules = student_modules(model, teacher.modules, own, models.keep_dimension, seed, width)
    return Sentence(model, modules, Reader(reader.tokenizer, settings))


def sentence_material(arguments: Arguments, given: Given, teachers: Sequence[PreTrainedModel], write: bool) -> Material:
    """Whole texts for a sentence encoder; `write`: this process writes the vectors that are kept."""
    models, _, data, args = arguments
    column = column_of(arguments)
    if data.text is None:
        raise InputError("a sentence encoder learns from whole texts: give them with --text, not with --tokens")
    if not teachers:
        raise InputError("--head embedding needs a teacher: --teacher, which also says how tokens are pooled")
    limit: int | None = data.max_length
    names = models.teacher or []
    loaded = [
        teacher_sentence(name, model, models, limit, data.tokenizer)
        for name, model in zip(names, teachers, strict=True)
    ]
    sample = partial(of_texts, data.text, loaded[0].reader, column)
    student, said = make_student(models, args, teachers, given, sample, vectors=loaded[0].modules)
    _check_concatenation(arguments)
    made = student_sentence(student, loaded, models, limit, args.seed)
    for each in (made, *loaded):
        _check_vocabulary(each)
    runs = models.teacher_vectors is None
    readers = [each.reader for each in loaded] if runs else []
    texts = read_sentences(data.text, made.reader, readers, models.teacher_vectors, column)
    held_out: dict[str, Sentences] = {}
    if data.validation_text is not None:
        vectors = models.teacher_vectors
        held_out["text"] = read_sentences(data.validation_text, made.reader, readers, vectors, column)
    if data.sts_file is not None:
        held_out["sts"] = read_sentence_pairs(data.sts_file, made.reader, readers)
    if data.retrieval_dir is not None:
        held_out["retrieval"] = read_search(data.retrieval_dir, made.reader, readers)
    notes = [
        *texts.notes,
        *said,
        *(f"held out, {name}: {note}" for name, each in held_out.items() for note in each.notes),
    ]
    if models.cache_teacher is not None:
        if not runs or len(loaded) != 1:
            raise InputError("--cache_teacher keeps the vectors of one teacher that is run; give one, or leave it out")
        runs = False
    reasons = _without_states(args, given, made, loaded, runs)  # refused before anything is computed
    if models.cache_teacher is not None:
        texts = with_kept_vectors(texts, loaded[0], models.cache_teacher, args, write)
        held_out = {
            name: with_kept_vectors(each, loaded[0], models.cache_teacher, args, write)
            for name, each in held_out.items()
        }
        notes.append(f"the teacher's vectors are kept in {models.cache_teacher}")
    notes += reasons
    if len(texts.ids) < FEW_TEXTS:
        notes.append(f"warning: {len(texts.ids):,} texts are few; a student learns from some {FEW_TEXTS:,} or more")
    if data.layout == "auto" and any(each is not None for each in texts.teachers):
        data = replace(data, layout="padded")  # as the teachers' own tokens are
    data, chosen = with_layout(data, args, [made.model, *(each.model for each in loaded if runs)])
    notes += chosen
    head = Embedding(
        made.modules,
        made.reader.settings,
        [(each.model, each.modules) for each in loaded] if runs else (),
        None if texts.vectors is None else texts.vectors.shape[1],
        args.seed,
        models.concatenate_teachers,
    )
    evaluated = {name: batches_of(each, made.reader, data, args, training=False) for name, each in held_out.items()}
    own = models.student if made.reader.tokenizer is not loaded[0].reader.tokenizer else None
    tokenizer = saved_tokenizer(str(own or data.tokenizer or teachers[0].name_or_path), student, made.reader)
    return Material(
        student,
        head,
        batches_of(texts, made.reader, data, args, training=True),
        next(iter(evaluated.values()), None) if len(evaluated) < 2 else evaluated,
        tokenizer,
        notes=tuple(notes),
        sample=tuple(texts.sample),
        runs_teachers=runs,
    )


def _check_concatenation(arguments: Arguments) -> None:
    models, _, _, args = arguments
    if not models.concatenate_teachers:
        return
    if len(models.teacher or ()) < 2:
        raise InputError("--concatenate_teachers lays the vectors of several teachers side by side; give two or more")
    if models.teacher_vectors is not None:
        raise InputError("--concatenate_teachers is for teachers that are run, and --teacher_vectors gives the vectors")
    if args.dimensions and models.keep_dimension:
        raise InputError(
            "--dimensions with --concatenate_teachers: the first numbers of vectors side by side are the first "
            "teacher's alone; add --keep_dimension false, which compares them through a projection"
        )


def _check_vocabulary(sentence: Sentence) -> None:
    size = sentence.reader.tokenizer.vocab_size
    if sentence.model.config.vocab_size < size:
        raise InputError(
            f"{sentence.model.name_or_path or type(sentence.model).__name__} has a vocabulary of "
            f"{sentence.model.config.vocab_size:,} entries and its tokenizer one of {size:,}; they do not fit"
        )


def _without_states(
    args: DistillationArguments, given: Given, student: Sentence, teachers: Sequence[Sentence], runs: bool
) -> list[str]:
    """Sets the defaults of losses on token states to 0 where states cannot be compared, and says so.

    Raises `InputError` where such a loss was asked for.
    """
    shared = runs and all(each.reader.same_ids(student.reader) for each in teachers)
    widths = {int(each.model.config.hidden_size) for each in (student, *teachers)}
    why = "only vectors are there" if not runs else "the models have different tokenizers" if not shared else None
    reasons = {} if why is None else dict.fromkeys(("alpha_cos", "alpha_hidden", "alpha_rel"), why)
    if why is None and len(widths) > 1:
        reasons = {"alpha_cos": f"the models are {' and '.join(map(str, sorted(widths)))} wide"}
    return set_to_zero(args, given.named, reasons)


def with_kept_vectors(
    texts: Sentences, teacher: Sentence, folder: str, args: DistillationArguments, write: bool
) -> Sentences:
    """`texts` with the vectors that `teacher` makes of them, float16 and memory-mapped, out of `folder`: found there by
    the texts' ids, the teacher's weights and what follows it, or made once (by the process that is to `write`)."""
    own = texts.teachers[0]
    ids = Ragged.of_arrow(texts.ids) if own is None else own[0]
    pad_id = int(teacher.reader.tokenizer.pad_id or 0) if own is None else own[1]
    key = ids_digest(ids)
    key.update(f"{fingerprint([teacher.model, teacher.modules])} {teacher.modules}".encode())
    parts = _vectors(teacher, ids, pad_id, args.device)
    if args.dry_run:  # which writes nothing
        return replace(texts, teachers=(), vectors=np.broadcast_to(np.float16(0), (len(ids), teacher.modules.width)))
    vectors, _ = kept_outputs(folder, key.hexdigest(), len(ids), np.float16, parts, write)
    return replace(texts, teachers=(), vectors=vectors)


@torch.inference_mode()
def _vectors(
    teacher: Sentence, ids: Ragged, pad_id: int, device: torch.device
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The numbers of some texts and their vectors, float16, until there are all."""
    for part in (teacher.model, teacher.modules):
        cast(nn.Module, part).to(device)
    order = np.argsort(-ids.lengths, kind="stable")
    for start in range(0, len(order), AT_ONCE):
        here = order[start : start + AT_ONCE]
        batch = on_device(padded_batch([ids[row] for row in here], pad_id), device)
        encoder: Any = encoder_of(teacher.model)
        made = teacher.modules(encoder(**model_inputs(teacher.model, batch)).last_hidden_state, batch)
        if not bool(made.isfinite().all()):
            raise InputError(f"{teacher.model.name_or_path}: its vectors hold numbers that are not finite")
        yield here, made.cpu().numpy().astype(np.float16)


def saved_tokenizer(path: str, student: PreTrainedModel, reader: Reader) -> Any:
    """The tokenizer of transformers that is saved beside the student."""
    tokenizer: Any = load_transformers_tokenizer(transformer_folder(path))
    tokenizer.model_max_length = reader.settings.max_length
    tokenizer.model_input_names = [each for each in tokenizer.model_input_names if each in model_input_names(student)]
    return tokenizer


def check_saved(folder: str | Path, encoder: SentenceEncoder, texts: Sequence[str]) -> float:
    """The largest difference between the vectors of `texts` by `encoder`, as it was trained, and by `folder`.

    Raises `InputError` where it is above 1e-5 of the longest vector.
    """
    again = load_sentence_encoder(folder)
    if again.settings != encoder.settings:
        raise InputError(f"{folder} reads back with other settings than were saved: {again.settings}")
    vectors, expected = again.encode(texts), encoder.encode(texts)
    difference = float(np.abs(vectors - expected).max())
    if not difference <= 1e-5 * max(1.0, float(np.linalg.norm(expected, axis=1).max())):
        raise InputError(
            f"{folder} gives other vectors than the student that was trained: they differ by {difference:.1e}"
        )
    return difference
