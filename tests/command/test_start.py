"""How a command begins and ends: quick answers without torch, one line for what a user did wrong."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from distilfast import InputError
from distilfast.__main__ import COMMANDS, main
from distilfast._command import choose, run, unreachable
from distilfast._command.unreachable import REQUESTS, Connection, watch_hub
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

SECOND = 1.0  # of user time
SCREEN = 45  # lines


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m distilfast` with `arguments`, at 80 columns."""
    command = [sys.executable, "-m", "distilfast", *arguments]
    return subprocess.run(
        command, env={**os.environ, "COLUMNS": "80", **environment}, capture_output=True, text=True, check=False
    )


def user_seconds(*arguments: str) -> tuple[float, subprocess.CompletedProcess[str]]:
    before = os.times().children_user
    done = start(*arguments)
    return os.times().children_user - before, done


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["bench", "losses"], ["bench", "train"]])
def test_help_is_quick_and_one_screen(command: list[str]) -> None:
    seconds, done = user_seconds(*command, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {' '.join(['distilfast', *command])} ")
    assert seconds < SECOND
    if command and command[0] != "bench":
        assert len(done.stdout.splitlines()) <= SCREEN
        assert "(required)" in done.stdout
        everything = start(*command, "--help", "all")
        assert everything.stdout == start(*command, "--help_all").stdout
        assert len(everything.stdout) >= len(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["train", "--output_dir", "out", "--lerning_rate", "1"],
            "unknown flag --lerning_rate; did you mean --learning_rate?",
        ),
        (["train", "--teacher", "bert"], "the following arguments are required: --output_dir"),
        (["prepare", "--output_dir", "out"], "the following arguments are required: --tokenizer"),
        (["train", "--output_dir", "out", "--max_steps", "some"], "invalid int value: 'some'"),
        (["train", "--output_dir", "out", "--layout", "loose"], "invalid choice: 'loose'"),
        (["trian"], "unknown command 'trian'; did you mean train?"),
        (["frobnicate"], "unknown command 'frobnicate'; there is prepare, train,"),
        (["bench", "losse"], "unknown command 'losse'; did you mean losses?"),
        (["train", "--help", "some"], "--help shows what most people need"),
        (["train", "--config", "gone.yaml"], "--config gone.yaml: there is no such file"),
    ],
)
def test_wrong_flags_are_refused_before_anything_slow(arguments: list[str], message: str) -> None:
    seconds, done = user_seconds(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert seconds < SECOND


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from distilfast.__main__ import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass\n"
    code += "print({'torch', 'transformers', 'datasets'} & {*sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"


@pytest.mark.parametrize("name", COMMANDS)
def test_either_way_to_start_a_command_is_the_same(name: str) -> None:
    def texts(*command: str) -> str:
        done = subprocess.run([sys.executable, "-m", *command, "--help"], capture_output=True, text=True, check=True)
        return done.stdout

    assert texts(f"distilfast.{name}").replace(f"python -m distilfast.{name}", f"distilfast {name}") == texts(
        "distilfast", name
    )


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code in (None, 0)
    assert capsys.readouterr().out == f"distilfast {importlib.import_module('distilfast').__version__}\n"


def test_a_command_must_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        choose({"one": "the first"}, [], "program", "what it is for")
    assert "one  the first" in capsys.readouterr().err
    assert choose({"one": "the first"}, ["one", "--flag"], "program", "") == ("one", ["--flag"])


class UnluckyError(Exception):
    exit_code = 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("bad"), 2, "error: bad"),
        (FileNotFoundError("gone"), 2, "error: gone"),
        (PermissionError(13, "Permission denied", "/models/x"), 2, "error: [Errno 13] Permission denied: '/models/x'"),
        (UnluckyError("no luck"), 1, "error: no luck"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.pyplot"),
            2,
            "error: matplotlib is not installed; pip install 'distilfast[plots]' brings it",
        ),
    ],
)
def test_run_turns_what_a_user_did_into_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(command)
    assert ended.value.code == code
    assert capsys.readouterr().err == line + "\n"


def test_a_system_without_poll_and_sigpipe_ends_in_silence() -> None:
    code = (
        "import select, signal; del select.poll, signal.SIGPIPE\n"
        "from distilfast._command import run\n"
        "def gone(): raise BrokenPipeError\n"
        "run(gone)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), ModuleNotFoundError("No module named 'x'", name="x"), BrokenPipeError()]
)
def test_run_does_not_hide_a_bug(error: Exception) -> None:
    def command() -> None:
        raise error

    with pytest.raises(type(error)):
        run(command)


def test_a_reader_that_goes_away_is_no_bug(tmp_path: Path) -> None:
    code = "from distilfast._command import run\nrun(lambda: [print('x' * 100) for _ in range(100000)])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.parametrize("wait", [0.3, 1.0])
def test_an_interrupt_while_importing_is_one_line(wait: float, tmp_path: Path) -> None:
    """An import that never ends stands for torch's."""
    (tmp_path / "torch.py").write_text("print('importing', flush=True)\nwhile True: pass\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "distilfast", "evaluate", "--teacher", "a", "--output_dir", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: no space is left for it"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "a/b: read-only file system"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a/b"), "a/b: its name is longer"),
        (OSError("Couldn't deserialize thrift\nmore"), "Couldn't deserialize thrift"),
    ],
)
def test_faults_of_the_machine_are_one_line(error: Exception, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_code:
        run(command)
    assert exit_code.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {told}")
    assert shown.count("\n") == 1


def test_a_hub_that_does_not_answer_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger(REQUESTS)
    before = list(logger.filters)
    try:
        watch_hub()
        watch_hub()
        with caplog.at_level(logging.WARNING, REQUESTS):
            for file in ("config.json", "tokenizer.json"):
                for seconds in (1, 2, 4):
                    logger.warning(f"'[Errno 111] Connection refused' thrown while requesting HEAD https://hub/{file}")
                    logger.warning(f"Retrying in {seconds}s [Retry 1/5].")
            logger.warning("the cache is on a slow disk")
    finally:
        logger.filters[:] = before
        set_client_factory(default_client_factory)
    first, other = caplog.messages
    assert "does not answer ([Errno 111] Connection refused)" in first
    assert "HF_HUB_OFFLINE=1" in first
    assert other == "the cache is on a slow disk"


class Clock:
    """A client whose requests take seconds that nobody waits for, and end as `fails` says: with an error of that name,
    or with an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.fails, self.sent = 0.0, "ConnectError", 0
        monkeypatch.setattr(unreachable.time, "monotonic", lambda: self.now)

    def send(self, request: str, **_: Any) -> str:
        self.sent += 1
        if self.fails:
            raise type(self.fails, (Exception,), {})("no route")
        return "answer"

    def tried(self, client: Any, at: float) -> str:
        """How a request at that second ends."""
        self.now = at
        try:
            return str(client.send("request"))
        except Exception as error:
            return type(error).__name__


def test_a_host_that_lets_nobody_connect_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file was asked for by itself, half a minute long: 69 to 85 s until a command ended."""
    clock = Clock(monkeypatch)
    connection = Connection()
    client = connection.watched(clock)
    found = [clock.tried(client, at) for at in (0, 0, 1, 3, 7, 7.1)]
    assert found == ["ConnectError"] * 4 + ["OfflineModeIsEnabled"] * 2
    assert clock.sent == 4
    again = connection.watched(type("Client", (), {"send": clock.send})())  # the library makes one after each failure
    assert clock.tried(again, 8) == "OfflineModeIsEnabled"


@pytest.mark.parametrize("fails", ["ReadTimeout", "RemoteProtocolError"])
def test_a_slow_connection_keeps_the_librarys_patience(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    clock.fails = fails
    client = Connection().watched(clock)
    assert [clock.tried(client, at) for at in (0, 10, 22, 36)] == [fails] * 4


def test_a_host_that_has_answered_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    client = Connection().watched(clock)
    assert clock.tried(client, 0) == "ConnectError"
    clock.fails = ""
    assert clock.tried(client, 4) == "answer"
    clock.fails = "ConnectError"
    assert [clock.tried(client, at) for at in (5, 20, 60)] == ["ConnectError"] * 3
