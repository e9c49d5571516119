"""`python -m distilfast.export`: a student ready for others, reloaded and compared before it is called done."""

from __future__ import annotations

import json
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
from ..evaluate.report import markdown_tables
from ..models.load import load_model, quiet
from ..prepare.text import read_texts
from ..tokenizer import load_transformers_tokenizer
from .check import Check, compare, encode, outputs_of, refuse_past_tolerance

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
        origin, model = Path(source), load_model(str(source), dtype="auto")
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

            fields = dict(card or {})
            numbers = _numbers(fields.pop("evaluation", None))
            files = {check.file: check.line().split(", ", 1)[1] for check in checks}
            write_text(beside / "README.md", model_card(model, beside, files, fields, numbers))
            write_json(
                beside / "export.json",
                {"model": type(model).__name__, "texts": len(texts), "checks": [vars(check) for check in checks]},
            )
    finally:
        model.to(home)
    return checks


def _check_safetensors(
    folder: Path,
    texts: Sequence[str],
    encoded: dict[str, torch.Tensor],
    reference: dict[str, torch.Tensor],
    tolerance: float | None,
) -> Check:
    """What plain `transformers` makes of the written folder, tokenizer and weights."""
    model = load_model(str(folder), dtype="auto")
    again = encode(load_transformers_tokenizer(str(folder)), texts, model)
    if not all(torch.equal(again[key], encoded[key]) for key in encoded):
        raise InputError("safetensors: the reloaded tokenizer gives other ids than the original; nothing is written")
    outputs = outputs_of(model, again)
    attended = encoded["attention_mask"].bool()
    check = compare("safetensors", folder / "model.safetensors", outputs, reference, attended, tolerance)
    refuse_past_tolerance(check)
    return check


def _numbers(path: str | None) -> str | None:
    """The tables of an `evaluate.json` as Markdown."""
    if not path:
        return None
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"--evaluation {path}: not readable as JSON: {error}") from None
    if not isinstance(report, dict) or "models" not in report:
        raise InputError(f"--evaluation {path}: has no models; give the evaluate.json of python -m distilfast.evaluate")
    return markdown_tables(report)


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
