"""What teachers say of the texts, computed once and kept on disk: read in every epoch, and by every later run.

An array lies in a folder of its own, named by a digest of all that its numbers depend on: another teacher, other texts
or another dtype are another folder. It is written beside and renamed, so that it is whole or not there, and
memory-mapped when it is read, so that it may be larger than memory.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray
from transformers import PreTrainedModel

from .. import _files as files
from .._core import InputError
from ..batches.encode import Ragged
from ..batches.labelled import LabelledBatches
from ..heads.head import Head
from .checkpoint import fingerprint
from .evaluation import LOGITS_ALONE
from .inputs import Arguments, Given, set_to_zero
from .trainer import DistillationTrainer

AT_ONCE = 64
"""Texts that a teacher reads together."""

Parts = Iterable[tuple[NDArray[np.int64], NDArray[Any]]]
"""Pieces of an array: at which places along its first axis they stand, and their values [places, ...]."""


def kept_outputs(
    folder: str | Path, key: str, places: int, dtype: DTypeLike, parts: Parts, write: bool
) -> tuple[NDArray[Any], bool]:
    """The array [`places`, ...] that is kept under `key`, memory-mapped, and whether it was made now of `parts` (by the
    process that is to `write`; the others find it).

    Raises `InputError` for a file that is no such array.
    """
    place = Path(folder) / key[:32]
    made = write and not (place / "outputs.npy").is_file()
    if made:
        with files.whole_directory(place, overwrite=True) as beside:
            outputs: Any = None
            for where, values in parts:
                if outputs is None:
                    shape = (places, *values.shape[1:])
                    outputs = _new_array(beside / "outputs.npy", dtype, shape)
                outputs[where] = values
            outputs.flush()
    try:
        found: NDArray[Any] = np.load(place / "outputs.npy", mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{place}: not what a teacher said ({files.first_line(error)}); remove it") from None
    if len(found) != places or found.dtype != dtype:
        raise InputError(f"{place} holds {len(found):,} outputs in {found.dtype}, not {places:,}; remove it")
    return found, made


def _new_array(file: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> Any:
    array = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # else a disk that fills would end the process by a signal
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return array


def ids_digest(ids: Ragged) -> Any:
    """A sha256 that has read token ids."""
    return hashlib.sha256(np.ascontiguousarray(ids.flat).tobytes() + ids.offsets.tobytes())


def check_cache(arguments: Arguments, given: Given, head: Head, teachers: int) -> list[str]:
    """What is to be said of --cache_teacher for heads that learn from rows; defaults of losses on hidden states, which
    are not kept, are set to 0.

    Raises `InputError` without a teacher, where such a loss was asked for, and where no loss reads logits.
    """
    folder, args = arguments.models.cache_teacher, arguments.training
    if folder is None:
        return []
    if not teachers:
        raise InputError(
            "--cache_teacher keeps what a teacher says, and there is none; give --teacher, or leave it out"
        )
    why = "--cache_teacher keeps the teacher's logits alone; leave one of the two out"
    notes = set_to_zero(args, given.named, dict.fromkeys(("alpha_cos", "alpha_hidden", "alpha_rel"), why))
    if not head.compares_teacher(args.objective):
        raise InputError(
            "--cache_teacher: no loss reads what the teacher says; give alpha_ce a weight, or leave it out"
        )
    return [*notes, f"the teacher's logits are kept in {folder}"]


def keep_teachers(trainer: DistillationTrainer, batches: LabelledBatches, folder: str, write: bool) -> list[str]:
    """Gives `batches` what the teachers of `trainer` say of all their rows, in the dtype that is computed in, stored as
    float32; computed where `folder` does not hold it. Returns what was done, a line each."""
    step, lines = trainer.step, []
    head, starts = step.head, batches.output_starts
    rows = batches.rows
    for number, teacher in enumerate(step.teachers):
        digest = ids_digest(rows.input_ids)
        digest.update(starts.tobytes())
        if rows.token_type_ids is not None:
            digest.update(np.ascontiguousarray(rows.token_type_ids.flat).tobytes())
        config = {name: value for name, value in teacher.config.to_dict().items() if not name.startswith("_")}
        digest.update(
            f"{fingerprint([teacher])} {sorted(config.items(), key=str)} {head.name} {teacher.dtype}".encode()
        )
        parts = _said(head, teacher, batches, starts, trainer.args.device)
        outputs, made = kept_outputs(folder, digest.hexdigest(), int(starts[-1]), np.float32, parts, write)
        batches.teacher_outputs[number] = (digest.hexdigest(), outputs)
        done = "computed and kept" if made else "read"
        where = f"{'in' if made else 'from'} {Path(folder) / digest.hexdigest()[:32]}"
        lines.append(f"teacher {number + 1}: {len(rows):,} rows {done} {where}, {outputs.nbytes / 1e6:,.1f} MB")
    return lines


@torch.inference_mode()
def _said(
    head: Head, teacher: PreTrainedModel, batches: LabelledBatches, starts: NDArray[np.int64], device: torch.device
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    """What a teacher says of all rows, those of like length together."""
    ordered = LabelledBatches(batches.rows, batches.tokenizer, AT_ONCE, shuffle=False)
    for number in range(len(ordered)):
        batch = {name: value.to(device) for name, value in ordered[number].items()}
        said = head.outputs(teacher, batch, head.rows(batch, LOGITS_ALONE), LOGITS_ALONE).compared
        values = head.kept(said, batch).float().cpu().numpy()
        if not np.isfinite(values).all():
            raise InputError(f"{teacher.name_or_path}: its logits hold numbers that are not finite")
        chosen = batch["row_numbers"].cpu().numpy()
        yield np.concatenate([np.arange(starts[row], starts[row + 1]) for row in chosen]), values
