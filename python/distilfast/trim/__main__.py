"""`distilfast trim`, `python -m distilfast.trim`."""

from .._command import Command

COMMAND = Command(
    "trim",
    "A model with the words that a text needs, its tokenizer with it: no training, the same numbers on what is kept.",
    "trim.run:main",
    ("trim.run:TrimOptions",),
)

if __name__ == "__main__":
    COMMAND.start()
