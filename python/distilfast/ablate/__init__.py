"""Which part of the method earns the quality."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .run import main as main

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "main": ".run",
    },
)
