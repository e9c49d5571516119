"""What models say, and how a student's is compared with its teacher's: a class for each kind of head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .choice import choose_head as choose_head
    from .head import Head as Head
    from .objective import Objective as Objective

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Head": ".head",
        "Objective": ".objective",
        "choose_head": ".choice",
    },
)
