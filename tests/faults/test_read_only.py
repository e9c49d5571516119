"""Every command where nothing may be written: one line that names the place, exit code 2, and nothing else done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import command_calls
import mutate_commands
import pytest

COMMANDS = [command for command in command_calls.VALID if not command.startswith("bench")]


@pytest.fixture(scope="module")
def locked(folder: Path) -> Iterator[Path]:
    """A folder in which nobody may write: for root, who may do everything, a disk that is mounted so."""
    place = folder.parent / "locked"
    place.mkdir()
    if os.geteuid():
        place.chmod(0o555)
        yield place
        place.chmod(0o755)
        return
    if sys.platform != "linux":
        pytest.skip("root may write everywhere")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", place], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("no right to mount a disk here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("where", ["out", "deep/er/out"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_where_nothing_may_be_written(command: str, where: str, folder: Path, locked: Path) -> None:
    argv = command_calls.VALID[command].split()
    argv[argv.index(command_calls.OUT)] = str(locked / where)
    before = mutate_commands.snapshot(folder)
    code, said = mutate_commands.call([command.split()[0], *argv], folder)
    assert code == 2, said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    assert str(locked) in lines[0]
    assert mutate_commands.snapshot(folder) == before
    assert list(locked.iterdir()) == []
