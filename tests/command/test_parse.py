"""Flags over configuration files, and what is refused in either."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from distilfast import InputError
from distilfast._command import parse
from hypothesis import given
from hypothesis import strategies as st

WHOLE = st.integers(-(1 << 63), (1 << 63) - 1)


@dataclass
class Arguments:
    teacher: str = field(metadata={"help": "who teaches"})
    learning_rate: float = 1e-4
    layers: list[int] | None = None
    packed: bool = False
    seed: int | None = None
    shuffled: bool = True
    hidden_map: str | None = None
    optimiser: dict[str, Any] | str | None = None
    students: list[str] = field(default_factory=list, metadata={"action": "extend", "nargs": "+"})


def read(config: str, *argv: str, tmp_path: Path) -> Arguments:
    path = tmp_path / "run.yaml"
    path.write_text(config)
    (arguments,) = parse([Arguments], ["--config", str(path), *argv])
    assert isinstance(arguments, Arguments)
    return arguments


def test_a_configuration_file_gives_what_flags_give(tmp_path: Path) -> None:
    config = "teacher: bert\nlearning-rate: 0.5\nlayers: [0, 2]\npacked: true\nseed: null\n"
    assert read(config, tmp_path=tmp_path) == Arguments("bert", 0.5, [0, 2], True)
    assert parse([Arguments], ["--teacher", "bert"]) == (Arguments("bert"),)


@dataclass
class Output:
    output_dir: str | None = None
    overwrite: bool = False


def test_a_configuration_that_would_be_replaced_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out" / "run.yaml"
    path.parent.mkdir()
    path.write_text("overwrite: true\n")
    (tmp_path / "link").symlink_to("out")
    argv = ["--config", str(tmp_path / "link" / "run.yaml"), "--output_dir"]
    for output in (tmp_path / "out", tmp_path):
        with pytest.raises(InputError, match=r"run\.yaml lies in .*, which --overwrite replaces"):
            parse([Output], [*argv, str(output)])
    assert parse([Output], [*argv, str(tmp_path / "other")]) == (Output(str(tmp_path / "other"), True),)
    assert parse([Output], [*argv, str(tmp_path), "--overwrite", "false"]) == (Output(str(tmp_path), False),)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999"])
def test_a_number_that_is_not_finite_is_refused(number: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--learning_rate .*: must be finite"):
        parse([Arguments], ["--teacher", "bert", f"--learning_rate={number}"])
    with pytest.raises(InputError, match=r"--learning_rate .*: must be finite"):
        read(f"teacher: bert\nlearning_rate: {number}\n", tmp_path=tmp_path)


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
        ("text alone\n", "holds a text, not a mapping"),
        ("seed: 1\nseed: 2\n", "'seed' is given twice; leave one"),
        ("shuffled: true\nno_shuffled: true\n", "'no_shuffled' is the same flag as 'shuffled', given before"),
        ("learning-rate: 1\nlearning_rate: 2\n", "'learning_rate' is the same flag as 'learning-rate'"),
        ("no_seed: true\n", "unknown key 'no_seed'"),
        ("learning_rate: fast\n", "learning_rate: 'fast' is no float"),
        ("packed: maybe\n", "packed: 'maybe' is neither true nor false"),
        ("seed: [1, 2]\n", "seed: holds a list, but the flag takes one value"),
        ("layers: []\n", "layers: holds an empty list"),
        ("layers: [[1], [2]]\n", "holds a list of lists"),
        ("hidden_map: {1: 2}\n", "hidden_map: holds a mapping, but the flag takes one"),
        ("a: b: c\n", "not readable as YAML"),
    ],
)
def test_bad_configuration_files(config: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(config, tmp_path=tmp_path)


def test_a_missing_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        parse([Arguments], ["--config", str(tmp_path / "gone.yaml")])
    with pytest.raises(InputError, match="needs the name"):
        parse([Arguments], ["--config"])


def test_bad_flags_end_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse([Arguments], ["--teacher", "bert", "--learning-rat", "1"])
    assert "unknown flag --learning-rat; did you mean --learning-rate?" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        parse([Arguments], ["--teacher", "bert", "stray"])
    assert "unexpected argument 'stray'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ("hidden_map: 1:2", "hidden_map", "1:2"),
        ("hidden_map: 1:2,2:4", "hidden_map", "1:2,2:4"),
        ("hidden_map: no", "hidden_map", "no"),
        ("hidden_map: 010", "hidden_map", "010"),
        ("hidden_map: 2026-01-02", "hidden_map", "2026-01-02"),
        ("hidden_map: 'null'", "hidden_map", "null"),
        ("learning_rate: 1e-4", "learning_rate", 1e-4),
        ("layers: 3", "layers", [3]),
        ("packed: yes", "packed", True),
        ("packed: on", "packed", True),
        ("no_packed: true", "packed", False),
        ("no_packed: false", "packed", True),
        ("shuffled: no", "shuffled", False),
        ("no_shuffled: true", "shuffled", False),
        ("no-shuffled: 'no'", "shuffled", True),
        ("seed: ~", "seed", None),
        ("seed:", "seed", None),
    ],
)
def test_values_arrive_as_they_are_written(line: str, name: str, value: object, tmp_path: Path) -> None:
    assert getattr(read(f"teacher: bert\n{line}\n", tmp_path=tmp_path), name) == value


def test_a_mapping_arrives_as_json_for_flags_that_take_it(tmp_path: Path) -> None:
    config = "teacher: bert\noptimiser: {rate: 1e-4, name: no, 'text': '7', layers: [1, two], nested: {on: ~}}\n"
    found = read(config, tmp_path=tmp_path).optimiser
    assert isinstance(found, str)
    assert json.loads(found) == {"rate": 1e-4, "name": False, "text": "7", "layers": [1, "two"], "nested": {"on": None}}


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert read("# nothing yet\n", "--teacher", "bert", tmp_path=tmp_path) == Arguments("bert")


@given(st.floats(allow_nan=False), WHOLE, st.lists(WHOLE, min_size=1), st.booleans(), st.booleans())
def test_a_file_and_the_command_line_say_the_same(
    tmp_path_factory: pytest.TempPathFactory, rate: float, seed: int, layers: list[int], packed: bool, shuffled: bool
) -> None:
    values = {"learning_rate": rate, "seed": seed, "layers": layers, "packed": packed, "shuffled": shuffled}
    flags = ["--teacher=bert", f"--learning_rate={rate!r}", f"--seed={seed}", f"--packed={packed}"]
    flags += [f"--shuffled={shuffled}", "--layers", *map(str, layers)]
    if any(layer < 0 for layer in layers):  # argparse takes a minus for a flag where it is not told otherwise
        flags, values = flags[: flags.index("--layers")], {**values, "layers": None}
    config = json.dumps({"teacher": "bert", **values})
    (from_flags,) = parse([Arguments], flags)
    assert read(config, tmp_path=tmp_path_factory.mktemp("config")) == from_flags


@pytest.mark.parametrize("number", ["99999999999999999999", "-9223372036854775809", "1.0", "nan"])
def test_a_number_that_no_library_can_hold(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exited:
        parse([Arguments], ["--teacher=bert", f"--seed={number}"])
    assert exited.value.code == 2
    assert f"argument --seed: invalid int value: '{number}'" in capsys.readouterr().err
