"""Faces of packages whose names load their modules when they are first used.

A command that needs no model must not wait for torch and `transformers`, and a name that nobody asks for costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def attach(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of the package named `package`, for {public name: its module, relative}.

    A name that is its own module ("losses": ".losses") stands for the module. The module asked for another name raises
    `AttributeError`, as any module does.
    """

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(modules[name], package)
        return module if modules[name] == f".{name}" else getattr(module, name)

    return load, lambda: sorted(modules), sorted(modules)
