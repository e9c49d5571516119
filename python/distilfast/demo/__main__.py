"""`distilfast demo`, `python -m distilfast.demo`."""

from .._command import Command

COMMAND = Command(
    "demo",
    "The whole road in minutes, with no download and no GPU: makes a teacher out of the English on this machine, "
    "distils it to half its layers, trains the same student without the teacher, compares the three.",
    "demo.run:main",
    ("demo.run:DemoArguments",),
)

if __name__ == "__main__":
    COMMAND.start()
