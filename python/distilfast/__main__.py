"""`distilfast <command>`, `python -m distilfast <command>`: every command by one name."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from ._command import Command, choose

COMMANDS = {
    "prepare": "text to token ids",
    "train": "a teacher and data to a student",
    "evaluate": "what students kept of their teacher: quality, size, speed",
    "trim": "a model with the words that a text needs, without training",
    "export": "a student for others: safetensors and ONNX, compared before it is done",
    "ablate": "which part of the method earns the quality",
    "demo": "the whole road in minutes, with no download and no GPU",
    "bench": "speed on this machine beside what else is installed",
    "task_distillation": "a fine-tuned classifier to a smaller one",
}
TASK_DISTILLATION = Command(
    "task_distillation",
    "Teach a smaller classifier with a fine-tuned one.",
    "task_distillation:main",
    ("task_distillation:TaskDistillation",),
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command that `argv` names."""
    name, rest = choose(COMMANDS, argv, "distilfast", "Distil a transformer encoder into a smaller one.", version=True)
    program = f"distilfast {name}"
    if name == "task_distillation":
        TASK_DISTILLATION.start(rest, program)
        return
    module = importlib.import_module(f".{name}.__main__", __package__)
    if name == "bench":
        module.start(rest, program)
    else:
        module.COMMAND.start(rest, program)


if __name__ == "__main__":
    main()
