"""What is read from the source of a dataclass is what importing it gives."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from typing import Any

import pytest
from distilfast.__main__ import COMMANDS
from distilfast._command import Command
from distilfast._command.parser import build
from distilfast._command.source import stub
from distilfast.bench.__main__ import BENCHES


def commands() -> list[Command]:
    named = [name for name in COMMANDS if name not in ("bench", "task_distillation")]
    found = [importlib.import_module(f"distilfast.{name}.__main__").COMMAND for name in named]
    return [*found, *BENCHES.values()]


def real(command: Command) -> list[type]:
    pairs = (reference.split(":") for reference in command.options)
    return [getattr(importlib.import_module(f"distilfast.{module}"), name) for module, name in pairs]


def described(action: argparse.Action) -> dict[str, Any]:
    """An action as text and numbers: a class read from source is another object than the imported one."""
    kept = ("option_strings", "dest", "nargs", "const", "choices", "required", "help", "metavar")
    default = action.default
    return {
        **{name: getattr(action, name) for name in kept},
        "kind": type(action).__name__,
        "type": getattr(action.type, "__name__", str(action.type)),
        "default": (type(default).__name__, str(getattr(default, "value", default))),
    }


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_the_parser_from_source_is_that_of_the_classes(command: Command) -> None:
    read = build([stub(f"distilfast.{reference}") for reference in command.options])
    imported = build(real(command))
    by_flag = [
        {flag: described(action) for flag, action in each._option_string_actions.items()} for each in (read, imported)
    ]
    assert by_flag[0] == by_flag[1]
    assert len(by_flag[0]) > 5


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_what_help_shows_is_a_flag(command: Command) -> None:
    names = {field.name for each in real(command) for field in dataclasses.fields(each)}
    assert {*command.shown, *command.required} <= names
    assert len({*command.shown}) == len(command.shown)


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_a_command_is_a_function_of_its_arguments(command: Command) -> None:
    module, name = command.function.split(":")
    main = getattr(importlib.import_module(f"distilfast.{module}"), name)
    assert [*main.__annotations__] == ["argv", "return"]
    assert main.__defaults__ == (None,)


def test_the_arguments_of_transformers_are_all_there() -> None:
    """The base of the training arguments alone: each name, type, default and help of the installed version."""
    from transformers import TrainingArguments

    found = stub("transformers.training_args:TrainingArguments")
    ours = build([found])
    theirs = build([TrainingArguments])
    assert {name: described(action) for name, action in ours._option_string_actions.items()} == {
        name: described(action) for name, action in theirs._option_string_actions.items()
    }
    assert len(dataclasses.fields(found)) > 90
