"""The pooled vector of a sentence encoder, as the files of `sentence-transformers` beside a model describe it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._core import InputError

# What `sentence-transformers` keeps beside a model, apart from the folders that modules.json names.
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")

_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}


@dataclass(frozen=True)
class Pooling:
    """How hidden states become one vector."""

    mode: str
    """cls, mean, max or mean_sqrt_len_tokens."""
    normalize: bool
    """Whether the vector has length 1."""

    def __call__(self, hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[batch, length, width] and [batch, length] to [batch, width]."""
        weights = attention_mask[..., None].to(hidden.dtype)
        if self.mode == "cls":
            vector = hidden[:, 0]
        elif self.mode == "max":
            vector = hidden.masked_fill(weights == 0, -1e9).amax(1)
        else:
            count = weights.sum(1).clamp(min=1e-9)
            vector = (hidden * weights).sum(1) / (count if self.mode == "mean" else count.sqrt())
        return torch.nn.functional.normalize(vector, dim=-1) if self.normalize else vector


def read_pooling(folder: Path) -> Pooling | None:
    """The pooling that `folder` describes; None where it holds no sentence encoder, or one of other modules than
    pooling of one kind and normalising, which a file of ONNX has no output for.

    Raises `InputError` where the files cannot be read.
    """
    if not (folder / "modules.json").is_file():
        return None
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Normalize"}:
            return None
        config = json.loads((folder / modules[1]["path"] / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{folder}: its modules.json and pooling cannot be read: {error}") from None
    modes = [mode for key, mode in _MODES.items() if config.get(key)] or [config.get("pooling_mode")]
    return Pooling(modes[0], "Normalize" in kinds) if len(modes) == 1 and modes[0] in _MODES.values() else None


def keep_sentence_files(source: Path, folder: Path) -> bool:
    """Copies what makes `source` a sentence encoder to `folder`; whether there was any.

    Raises `InputError` for a module that lies outside `source`.
    """
    if not (source / "modules.json").is_file():
        return False
    modules: list[dict[str, Any]] = json.loads((source / "modules.json").read_text(encoding="utf-8"))
    for name in SENTENCE_FILES:
        if (source / name).is_file():
            shutil.copy(source / name, folder / name)
    for module in modules:
        part = str(module.get("path", ""))
        if part and (source / part).is_dir():
            if source.resolve() not in (source / part).resolve().parents:
                raise InputError(f"{source / 'modules.json'} names {part!r}, which does not lie in the folder")
            shutil.copytree(source / part, folder / part)
    return True
