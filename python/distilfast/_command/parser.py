"""Flags and `--config` to dataclasses."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import importlib.util
import math
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .._core import InputError
from .config import StartsEmpty, set_defaults
from .manual import manual
from .source import package_folder

Parser = Any  # transformers.HfArgumentParser, of the module that `library` loads


def parse(
    dataclasses: Sequence[type], argv: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None
) -> tuple[Any, ...]:
    """One instance of each of `dataclasses` from the flags in `argv` and, under them, the keys of `--config file.yaml`.

    A flag on the command line wins over the same key in the file, and that over `defaults`. Raises `InputError` for a
    file that is missing or is no YAML mapping and for a key that no flag has (naming the nearest); exits with
    2 for an unknown flag.
    """
    parser = build(dataclasses)
    found = vars(read(parser, sys.argv[1:] if argv is None else argv, defaults))
    return tuple(each(**{name: found[name] for name in _names(each)}) for each in dataclasses)


def given(dataclasses: Sequence[type], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """{field: value} of the flags in `argv` and the keys of its `--config`, and of no others; errors as of `parse`."""
    parser = build(dataclasses)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    found = vars(read(parser, sys.argv[1:] if argv is None else argv))
    known = {name for each in dataclasses for name in _names(each)}
    return {name: value for name, value in found.items() if name in known}


def require_positive(options: Any, *names: str) -> None:
    """Raises `InputError` for a field of `options` that is a number not above 0, or not finite; None is none."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not 0 < value < math.inf:
            raise InputError(f"--{name} {value:g}: must be above 0")


def build(
    dataclasses: Sequence[type],
    prog: str | None = None,
    description: str = "",
    shown: Sequence[str] = (),
    required: Sequence[str] = (),
) -> Parser:
    """The parser of the fields of `dataclasses` that `HfArgumentParser` makes, with `--help`, `--help all`, `--config`.

    shown: the flags that `--help` lists; all where it is empty. required: flags that must be given, although their
    dataclass has a default.
    """
    parser = library().HfArgumentParser(dataclasses, prog=prog, add_help=False, allow_abbrev=False)
    for action in parser._actions:
        action.type = _whole_number if action.type is int else action.type
    parser.usage = "%(prog)s [flags]"  # of an error; a summary of all flags would hide it

    class Help(argparse.Action):
        def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
            if values not in (None, [], "all"):
                parser.error(f"--help {values}: --help shows what most people need, --help all every flag")
            everything = values == "all" or option in ("--help_all", "--help-all")
            print(manual(parser, description, () if everything else shown, required), end="")
            parser.exit()

    parser.add_argument("-h", "--help", nargs="?", action=Help, metavar="[all]", help="this; all: every flag")
    parser.add_argument("--help_all", "--help-all", nargs=0, action=Help, dest="help", help="the same as --help all")
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        help="YAML file of flags without their dashes; the command line wins over it",
    )
    return parser


def _whole_number(text: str) -> int:
    """An integer that libraries can hold in 64 bits."""
    value = int(text)
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(text)
    return value


_whole_number.__name__ = "int"  # as help and errors of `argparse` call it


def read(parser: Parser, argv: Sequence[str], defaults: Mapping[str, Any] | None = None) -> argparse.Namespace:
    """What `argv` says, over its `--config`, over `defaults`. Exits with 2 for what the parser does not understand.

    Raises `InputError` for a number that is not finite, and for a `--config` in a directory that would be replaced.
    """
    parser.set_defaults(**(defaults or {}))
    config = _config(argv)
    if config is not None:
        set_defaults(parser, config, _mappings(parser))
    namespace, rest = parser.parse_known_args(list(argv))
    if rest:
        parser.error(_not_understood(rest[0], parser))
    for name, value in vars(namespace).items():
        if isinstance(value, StartsEmpty):
            setattr(namespace, name, [*value])
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):  # which compares as neither more nor less
                raise InputError(f"--{name} {number}: must be finite")
    replaced = getattr(namespace, "output_dir", None) if getattr(namespace, "overwrite", False) else None
    if config and replaced and Path(os.path.realpath(config)).is_relative_to(os.path.realpath(replaced)):
        raise InputError(f"--config {config} lies in {replaced}, which --overwrite replaces; move it elsewhere")
    return typing.cast(argparse.Namespace, namespace)


@functools.cache
def library() -> ModuleType:
    """`transformers.hf_argparser`, without the rest of `transformers`, which takes a second to import."""
    file = package_folder("transformers") / "hf_argparser.py"
    spec = importlib.util.spec_from_file_location("distilfast._command._hf_argparser", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _config(argv: Sequence[str]) -> Path | None:
    """The file after `--config`, if it is given."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", nargs="?", const="")
    config = finder.parse_known_args(list(argv))[0].config
    if config == "":
        raise InputError("--config needs the name of a YAML file after it")
    return None if config is None else Path(config)


def _mappings(parser: Parser) -> frozenset[str]:
    """The flags that take a JSON object, after which `TrainingArguments` calls the fields."""
    hints = {name: hint for each in parser.dataclass_types for name, hint in typing.get_type_hints(each).items()}
    return frozenset(
        name
        for name, hint in hints.items()
        if dict in (hint, typing.get_origin(hint))
        or any(dict in (part, typing.get_origin(part)) for part in typing.get_args(hint))
    )


def _names(dataclass: type) -> list[str]:
    return [field.name for field in dataclasses.fields(dataclass) if field.init]


def _not_understood(argument: str, parser: Parser) -> str:
    """What is wrong with an argument that the parser left over."""
    if not argument.startswith("--"):
        return f"unexpected argument {argument!r}"
    flag = argument.split("=")[0]
    nearest = difflib.get_close_matches(flag, parser._option_string_actions, n=1)
    return f"unknown flag {flag}" + (f"; did you mean {nearest[0]}?" if nearest else "")
