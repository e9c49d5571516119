"""A report beside an earlier one: what was finished stays, what is measured again is new."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._core import InputError
from .scores import macro_scores

FORMAT = 2
# Each by the name of its text or file, with the fingerprint of that.
PARTS = ("held_out", "rows", "sts", "neighbours", "retrieval")
NAMES = ("evaluate.json", "evaluate.md")


def earlier_report(folder: Path) -> dict[str, Any] | None:
    """The report in `folder`; None where there is none. Raises `InputError` for a file that is no report."""
    file = folder / NAMES[0]
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        models = found["models"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not a report ({type(error).__name__}); remove it, or name another folder") from None
    if not isinstance(models, dict):
        raise InputError(f"{file}: not a report (its models are no mapping); remove it, or name another folder")
    return dict(found)


def fits(earlier: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether an earlier report is of the same teacher and, by their names, of the same models, texts and files,
    unchanged since."""
    if earlier.get("format") != FORMAT or earlier.get("teacher") != report["teacher"]:
        return False
    return all(
        earlier[part][name].get("fingerprint") == value["fingerprint"]
        for part in ("models", *PARTS)
        for name, value in report.get(part, {}).items()
        if name in earlier.get(part, {})
    )


def set_aside(folder: Path) -> str:
    """Renames a report that does not fit the new one, so that it is not lost; returns its new name."""
    number = 1
    while any((folder / f"{number}-{name}").exists() for name in NAMES):
        number += 1
    for name in NAMES:
        if (folder / name).exists():
            os.rename(folder / name, folder / f"{number}-{name}")
    return f"{number}-{NAMES[0]}"


def merged(earlier: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """`report` with what only `earlier` has: models, their speeds, texts, files and tasks."""
    found = dict(report)
    models = {name: dict(model) for name, model in earlier["models"].items()}
    for name, model in report["models"].items():
        before = models.get(name, {})
        models[name] = {**before, **model}
        if "speed" in before:
            models[name]["speed"] = {**before["speed"], **model.get("speed", {})}
    # The teacher leads every table.
    found["models"] = {report["teacher"]: models.pop(report["teacher"]), **models}
    for part in PARTS:
        whole = {name: dict(value) for name, value in earlier.get(part, {}).items()}
        for name, value in report.get(part, {}).items():
            whole[name] = {**value, "models": {**whole.get(name, {}).get("models", {}), **value["models"]}}
        if whole:
            found[part] = whole
    tasks = {name: dict(value) for name, value in earlier.get("tasks", {}).items()}
    for name, value in report.get("tasks", {}).items():
        rows = tasks.get(name, {}).get("rows", {})
        tasks[name] = {**value, "rows": {**rows, **value["rows"]}}
    if tasks:
        names = list(dict.fromkeys(row for task in tasks.values() for row in task["rows"]))
        found |= {"tasks": tasks, "macro": macro_scores(tasks, names, report["teacher"])}
        found["missing"] = report.get("missing", earlier.get("missing", []))
    return found
