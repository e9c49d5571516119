"""`distilfast evaluate`, `python -m distilfast.evaluate`."""

from .._command import Command

COMMAND = Command(
    "evaluate",
    "What share of the teacher's quality students keep, how much smaller and faster they are; one Markdown table, one "
    "JSON.",
    "evaluate.run:main",
    ("evaluate.options:EvaluateOptions",),
    shown=(
        *("teacher", "student", "output_dir", "validation_file", "text_column", "label_column", "text"),
        *("tokens", "max_length", "speed", "tasks", "data_dir", "seeds", "distil", "learning_rate", "epochs"),
        *("batch_size",),
    ),
)

if __name__ == "__main__":
    COMMAND.start()
