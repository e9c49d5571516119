"""The table of wrong changes fits the code that it changes; `make mutants` runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_mutants import ROOT, changed, table


@pytest.mark.parametrize("mutant", table(), ids=lambda mutant: mutant["law"])
def test_every_change_can_be_made_and_is_still_python(mutant: dict[str, object]) -> None:
    compile(changed(mutant, ROOT / "python" / "distilfast"), str(mutant["file"]), "exec")
    tests = [Path(ROOT / "tests" / str(name)) for name in list(mutant["tests"])]  # type: ignore[call-overload]
    assert tests
    assert all(test.is_file() for test in tests)
