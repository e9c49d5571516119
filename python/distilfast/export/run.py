"""`python -m distilfast.export`: a student ready for others, reloaded and compared before it is called done."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import _command as command
from .._core import InputError
from .._files import refuse_occupied, whole_directory, write_json, write_text
from ..models.load import load_model, quiet
from ..prepare.text import read_texts
from ..tokenizer import load_transformers_tokenizer

# Sentences of several lengths, so that padding is in the comparison too.
SENTENCES = (
    "The river had risen in the night and carried the small bridge away.",
    "She asked for two tickets to the coast, one of them for a child.",
    "In 1869 the railway joined the two shores of the continent for the first time, and mail that had taken a month "
    "arrived within a week.",
    "Why?",
    "Prices fell by 3.5 percent, said the bank, although nobody at the market had noticed.",
    "A café on the corner sells coffee, tea and yesterday's newspapers.",
)
# A reload from safetensors is the same numbers through the same code; what is left is the order of summation.
SAFETENSORS_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Check:
    """One exported form against the original: the largest difference of an output, and what was allowed (None: any).

    relative: the same divided by the largest absolute output of the original. agreement: share of outputs (rows of
    scores over attended positions) whose largest score stands at the same index.
    """

    form: str
    file: str
    bytes: int
    largest_difference: float
    relative: float
    agreement: float
    tolerance: float | None

    def line(self) -> str:
        allowed = "judged by top-1" if self.tolerance is None else f"allowed {self.tolerance:.0e}"
        return (
            f"{self.form}: {self.file}, {self.bytes / 1e6:.1f} MB, largest difference {self.largest_difference:.2e} "
            f"({allowed}), same top-1 on {100 * self.agreement:.2f} % of positions"
        )


def export_student(
    source: str | Path | Any,
    output_dir: str | Path,
    *,
    tokenizer: Any = None,
    texts: Sequence[str] | None = None,
    tolerance: float = SAFETENSORS_TOLERANCE,
    onnx: bool = False,
    int8: bool = False,
    onnx_tolerance: float = 1e-3,
    int8_agreement: float = 0.8,
    card: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> list[Check]:
    """Writes the model, its tokenizer and a model card (README.md) to `output_dir`, and `export.json` with the checks.

    source: a directory, a hub id, or a loaded model (then `tokenizer` is its `transformers` tokenizer). texts: what the
    forms are compared on; a few sentences where None. tolerance, onnx_tolerance: largest allowed difference of an
    output of the reloaded safetensors and of ONNX. onnx: also `model.onnx` with dynamic batch and length; int8: also
    `model.int8.onnx` with dynamically quantised weights, judged by `int8_agreement`, the least share of equal top-1.
    card: fields of the model card (see `model_card.write`).

    Raises `InputError`, and leaves `output_dir` as it was, where a form reloads to something past its tolerance.
    """
    refuse_occupied(output_dir, overwrite)
    origin = None
    if isinstance(source, (str, Path)):
        origin, model = Path(source), load_model(str(source))
        tokenizer = tokenizer if tokenizer is not None else load_transformers_tokenizer(str(source))
    else:
        model = source.eval()
    if tokenizer is None:
        raise InputError("a loaded model is exported with its tokenizer: give tokenizer=")
    texts = list(texts) if texts is not None else list(SENTENCES)
    if not texts:
        raise InputError("no text to compare the export on: give at least one line")
    encoded = encode(tokenizer, texts, model)
    home = model.device
    model = model.to("cpu")
    try:
        reference = outputs_of(model, encoded)
        with whole_directory(output_dir, overwrite) as beside:
            model.save_pretrained(beside, safe_serialization=True)
            tokenizer.save_pretrained(beside)
            checks = [_check_safetensors(beside, texts, encoded, reference, tolerance)]
            if onnx or int8:
                from .onnx import check_int8, check_onnx

                checks.append(check_onnx(model, beside, encoded, reference, onnx_tolerance))
                if int8:
                    checks.append(check_int8(beside, encoded, reference, int8_agreement))
            _keep_summary(origin, beside)
            from ..models.card import model_card

            write_text(beside / "README.md", model_card(model, beside, checks, card or {}))
            write_json(
                beside / "export.json",
                {"model": type(model).__name__, "texts": len(texts), "checks": [vars(check) for check in checks]},
            )
    finally:
        model.to(home)
    return checks


def encode(tokenizer: Any, texts: Sequence[str], model: Any) -> dict[str, torch.Tensor]:
    """The padded inputs that the model's forward takes, int64 [texts, width]."""
    longest = min(512, int(getattr(model.config, "max_position_embeddings", 512)))
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    return {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}


def outputs_of(model: Any, encoded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors among the model's outputs by name, float32."""
    with torch.inference_mode():
        outputs = model(**encoded)
    return {key: value.float() for key, value in outputs.items() if isinstance(value, torch.Tensor)}


def compare(
    form: str,
    file: Path,
    outputs: dict[str, torch.Tensor],
    reference: dict[str, torch.Tensor],
    attended: torch.Tensor,
    tolerance: float | None,
) -> Check:
    """The `Check` of `outputs` against `reference`; padded positions, which nobody reads, are left out."""
    difference = scale = 0.0
    same = rows = 0
    for key, expected in reference.items():
        got = outputs[key]
        if got.shape != expected.shape:
            raise InputError(f"{form}: output {key} has shape {tuple(got.shape)}, the original {tuple(expected.shape)}")
        if expected.shape[:2] == attended.shape:
            got, expected = got[attended], expected[attended]
        # A NaN compares as smaller than everything; counted as infinite it is refused.
        difference = max(difference, float((got - expected).abs().nan_to_num(nan=torch.inf).max()))
        scale = max(scale, float(expected.abs().max()))
        if expected.dim() > 1 and expected.shape[-1] > 1:
            same += int((got.argmax(-1) == expected.argmax(-1)).sum())
            rows += expected[..., 0].numel()
    return Check(
        form=form,
        file=file.name,
        bytes=sum(each.stat().st_size for each in file.parent.glob(file.stem + "*" + file.suffix + "*")),
        largest_difference=difference,
        relative=difference / scale if scale else difference,
        agreement=same / rows if rows else 1.0,
        tolerance=tolerance,
    )


def _check_safetensors(
    folder: Path,
    texts: Sequence[str],
    encoded: dict[str, torch.Tensor],
    reference: dict[str, torch.Tensor],
    tolerance: float | None,
) -> Check:
    """What plain `transformers` makes of the written folder, tokenizer and weights."""
    model = load_model(str(folder))
    again = encode(load_transformers_tokenizer(str(folder)), texts, model)
    if not all(torch.equal(again[key], encoded[key]) for key in encoded):
        raise InputError("safetensors: the reloaded tokenizer gives other ids than the original; nothing is written")
    outputs = outputs_of(model, again)
    attended = encoded["attention_mask"].bool()
    check = compare("safetensors", folder / "model.safetensors", outputs, reference, attended, tolerance)
    refuse_past_tolerance(check)
    return check


def refuse_past_tolerance(check: Check) -> None:
    if check.tolerance is not None and not check.largest_difference <= check.tolerance:
        raise InputError(
            f"{check.form}: the reloaded model differs from the original by {check.largest_difference:.3g}, more than "
            f"the {check.tolerance:.3g} allowed; nothing is written"
        )


def _keep_summary(origin: Path | None, folder: Path) -> None:
    """The recipe of the training run goes with the model, where there is one."""
    if origin is not None and (origin / "train_summary.json").is_file():
        shutil.copy(origin / "train_summary.json", folder / "train_summary.json")


@dataclass
class ExportOptions:
    """Flags of `python -m distilfast.export`."""

    student: str = field(metadata={"help": "Model to export: a directory or a hub id."})
    output_dir: str = field(metadata={"help": "Directory to write; must be empty or not there."})
    overwrite: bool = field(default=False, metadata={"help": "Replace what output_dir holds, once the export is good."})
    text: str | None = field(
        default=None, metadata={"help": "Text file whose first lines the forms are compared on; else a few sentences."}
    )
    lines: int = field(default=32, metadata={"help": "How many lines of --text."})
    tolerance: float = field(
        default=SAFETENSORS_TOLERANCE, metadata={"help": "Largest difference allowed after reloading safetensors."}
    )
    onnx: bool = field(default=False, metadata={"help": "Also write model.onnx, batch and length dynamic."})
    int8: bool = field(default=False, metadata={"help": "Also write model.int8.onnx, weights quantised to 8 bits."})
    onnx_tolerance: float = field(default=1e-3, metadata={"help": "Largest difference allowed for model.onnx."})
    int8_agreement: float = field(
        default=0.8, metadata={"help": "Least share of positions where model.int8.onnx has the same top-1."}
    )
    title: str | None = field(default=None, metadata={"help": "Title of the model card; else the directory's name."})
    model_license: str | None = field(default=None, metadata={"help": "Licence id for the card, as apache-2.0."})
    base_model: str | None = field(default=None, metadata={"help": "The teacher, for the card: a hub id or a name."})
    language: str | None = field(default=None, metadata={"help": "Language code for the card, as en."})
    dataset: str | None = field(default=None, metadata={"help": "Data set for the card, a hub id or words."})
    evaluation: str | None = field(
        default=None, metadata={"help": "evaluate.json of python -m distilfast.evaluate, for the card's numbers."}
    )


def read_lines(path: str | Path, lines: int) -> list[str]:
    """The first `lines` texts of a file, as `distilfast.prepare` reads it."""
    if lines < 1:
        raise InputError(f"--lines is {lines}; the comparison takes at least 1")
    return read_texts([path], lines)


def main(argv: Sequence[str] | None = None) -> None:
    (options,) = command.parse([ExportOptions], argv)
    quiet()
    card = {
        "title": options.title or Path(options.output_dir).name,
        "license": options.model_license,
        "base_model": options.base_model,
        "language": options.language,
        "dataset": options.dataset,
        "evaluation": options.evaluation,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        checks = export_student(
            options.student,
            options.output_dir,
            texts=read_lines(options.text, options.lines) if options.text else None,
            tolerance=options.tolerance,
            onnx=options.onnx,
            int8=options.int8,
            onnx_tolerance=options.onnx_tolerance,
            int8_agreement=options.int8_agreement,
            card=card,
            overwrite=options.overwrite,
        )
    for check in checks:
        print(check.line())
    print(f"done: {options.output_dir}")
