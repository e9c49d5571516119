"""`python -m distilfast.train`."""

from .._command import run
from .run import _run

if __name__ == "__main__":
    run(_run)
