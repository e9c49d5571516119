"""The pooled vector of a sentence encoder, as the files of `sentence-transformers` beside a model describe it."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from .._core import InputError
from ..models.head import modules_of
from ..models.load import load_config
from ..models.pooling import SentenceModules
from ..models.sentence_folder import read_sentence_folder

logger = logging.getLogger(__name__)

# What `sentence-transformers` keeps beside a model, apart from the folders that modules.json names.
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")

KNOWN = ("Transformer", "Pooling", "Dense", "Normalize")


def read_pooling(folder: Path) -> SentenceModules | None:
    """What follows the encoder in `folder`; None where it holds no sentence encoder, or one with modules that are not
    known, which the log says: a file of ONNX has no output for them.

    Raises `InputError` where the files cannot be read.
    """
    kinds = [str(module.get("type", "")) for module in modules_of(str(folder))]
    if not kinds:
        return None
    other = [kind for kind in kinds if kind.rpartition(".")[2] not in KNOWN or not kind.startswith("sentence_tr")]
    if other:
        logger.warning("%s: no sentence_embedding is written to ONNX, since %s is not known", folder, other[0])
        return None
    found = read_sentence_folder(str(folder), int(load_config(str(folder)).hidden_size))
    return None if found is None else found[0]


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
