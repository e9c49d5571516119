"""`python -m distilfast.evaluate`: what share of the teacher's quality students keep, how much smaller and faster
they are; one Markdown table, one JSON."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

from . import __version__, command
from ._core import InputError
from .files import write_json, write_text
from .held_out import HeldOutScores as HeldOutScores
from .held_out import evaluate_held_out as evaluate_held_out
from .held_out import pick_device
from .latency import hardware, measure_size, measure_speed
from .loading import load_model, named_models, quiet
from .report import markdown


@dataclass
class EvaluateOptions:
    """Flags of `python -m distilfast.evaluate`."""

    teacher: str = field(metadata={"help": "Teacher: a directory, a hub id, or name=directory."})
    output_dir: str = field(metadata={"help": "Where evaluate.md and evaluate.json go; finished parts in it are kept."})
    student: list[str] = field(
        default_factory=list,
        metadata={"help": "Students, like --teacher; may be given more than once.", "action": "extend"},
    )
    text: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out text files, UTF-8, one example a line, for masked-LM loss and agreement."},
    )
    tokens: str | None = field(
        default=None,
        metadata={"help": "Held-out text as a directory of python -m distilfast.prepare, instead of --text."},
    )
    max_length: int = field(default=512, metadata={"help": "Longest held-out example in tokens; longer ones are cut."})
    max_lines: int | None = field(default=None, metadata={"help": "Use this many lines of --text at most."})
    batch_tokens: int = field(default=8192, metadata={"help": "Token budget of a held-out batch."})
    mask_seed: int = field(default=0, metadata={"help": "Seed of the held-out masks; same for every model."})
    device: str = field(default="auto", metadata={"help": "Where quality is evaluated: auto, cpu, cuda, cuda:1."})
    speed: bool = field(default=True, metadata={"help": "Measure latency and throughput on the CPU and a GPU, if any."})
    speed_length: int = field(default=128, metadata={"help": "Tokens a sequence when measuring speed."})
    speed_repeats: int = field(default=30, metadata={"help": "Timed forwards a model at batch 1."})


def describe_models(paths: dict[str, str], options: EvaluateOptions) -> dict[str, dict[str, Any]]:
    """Size and speed of each model by name, the teacher first."""
    models = {name: load_for_size(path) for name, path in paths.items()}
    described: dict[str, dict[str, Any]] = {
        name: {"path": path, "class": type(models[name]).__name__, **vars(measure_size(models[name], path))}
        for name, path in paths.items()
    }
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])] if options.speed else []
    for device in devices:
        speeds = measure_speed(models, device, options.speed_length, options.speed_repeats)
        for name, speed in speeds.items():
            described[name].setdefault("speed", {})[device] = vars(speed)
    return described


def load_for_size(path: str) -> Any:
    """The masked-LM model in `path` where it is one whole, else its bare encoder."""
    try:
        return load_model(path, "AutoModelForMaskedLM")
    except InputError:
        return load_model(path, "AutoModel", complete=False)


def held_out_report(paths: dict[str, str], teacher: str, options: EvaluateOptions) -> dict[str, Any]:
    """Masked-LM quality of every model on the held-out text."""
    from .held_out_text import held_out_batches, read_text

    batches, info = held_out_batches(
        paths,
        lines=read_text(options.text, options.max_lines) if options.text else None,
        tokens=options.tokens,
        max_length=options.max_length,
        batch_tokens=options.batch_tokens,
        seed=options.mask_seed,
    )
    models = {name: load_model(path, "AutoModelForMaskedLM") for name, path in paths.items()}
    scores = evaluate_held_out(
        models[teacher],
        {name: model for name, model in models.items() if name != teacher},
        batches,
        device=options.device,
        progress=sys.stderr.isatty(),
    )
    renamed = {teacher if name == "teacher" else name: score for name, score in scores.items()}
    return {
        **info,
        "models": {name: {**vars(score), "perplexity": score.perplexity} for name, score in renamed.items()},
    }


def run_evaluation(options: EvaluateOptions) -> dict[str, Any]:
    """The whole report as JSON-ready values; writes `evaluate.json` and `evaluate.md` in the output directory."""
    paths = named_models([options.teacher, *options.student])
    teacher = next(iter(paths))
    if options.text and options.tokens:
        raise InputError("--text and --tokens both name held-out text; give one of them")
    on = pick_device(options.device)
    report: dict[str, Any] = {
        "format": 1,
        "versions": {"distilfast": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "hardware": {"cpu": hardware("cpu"), **({"cuda": hardware("cuda")} if torch.cuda.is_available() else {})},
        "device": str(on),
        "teacher": teacher,
        "models": describe_models(paths, options),
    }
    if options.text or options.tokens:
        report["held_out"] = held_out_report(paths, teacher, options)
    folder = Path(options.output_dir)
    write_json(folder / "evaluate.json", report)
    write_text(folder / "evaluate.md", markdown(report))
    return report


def main() -> None:
    (options,) = command.parse([EvaluateOptions], __doc__ or "", prog="python -m distilfast.evaluate")
    quiet()
    print(markdown(run_evaluation(options)))


if __name__ == "__main__":
    command.run(main)
