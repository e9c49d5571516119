"""Wrong one-line changes (`mutants.yaml`), one at a time, in a copy of the package: do the tests notice?

    python tests/faults/run_mutants.py [--only WORDS] [--json FILE] [--survivors MOST]

prints a line a change with the test that failed, or that it survived; exit code 1 where more survived than MOST. Each
runs the tests that its entry names, in a fork of this process, which has imported the libraries but not the package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "mutants.yaml"
SECONDS = 1200.0
"""The longest that the tests of one change may take. A change for which none has failed by then counts as a survivor:
a slow machine must not look like good tests."""


def table() -> list[dict[str, Any]]:
    return list(yaml.safe_load(TABLE.read_text(encoding="utf-8")))


def changed(mutant: dict[str, Any], package: Path) -> str:
    """The text of the mutant's file with the change. Raises `ValueError` where what it replaces is not there once."""
    text = (package / mutant["file"]).read_text(encoding="utf-8")
    if (found := text.count(mutant["before"])) != 1:
        raise ValueError(f"{mutant['file']}: {mutant['before']!r} is there {found} times; bring the table up to date")
    return text.replace(mutant["before"], mutant["after"])


def failed_test(tests: list[str], copy: Path) -> str | None:
    """The first of the tests that fails on the copy; None where none does in time."""
    log = copy / "log"
    child = os.fork()
    if child == 0:
        with log.open("w", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.path[:0] = [str(copy / "python"), str(copy / "tests" / "helpers")]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
        os.chdir(copy)
        import pytest

        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in tests)])))
    ended = time.monotonic() + SECONDS
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(0.1)
    said = log.read_text(encoding="utf-8", errors="replace")
    if os.waitstatus_to_exitcode(done[1]) == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    return found[1].removeprefix("tests/") if found else said.strip()[-200:]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="laws or files that hold these words")
    parser.add_argument("--json", type=Path, help="also write the results here")
    parser.add_argument("--survivors", type=int, default=0, help="how many may survive (default 0)")
    options = parser.parse_args()
    wanted = [each for each in table() if options.only.lower() in (each["law"] + each["file"]).lower()]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HYPOTHESIS_PROFILE", "mutants")
    import datasets  # noqa: F401
    import hypothesis  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import torch
    import transformers  # noqa: F401
    from transformers import AutoModel, Trainer  # noqa: F401

    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        leave_out = shutil.ignore_patterns("__pycache__")
        for part in ("python", "tests", "kernels"):
            shutil.copytree(ROOT / part, copy / part, ignore=leave_out)
        shutil.copy(ROOT / "pyproject.toml", copy)
        package = copy / "python" / "distilfast"
        for mutant in wanted:
            file = package / mutant["file"]
            right = file.read_text(encoding="utf-8")
            started = time.monotonic()
            file.write_text(changed(mutant, package), encoding="utf-8")
            try:
                killer = failed_test(mutant["tests"], copy)
            finally:
                file.write_text(right, encoding="utf-8")
                for cache in package.rglob("__pycache__"):
                    shutil.rmtree(cache)
            results.append({"law": mutant["law"], "file": mutant["file"], "noticed_by": killer})
            said = f"noticed by {killer}" if killer else "SURVIVED"
            print(f"{mutant['law']} ({mutant['file']}): {said}, {time.monotonic() - started:.0f} s", flush=True)
    survived = sum(each["noticed_by"] is None for each in results)
    print(f"{len(results) - survived} of {len(results)} noticed")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 1 if survived > options.survivors else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
