"""Fixtures and Hypothesis profiles of the whole suite.

`HYPOTHESIS_PROFILE` picks how long the property tests look: `dev` (default), `ci`, `nightly`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile("dev", max_examples=25, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=50, deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("nightly", max_examples=5000, deadline=None)
# Whether a law fails, not the smallest example of it.
quick = [phase for phase in hypothesis.Phase if phase.name not in ("shrink", "explain")]
hypothesis.settings.register_profile("mutants", max_examples=50, deadline=None, derandomize=True, phases=quick)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """GPU tests need a GPU, interpreter tests need Triton's interpreter on; each says so where it is skipped."""
    interpreting = os.environ.get("TRITON_INTERPRET") == "1"
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
        if item.get_closest_marker("interpret") and not interpreting:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1, in a process of its own"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real text, tasks and vocabularies that `DISTILFAST_DATA` names; the test is skipped without it."""
    name = os.environ.get("DISTILFAST_DATA")
    if not name:
        pytest.skip("needs real data: set DISTILFAST_DATA to a folder with wikitext-2, glue, vocab, ...")
    path = Path(name)
    assert path.is_dir(), f"DISTILFAST_DATA={name} is not a folder"
    return path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: models of a few kilobytes lose more to waking threads than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
