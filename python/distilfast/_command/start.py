"""How a command begins and ends."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import NoReturn

from .._core import InputError, __version__
from .._files import describe_fault, first_line
from .parser import build, read
from .source import stub
from .unreachable import watch_hub

EXTRAS = {  # a package that is not always there: the extra that brings it
    "blingfire": "bench",
    "matplotlib": "plots",
    "nanotoken": "bench",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "onnxscript": "onnx",
    "psutil": "dev",
    "ray": "dev",
    "sentence_transformers": "sentence",
    "tensorboard": "tensorboard",
    "triton": "gpu",
}
STOPPED = 128 + signal.SIGINT
NOBODY_READS = 128 + 13  # SIGPIPE, which Windows has no name for
_OF_THE_MACHINE = re.compile(r"\(os error |unable to \w+ (file|shared memory)\b")


@dataclasses.dataclass(frozen=True)
class Command:
    """One of `distilfast <command>`: what `--help` and a wrong flag need, and where the rest of it is.

    options: its dataclasses, as "module:Class" under `distilfast`. function: "module:function" of it, which takes argv.
    shown: the flags that `--help` lists, with `--help all` for the others. required: flags that must be given, although
    their dataclass has a default. ranks: whether several processes that torchrun started share its work.
    """

    name: str
    description: str
    function: str
    options: tuple[str, ...]
    shown: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    ranks: bool = False

    def start(self, argv: Sequence[str] | None = None, program: str | None = None) -> None:
        """Runs the command with its flags, those of this process where `argv` is None.

        program: what the user typed, for `--help` and errors. Exits with 2 for bad input, before anything slow is
        imported where the flags alone are wrong.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)

        def command() -> None:
            self.check(arguments, program or f"python -m distilfast.{self.name}")
            self._refuse_ranks()
            module, function = self.function.split(":")
            # Torch takes seconds to import, and turns a KeyboardInterrupt there into errors of its own.
            before = signal.signal(signal.SIGINT, _stop_importing)
            try:
                main = getattr(importlib.import_module(f"distilfast.{module}"), function)
            finally:
                signal.signal(signal.SIGINT, before)
            if "huggingface_hub" in sys.modules:  # which takes longer to import than some commands run
                watch_hub()
            main(arguments)

        run(command)

    def _refuse_ranks(self) -> None:
        launched = os.environ.get("WORLD_SIZE", "1")
        if not self.ranks and launched not in ("", "0", "1"):
            raise InputError(
                f"{self.name} is one process, and torchrun started {launched} (WORLD_SIZE), each of which would do all "
                "of it in the same place; start it without torchrun"
            )

    def check(self, argv: Sequence[str], program: str) -> None:
        """Answers `--help`, and refuses wrong flags and values, from the source of the dataclasses alone."""
        stubs = [stub(f"distilfast.{reference}") for reference in self.options]
        parser = build(stubs, program, self.description, self.shown, self.required)
        given = vars(read(parser, argv))
        missing = [f"--{name}" for name in self.required if given[name] is None]
        if missing:
            parser.error(f"the following arguments are required: {', '.join(missing)}")


def choose(
    commands: Mapping[str, str], argv: Sequence[str] | None, program: str, description: str, version: bool = False
) -> tuple[str, list[str]]:
    """The command that `argv` begins with, of {name: what it does}, and the arguments after it.

    Exits after `--help` and, with `version`, `--version`; with 2 where no command is named, or an unknown one.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else ""
    if name in commands:
        return name, arguments[1:]
    width = max(map(len, commands)) + 2
    lines = "\n".join(f"  {each:{width}}{what}" for each, what in commands.items())
    usage = f"usage: {program} COMMAND [flags]"
    if name in ("-h", "--help", "--help_all", "help"):
        run(lambda: print(f"{usage}\n\n{description}\n\n{lines}\n\nEach has its own {program} COMMAND --help"))
        raise SystemExit
    if version and name in ("-V", "--version"):
        run(lambda: print(f"distilfast {__version__}"))
        raise SystemExit
    if not arguments:
        raise _said(f"{usage}\n\n{lines}", 2, "")
    nearest = difflib.get_close_matches(name, commands, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there is {', '.join(commands)}"
    raise _said(f"{program}: unknown command {name!r}; {hint}", 2)


def run(command: Callable[[], None]) -> None:
    """Calls `command`; what a user did wrong becomes one line on stderr and exit code 2.

    That is an `InputError`, a file that is missing, in the way or not to be had, a disk that is full or fails, and an
    optional package that is not installed. An exception with an `exit_code` ends with one line and that code, Ctrl-C
    with 130.
    """
    try:
        command()
        sys.stdout.flush()
    except (InputError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise _said(str(error), 2) from None
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        raise _said(f"{package} is not installed; pip install 'distilfast[{EXTRAS[package]}]' brings it", 2) from None
    except BrokenPipeError:
        if not _reader_gone():
            raise
        raise SystemExit(NOBODY_READS) from None
    except KeyboardInterrupt:
        raise _said("interrupted", STOPPED, "") from None
    except Exception as error:
        code = getattr(error, "exit_code", None)
        if isinstance(error, MemoryError) or re.search(r"allocate memory|out of memory", str(error)):
            raise _said(
                f"not enough memory: {first_line(error)[:200]}; lower the sizes that were asked for", 1
            ) from None
        if not isinstance(code, int):
            # A disk, a permission, a name: the machine's fault and not ours, whatever a library makes of it.
            told = describe_fault(error) if isinstance(error, OSError) or _OF_THE_MACHINE.search(str(error)) else None
            if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
                told = f"{error.object!a} is not UTF-8"
            if told is not None or isinstance(error, OSError):
                raise _said(told or first_line(error), 2) from None
            raise
        raise _said(str(error), code) from None


def _said(message: str, code: int, before: str = "error: ") -> SystemExit:
    """The end of the process with `code`, its reason said on stderr."""
    print(before + message, file=sys.stderr)
    return SystemExit(code)


def _reader_gone() -> bool:
    """Whether nobody reads standard output, as after `| head`; then what is left of it goes nowhere."""
    if hasattr(select, "poll"):  # not on Windows, where the error alone must do
        poll = select.poll()
        poll.register(sys.stdout, select.POLLOUT)
        if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _stop_importing(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"interrupted\n")
    os._exit(STOPPED)
