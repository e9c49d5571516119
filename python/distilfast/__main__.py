"""`distilfast <command>`, `python -m distilfast <command>`: every command by one name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ._command import choose

COMMANDS = {
    "prepare": "text to token ids",
    "train": "a teacher and data to a student",
    "evaluate": "what students kept of their teacher: quality, size, speed",
    "trim": "a model with the words that a text needs, without training",
    "export": "a student for others: safetensors and ONNX, compared before it is done",
    "ablate": "which part of the method earns the quality",
    "demo": "the whole road in minutes, with no download and no GPU",
    "bench": "speed on this machine beside what else is installed",
    "task_distillation": "another name of train",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that `argv` names."""
    name, rest = choose(COMMANDS, argv, "distilfast", "Distil a transformer encoder into a smaller one.", version=True)
    program = f"distilfast {name}"
    module = importlib.import_module(f".{name}" if name == "task_distillation" else f".{name}.__main__", __package__)
    if name in ("bench", "task_distillation"):
        module.start(rest, program)
    else:
        module.COMMAND.start(rest, program)


if __name__ == "__main__":
    main()
