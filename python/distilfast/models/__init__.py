"""Teachers and students: loaded, cut, and made to compute what the step needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._lazy import attach

if TYPE_CHECKING:
    from .student import create_student as create_student
    from .student import load_student as load_student
    from .student import load_teacher as load_teacher

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "create_student": ".student",
        "load_student": ".student",
        "load_teacher": ".student",
    },
)
