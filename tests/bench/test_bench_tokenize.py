"""The tokeniser bench: every contender is measured, its result is whole, threads stay where they were."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest
from distilfast import Tokenizer
from distilfast.bench import tokenize
from distilfast.bench.tokenize import core_numbers, held_to

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", ".", "##s", "é", "日"]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: str) -> dict[str, dict]:
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n", encoding="utf-8")
    (folder / "text.txt").write_text("The cats sat. The é 日 cat.\n" * 200, encoding="utf-8")
    files = ["--vocab", str(folder / "vocab.txt"), "--text", str(folder / "text.txt")]
    files += ["--multilingual", str(folder / "text.txt"), "--multilingual_vocab", str(folder / "vocab.txt")]
    monkeypatch.setattr(sys, "argv", ["bench", *files, "--runs", "1", "--json", str(folder / "out.json"), *flags])
    tokenize.main()
    report: dict[str, dict] = json.loads((folder / "out.json").read_text())
    return report


def test_the_result_is_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(monkeypatch, tmp_path)
    assert f"distilfast with {report['documents']['instructions']}; " in capsys.readouterr().out
    for name, rows in (("documents", 200), ("sentences", 400), ("multilingual", 200)):
        part = report[name]
        assert part["rows"] == rows
        assert part["instructions"] == Tokenizer.from_file(tmp_path / "vocab.txt")._core.instructions
        assert part["differing_rows"]["distilfast"] == part["differing_rows"]["distilfast, from Arrow"] == 0
        rates = part["1 threads, MB/s"]
        assert {"distilfast", "distilfast, from Arrow"} < set(rates)
        assert all(rate > 0 for states in rates.values() for rate in states.values())
    assert len(core_numbers()) == 1 or set(report["documents"]["scaling"]) == {
        "distilfast",
        "distilfast, from Arrow",
    }


def test_threads_that_run_already_are_held_too() -> None:
    """A pool begun with all cores would else measure on all of them what is said to be measured on one."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system does not hold threads to cores")
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    before = core_numbers()
    try:
        with held_to(1):
            assert os.sched_getaffinity(thread.native_id or 0) == set(before[:1])
        assert os.sched_getaffinity(thread.native_id or 0) == set(before)
    finally:
        done.set()
        thread.join()
