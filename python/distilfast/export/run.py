"""`python -m distilfast.export`: a student ready for others, reloaded and compared before it is called done."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .._command import REQUIRED, Parts, changed, flag, parse, refuse_idle
from .._core import InputError
from .._files import refuse_occupied, whole_directory, write_json, write_text
from ..evaluate.report import markdown_tables
from ..models.card import CARD_SUMMARIES, model_card, without_paths
from ..models.families import evaluating
from ..models.load import load_model, quiet
from ..models.saved_tokenizer import save_tokenizer
from ..prepare.text import read_texts
from ..tokenizer import load_transformers_tokenizer
from .check import Check, compare, encode, outputs_of, refuse_past_tolerance, texts_for
from .pooling import keep_sentence_files, read_pooling

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
    forms are compared on, alone and in pairs; a few sentences where None. tolerance, onnx_tolerance: largest allowed
    difference of an output of the reloaded safetensors and of ONNX. onnx: also `model.onnx`, float32, with every input
    that the model takes, batch and length dynamic, and `sentence_embedding` for a sentence encoder; int8: also
    `model.int8.onnx` with dynamically quantised weights, which is refused where what the head is for (`check.judge`)
    agrees with `model.onnx` by less than `int8_agreement`. card: fields of the model card (see `models.card`).

    What stands beside the model for `sentence-transformers` comes along, and so do the records of training, without the
    paths of this machine. The saved tokenizer gives what the model takes, no token types where it has none.
    Raises `InputError`, and leaves `output_dir` as it was, where a form reloads to something past its tolerance.
    """
    origin = Path(source) if isinstance(source, (str, Path)) else None
    refuse_occupied(output_dir, overwrite, [origin])
    if int8 or onnx:
        from .onnx import check_int8, check_onnx, require_onnx

        require_onnx()
    if origin is not None:
        model = load_model(str(source), dtype="auto")
        tokenizer = tokenizer if tokenizer is not None else load_transformers_tokenizer(str(source))
    else:
        model = source
    if tokenizer is None:
        raise InputError("a loaded model is exported with its tokenizer: give tokenizer=")
    texts = texts_for(tokenizer, texts)
    with evaluating(model, device=torch.device("cpu")):
        batches = encode(tokenizer, texts, model)
        reference = outputs_of(model, batches)
        with whole_directory(output_dir, overwrite, [origin]) as beside:
            model.save_pretrained(beside, safe_serialization=True)
            save_tokenizer(tokenizer, model, beside)
            checks = [_check_safetensors(beside, texts, batches, reference, tolerance)]
            sentence = origin is not None and keep_sentence_files(origin, beside)
            if onnx or int8:
                pooling = read_pooling(beside)
                check, outputs = check_onnx(model, tokenizer, beside, batches, onnx_tolerance, pooling)
                checks.append(check)
                if int8:
                    checks.append(check_int8(model, tokenizer, beside, batches, outputs, int8_agreement))
            teacher = None if origin is None else _keep_summaries(origin, beside)
            fields = {"example": texts[0], "teacher": teacher, **(card or {})}
            files = {check.file: check.line().split(", ", 1)[1] for check in checks}
            numbers = _numbers(fields.pop("evaluation", None))
            write_text(beside / "README.md", model_card(model, tokenizer, beside, files, fields, numbers, sentence))
            write_json(
                beside / "export.json",
                {"model": type(model).__name__, "texts": len(texts), "checks": [vars(check) for check in checks]},
            )
    return checks


def _check_safetensors(
    folder: Path,
    texts: Sequence[str],
    batches: Sequence[dict[str, torch.Tensor]],
    reference: Sequence[dict[str, torch.Tensor]],
    tolerance: float | None,
) -> Check:
    """What plain `transformers` makes of the written folder, tokenizer and weights."""
    model, tokenizer = load_model(str(folder), dtype="auto"), load_transformers_tokenizer(str(folder))
    again = encode(tokenizer, texts, model)
    if not all(torch.equal(new[key], old[key]) for new, old in zip(again, batches, strict=True) for key in old):
        raise InputError("safetensors: the reloaded tokenizer gives other ids than the original; nothing is written")
    outputs = outputs_of(model, again)
    file = folder / "model.safetensors"
    check = compare("safetensors", file, outputs, reference, batches, model, tokenizer, tolerance)
    refuse_past_tolerance(check)
    return check


def _keep_summaries(origin: Path, folder: Path) -> Any:
    """The records of training go with the model, where there are any, without what is of this machine alone; returns
    the teacher that they name."""
    teacher = None
    for name in CARD_SUMMARIES:
        if (origin / name).is_file():
            try:
                summary = json.loads((origin / name).read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError(f"{origin / name} is not JSON: {error}; move it away") from None
            write_json(folder / name, without_paths(summary))
            teacher = summary.get("teacher") if isinstance(summary, dict) else teacher
    return teacher


def _numbers(path: str | None) -> str | None:
    """The tables of an `evaluate.json`, for the card."""
    if not path:
        return None
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--evaluation {path}: not readable as JSON: {error}") from None
    if not isinstance(report, dict) or "models" not in report:
        raise InputError(f"--evaluation {path}: has no models; give the evaluate.json of python -m distilfast.evaluate")
    return markdown_tables(report)


@dataclass
class ExportOptions:
    """Flags of `python -m distilfast.export`."""

    student: str = flag(REQUIRED, "Model to export: a directory or a hub id.")
    output_dir: str = flag(REQUIRED, "Directory to write; must be empty or not there.")
    overwrite: bool = flag(False, "Replace what output_dir holds, once the export is good.")
    text: str | None = flag(None, "Text file whose first lines the forms are compared on; else a few sentences.")
    lines: int = flag(32, "How many lines of --text.")
    tolerance: float = flag(SAFETENSORS_TOLERANCE, "Largest difference allowed after reloading safetensors.")
    onnx: bool = flag(False, "Also write model.onnx, batch and length dynamic.")
    int8: bool = flag(False, "Also write model.int8.onnx, weights quantised to 8 bits.")
    onnx_tolerance: float = flag(1e-3, "Largest difference allowed for model.onnx.")
    int8_agreement: float = flag(
        0.8,
        "Least agreement of model.int8.onnx with model.onnx in what the head is for: classes, ranks of scores, words "
        "behind masks, similarities of texts.",
    )
    title: str | None = flag(None, "Title of the model card; else the directory's name.")
    model_license: str | None = flag(None, "Licence id for the card, as apache-2.0.")
    base_model: str | None = flag(None, "The teacher, for the card: its id on the Hub.")
    language: str | None = flag(None, "Language code for the card, as en.")
    dataset: str | None = flag(None, "Data set for the card, a hub id or words.")
    evaluation: str | None = flag(None, "evaluate.json of python -m distilfast.evaluate, for the card's numbers.")


PARTS: Parts = (
    (("text",), ("lines",)),
    (("onnx", "int8"), ("onnx_tolerance",)),
    (("int8",), ("int8_agreement",)),
)


def read_lines(path: str | Path, lines: int) -> list[str]:
    """The first `lines` texts of a file, as `distilfast.prepare` reads it."""
    if lines < 1:
        raise InputError(f"--lines is {lines}; the comparison takes at least 1")
    return read_texts([path], lines)


def main(argv: Sequence[str] | None = None) -> None:
    (options,) = parse([ExportOptions], argv)
    refuse_idle(changed(options), PARTS, partial(getattr, options))
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
