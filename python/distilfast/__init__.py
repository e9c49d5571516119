"""Distil a transformer encoder into a student of half the depth.

Names load their modules when first used, so that a command that needs no model does not wait for `transformers`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._core import InputError as InputError
from ._core import __version__ as __version__

if TYPE_CHECKING:
    from . import losses as losses
    from .arguments import DistillationArguments as DistillationArguments
    from .batch_tokenizer import BatchTokenizer as BatchTokenizer
    from .batch_tokenizer import tokenize_dataset as tokenize_dataset
    from .data import MaskedBatches as MaskedBatches
    from .data import Masking as Masking
    from .models import create_student as create_student
    from .tokenizer import Tokenizer as Tokenizer
    from .trainer import DistillationTrainer as DistillationTrainer

_MODULE_OF = {
    "BatchTokenizer": "batch_tokenizer",
    "DistillationArguments": "arguments",
    "DistillationTrainer": "trainer",
    "MaskedBatches": "data",
    "Masking": "data",
    "Tokenizer": "tokenizer",
    "create_student": "models",
    "losses": "losses",
    "tokenize_dataset": "batch_tokenizer",
}

__all__ = ["InputError", "__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULE_OF[name]}", __name__)
    value = module if name == _MODULE_OF[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
