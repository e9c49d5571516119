"""A model with the words that a text needs: smaller by the rows of its embeddings, without any training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .run import trim_model as trim_model

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "trim_model": ".run",
    },
)
