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


PADDED_HALVES = {"headed": False, "student": torch.float16, "teacher": torch.float16}
PADDED_FLOATS = {"headed": False, "student": torch.float32, "teacher": torch.float32}


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"columns": 30522}, id="rows that start anywhere"),
        pytest.param({"columns": 30522, "student": torch.float32, "teacher": torch.float32}, id="float32"),
        pytest.param({"columns": 30522, "teacher": torch.float32}, id="mixed"),
        pytest.param({"columns": 50265, "squared_error": True, "temperature": 1.5}, id="squared error"),
        # What K2, and so training, launches: workspaces of float16 for 16-bit heads, of float32 for float32 ones.
        pytest.param({"columns": 30522, **PADDED_HALVES}, id="K2"),
        pytest.param({"columns": 32000, **PADDED_HALVES}, id="K2 of 32,000 words"),
        pytest.param({"columns": 50368, **PADDED_HALVES}, id="K2 of ModernBERT"),
        pytest.param({"columns": 28996, **PADDED_HALVES}, id="K2 of BERT, cased"),
        pytest.param({"columns": 31090, **PADDED_HALVES}, id="K2 of SciBERT"),
        pytest.param({"columns": 119547, **PADDED_HALVES}, id="K2 of multilingual BERT"),
        pytest.param({"columns": 250002, **PADDED_HALVES}, id="K2 of XLM-R"),
        pytest.param({"columns": 30522, **PADDED_HALVES, "temperature": 1.0}, id="K2, temperature 1"),
        pytest.param({"columns": 30522, **PADDED_HALVES, "temperature": 1.5}, id="K2, temperature 1.5"),
        pytest.param({"columns": 30522, **PADDED_HALVES, "squared_error": True}, id="K2, squared error"),
        pytest.param({"columns": 30522, **PADDED_HALVES, "store": False}, id="K2 without gradient"),
        pytest.param({"columns": 30522, **PADDED_HALVES, "kl": False}, id="K2 without KL"),
        pytest.param({"columns": 30522, **PADDED_HALVES, "teacher": torch.float32}, id="K2, several teachers"),
        pytest.param({"columns": 30522, **PADDED_FLOATS}, id="K2, float32"),
        pytest.param({"columns": 30522, **PADDED_FLOATS, "squared_error": True}, id="K2, float32, squared error"),
        pytest.param({"columns": 250002, **PADDED_FLOATS}, id="K2, float32, XLM-R"),
    ],
)
def test_logits_kernel(sass: ModuleType, arguments: dict[str, Any]) -> None:
    compiled, each = sass.compile_distillation(fused, **arguments)
    assert compiled.spills == 0
    dtypes = {arguments.get("student"), arguments.get("teacher")}
    assert compiled.registers <= (128 if "squared_error" in arguments else 96 if torch.float32 in dtypes else 80)
    kinds = compiled.accesses
    narrow = [kind for kind in kinds if kind.startswith(("LDG", "STG")) and not kind.endswith(".128")]
    assert not narrow, kinds
    # Labelled rows and the others have a pair of loops each: the sums, the gradient.
    streams = [loop.instructions / each for loop in compiled.loops if loop.streams]
    assert len(streams) == 4, compiled.loops
    lean, labelled = sorted((sum(streams[:2]), sum(streams[2:])))
    assert lean < 45
    assert labelled < 55


@pytest.mark.parametrize("capability", [80, 120])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="K2"),
        pytest.param({"columns": 50368}, id="K2 of ModernBERT"),
        pytest.param({"columns": 250002}, id="K2 of XLM-R"),
        pytest.param({"squared_error": True}, id="K2, squared error"),
        pytest.param({"store": False}, id="K2 without gradient"),
        pytest.param({"kl": False}, id="K2 without KL"),
        pytest.param({"teacher": torch.float32}, id="K2, several teachers"),
        pytest.param(PADDED_FLOATS, id="K2, float32"),
    ],
)
def test_other_gpus(sass: ModuleType, capability: int, arguments: dict[str, Any]) -> None:
    """What training launches, on an A100 (8.0) and on GeForce and RTX PRO of 2025 (12.0)."""
    options = {"columns": 30522, **PADDED_HALVES, "capability": capability, **arguments}
    compiled, _ = sass.compile_distillation(fused, **options)
    # With 80 registers, for three programs a multiprocessor, code for 12.0 puts one aside outside its loops.
    assert compiled.spills <= (2 if capability == 120 else 0)
    assert not any(kind.startswith(("LDL", "STL")) for loop in compiled.loops for kind in loop.kinds)
    kinds = compiled.accesses
    assert kinds, "no main loop found"
    assert all(kind.endswith(".128") for kind in kinds if kind.startswith(("LDG", "STG"))), kinds


def test_padded_bfloat16_spills_outside_its_loops_alone(sass: ModuleType) -> None:
    compiled, _ = sass.compile_distillation(fused, 30522, headed=False)
    assert compiled.spills <= 2
    assert not any(kind.startswith(("LDL", "STL")) for loop in compiled.loops for kind in loop.kinds)


def test_no_store_before_every_warp_has_read_the_true_class(sass: ModuleType) -> None:
    """In place, the gradient of another warp would else be taken for the label's logit."""
    compiled, _ = sass.compile_distillation(fused, 32000, **PADDED_HALVES)
    read = [at for at, kind in enumerate(compiled.kinds) if kind.startswith("LDG") and ".U16" in kind]
    assert len(read) >= 2
    after = compiled.kinds[read[1] :]
    barrier = next(at for at, kind in enumerate(after) if kind.startswith("BAR"))
    store = next(at for at, kind in enumerate(after) if kind.startswith("STG") and ".128" in kind)
    assert barrier < store


@pytest.mark.parametrize("capability", [80, 90, 120])
@pytest.mark.parametrize(
    ("width", "layers", "dtype", "cosine"),
    [
        (768, 1, torch.bfloat16, True),
        (768, 6, torch.bfloat16, False),
        (1024, 12, torch.bfloat16, True),
        (312, 4, torch.bfloat16, True),
        (768, 1, torch.float32, True),
        (384, 6, torch.float32, False),
    ],
)
def test_hidden_kernel(
    sass: ModuleType, width: int, layers: int, dtype: torch.dtype, cosine: bool, capability: int
) -> None:
    compiled = sass.compile_hidden(fused, width, dtype, layers=layers, cosine=cosine, capability=capability)
    assert compiled.spills == 0
    assert compiled.registers <= 128
    assert compiled.memory, "no access found"
    assert all(kind.endswith(".128") for kind in compiled.memory), compiled.memory
