"""`--config FILE.yaml`: every flag without its dashes, under what the command line says.

YAML turns `no` into False, `1:2` into 62 and leaves `1e-4` a string. Here a value stays the text that stands in the
file, and becomes a number or a truth value as the same text on the command line would.
"""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .._core import InputError

TRUTH = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}
NOT_KEYS = ("help", "config")
NULL = ("", "~", "null", "Null", "NULL")


def set_defaults(parser: argparse.ArgumentParser, path: Path, mappings: frozenset[str]) -> None:
    """Makes the values of the YAML file the parser's defaults; flags of these no longer have to be given.

    mappings: the flags that take a JSON object, and so a YAML mapping. Raises `InputError` for a file that is missing
    or is no mapping, a key that no flag has (naming the nearest), a flag set twice, and a value it cannot have.
    """
    seen: dict[str, str] = {}
    for key, node in _entries(path):
        action, negative = _find(key, parser)
        if action is None:
            known = [name.removeprefix("--") for name in parser._option_string_actions if name.startswith("--")]
            nearest = difflib.get_close_matches(key.replace("-", "_"), known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise InputError(f"--config {path}: unknown key {key!r}{hint}")
        if action.dest in seen:
            again = (
                "given twice" if seen[action.dest] == key else f"the same flag as {seen[action.dest]!r}, given before"
            )
            raise InputError(f"--config {path}: {key!r} is {again}; leave one")
        seen[action.dest] = key
        if isinstance(node, yaml.ScalarNode) and node.style is None and node.value in NULL:
            continue
        try:
            value = _truth(node) is not negative if _is_truth(action) else _value(node, action, mappings)
        except (argparse.ArgumentError, argparse.ArgumentTypeError, TypeError, ValueError) as error:
            reason = getattr(error, "message", None) or str(error)
            raise InputError(f"--config {path}: {key}: {reason}") from None
        for each in parser._actions:  # a flag that is on by default has a second action, --no_<name>
            if each.dest == action.dest:
                each.required = False
        parser.set_defaults(**{action.dest: value})


def _find(key: str, parser: argparse.ArgumentParser) -> tuple[argparse.Action | None, bool]:
    """The flag that a key names, and whether it is the flag's negative, `no_<name>`."""
    name = key.replace("-", "_")
    action = parser._option_string_actions.get("--" + name)
    negative = isinstance(action, argparse._StoreFalseAction)
    if action is None and name.startswith("no_"):
        action, negative = parser._option_string_actions.get("--" + name.removeprefix("no_")), True
        if action is not None and not _is_truth(action):
            return None, False
    if action is None or action.dest in NOT_KEYS:
        return None, False
    return action, negative


def _entries(path: Path) -> Iterator[tuple[str, yaml.Node]]:
    """The keys and values of the file, unread."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8-sig"), yaml.SafeLoader)
    except FileNotFoundError:
        raise InputError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "text"
        raise InputError(f"--config {path}: holds a {kind}, not a mapping of flags to values")
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"--config {path}: line {key.start_mark.line + 1}: a key must be the name of a flag")
        yield key.value, value


def _value(node: yaml.Node, action: argparse.Action, mappings: frozenset[str]) -> Any:
    """The value as the flag `action` would have it from the command line."""
    if isinstance(node, yaml.MappingNode):
        if action.dest not in mappings:
            raise ValueError("holds a mapping, but the flag takes one; write it in quotes, as on the command line")
        return json.dumps(_plain(node))
    if isinstance(node, yaml.SequenceNode):
        if action.nargs not in ("+", "*"):
            raise ValueError("holds a list, but the flag takes one value")
        values = [_scalar(each, action) for each in node.value]
        if not values:
            raise ValueError("holds an empty list; leave the key out, or give it a value")
        # argparse lets a flag that adds up go on from a copy of its default; the command line is to win here too.
        return StartsEmpty(values) if _adds_up(action) else values
    value = _scalar(node, action)
    if action.nargs not in ("+", "*"):
        return value
    return StartsEmpty([value]) if _adds_up(action) else [value]


class StartsEmpty(list[Any]):
    """A default whose copy is empty."""

    def __copy__(self) -> list[Any]:
        return []


def _scalar(node: yaml.Node, action: argparse.Action) -> Any:
    """One value, converted and checked as argparse does."""
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("holds a list of lists or mappings; a flag takes texts and numbers")
    convert = action.type if callable(action.type) else str
    try:
        value = convert(node.value)
    except ValueError:
        raise ValueError(f"{node.value!r} is no {getattr(convert, '__name__', 'such value')}") from None
    if action.choices is not None and value not in action.choices:
        raise ValueError(f"{node.value!r} is not one of {', '.join(map(str, action.choices))}")
    return value


def _adds_up(action: argparse.Action) -> bool:
    return isinstance(action, argparse._ExtendAction | argparse._AppendAction)


def _is_truth(action: argparse.Action) -> bool:
    """Whether the flag is on or off: `--flag`, `--flag False`, or `--no_flag`."""
    return isinstance(action, argparse._StoreFalseAction) or getattr(action.type, "__name__", "") == "string_to_bool"


def _truth(node: yaml.Node) -> bool:
    text = str(node.value)
    if text.lower() not in TRUTH:
        raise ValueError(f"{text!r} is neither true nor false")
    return TRUTH[text.lower()]


def _plain(node: yaml.Node) -> Any:
    """The value inside a mapping, where no flag says its type: numbers, true, false and null as JSON has them."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(each) for each in node.value]
    text = str(node.value)
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return text
    if text.lower() in TRUTH and not text.isdigit():
        return TRUTH[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return None if text in NULL else text
