"""ONNX with dynamic batch and length, plain and with 8-bit weights, run by onnxruntime and compared."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from .._core import InputError
from .._files import first_line
from ..models.families import longest_row
from ..models.pooling import SentenceModules
from .check import Batch, Check, compare, outputs_of, refuse_past_tolerance


def require_onnx() -> None:
    """Raises `InputError` where the packages of the extra `onnx` are not installed."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"ONNX export needs {package}: pip install 'distilfast[onnx]'")


class _Outputs(torch.nn.Module):
    """The model as a function of its inputs by name to a tuple of its outputs, the pooled one last if there is one."""

    def __init__(self, model: Any, pooling: SentenceModules | None) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True, **types)
        found = [value for value in outputs.values() if isinstance(value, torch.Tensor)]
        if self.pooling is not None:
            found.append(self.pooling(outputs["last_hidden_state"], {"attention_mask": attention_mask}))
        return tuple(found)


def write_onnx(
    model: Any,
    path: Path,
    inputs: Collection[str],
    names: Sequence[str],
    longest: int,
    pooling: SentenceModules | None = None,
) -> None:
    """`model` (float32, on the CPU, evaluation mode) as `path`, one file, batch and length free.

    inputs: their names, int64 [batch, length] each: what the tokenizer gives and the model takes. names: of its
    outputs, in their order, "sentence_embedding" last where there is `pooling`. longest: the most tokens of a row.
    """
    require_onnx()
    taken = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in inputs]
    # Two rows of eight: a dimension of size one would be taken for a constant.
    ids = torch.ones((2, 8), dtype=torch.int64)
    example = {name: torch.ones_like(ids) if name != "token_type_ids" else torch.zeros_like(ids) for name in taken}
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest)}
    logging.getLogger("onnxscript").setLevel(logging.ERROR)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _one_line(model, "torch.onnx"):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Outputs(model, pooling).eval(),
            tuple(example.values()),
            str(path),
            input_names=taken,
            output_names=list(names),
            dynamic_shapes=dict.fromkeys(taken, axes),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextlib.contextmanager
def _one_line(model: Any, library: str) -> Iterator[None]:
    """What the libraries of ONNX raise of a model, in one line; faults of the disk stay what they are."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # each has classes of its own, and most of the message is a graph
        raise InputError(
            f"a {type(model).__name__} cannot be written to ONNX: {library} says {first_line(error)[:300]}; export it "
            "without --onnx"
        ) from error


def run_onnx(path: Path, batches: Sequence[Batch]) -> list[Batch]:
    """The outputs of the file for these inputs, by onnxruntime on the CPU, float32, batch by batch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    found = []
    for batch in batches:
        outputs = session.run(names, {name: value.numpy() for name, value in batch.items()})
        found.append({name: torch.from_numpy(value).float() for name, value in zip(names, outputs, strict=True)})
    return found


def check_onnx(
    model: Any,
    tokenizer: Any,
    folder: Path,
    batches: Sequence[Batch],
    tolerance: float,
    pooling: SentenceModules | None = None,
) -> tuple[Check, list[Batch]]:
    """Writes `model.onnx` in `folder` and compares it, one sequence alone too, so that a frozen batch shows; its
    outputs are returned as well. A model in half precision is written, and compared, in float32."""
    path = folder / "model.onnx"
    single = model if model.dtype == torch.float32 else copy.deepcopy(model).float()
    reference = outputs_of(single, batches)
    if pooling is not None:
        for batch, outputs in zip(batches, reference, strict=True):
            with torch.inference_mode():
                outputs["sentence_embedding"] = pooling(outputs["last_hidden_state"], batch)
    # The tokenizer's limit is none of the file's: whoever has longer rows and positions for them may give them.
    write_onnx(single, path, list(batches[0]), list(reference[0]), longest_row(model) or 1 << 20, pooling)
    first = {name: value[:1] for name, value in batches[0].items()}
    with _one_line(model, "onnxruntime"):
        found = run_onnx(path, [*batches, first])
    alone = {name: value[:1] for name, value in reference[0].items()}
    check = compare("onnx", path, found[:-1], reference, batches, model, tokenizer, tolerance)
    refuse_past_tolerance(check)
    refuse_past_tolerance(compare("onnx", path, found[-1:], [alone], [first], model, tokenizer, tolerance))
    return check, found[:-1]


def check_int8(
    model: Any,
    tokenizer: Any,
    folder: Path,
    batches: Sequence[Batch],
    reference: Sequence[Batch],
    least_agreement: float,
) -> Check:
    """Writes `model.int8.onnx` from `model.onnx` in `folder`: 8-bit weights, activations quantised as they come.

    Its outputs are not those of `model.onnx` (`reference`); it is refused where what the head is for (see `judge`)
    agrees by less than `least_agreement`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "model.int8.onnx"
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            # The shapes that torch noted of heads are in the way of those that the quantiser infers; it finds its own.
            plain = onnx.load(folder / "model.onnx")
            del plain.graph.value_info[:]
            onnx.save(plain, Path(scratch) / "plain.onnx")
            quantize_dynamic(Path(scratch) / "plain.onnx", path, weight_type=QuantType.QInt8, per_channel=True)
    finally:
        root.setLevel(level)
    check = compare("onnx int8", path, run_onnx(path, batches), reference, batches, model, tokenizer, None)
    if not check.agreement >= least_agreement:
        raise InputError(
            f"onnx int8: {check.measured} is {100 * check.agreement:.1f} % against model.onnx, less than the "
            f"{100 * least_agreement:.0f} % asked for (--int8_agreement); nothing is written"
        )
    return check
