"""What the calls of `mutate_commands` read, made once for each file of tests."""

from __future__ import annotations

from pathlib import Path

import mutate_commands
import pytest
from command_material import material


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("calls") / "material"
    mutate_commands.prepare_process()
    material(place)
    return place
