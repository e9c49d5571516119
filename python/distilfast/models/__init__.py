"""Teachers and students: loaded, cut, and made to compute what the step needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .adaptation import adapt as adapt
    from .classes import align_classes as align_classes
    from .families import longest_row as longest_row
    from .families import model_input_names as model_input_names
    from .head import head_of as head_of
    from .last_layer import encode as encode
    from .load import load_model as load_model
    from .load import load_student as load_student
    from .load import load_teacher as load_teacher
    from .student import create_student as create_student

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "adapt": ".adaptation",
        "align_classes": ".classes",
        "create_student": ".student",
        "encode": ".last_layer",
        "head_of": ".head",
        "load_model": ".load",
        "load_student": ".load",
        "load_teacher": ".load",
        "longest_row": ".families",
        "model_input_names": ".families",
    },
)
