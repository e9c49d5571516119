"""Token ids to masked batches, each a pure function of (seed, epoch, batch number)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .masked import MaskedBatches as MaskedBatches
    from .settings import BatchSettings as BatchSettings
    from .settings import Masking as Masking

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "BatchSettings": ".settings",
        "MaskedBatches": ".masked",
        "Masking": ".settings",
    },
)
