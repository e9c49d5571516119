"""The shipped kernels compiled for NVIDIA GPUs, without one: no spills, 16-byte accesses in the main loops."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from distilfast import fused


@pytest.fixture(scope="module")
def sass() -> ModuleType:
    path = Path(__file__).parent / "inspect_sass.py"
    spec = importlib.util.spec_from_file_location("inspect_sass", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["inspect_sass"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"columns": 30522}, id="rows that start anywhere"),
        pytest.param({"columns": 30522, "headed": False}, id="padded rows"),
        pytest.param({"columns": 30522, "student": torch.float32, "teacher": torch.float32}, id="float32"),
        pytest.param({"columns": 30522, "teacher": torch.float32}, id="mixed"),
        pytest.param({"columns": 50265, "squared_error": True, "temperature": 1.5}, id="squared error"),
        pytest.param({"columns": 30522, "capability": 80}, id="sm_80"),
    ],
)
def test_logits_kernel(sass: ModuleType, arguments: dict[str, Any]) -> None:
    compiled, each = sass.compile_distillation(fused, **arguments)
    assert compiled.spills == 0
    assert compiled.registers <= (128 if arguments.get("squared_error") else 96 if "teacher" in arguments else 80)
    kinds = compiled.accesses
    narrow = [kind for kind in kinds if kind.startswith(("LDG", "STG")) and not kind.endswith(".128")]
    assert not narrow, kinds
    streams = [loop.instructions / each for loop in compiled.loops if loop.streams]
    # Labelled rows and the others have a pair of loops each: the sums, the gradient.
    assert len(streams) == 4, compiled.loops
    assert sum(streams[2:]) < 45
    assert sum(streams[:2]) < 55


@pytest.mark.parametrize(("width", "layers"), [(768, 1), (1024, 12), (312, 4)])
def test_hidden_kernel(sass: ModuleType, width: int, layers: int) -> None:
    compiled = sass.compile_hidden(fused, width, layers=layers)
    assert compiled.spills == 0
    assert compiled.registers <= 128
    assert compiled.memory, "no access found"
    assert all(kind.endswith(".128") for kind in compiled.memory), compiled.memory


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"count": 2}, id="two, rows that start anywhere"),
        pytest.param({"count": 2, "headed": False, "biased": True, "dtype": torch.float16}, id="two with biases"),
        pytest.param({"count": 3, "dtype": torch.float32, "squared_error": True}, id="three, squared error, float32"),
    ],
)
def test_kernel_of_several_teachers(sass: ModuleType, arguments: dict[str, Any]) -> None:
    compiled, _ = sass.compile_several_teachers(fused, 30522, **arguments)
    assert compiled.spills == 0
    assert compiled.registers <= 128
    kinds = compiled.accesses
    assert {kind for kind in kinds if kind.startswith("STG")}, kinds
    narrow = [kind for kind in kinds if kind.startswith(("LDG", "STG")) and not kind.endswith(".128")]
    assert not narrow, kinds
