"""English that is on every machine that can run the demo: the docstrings of the Python installed on it."""

from __future__ import annotations

import ast
import re
import site
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from .._core import InputError

# Lines of a docstring that are code, tables, field lists or rules rather than sentences.
_NOT_PROSE = re.compile(r"^\s*(>>>|\.\.|:\w|[@#|+=~^-]{2,}|\d+$|[-=+|\s]+$)")
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def demo_text(megabytes: float) -> list[str]:
    """About so much text: paragraphs of docstrings, none twice, the same on every call on the same machine.

    The standard library comes first, then installed packages by name. Raises `InputError` where there is too little.
    """
    paragraphs: dict[str, None] = {}
    size, wanted = 0, int(megabytes * 1e6)
    for path in _python_files():
        for paragraph in _paragraphs(path):
            if paragraph not in paragraphs:
                paragraphs[paragraph] = None
                size += len(paragraph)
        if size >= wanted:
            return list(paragraphs)
    if size < wanted / 4:
        raise InputError(
            f"the packages installed beside this Python hold only {size / 1e6:.1f} MB of docstrings, the demo wants "
            f"{megabytes:.1f} MB; pass text of your own with --text"
        )
    return list(paragraphs)


def _python_files() -> Iterator[Path]:
    """The standard library's files, then those of every installed package, each sorted; tests left out."""
    library = Path(sysconfig.get_paths()["stdlib"])
    packages = [Path(path) for path in dict.fromkeys([*site.getsitepackages(), sysconfig.get_paths()["purelib"]])]
    for root in [library, *packages]:
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root).parts
            if root == library and inside[0] in ("site-packages", "dist-packages"):
                continue
            if not any(part in ("test", "tests", "idlelib", "_vendor") for part in inside):
                yield path


def syntax_nodes(path: Path) -> Iterator[ast.AST]:
    """The nodes of a file of Python; none where it cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return iter(())
    return ast.walk(tree)


def _paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of prose in the docstrings of a file; nothing where it cannot be parsed."""
    for node in syntax_nodes(path):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                text = " ".join(line.strip() for line in paragraph.splitlines() if not _NOT_PROSE.match(line))
                if _is_prose(text):
                    yield text


def _is_prose(text: str) -> bool:
    """Whether most of the text is words of letters, and there are enough of them for a sentence."""
    words = _WORD.findall(text)
    return len(words) >= 8 and sum(map(len, words)) > 0.7 * len(text.replace(" ", ""))
