"""The names of every package are there before anything of it was imported, and stand for what they say."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("", ".batches", ".evaluate", ".export", ".heads", ".models", ".prepare", ".train", ".trim")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_loads(name: str) -> None:
    package = importlib.import_module(f"distilfast{name}")
    assert set(dir(package)) <= set(package.__all__)
    for each in package.__all__:
        found = package.__getattr__(each) if each in dir(package) else getattr(package, each)
        assert getattr(found, "__name__", each).rpartition(".")[2] == each
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_same_names(name: str) -> None:
    package = importlib.import_module(f"distilfast{name}")
    (block,) = (
        each for each in ast.parse(Path(str(package.__file__)).read_text("utf-8")).body if isinstance(each, ast.If)
    )
    seen = {imported.name for each in block.body if isinstance(each, ast.ImportFrom) for imported in each.names}
    assert set(dir(package)) == seen


def test_prepare_is_there_at_once_and_torch_is_not() -> None:
    code = "import sys, distilfast as df; assert callable(df.prepare); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
