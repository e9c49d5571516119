"""The file of figures: what it held is replaced only where that was asked for."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from distilfast import InputError
from distilfast.bench.__main__ import BENCHES
from distilfast.bench.results import ResultFile


@pytest.mark.parametrize(
    ("bench", "flag"), [*((bench, "--json") for bench in BENCHES), ("losses", "--markdown")], ids=" ".join
)
def test_a_file_that_holds_something_is_refused_before_anything_is_measured(
    bench: str, flag: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text("mine")
    module, main = BENCHES[bench].function.split(":")
    with pytest.raises(InputError, match=r"mine\.json holds something already; .* --overwrite"):
        getattr(importlib.import_module(f"distilfast.{module}"), main)([flag, str(file)])
    assert file.read_text() == "mine"


def test_it_is_written_anew_where_asked_and_where_it_is_empty(tmp_path: Path) -> None:
    for content, overwrite in (("mine", True), ("", False)):
        file = tmp_path / "figures.json"
        file.write_text(content)
        results = ResultFile(json=str(file), overwrite=overwrite)
        results.refuse_lost_files()
        results.write({"seconds": 1})
        assert file.read_text() == '{\n  "seconds": 1\n}\n'
