"""The loss bench on tiny sizes, and the script that runs everything on a GPU, with a stand-in for Python."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distilfast.bench import losses

KERNELS = Path(__file__).parents[2] / "kernels"


def test_figures_of_every_contender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "losses.json"
    flags = ["--rows", "4", "6", "--vocabularies", "33", "--hidden", "8", "--runs", "2", "--compile", "false"]
    files = ["--json", str(target), "--markdown", str(target.with_suffix(".md"))]
    monkeypatch.setattr(sys, "argv", ["bench", *flags, "--device", "cpu", *files])
    losses.main()
    report = json.loads(target.read_text(encoding="utf-8"))
    assert [case["rows"] for case in report["cases"]] == [4, 6]
    for case in report["cases"]:
        for loss in ("logits", "linear", "cosine", "mse"):
            assert {"distilfast", "eager"} <= set(case[loss])
            assert (losses.FLOOR in case[loss]) == (loss != "linear")
            assert all(figures["median_ms"] > 0 for figures in case[loss].values())
    table = target.with_suffix(".md").read_text(encoding="utf-8")
    assert table.count("| distilfast |") == 8
    assert table.count("1.00x") >= 8


def test_a_gpu_waits_until_the_host_has_launched_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise what the host takes to launch a kernel would be measured, not the kernel."""
    done: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            done.append("record")

        def synchronize(self) -> None:
            done.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return 1.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: done.append("sleep"))
    assert losses._milliseconds(lambda: done.append("step"), torch.device("cuda")) == 1.5
    assert done == ["sleep", "record", "step", "record", "wait"]


def test_a_contender_that_fails_is_reported_and_the_others_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> object:
        raise RuntimeError("no kernel\nfor this")

    results = losses.measure({"distilfast": lambda: 1, "other": fails}, torch.device("cpu"), 3)
    assert results["other"] == {"error": "RuntimeError: no kernel"}
    assert results["distilfast"]["median_ms"] >= 0
    losses.show("title", results)
    assert "RuntimeError: no kernel" in capsys.readouterr().out


STAND_IN = r"""#!/bin/sh
case "$*" in
-) cat >/dev/null; echo versions ;;
*-m\ pip*other.whl) exit 1 ;;
*-m\ pip*) ;;
*-m\ pytest*) echo "1 failed"; exit 1 ;;
*bench\ losses*) for last; do :; done; echo "| a table |" >"$last"; echo "a line" ;;
*) echo "a line" ;;
esac
"""


def test_gpu_check_goes_on_where_a_stage_fails(tmp_path: Path) -> None:
    python, wheels = tmp_path / "python", tmp_path / "wheels"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    wheels.mkdir()
    for name in ("one.whl", "other.whl"):
        (wheels / name).touch()
    done = subprocess.run(
        ["sh", KERNELS / "gpu_check.sh", tmp_path / "out", wheels],
        env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("failed: other.whl tests (logs in")
    assert done.stdout.count("| a table |") == 2
    assert {"losses.log", "tests.log", "shapes.log", "train.log", "losses.md"} <= {
        each.name for each in (tmp_path / "out").iterdir()
    }
    limits = re.findall(r"^stage \w+ (\d+)", (KERNELS / "gpu_check.sh").read_text(encoding="utf-8"), re.M)
    assert sum(map(int, limits)) <= 570
