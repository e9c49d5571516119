"""`distilfast export`, `python -m distilfast.export`."""

from .._command import Command

COMMAND = Command(
    "export",
    "A student ready for others, reloaded and compared before it is called done.",
    "export.run:main",
    ("export.run:ExportOptions",),
)

if __name__ == "__main__":
    COMMAND.start()
