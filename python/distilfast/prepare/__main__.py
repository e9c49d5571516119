"""`distilfast prepare`, `python -m distilfast.prepare`."""

from .._command import Command

COMMAND = Command(
    "prepare",
    "Text to a prepared directory of token ids, at the speed of tokeniser and disk.",
    "prepare.run:main",
    ("prepare.run:PrepareArguments",),
    shown=(
        *("text", "dataset", "column", "tokenizer", "output_dir", "mode", "max_length", "min_length"),
        *("max_unknown", "threads", "overwrite"),
    ),
)

if __name__ == "__main__":
    COMMAND.start()
