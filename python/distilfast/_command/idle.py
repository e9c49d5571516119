"""Flags that would do nothing, because nobody asked for what they say something about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from .._core import InputError

Parts = Sequence[tuple[tuple[str, ...], tuple[str, ...]]]
"""What asks for a part of a command, one of them, and the flags that are of it alone."""


def changed(options: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not their defaults."""
    found = {}
    for each in fields(options):
        default = each.default if each.default_factory is MISSING else each.default_factory()
        if (value := getattr(options, each.name)) != default:
            found[each.name] = value
    return found


def idle(parts: Parts, asked: Callable[[str], Any]) -> dict[str, str]:
    """{flag: what it does nothing without} of the parts that nobody asks for; `asked`: what a flag is."""
    found: dict[str, str] = {}
    for askers, flags in parts:
        if all(asked(asker) in (None, False, 0, []) for asker in askers):
            found |= dict.fromkeys(flags, " or ".join(f"--{asker}" for asker in askers))
    return found


def refuse_idle(given: Mapping[str, Any], parts: Parts, asked: Callable[[str], Any]) -> None:
    """Raises `InputError` for a flag among `given` whose part nobody asks for, see `idle`."""
    refuse_unread(given, {name: f"without {askers}; leave it out" for name, askers in idle(parts, asked).items()})


def refuse_unread(given: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Raises `InputError` for a flag among `given` that has a reason to do nothing, such as "with --head tokens"."""
    for name, why in reasons.items():
        if name in given:
            raise InputError(f"--{name} {_said(name, given[name])} does nothing {why}")


def _said(name: str, value: Any) -> str:
    """The value of a flag, for a message; no secret."""
    if name.endswith("_token"):
        return "..."
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
