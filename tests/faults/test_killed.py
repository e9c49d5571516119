"""Commands that are killed at any moment, started twice at once, or left without room: whole or not there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_calls
import mutate_commands
import pytest

CALLS = {
    "prepare": command_calls.VALID["prepare"],
    "export": command_calls.VALID["export"],
    "evaluate": command_calls.VALID["evaluate"],
}
DONE = {"prepare": "tokens.json", "export": "export.json", "evaluate": "evaluate.json", "train": "train_summary.json"}
KILLS = {"dev": 2, "ci": 4, "nightly": 40}[os.environ.get("HYPOTHESIS_PROFILE", "dev")]


def start(command: str, folder: Path, output: str) -> int:
    """The process number of a fork that runs the valid call of `command` into `output`."""
    argv = CALLS[command].split()
    argv[argv.index(command_calls.OUT)] = output
    child = os.fork()
    if child == 0:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        mutate_commands._become([command, *argv], folder, nowhere, nowhere)
    return child


def left(folder: Path, output: str) -> list[str]:
    """What lies beside `output` that nobody asked for."""
    return [name for name in os.listdir(folder) if name.startswith(f".{output}")]


@pytest.mark.parametrize("command", list(CALLS))
def test_killed_at_any_moment(command: str, folder: Path) -> None:
    """The folder is whole or not there; the same call again succeeds and leaves nothing of the killed one."""
    chance, longest = random.Random(command), 2.0
    for number in range(KILLS):
        output = f"{command}-[{number}]"
        child = start(command, folder, output)
        deadline = time.monotonic() + chance.uniform(0.0, longest)
        while time.monotonic() < deadline and not os.waitpid(child, os.WNOHANG)[0]:
            time.sleep(0.005)
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # it was done before
        if (folder / output).exists() and command != "evaluate":
            assert (folder / output / DONE[command]).is_file()
        else:
            again = start(command, folder, output)
            assert os.waitstatus_to_exitcode(os.waitpid(again, 0)[1]) == 0
        assert (folder / output / DONE[command]).is_file()
        assert left(folder, output) == []


@pytest.mark.parametrize("command", ["prepare", "export"])
def test_two_at_once(command: str, folder: Path) -> None:
    """One wins, the other is refused or was later; what stays is whole."""
    output = f"{command}-twice"
    children = [start(command, folder, output) for _ in range(2)]
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes in ([0, 0], [0, 2])
    assert (folder / output / DONE[command]).is_file()
    assert left(folder, output) == []


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small disk, as root alone can")
@pytest.mark.parametrize("command", ["prepare", "export", "train"])
def test_a_disk_that_fills(command: str, folder: Path, tmp_path: Path) -> None:
    """From no room at all to nearly enough: one line that names what could not be written, and nothing there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    for kilobytes in (4, 16):
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", disk], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("no right to mount a disk here")
        try:
            argv = command_calls.VALID[command].split()
            argv[argv.index(command_calls.OUT)] = str(disk / "out")
            code, said = mutate_commands.call([command, *argv], folder)
            assert code in (1, 2), said
            assert "Traceback" not in said
            lines = [line for line in said.splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, said
            assert "space" in lines[0] or "left on that disk" in lines[0] or "large" in lines[0]
            if command != "train":
                assert list(disk.iterdir()) == []
        finally:
            subprocess.run(["umount", "-l", disk], check=True)
