"""Faces of packages whose names load their modules when they are first used.

A command that needs no model must not wait for torch and `transformers`, and a name that nobody asks for costs nothing.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the package named `package`, whose `__init__.py` is `file`: the names
    that it imports for type checkers alone, under `if TYPE_CHECKING`, of its own modules (or modules themselves).

    The package asked for another name raises `AttributeError`, as any module does.
    """
    places: dict[str, tuple[str, str]] = {}
    for statement in ast.parse(Path(file).read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
            for imported in statement.body:
                if isinstance(imported, ast.ImportFrom) and imported.level:
                    module = "." * imported.level + (imported.module or "")
                    places |= {each.asname or each.name: (module, each.name) for each in imported.names}

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, inside = places[name]
        if module == ".":
            return importlib.import_module(f".{inside}", package)
        return getattr(importlib.import_module(module, package), inside)

    return load, lambda: sorted(places), sorted(places)
