"""What every `python -m distilfast.<name>` shares: arguments from dataclasses, `--config`, and errors of one line.

A command is a function of dataclasses; its flags are their fields, its help their `metadata["help"]`. Bad input ends
with one line on stderr and exit code 2; anything else that goes wrong is a bug and shows its traceback.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser

from ._core import InputError


def parse(
    dataclasses: Sequence[Any],
    description: str,
    argv: Sequence[str] | None = None,
    prog: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """One instance of each of `dataclasses` from the flags in `argv` and, under them, the keys of `--config file.yaml`.

    A flag on the command line wins over the same key in the file, and that over `defaults`. Raises `InputError` for a
    file that is missing or is no YAML mapping and for a key that no flag has (naming the nearest); exits with
    2 for an unknown flag.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser([*dataclasses], prog=prog, description=description, allow_abbrev=False)
    # The flags are listed below; a summary of all of them would hide them.
    parser.usage = "%(prog)s [flags]"
    parser.set_defaults(**(defaults or {}))
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="YAML file of flags without their dashes; the command line wins over it"
    )
    config, argv = _take_config(argv)
    if config is not None:
        argv = [*_config_flags(config, parser, given={argument.split("=")[0] for argument in argv}), *argv]
    *instances, rest = parser.parse_args_into_dataclasses(
        args=argv, look_for_args_file=False, return_remaining_strings=True
    )
    if rest:
        parser.error(_not_understood(rest[0], parser))
    return tuple(instances[: len(dataclasses)])


def _not_understood(argument: str, parser: HfArgumentParser) -> str:
    """What is wrong with an argument that the parser left over."""
    if not argument.startswith("--"):
        return f"unexpected argument {argument!r}"
    flag = argument.split("=")[0]
    nearest = difflib.get_close_matches(flag, parser._option_string_actions, n=1)
    return f"unknown flag {flag}" + (f"; did you mean {nearest[0]}?" if nearest else "")


def _take_config(argv: list[str]) -> tuple[Path | None, list[str]]:
    """The path after `--config`, if there, and the other arguments."""
    rest: list[str] = []
    config = None
    arguments = iter(argv)
    for argument in arguments:
        if argument == "--config":
            value = next(arguments, None)
            if value is None:
                raise InputError("--config needs the name of a YAML file after it")
            config = Path(value)
        elif argument.startswith("--config="):
            config = Path(argument.removeprefix("--config="))
        else:
            rest.append(argument)
    return config, rest


def _config_flags(path: Path, parser: HfArgumentParser, given: set[str]) -> list[str]:
    """The keys and values of the YAML file as flags for `parser`, but for the flags `given` on the command line."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--config {path}: there is no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--config {path}: not readable as YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise InputError(f"--config {path}: holds a {type(loaded).__name__}, not a mapping of flags to values")
    known: dict[str, list[str]] = {}
    for action in parser._actions:  # a flag that is on by default has a second action, --no_<name>, after its own
        known.setdefault(action.dest, []).extend(action.option_strings)
    flags: list[str] = []
    for key, value in loaded.items():
        name = str(key).replace("-", "_")
        if name not in known or name in ("help", "config"):
            nearest = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise InputError(f"--config {path}: unknown key {key!r}{hint}")
        # Left out rather than put in front: a flag that may be repeated would add up.
        if value is None or given & set(known[name]):
            continue
        option = known[name][0]
        if isinstance(value, list):
            flags += [option, *map(str, value)]
        else:
            flags.append(f"{option}={value}")
    return flags


def run(command: Callable[[], None]) -> None:
    """Calls `command`; an `InputError` or a missing file becomes one line on stderr and exit code 2."""
    try:
        command()
    except (InputError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
