"""The loss bench on tiny sizes, and the script that runs everything on a GPU, with a stand-in for Python."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import distilfast
import pytest
import torch
from distilfast.bench import losses, rivals

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
    assert table.count("\n| distilfast ") == 8
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


def heads() -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((6, 8), (33, 8), (33,))
    student, teacher = ([torch.randn(shape, generator=generator) / 2 for shape in shapes] for _ in range(2))
    return [each.requires_grad_() for each in student], teacher, torch.tensor([3, -100, 32, 0, -100, 7])


def same_gradients(total: torch.Tensor, expected: torch.Tensor, leaves: list[torch.Tensor]) -> None:
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad(expected, leaves), torch.autograd.grad(total, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_trl_computes_the_same_divergence() -> None:
    pytest.importorskip("trl")
    student, teacher, labels = heads()
    ours = distilfast.losses.linear_distillation_loss(*student, *teacher, labels, alpha_mlm=0)
    same_gradients(rivals.trl_chunked(student, teacher, 2.0), ours.total, student)


def test_liger_computes_the_same_losses_of_labelled_rows() -> None:
    pytest.importorskip("liger_kernel")
    student, teacher, labels = heads()
    ours = distilfast.losses.linear_distillation_loss(*student, *teacher, labels, mask=labels >= 0)
    same_gradients(rivals.liger_chunked(student, teacher, labels, 2.0), ours.total, student)


@pytest.mark.parametrize("command", ["losses", "train"])
def test_the_benches_of_a_gpu_need_no_more_than_torch_and_transformers(command: str) -> None:
    """Beside pyarrow: a machine that is lent for ten minutes without a network has no `datasets`."""
    blocked = ("datasets", "sklearn", "scipy", "seqeval", "sentence_transformers", "matplotlib", "accelerate")
    tiny = {
        "losses": "--device cpu --rows 2 --vocabularies 9 --hidden 8 --runs 1 --compile false",
        "train": "--size tiny --batch_tokens 128 --max_length 32 --rounds 1 --batches 1 --batches_per_step 1",
    }
    script = (
        f"import sys\nsys.modules.update(dict.fromkeys({blocked!r}))\n"
        f"from distilfast.bench import {command}\n{command}.main({tiny[command].split()!r})"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DISTILFAST_DATA"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


STAND_IN = r"""#!/bin/sh
case "$*" in
-) cat >/dev/null; echo versions ;;
*-m\ pip*other.whl) exit 1 ;;
*-m\ pip*) ;;
*-m\ pytest*) echo "1 failed"; exit 1 ;;
*-m\ distilfast.bench*)
    while [ $# -gt 1 ]; do [ "$1" != --markdown ] || echo "| a table |" >"$2"; shift; done
    echo "a line" ;;
esac
"""


def gpu_check(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", KERNELS / "gpu_check.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # type: ignore[arg-type]


def results_in(folder: Path) -> set[str]:
    assert {each.name for each in folder.iterdir()} == {"tables.md", "results.tar.gz"}
    with tarfile.open(folder / "results.tar.gz") as archive:
        return {Path(name).name for name in archive.getnames()}


def test_gpu_check_goes_on_where_a_stage_fails(tmp_path: Path) -> None:
    python, wheels, out = tmp_path / "python", tmp_path / "wheels", tmp_path / "out"
    python.write_text(STAND_IN)
    python.chmod(0o755)
    wheels.mkdir()
    for name in ("one.whl", "other.whl"):
        (wheels / name).touch()
    done = gpu_check(out, wheels, PYTHON=str(python), PATH="/usr/bin:/bin")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("failed: other.whl tests (logs in")
    assert (out / "tables.md").read_text().count("| a table |") == 4
    assert done.stdout.count("| a table |") == 4
    logs = {"losses.log", "tests.log", "shapes.log", "train.log", "compiled.log", "wheels.log", "versions.txt"}
    assert logs <= results_in(out)
    limits = re.findall(r"^ *stage \w+ (\d+)", (KERNELS / "gpu_check.sh").read_text(encoding="utf-8"), re.M)
    assert len(limits) == 6
    assert sum(map(int, limits)) <= 570


def test_a_dry_run_of_gpu_check_measures_and_collects_everything_on_the_cpu(tmp_path: Path) -> None:
    """The stages, flags and files of ten minutes on a GPU, with models and losses that take seconds without one."""
    environment = {name: value for name, value in os.environ.items() if name != "DISTILFAST_DATA"}
    done = gpu_check(tmp_path, **{**environment, "PYTHON": sys.executable, "DRY_RUN": "1", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    for library in ("liger-kernel", "trl"):
        installed = importlib.util.find_spec(library.replace("-", "_")) is not None
        assert (f"{library} is not installed, so it is not compared" in done.stdout) is not installed
    tables = (tmp_path / "tables.md").read_text(encoding="utf-8")
    assert len(re.findall(r"### logits, 4 x 33, \w+\n\n(?:\|.*\n)*?\| distilfast +\|", tables)) == 2
    assert "| best settings |" in tables
    assert "ours packed" in tables
    assert {"losses.json", "shapes.json", "train.json", "tests.log"} <= results_in(tmp_path)
