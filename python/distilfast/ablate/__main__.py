"""`distilfast ablate`, `python -m distilfast.ablate`."""

from .._command import Command

COMMAND = Command(
    "ablate",
    "Which part of the method earns the quality, on your text and at your budget: the full loss, and the same without "
    "its KL, its cosine, its masked-LM part, and from random initialisation.",
    "ablate.run:main",
    ("ablate.run:AblateOptions",),
    shown=("output_dir", "held_out", "text", "tokens", "teacher", "tokenizer", "steps", "seeds", "controls"),
)

if __name__ == "__main__":
    COMMAND.start()
