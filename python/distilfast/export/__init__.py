"""A student ready for others: safetensors and ONNX, reloaded and compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .run import export_student as export_student
    from .run import main as main

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "export_student": ".run",
        "main": ".run",
    },
)
