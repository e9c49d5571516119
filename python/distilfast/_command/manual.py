"""What `--help` prints: on one screen what most people need, with `--help all` every flag."""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Sequence

FLAG_WIDTH = 28  # columns of the flags; a longer one has its help on the next line


def manual(
    parser: argparse.ArgumentParser, description: str, shown: Sequence[str] = (), required: Sequence[str] = ()
) -> str:
    """The text of `--help`: the flags named in `shown`, in this order, in a sentence each; all where it is empty.

    required: flags that must be given, although their dataclass has a default.
    """
    width = min(max(shutil.get_terminal_size().columns, 60), 120)
    parts = [f"usage: {parser.prog} [flags]", textwrap.fill(" ".join(description.split()), width)]
    if shown:
        actions = {action.dest: action for action in reversed(parser._actions)}
        parts.append("\n".join(_entry(actions[name], width, required, brief=True) for name in shown))
        parts.append(f"Every flag: {parser.prog} --help all. Flags from a file: --config FILE.yaml")
        return "\n\n".join(parts) + "\n"
    for group in parser._action_groups:
        entries = [
            _entry(action, width, required, brief=False)
            for action in group._group_actions
            if not isinstance(action, argparse._StoreFalseAction)
        ]
        if entries:
            parts.append("\n".join([f"{group.title}:", *entries]))
    return "\n\n".join(parts) + "\n"


def _entry(action: argparse.Action, width: int, required: Sequence[str], brief: bool) -> str:
    text = " ".join((action.help or "").replace("%%", "%").split())
    if brief:
        text = re.split(r"(?<=.{20}[.;:])\s", text)[0].rstrip(".;:")
    must = action.required or action.dest in required
    if must:
        text += " (required)"
    elif (
        not (action.default is None or action.default is False or action.default in ("", [], argparse.SUPPRESS))
        and "efault" not in text
    ):
        text += f" (default {_shown(action.default)})"
    flag = "  " + _flag(action)
    lines = textwrap.wrap(text.strip(), width - FLAG_WIDTH) or [""]
    first = [flag] if len(flag) >= FLAG_WIDTH else []
    if not first:
        first, lines = [flag.ljust(FLAG_WIDTH) + lines[0]], lines[1:]
    return "\n".join(line.rstrip() for line in [*first, *(" " * FLAG_WIDTH + line for line in lines)])


def _flag(action: argparse.Action) -> str:
    """`--name VALUE`, `--name` of what is on or off, `--no_name` of what is on by default."""
    name = next((option for option in action.option_strings if option.startswith("--")), action.option_strings[0])
    if getattr(action.type, "__name__", "") == "string_to_bool":
        return f"--no_{action.dest}" if action.default is True else name
    if action.nargs == 0:
        return name
    if action.choices is not None:
        return f"{name} {'|'.join(map(str, action.choices))}"
    kind = {"int": "N", "float": "X"}.get(getattr(action.type, "__name__", ""), "NAME")
    value = str(action.metavar or kind)
    return f"{name} {value}" + (" ..." if action.nargs in ("+", "*") else "")


def _shown(default: object) -> str:
    if default is True:
        return "on"
    return " ".join(map(str, default)) if isinstance(default, list | tuple) else str(getattr(default, "value", default))
