"""`command` and `files`: flags over configuration files, errors of one line, folders that are whole or not there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from distilfast import InputError
from distilfast._command import parse, run
from distilfast._files import refuse_occupied, whole_directory, write_json, write_text


@dataclass
class Arguments:
    teacher: str = field(metadata={"help": "who teaches"})
    learning_rate: float = 1e-4
    layers: list[int] | None = None
    packed: bool = False
    seed: int | None = None
    shuffled: bool = True
    students: list[str] = field(default_factory=list, metadata={"action": "extend", "nargs": "+"})


def read(config: str, *argv: str, tmp_path: Path) -> Arguments:
    path = tmp_path / "run.yaml"
    path.write_text(config)
    (arguments,) = parse([Arguments], "a test", ["--config", str(path), *argv])
    assert isinstance(arguments, Arguments)
    return arguments


def test_a_configuration_file_gives_what_flags_give(tmp_path: Path) -> None:
    config = "teacher: bert\nlearning-rate: 0.5\nlayers: [0, 2]\npacked: true\nseed: null\n"
    assert read(config, tmp_path=tmp_path) == Arguments("bert", 0.5, [0, 2], True)
    assert parse([Arguments], "a test", ["--teacher", "bert"]) == (Arguments("bert"),)


def test_the_command_line_wins(tmp_path: Path) -> None:
    config = "teacher: bert\nlayers: [0, 2]\nlearning_rate: 0.5\n"
    assert read(config, "--layers", "1", "--teacher=roberta", tmp_path=tmp_path) == Arguments("roberta", 0.5, [1])


def test_flags_that_are_on_by_default_and_flags_that_add_up(tmp_path: Path) -> None:
    config = "teacher: bert\nshuffled: false\nstudents: [a, b]\n"
    assert read(config, tmp_path=tmp_path) == Arguments("bert", shuffled=False, students=["a", "b"])
    read_over = read(config.replace("false", "true"), "--no_shuffled", "--students", "c", tmp_path=tmp_path)
    assert read_over == Arguments("bert", shuffled=False, students=["c"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("teacher: bert\nlerning_rate: 1\n", "unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ("zzzzz: 1\n", "unknown key 'zzzzz'$"),
        ("help: true\n", "unknown key 'help'"),
        ("- a list\n", "holds a list, not a mapping"),
        ("a: b: c\n", "not readable as YAML"),
    ],
)
def test_bad_configuration_files(config: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(config, tmp_path=tmp_path)


def test_a_missing_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        parse([Arguments], "a test", ["--config", str(tmp_path / "gone.yaml")])
    with pytest.raises(InputError, match="needs the name"):
        parse([Arguments], "a test", ["--config"])


def test_bad_values_end_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        read("teacher: bert\nlearning_rate: fast\n", tmp_path=tmp_path)
    with pytest.raises(SystemExit, match="2"):
        parse([Arguments], "a test", ["--teacher", "bert", "--learning-rat", "1"])
    assert "unknown flag --learning-rat; did you mean --learning-rate?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        parse([Arguments], "a test", ["--teacher", "bert", "stray"])
    assert "unexpected argument 'stray'" in capsys.readouterr().err


@pytest.mark.parametrize(("error", "code"), [(InputError("bad"), 2), (FileNotFoundError("gone"), 2)])
def test_run_turns_user_errors_into_one_line(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as exit_code:
        run(command)
    assert exit_code.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_run_does_not_hide_a_bug() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: print(1 // 0))


def test_a_directory_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "parent" / "out"
    with whole_directory(path) as beside:
        (beside / "part").write_text("1")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["part"]
    assert os.listdir(path.parent) == ["out"]

    with pytest.raises(InputError, match="holds something already"), whole_directory(path):
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
    with pytest.raises(InputError, match="holds something already"):
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
