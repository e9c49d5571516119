"""What share of the teacher's quality students keep, how much smaller and faster they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from ..metrics.held_out import HeldOutScores as HeldOutScores
    from ..metrics.held_out import evaluate_held_out as evaluate_held_out
    from .options import EvaluateOptions as EvaluateOptions
    from .run import evaluate_models as evaluate_models
    from .run import main as main
    from .run import run_evaluation as run_evaluation

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "EvaluateOptions": ".options",
        "HeldOutScores": "..metrics.held_out",
        "evaluate_held_out": "..metrics.held_out",
        "evaluate_models": ".run",
        "main": ".run",
        "run_evaluation": ".run",
    },
)
