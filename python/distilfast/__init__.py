"""Distil a transformer encoder into a student of half the depth.

Names load their modules when first used, so that a command that needs no model does not wait for `transformers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._core import InputError as InputError
from ._core import __version__ as __version__
from ._lazy import attach

if TYPE_CHECKING:
    from . import losses as losses
    from . import prepare as prepare
    from .batches.masked import MaskedBatches as MaskedBatches
    from .batches.settings import Masking as Masking
    from .evaluate.run import evaluate_models as evaluate_models
    from .export.run import export_student as export_student
    from .metrics.held_out import evaluate_held_out as evaluate_held_out
    from .models.load import load_teacher as load_teacher
    from .models.student import create_student as create_student
    from .prepare.directory import load_tokens as load_tokens
    from .prepare.rows import BatchTokenizer as BatchTokenizer
    from .prepare.rows import tokenize_dataset as tokenize_dataset
    from .tokenizer import Tokenizer as Tokenizer
    from .train.arguments import DistillationArguments as DistillationArguments
    from .train.run import distil as distil
    from .train.trainer import DistillationTrainer as DistillationTrainer
    from .trim.run import trim_model as trim_model
    from .vocabulary.trimmed import Vocabulary as Vocabulary

__getattr__, __dir__, _names = attach(
    __name__,
    {
        "BatchTokenizer": ".prepare.rows",
        "DistillationArguments": ".train.arguments",
        "DistillationTrainer": ".train.trainer",
        "MaskedBatches": ".batches.masked",
        "Masking": ".batches.settings",
        "Tokenizer": ".tokenizer",
        "Vocabulary": ".vocabulary.trimmed",
        "create_student": ".models.student",
        "distil": ".train.run",
        "evaluate_held_out": ".metrics.held_out",
        "evaluate_models": ".evaluate.run",
        "export_student": ".export.run",
        "load_teacher": ".models.load",
        "load_tokens": ".prepare.directory",
        "losses": ".losses",
        "prepare": ".prepare",
        "tokenize_dataset": ".prepare.rows",
        "trim_model": ".trim.run",
    },
)
__all__ = ["InputError", "__version__", *_names]
