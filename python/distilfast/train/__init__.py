"""The loop: arguments, one step, the Trainer, checkpoints; `python -m distilfast.train` is `run.main`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .arguments import DistillationArguments as DistillationArguments
    from .run import main as main
    from .trainer import DistillationTrainer as DistillationTrainer

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "DistillationArguments": ".arguments",
        "DistillationTrainer": ".trainer",
        "main": ".run",
    },
)
