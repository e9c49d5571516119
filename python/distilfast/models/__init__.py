"""Teachers and students: loaded, cut, and made to compute what the step needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .adaptation import adapt as adapt
    from .families import model_input_names as model_input_names
    from .last_layer import encode as encode
    from .student import create_student as create_student
    from .student import load_student as load_student
    from .student import load_teacher as load_teacher

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "adapt": ".adaptation",
        "encode": ".last_layer",
        "model_input_names": ".families",
        "create_student": ".student",
        "load_student": ".student",
        "load_teacher": ".student",
    },
)
