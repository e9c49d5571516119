"""What a run on rows ends with: what the saved student keeps of its teacher, how small and fast it is, what comes next.

Measured on the student as it was saved and the teacher as it was given, both in float32.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from ..batches.labelled import LabelledBatches
from ..heads.classification import Classification
from ..heads.head import Head, Predictions
from ..heads.objective import Objective
from ..heads.questions import Questions
from ..heads.reranking import Reranking
from ..heads.tokens import Tokens
from ..losses.definitions import IGNORED
from ..metrics.compare import Answers, Comparison, ManyLabels, Numbers, OneClass, Ranking, Tags, compared
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
    names: Sequence[str],
    device: torch.device,
    measure: bool = True,
) -> dict[str, Any]:
    """Quality, size and (if `measure`) speed as JSON values; the models are moved to `device` in evaluation mode.

    `names`: of the classes. Without a teacher the student alone is scored.
    """
    for model in (student, *teachers):
        model.train(False)
        cast(nn.Module, model).to(device)
    objective = LOGITS_ALONE if teachers else Objective(alpha_ce=0.0, alpha_cos=0.0)
    step = DistillationStep(student, teachers, objective, teacher_weights=mixture if teachers else None, head=head)
    with torch.inference_mode():
        predictions = predict(step, held_out, device)
    found: dict[str, Any] = {"rows": len(np.unique(held_out.rows.row_numbers)), "metrics": head.metrics(predictions)}
    if teachers:
        outputs = {"teacher": outputs_of(head, predictions, predictions.teacher)}
        outputs["student"] = outputs_of(head, predictions, predictions.student)
        quality = compared(comparison_of(head, predictions, names), outputs, "teacher")
        found |= {"quality": quality, "warnings": quality.pop("warnings")}
    models = {"student": student, **({"teacher": teachers[0]} if teachers else {})}
    found["size"] = {name: vars(measure_size(model)) for name, model in models.items()}
    if measure and teachers:
        length = int(np.median(held_out.rows.input_ids.lengths))
        speeds = measure_speed(models, str(device), length, SPEED_REPEATS)
        found["speed"] = {name: vars(speed) for name, speed in speeds.items()}
        found["hardware"] = hardware(device)
    return found


def comparison_of(head: Head, predictions: Predictions, names: Sequence[str]) -> Comparison:
    """The held-out truth in the form that the head is compared in."""
    rows, labels = len(predictions.student), predictions.labels
    if isinstance(head, Tokens):
        classes = np.full(rows, IGNORED) if labels is None else labels
        return Tags(head.sentences(classes, predictions), names)
    if isinstance(head, Questions):
        data = predictions.data
        assert data is not None
        return Answers(data.answers or [None] * len(data.passages or ()))
    if isinstance(head, Reranking):
        assert predictions.data is not None
        assert predictions.data.groups is not None
        known = None if labels is None else labels.reshape(-1).astype(np.float64)
        return Ranking(known, predictions.data.groups[predictions.row_numbers])
    assert isinstance(head, Classification)
    if head.problem_type == "single_label_classification":
        return OneClass(np.full(rows, IGNORED) if labels is None else labels, names)
    if head.problem_type == "multi_label_classification":
        return ManyLabels(np.full((rows, len(names)), np.nan) if labels is None else labels, names)
    return Numbers(np.full(rows, np.nan) if labels is None else labels.reshape(-1).astype(np.float64))


def outputs_of(head: Head, predictions: Predictions, logits: np.ndarray | None) -> Any:
    """What a model says in the form that `comparison_of` compares."""
    assert logits is not None
    if isinstance(head, Tokens):
        return head.sentences(logits.argmax(-1), predictions)
    if isinstance(head, Questions):
        return head.answers(logits, predictions)
    return logits.reshape(-1) if getattr(head, "problem_type", "") == "regression" else logits


def report_lines(found: dict[str, Any]) -> list[str]:
    """The report in a few lines."""
    lines = []
    quality = found.get("quality")
    metrics = found["metrics"]
    if quality is not None and quality["units"]:
        main = quality["main"][0]
        teacher, student = (quality["models"][name]["metrics"][main] for name in ("teacher", "student"))
        kept = quality["models"]["student"]["kept"][main]["text"]
        lines.append(
            f"kept {kept} of the teacher's {_title(main)} on {quality['units']:,} held-out {quality['unit']}: "
            f"{100 * student:.1f} where the teacher has {100 * teacher:.1f} and no look at the text "
            f"{100 * quality['chance'][main]:.1f}"
        )
    else:
        shown = {name: value for name, value in metrics.items() if name not in ("agreement", "kl")}
        if shown:
            said = ", ".join(f"{_title(name)} {value:.4f}" for name, value in shown.items())
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


def next_commands(output_dir: str, teacher: str | None, validation: str | None, head: str) -> list[str]:
    """What to type next. `validation`: the file that was evaluated on, where it is one."""
    folder = Path(output_dir)
    lines = [f"next: transformers.{USES[head].format(repr(output_dir))}"]
    if teacher is not None and validation is not None:
        words = ["--teacher", teacher, "--student", output_dir, "--validation_file", validation]
        report_dir = str(folder.with_name(folder.name + "-report"))
        lines.append(f"next: distilfast evaluate {shlex.join([*words, '--output_dir', report_dir])}")
    words = ["--student", output_dir, "--output_dir", str(folder.with_name(folder.name + "-onnx")), "--onnx"]
    lines.append(f"next: distilfast export {shlex.join(words)}")
    return lines


def _title(metric: str) -> str:
    return metric.replace("_", " ")
