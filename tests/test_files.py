"""Files and folders that are whole or not there: what is replaced, what must not be, and links."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import distilfast as df
import pytest
from distilfast.__main__ import main
from distilfast._files import is_path, may_be_folder, refuse_occupied, whole_directory, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_link_stays_one_and_its_folder_is_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    (tmp_path / "dangling").symlink_to(tmp_path / "later")
    for name in ("link", "dangling"):
        with whole_directory(tmp_path / name) as beside:
            (beside / "file").touch()
        assert (tmp_path / name).is_symlink()
        assert names(tmp_path / name) == ["file"]
    with pytest.raises(df.InputError, match="holds something"), whole_directory(tmp_path / "link"):
        pass
    with whole_directory(tmp_path / "link", overwrite=True) as beside:
        (beside / "other").touch()
    assert names(tmp_path / "disk") == ["other"]
    assert names(tmp_path) == ["dangling", "disk", "later", "link"]


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    """Two runs with the same name: the second to finish must not remove what the first one made."""
    out = tmp_path / "out"

    def slow_run() -> None:
        with whole_directory(out) as beside:
            (beside / "file").touch()
            out.mkdir()
            (out / "precious").touch()

    with pytest.raises(df.InputError, match="holds something"):
        slow_run()
    assert names(tmp_path) == ["out"]
    assert names(out) == ["precious"]


def test_paths_that_cannot_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(df.InputError, match="file is a file"), whole_directory(tmp_path / "file" / "a" / "out"):
        pass
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for here in (".", "", tmp_path / "empty"):
        with pytest.raises(df.InputError, match="is the current directory"), whole_directory(here):
            pass
    assert names(tmp_path) == ["empty", "file"]


def test_who_may_read_is_up_to_the_umask(tmp_path: Path) -> None:
    """safetensors makes files that their owner alone may read; a student is for everybody who may read the folder."""
    kept = os.umask(0o027)
    try:
        with whole_directory(tmp_path / "out") as beside:
            (beside / "folder").mkdir(mode=0o700)
            (beside / "folder" / "file").touch(mode=0o600)
    finally:
        os.umask(kept)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))}
    assert modes == {"out": 0o750, "folder": 0o750, "file": 0o640}


def test_a_directory_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "out"
    with whole_directory(path) as beside:
        (beside / "part").write_text("1")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["part"]
    assert os.listdir(path.parent) == ["out"]

    with pytest.raises(df.InputError, match="holds something already"), whole_directory(path):
        pytest.fail("the block must not be entered")
    with pytest.raises(ZeroDivisionError), whole_directory(path, overwrite=True) as beside:
        (beside / "other").write_text(str(1 // 0))
    assert [file.name for file in path.iterdir()] == ["part"]
    with whole_directory(path, overwrite=True) as beside:
        (beside / "other").write_text("2")
    assert [file.name for file in path.iterdir()] == ["other"]
    assert os.listdir(path.parent) == ["out"]


def test_an_empty_directory_is_free_and_a_file_is_not(tmp_path: Path) -> None:
    assert refuse_occupied(tmp_path) == tmp_path
    (tmp_path / "file").touch()
    with pytest.raises(df.InputError, match="holds something already"):
        refuse_occupied(tmp_path / "file")


def test_only_what_a_dead_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.abcd.partial"
    left.mkdir()
    (left / "half").write_text("half")
    with whole_directory(tmp_path / "out") as first:
        assert not left.exists()
        with whole_directory(tmp_path / "out") as second:
            assert first.is_dir()
            assert first != second
            (second / "from").write_text("the second")
        (first / "from").write_text("the first")
        # The second was finished in the meantime, so the first may not take its place.
        (tmp_path / "out" / "from").unlink()
    assert (tmp_path / "out" / "from").read_text() == "the first"


def test_text_and_json_are_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "folder" / "note.txt", "caf\u00e9")
    write_json(tmp_path / "folder" / "note.txt", {"a": "\u00e9"})
    assert (tmp_path / "folder" / "note.txt").read_text(encoding="utf-8") == '{\n  "a": "\u00e9"\n}\n'
    assert os.listdir(tmp_path / "folder") == ["note.txt"]


@pytest.mark.parametrize("fails", ["os.replace", "pathlib.Path.write_text"])
def test_text_that_cannot_be_written_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    (tmp_path / "there").mkdir()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(fails, full)
        for folder in ("there", "new/deep"):
            with pytest.raises(df.InputError, match="no space is left"):
                write_text(tmp_path / folder / "note.txt", "text")
    assert names(tmp_path) == ["there"]
    assert names(tmp_path / "there") == []


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["file", "pipe", "socket", "device", "link to a pipe", "link to a device"])
def test_what_is_no_folder_is_never_replaced(tmp_path: Path, kind: str, overwrite: bool) -> None:
    out = tmp_path / "out"
    made = tmp_path / "made" if kind.startswith("link") else out
    server = socket.socket(socket.AF_UNIX)
    if kind == "file":
        out.write_text("mine")
    elif kind.endswith("pipe"):
        os.mkfifo(made)
    elif kind == "socket":
        server.bind(str(out))
    elif kind == "device":
        out = Path("/dev/null")
    if kind.startswith("link"):
        out.symlink_to(made if kind.endswith("pipe") else "/dev/null")
    before = os.lstat(out)
    for refuse in (
        refuse_occupied,
        lambda *given: whole_directory(*given).__enter__(),
        lambda to, _: may_be_folder(to),
    ):
        with pytest.raises(df.InputError, match=r"is a (file|pipe|socket|device)"):
            refuse(out, overwrite)
    after = os.lstat(out)
    assert (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    assert not list(tmp_path.glob(".*"))
    server.close()


def test_what_is_read_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "teacher").mkdir(parents=True)
    (tmp_path / "models" / "teacher" / "config.json").touch()
    (tmp_path / "link").symlink_to(tmp_path / "models")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").symlink_to(tmp_path / "models" / "teacher" / "config.json")
    for out in ("models", "models/teacher", "link", "link/teacher", "models/../models"):
        for read in ("models/teacher", "link/teacher", "models/teacher/config.json", "copy"):
            with pytest.raises(df.InputError, match="would be lost"):
                refuse_occupied(tmp_path / out, True, [None, "owner/name", tmp_path / read])
    assert refuse_occupied(tmp_path / "models/teacher/student", True, [tmp_path / "models" / "teacher"])
    monkeypatch.chdir(tmp_path / "models" / "teacher")
    with pytest.raises(df.InputError, match="holds the current directory"):
        refuse_occupied(tmp_path / "models", True)


@pytest.mark.parametrize("name", ["br[1]", "a*b", "what?", "with space", "x" * 240, "x" * 255, "é" * 120, "out.bak"])
def test_what_a_killed_run_left_is_found_whatever_the_name(tmp_path: Path, name: str) -> None:
    script = (
        "import os, signal, sys\n"
        "from distilfast._files import whole_directory\n"
        "with whole_directory(sys.argv[1]) as beside:\n"
        "    (beside / 'half').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / name)])
    assert process.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == 1
    with whole_directory(tmp_path / "out") as beside:
        beside.joinpath("file").touch()
    assert len(names(tmp_path)) == 2, "another name's leftovers are its own"
    with whole_directory(tmp_path / name) as beside:
        beside.joinpath("file").touch()
    assert names(tmp_path) == sorted(["out", name])


def test_a_run_killed_between_its_two_renames_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / ".out.abcdefgh.partial" / "replaced").mkdir(parents=True)
    (tmp_path / ".out.abcdefgh.partial" / "replaced" / "precious").touch()

    def run() -> None:
        with whole_directory(tmp_path / "out"):
            assert (tmp_path / "out" / "precious").exists()

    with pytest.raises(df.InputError, match="holds something"):
        run()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["precious"]


def test_faults_of_the_machine_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, told in (
        (tmp_path / ("x" * 256), "name is longer"),
        (tmp_path / "loop", "circle"),
        (Path("/proc/out"), "/proc"),
        (tmp_path / "file" / "out", "is a file"),
    ):
        (tmp_path / "file").touch()
        with pytest.raises(df.InputError, match=told) as caught, whole_directory(path):
            pytest.fail("the block must not be entered")
        assert "\n" not in str(caught.value)

    class RustError(Exception):
        pass

    for error in (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RustError("I/O error: No space left on device (os error 28)"),
        OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),
    ):
        with (
            pytest.raises(df.InputError, match=rf"{tmp_path}/out: no space is left .* MB free"),
            whole_directory(tmp_path / "out"),
        ):
            raise error
    assert names(tmp_path) == ["file", "loop"]
    with pytest.raises(df.InputError, match="no file that could be replaced"):
        write_text("/dev/null", "text")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("bert-base-uncased", False),
        ("owner/name", False),
        ("here", True),
        ("here/gone", True),
        ("./gone", True),
        ("/gone", True),
        ("~/gone", True),
        ("a/b/c", True),
        ("vocab.txt", True),
        ("owner/name-v1.5", False),
    ],
)
def test_path_or_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert is_path(name) == path
    assert is_path(Path(name))


@pytest.mark.parametrize(
    "flags",
    [
        ["evaluate", "--teacher", "t", "--student", "s"],
        ["ablate", "--teacher", "t", "--text", "text.txt", "--held_out", "text.txt"],
        ["task_distillation", "--teacher", "t", "--task", "sst-2"],
        ["task_distillation", "--teacher", "t", "--task", "sst-2", "--overwrite", "true"],
        ["export", "--student", "t"],
        ["export", "--student", "t", "--overwrite", "true"],
        ["prepare", "--tokenizer", "t", "--text", "text.txt", "--overwrite", "true"],
        ["train", "--teacher", "t", "--text", "text.txt", "--overwrite", "true"],
    ],
)
def test_no_command_replaces_a_pipe(
    tmp_path: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("out")
    (tmp_path / "t").mkdir()
    (tmp_path / "text.txt").write_text("text\n")
    with pytest.raises(SystemExit) as code:
        main([*flags, "--output_dir", "out"])
    assert code.value.code == 2
    assert "out is a pipe" in capsys.readouterr().err
    assert Path("out").is_fifo()
