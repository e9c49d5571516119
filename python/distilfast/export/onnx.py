"""ONNX with dynamic batch and length, plain and with 8-bit weights, run by onnxruntime and compared."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from .._core import InputError
from .check import Check, compare, refuse_past_tolerance


def require_onnx() -> None:
    """Raises `InputError` where the packages of the extra `onnx` are not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"ONNX export needs {package}: pip install 'distilfast[onnx]'")


class _Outputs(torch.nn.Module):
    """The model as a function of (input_ids, attention_mask) to a tuple of its named outputs."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return tuple(outputs[name] for name in self.names)


def write_onnx(model: Any, path: Path, names: list[str]) -> None:
    """`model` (on the CPU, evaluation mode) as `path`, one file: inputs `input_ids`, `attention_mask` int64
    [batch, length], outputs `names`, batch and length free."""
    require_onnx()
    # Two rows of eight: a dimension of size one would be taken for a constant.
    ids = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=_longest(model))}
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Outputs(model, names).eval(),
            (ids, torch.ones_like(ids)),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=names,
            dynamic_shapes={"input_ids": axes, "attention_mask": axes},
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _longest(model: Any) -> int:
    return int(getattr(model.config, "max_position_embeddings", 512))


def run_onnx(path: Path, encoded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of the file for these inputs, by onnxruntime on the CPU, float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {each.name: encoded[each.name].numpy() for each in session.get_inputs()}
    names = [each.name for each in session.get_outputs()]
    return {name: torch.from_numpy(value).float() for name, value in zip(names, session.run(names, taken), strict=True)}


def check_onnx(
    model: Any, folder: Path, encoded: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], tolerance: float
) -> Check:
    """Writes `model.onnx` in `folder` and compares it; one sequence alone too, so that a frozen batch shows."""
    path = folder / "model.onnx"
    write_onnx(model, path, list(reference))
    attended = encoded["attention_mask"].bool()
    check = compare("onnx", path, run_onnx(path, encoded), reference, attended, tolerance)
    refuse_past_tolerance(check)
    first = {key: value[:1] for key, value in encoded.items()}
    single = run_onnx(path, first)
    alone = compare("onnx", path, single, {key: value[:1] for key, value in reference.items()}, attended[:1], tolerance)
    refuse_past_tolerance(alone)
    return check


def check_int8(
    folder: Path, encoded: dict[str, torch.Tensor], reference: dict[str, torch.Tensor], least_agreement: float
) -> Check:
    """Writes `model.int8.onnx` from `model.onnx` in `folder`: 8-bit weights, activations quantised as they come.

    Its outputs are not those of the original; it is refused where fewer than `least_agreement` of the top-1 are equal.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "model.int8.onnx"
    logging.getLogger("root").setLevel(logging.ERROR)
    quantize_dynamic(folder / "model.onnx", path, weight_type=QuantType.QInt8)
    attended = encoded["attention_mask"].bool()
    check = compare("onnx int8", path, run_onnx(path, encoded), reference, attended, None)
    if not check.agreement >= least_agreement:
        raise InputError(
            f"onnx int8: top-1 equals the original's on {100 * check.agreement:.1f} % of positions, less than the "
            f"{100 * least_agreement:.0f} % asked for; nothing is written"
        )
    return check
