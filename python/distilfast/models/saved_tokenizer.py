"""The tokenizer as it is saved beside a model: it gives what the model takes, and says nothing of this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .._files import write_json
from .families import model_input_names

# What `transformers` notes of where a tokenizer was loaded from.
_OF_THIS_MACHINE = ("is_local", "local_files_only", "name_or_path")


def save_tokenizer(tokenizer: Any, model: PreTrainedModel, folder: str | os.PathLike[str]) -> None:
    """Saves a tokenizer of `transformers`, or a `distilfast.Tokenizer`, to `folder`, for `model`.

    Its `model_input_names` are those that the model takes: older versions of `transformers` hand over whatever the
    tokenizer gives, and a DistilBERT fails at token types.
    """
    tokenizer.save_pretrained(os.fspath(folder))
    file = Path(folder) / "tokenizer_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: value for key, value in config.items() if key not in _OF_THIS_MACHINE}
    taken = model_input_names(model)
    given = getattr(tokenizer, "model_input_names", None) or config.get("model_input_names") or taken
    kept["model_input_names"] = [name for name in given if name in taken]
    write_json(file, kept)
