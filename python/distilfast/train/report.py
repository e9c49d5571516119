"""What a run on rows ends with: what the saved student keeps of its teacher, how small and fast it is, what comes next.

Measured on the student as it was saved and the teacher as it was given, both in float32.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..batches.labelled import LabelledBatches
from ..heads.head import Head, Predictions
from ..heads.objective import Objective
from ..heads.questions import Questions
from ..heads.reranking import Reranking
from ..heads.tokens import Tokens
from ..metrics.compare import compared, comparison_of
from ..metrics.speed import hardware, measure_size, measure_speed, speed_warnings
from .evaluation import LOGITS_ALONE, predict
from .step import DistillationStep

SPEED_REPEATS = 10


def report(
    student: PreTrainedModel,
    teachers: Sequence[PreTrainedModel],
    mixture: Sequence[float],
    head: Head,
    held_out: LabelledBatches,
    labels: Sequence[Any],
    names: Sequence[str],
    device: torch.device,
    measure: bool = True,
) -> dict[str, Any]:
    """Quality, size and (if `measure`) speed as JSON values; the models are moved to `device` in evaluation mode.

    `labels`: of the rows of the table, as `prepare.targets` reads them; `names`: of the classes. Without a teacher the
    student alone is scored.
    """
    for model in (student, *teachers):
        model.train(False)
        cast(nn.Module, model).to(device)
    objective = LOGITS_ALONE if teachers else Objective(alpha_ce=0.0, alpha_cos=0.0)
    step = DistillationStep(student, teachers, objective, teacher_weights=mixture if teachers else None, head=head)
    with torch.inference_mode():
        predictions = predict(step, held_out, device)
    found: dict[str, Any] = {"rows": len(labels), "metrics": head.metrics(predictions)}
    outputs = {"teacher": outputs_of(head, predictions, predictions.teacher, labels)} if teachers else {}
    outputs["student"] = outputs_of(head, predictions, predictions.student, labels)
    groups = held_out.rows.groups if isinstance(head, Reranking) else None
    comparison = comparison_of(head.name, str(getattr(head, "problem_type", "")), labels, names, groups)
    if teachers:
        quality = compared(comparison, outputs, "teacher")
        found |= {"quality": quality, "warnings": quality.pop("warnings")}
    found["titles"] = dict(comparison.titles)
    models = {"student": student, **({"teacher": teachers[0]} if teachers else {})}
    found["size"] = {name: vars(measure_size(model)) for name, model in models.items()}
    if measure and teachers:
        length = int(np.median(held_out.rows.input_ids.lengths))
        speeds = measure_speed(models, str(device), length, SPEED_REPEATS)
        found["speed"] = {name: vars(speed) for name, speed in speeds.items()}
        found["hardware"] = hardware(device)
    return found


def outputs_of(head: Head, predictions: Predictions, logits: np.ndarray | None, labels: Sequence[Any]) -> Any:
    """What a model says, row by row, in the form that `metrics.compare` compares; of words that it never saw ""."""
    assert logits is not None
    if isinstance(head, Tokens):
        data = predictions.data
        assert data is not None
        assert data.words is not None
        said, classes = [[""] * len(row) for row in labels], iter(logits.argmax(-1).tolist())
        for row, tags in enumerate(said):
            for word in data.words[row].tolist():
                tags[word] = head.names[next(classes)]
        return said
    if isinstance(head, Questions):
        return head.answers(logits, predictions)
    return logits.reshape(-1) if getattr(head, "problem_type", "") == "regression" else logits


def report_lines(found: dict[str, Any]) -> list[str]:
    """The report in a few lines."""
    lines = []
    quality, metrics = found.get("quality"), found["metrics"]

    def title(metric: str) -> str:
        return str(found["titles"].get(metric, metric.replace("_", " ")))

    if quality is not None and quality["units"]:
        main = quality["main"][0]
        teacher, student = (quality["models"][name]["metrics"][main] for name in ("teacher", "student"))
        kept = quality["models"]["student"]["kept"][main]["text"]
        lines.append(
            f"kept {kept} of the teacher's {title(main)} on {quality['units']:,} held-out {quality['unit']}: "
            f"{100 * student:.1f} where the teacher has {100 * teacher:.1f} and no look at the text "
            f"{100 * quality['chance'][main]:.1f}"
        )
    else:
        shown = {name: value for name, value in metrics.items() if name not in ("agreement", "kl")}
        if shown:
            said = ", ".join(f"{title(name)} {value:.4f}" for name, value in shown.items())
            lines.append(f"on {found['rows']:,} held-out rows: {said}")
    if "agreement" in metrics:
        kl = f" (KL {metrics['kl']:.4f})" if "kl" in metrics else ""
        lines.append(f"agrees with the teacher on {100 * metrics['agreement']:.1f} %{kl}")
    elif "kendall" in metrics:
        lines.append(f"Kendall's tau to the teacher's order {metrics['kendall']:.3f}, the mean over groups")
    elif "teacher_spearman" in metrics:
        lines.append(f"Spearman correlation with the teacher {metrics['teacher_spearman']:.3f}")
    lines += [f"warning: {warning}" for warning in found.get("warnings", [])]
    sizes = found["size"]
    if "teacher" in sizes:
        small, large = sizes["student"]["parameters"], sizes["teacher"]["parameters"]
        lines.append(f"size: {small / 1e6:.1f} M parameters, the teacher's {large / 1e6:.1f} M ({small / large:.0%})")
    if "speed" in found:
        ours, theirs = found["speed"]["student"], found["speed"]["teacher"]
        lines.append(
            f"speed: {theirs['latency_ms'] / ours['latency_ms']:.2f}x the teacher's for one row of {ours['length']} "
            f"tokens ({ours['latency_ms']:.2f} ms, {theirs['latency_ms']:.2f} ms), "
            f"{ours['throughput'] / theirs['throughput']:.2f}x for 32 at once, on {found['hardware']}"
        )
        lines += [f"warning: {warning}" for warning in speed_warnings(found["speed"])]
    return lines


# How a student is loaded to be used; transformers 5 has no pipeline that answers questions any more.
USES = {
    "classification": "pipeline('text-classification', {})",
    "tokens": "pipeline('token-classification', {})",
    "questions": "AutoModelForQuestionAnswering.from_pretrained({})",
}


def next_commands(
    output_dir: str, teacher: str | None, validation: str | None, head: str, longest: int, columns: Mapping[str, Any]
) -> list[str]:
    """What to type next. `validation`: the file that was evaluated on, where it is one; `longest`: the tokens that its
    rows were cut to; `columns`: the flags that say what they hold."""
    folder = Path(output_dir)
    lines = [f"next: transformers.{USES[head].format(repr(output_dir))}"]
    if teacher is not None and validation is not None:
        words = [
            "--teacher",
            teacher,
            "--student",
            output_dir,
            "--validation_file",
            validation,
            "--max_length",
            str(longest),
        ]
        for name, value in columns.items():
            words += [f"--{name}", *([value] if isinstance(value, str) else value)] if value else []
        report_dir = str(folder.with_name(folder.name + "-report"))
        lines.append(f"next: distilfast evaluate {shlex.join([*words, '--output_dir', report_dir])}")
    words = ["--student", output_dir, "--output_dir", str(folder.with_name(folder.name + "-onnx")), "--onnx"]
    lines.append(f"next: distilfast export {shlex.join(words)}")
    return lines
