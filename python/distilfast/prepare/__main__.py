"""`python -m distilfast.prepare`."""

from .._command import run
from .run import main

if __name__ == "__main__":
    run(main)
