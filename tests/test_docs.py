"""What README and docs show: every command has the flags it is shown with, every import in Python code is there."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from distilfast import __main__ as executable
from distilfast._command import Command
from distilfast._command.parser import build, read
from distilfast._command.source import stub
from distilfast.bench.__main__ import BENCHES

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "kernels" / "README.md", *(ROOT / "docs").glob("*.md")]
CALL = re.compile(r"(?:-m distilfast\.|\bdistilfast )([a-z_]+)((?: .*)?)$")


def shown(page: Path) -> list[tuple[str, str, bool]]:
    """The commands of a page: name, flags, and whether it is whole (in a block of code, without "...")."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^(?: {4}|\t)(.*)$", text, re.M)
    for block in re.findall(r"^```(?!python)[a-z]*\n(.*?)^```", text, re.M | re.S):
        blocks += block.splitlines()
    found = []
    for lines, whole in ((blocks, True), (re.findall(r"`([^`\n]+)`", text), False)):
        for line in lines:
            match = CALL.search(line.split(" # ")[0].strip())
            if match is not None:
                found.append((match[1], match[2], whole and "..." not in match[2]))
    return found


def command_of(name: str, words: list[str]) -> tuple[Command, list[str]]:
    if name == "bench":
        return BENCHES[words[0]], words[1:]
    assert name in executable.COMMANDS, name
    module = name if name == "task_distillation" else f"{name}.__main__"
    return importlib.import_module(f"distilfast.{module}").COMMAND, words


CASES = [(page.name, *each) for page in PAGES for each in shown(page) if "--" in each[1]]


def test_the_pages_show_commands() -> None:
    assert {"prepare", "train", "evaluate", "export", "ablate", "bench"} <= {name for _, name, _, _ in CASES}
    assert {"README.md", "training.md", "evaluation.md"} <= {page for page, _, _, _ in CASES}


@pytest.mark.parametrize(("page", "name", "flags", "whole"), CASES, ids=lambda value: str(value).strip()[:60])
def test_commands_have_the_flags_they_are_shown_with(page: str, name: str, flags: str, whole: bool) -> None:
    words = [word for word in shlex.split(flags) if word not in ("...", "|")]
    command, given = command_of(name, words)
    if any(word.startswith("--help") for word in given):
        assert given in (["--help"], ["--help", "all"])
    elif whole:
        command.check(given, name)
    else:
        parser = build([stub(f"distilfast.{each}") for each in command.options], name, command.description)
        for action in parser._actions:
            action.required = False
        read(parser, given)


def test_a_flag_that_is_not_there_is_noticed() -> None:
    command, given = command_of("bench", ["batches", "--modernbert", "checkout"])
    with pytest.raises(SystemExit):
        command.check(given, "bench")


SCRIPTS = [*(ROOT / "docs" / "study").glob("*.py"), *(ROOT / "examples").glob("*.py")]


@pytest.mark.parametrize("page", [*PAGES, *SCRIPTS], ids=lambda page: page.name)
def test_imports_in_code_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for block in [text] if page in SCRIPTS else re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distilfast"):
                module = importlib.import_module(node.module or "")
                for name in node.names:
                    assert hasattr(module, name.name), f"{page.name}: {node.module} has no {name.name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_site_and_its_index_have_every_page() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    placed: list[str] = []
    for part in yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]:
        placed += [part] if isinstance(part, str) else next(iter(part.values()))
    assert sorted(placed) == sorted(pages)
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert pages - {"index.md"} == set(re.findall(r"\]\((\w+\.md)", index))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for needed in ("mkdocs", "material", "mkdocstrings_handlers"):
        pytest.importorskip(needed)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "reference.html").read_text(encoding="utf-8")
    for name in ("distil", "MaskedBatches", "create_student", "losses.linear_distillation_loss"):
        assert f'id="distilfast.{name}"' in reference


def study() -> ModuleType:
    """docs/study/tables.py."""
    spec = importlib.util.spec_from_file_location("study_tables", ROOT / "docs" / "study" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_of_the_study_is_what_its_json_says() -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert study().filled(page) == page, "run python docs/study/tables.py"


def test_a_figure_of_the_study_that_is_stale_is_noticed() -> None:
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    assert study().filled(page.replace("85.85 |", "85.86 |")) == page != page.replace("85.85 |", "85.86 |")
    with pytest.raises(ValueError, match="must have the tables similarity"):
        study().filled(page.replace("<!-- table: similarity -->", ""))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 120
