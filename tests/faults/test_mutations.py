"""A few of the mutated calls of `mutate_commands` on every run, 200 of each command in the nightly one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import command_calls
import pytest

HERE = Path(__file__).parent
COUNTS = {"dev": 3, "ci": 12, "nightly": 200}
SLOW = {"ablate": 8, "demo": 8, "bench train": 4}  # a call trains several models


@pytest.mark.parametrize("command", command_calls.VALID)
def test_no_mutated_call_ends_in_a_traceback_or_leaves_anything(command: str) -> None:
    count = COUNTS[os.environ.get("HYPOTHESIS_PROFILE", "dev")] // SLOW.get(command, 1)
    done = subprocess.run(
        [sys.executable, HERE / "mutate_commands.py", "--count", str(max(1, count)), command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
