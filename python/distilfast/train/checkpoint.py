"""Checkpoints that are whole or known not to be, and a run that goes on from one only if it is the same run.

`Trainer` writes a checkpoint file by file. When all are there, `seal` adds `distilfast.json`: the size and checksum of
each, and what the run was. A checkpoint without it, or that differs from it, was torn by a crash and is passed over.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import re
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .._core import InputError
from .._files import write_json

SEAL = "distilfast.json"
FORMAT = 1

# Arguments that change where a run writes, how much it says or how fast it is, but not one bit of the weights.
MAY_DIFFER = frozenset(
    (
        *("bf16", "dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory"),
        *("dataloader_prefetch_factor", "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb"),
        *("ddp_timeout", "debug", "disable_tqdm", "dry_run", "early_stopping_patience", "eval_delay"),
        *("eval_on_start", "eval_steps", "eval_strategy", "gradient_accumulation_steps", "greater_is_better"),
        *("hub_always_push", "hub_model_id", "hub_private_repo", "hub_revision", "hub_strategy", "hub_token"),
        *("load_best_model_at_end", "local_rank", "log_level", "log_level_replica", "log_on_each_node"),
        *("logging_dir", "logging_first_step", "logging_steps", "logging_strategy", "metric_for_best_model"),
        *("output_dir", "overwrite", "per_device_eval_batch_size", "project", "push_to_hub", "recipe"),
        *("report_to", "restrict_ce_to_mask", "resume_from_checkpoint", "run_name", "save_on_each_node"),
        *("save_steps", "save_strategy", "save_total_limit", "skip_memory_metrics", "trackio_bucket_id"),
        *("trackio_space_id", "trackio_static_space_id"),
    )
)


def checkpoints(output_dir: str | Path) -> list[Path]:
    """The `checkpoint-<step>` folders in `output_dir`, latest first, whole or not."""
    folders = [
        (int(match[1]), path)
        for path in Path(output_dir).glob("checkpoint-*")
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    return [path for _, path in sorted(folders, reverse=True)]


def seal(checkpoint: str | Path, run: Mapping[str, Any], progress: Mapping[str, Any]) -> None:
    """Declares every file in `checkpoint` complete: flushes them to disk, then writes the seal, itself whole or absent.

    `run` says what a resume must have in common with this run, `progress` what it goes on from; both JSON values.
    """
    checkpoint = Path(checkpoint)
    files = {str(path.relative_to(checkpoint)): _measure(path, flush=True) for path in _files(checkpoint)}
    write_json(checkpoint / SEAL, {"format": FORMAT, "files": files, "run": dict(run), "progress": dict(progress)})


def tear(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint, or None if it is whole."""
    checkpoint = Path(checkpoint)
    try:
        content = json.loads((checkpoint / SEAL).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {SEAL}: it was not written to the end, or not by distilfast"
    except (ValueError, OSError) as error:
        return f"its {SEAL} cannot be read: {error}"
    if content.get("format") != FORMAT:
        return f"its {SEAL} has format {content.get('format')!r}; this version reads format {FORMAT}"
    for name, (size, checksum) in content["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if _measure(path) != [size, checksum]:
            return f"{name} has the right size but other bytes than were written"
    return None


def read_seal(checkpoint: str | Path) -> dict[str, Any]:
    """The content of the seal of a whole checkpoint: keys format, files, run, progress."""
    content: dict[str, Any] = json.loads((Path(checkpoint) / SEAL).read_text(encoding="utf-8"))
    return content


def find_checkpoint(wanted: str | bool, output_dir: str | Path) -> tuple[Path, list[str]]:
    """The checkpoint to go on from, and a line about each torn one that was passed over.

    `wanted`: a checkpoint folder, or "last" (True, "true") for the latest in `output_dir`. A torn one gives way to the
    latest whole one before it in the same folder. Raises `InputError` where there is none.
    """
    if wanted is True or str(wanted).lower() in ("last", "true"):
        candidates = checkpoints(output_dir)
        where = f"{output_dir} holds no checkpoint"
    else:
        path = Path(str(wanted))
        if not path.is_dir():
            raise InputError(f"--resume_from_checkpoint {path}: there is no such directory")
        siblings = checkpoints(path.parent)
        names = [sibling.name for sibling in siblings]
        candidates = siblings[names.index(path.name) :] if path.name in names else [path]
        where = f"{path} is no checkpoint"
    notes: list[str] = []
    for candidate in candidates:
        problem = tear(candidate)
        if problem is None:
            return candidate, notes
        notes.append(f"{candidate} is torn and passed over: {problem}")
    raise InputError(f"cannot resume: {where} that is whole" + "".join(f"; {note}" for note in notes))


def compare_run(checkpoint: Path, run: Mapping[str, Any], but: Sequence[str] = ()) -> None:
    """Refuses, with `InputError` naming each difference, to go on with a run that is not the one in the checkpoint.

    `but`: what is not compared."""
    before = read_seal(checkpoint)["run"]
    now = json.loads(json.dumps(dict(run)))
    differences = [
        f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name) and name not in but
    ]
    if differences:
        raise InputError(
            f"cannot resume from {checkpoint}: {'; '.join(differences)}. Pass what the run was started with, or start "
            "a new run from its weights with --student"
        )


def remove_old(output_dir: str | Path, keep: int | None, best: str | Path | None = None) -> None:
    """Deletes all but the latest `keep` whole checkpoints and the `best` one, and the torn ones older than those."""
    if not keep or keep < 1:
        return
    whole = 0
    for checkpoint in checkpoints(output_dir):
        if best is not None and checkpoint.name == Path(best).name:
            continue
        if whole >= keep:
            shutil.rmtree(checkpoint, ignore_errors=True)
        elif (checkpoint / SEAL).is_file():
            whole += 1


def keep_best(output_dir: str | Path, best: str | Path | None) -> None:
    """Deletes all checkpoints but the best, if it is known: what a finished run keeps with a limit of one."""
    for checkpoint in checkpoints(output_dir) if best is not None else ():
        if checkpoint.name != Path(str(best)).name:
            shutil.rmtree(checkpoint, ignore_errors=True)


def describe_arguments(arguments: Any) -> dict[str, Any]:
    """The fields of a dataclass that decide the weights, as JSON values."""
    values = {}
    for field in dataclasses.fields(arguments):
        if field.name in MAY_DIFFER or not field.init:
            continue
        value = getattr(arguments, field.name)
        if isinstance(value, enum.Enum):
            value = value.value
        if not isinstance(value, str | int | float | bool | list | type(None)):
            value = json.loads(json.dumps(value, default=str))
        values[field.name] = value
    return values


def fingerprint(models: Sequence[nn.Module]) -> str | None:
    """A checksum over names, shapes and bits of the weights, equal on any device; None of no model."""
    if not models:
        return None
    checksum = 0
    weights = [weight for model in models for weight in sorted(model.state_dict().items())]
    for name, tensor in weights:
        # Compared in float32, so that the precision of this run does not matter.
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        checksum = zlib.crc32(f"{name}{tuple(values.shape)}".encode(), checksum)
        checksum = zlib.crc32(values.numpy().data, checksum)
    return f"{checksum:08x}"


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)


def _measure(path: Path, flush: bool = False) -> list[Any]:
    """Size and CRC-32 of a file, which is on disk and not only in a cache afterwards if `flush`."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
        if flush:
            os.fsync(file.fileno())
    return [size, f"{checksum:08x}"]
