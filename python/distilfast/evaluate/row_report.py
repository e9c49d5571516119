"""What finished models score on labelled rows, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..metrics.markdown import number, percent, table

TITLES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "f1": "F1",
    "matthews": "Matthews",
    "subset_accuracy": "all labels right",
    "precision": "precision",
    "recall": "recall",
    "exact_match": "exact match",
    "exact_match_answerable": "EM, answerable",
    "f1_answerable": "F1, answerable",
    "exact_match_unanswerable": "EM, unanswerable",
    "f1_unanswerable": "F1, unanswerable",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mse": "MSE",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "loss": "loss",
    "agreement": "as the teacher",
    "kl": "KL",
    "teacher_f1": "F1 to the teacher",
    "teacher_pearson": "Pearson to the teacher",
    "teacher_spearman": "Spearman to the teacher",
    "teacher_mse": "MSE to the teacher",
    "kendall": "Kendall to the teacher",
}
PLAIN = ("mse", "loss", "kl", "teacher_mse")
CORRELATIONS = ("matthews", "pearson", "spearman", "teacher_pearson", "teacher_spearman", "kendall")
MOST_LABELS = 40


def rows_markdown(part: Mapping[str, Any], teacher: str) -> str:
    """The section on labelled rows."""
    models: Mapping[str, Any] = part["models"]
    sections = [f"## Quality on {part['file']}", _scores(part, models)]
    if any("kept" in model for model in models.values()):
        sections.append(_kept(part, models))
    labelled = {name: model["labels"] for name, model in models.items() if model.get("labels")}
    if labelled and len(next(iter(labelled.values()))) <= MOST_LABELS:
        sections.append(_labels(labelled))
    sections.append(_notes(part, teacher))
    return "\n\n".join(sections)


def _titles(part: Mapping[str, Any]) -> dict[str, str]:
    """What the measures are called, those of this part by what they are of."""
    return {**TITLES, **part.get("titles", {})}


def _value(metric: str, value: float | None) -> str:
    if value is None or metric in PLAIN:
        return number(value, 3)
    return number(value, 3) if metric in CORRELATIONS else number(100 * value)


def _scores(part: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    measures = list(dict.fromkeys(metric for model in models.values() for metric in model["metrics"]))
    shown, titles = [metric for metric in TITLES if metric in measures], _titles(part)
    rows = [
        [name, *(_value(metric, model["metrics"].get(metric)) for metric in shown)] for name, model in models.items()
    ]
    if part["chance"]:
        rows.append(["without looking", *(_value(metric, part["chance"].get(metric)) for metric in shown)])
    return table(["model", *(titles[metric] for metric in shown)], rows)


def _kept(part: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    rows = [
        [name, *(model["kept"][metric]["text"] for metric in part["main"])]
        for name, model in models.items()
        if "kept" in model
    ]
    return "### Kept of the teacher\n\n" + table(["model", *(_titles(part)[metric] for metric in part["main"])], rows)


def _labels(labelled: Mapping[str, Any]) -> str:
    first = next(iter(labelled.values()))
    header = ["label", "rows", *(f"{name}: {what}" for name in labelled for what in ("precision", "recall", "F1"))]
    rows = []
    for row in first:
        own = {
            name: next((each for each in found if each["label"] == row["label"]), None)
            for name, found in labelled.items()
        }
        values = [
            "-" if each is None else number(100 * each[key])
            for each in own.values()
            for key in ("precision", "recall", "f1")
        ]
        rows.append([str(row["label"]), f"{row['rows']:,}", *values])
    return "### Label by label\n\n" + table(header, rows)


def _notes(part: Mapping[str, Any], teacher: str) -> str:
    unit = part["unit"]
    lines = [f"{part['rows']:,} rows, {part['units']:,} {unit} with labels. Shares in per cent, loss and KL in nats."]
    if part["units"] and len(part["models"]) > 1:
        lines.append(
            f"Kept: the share of {teacher}'s score with its 95 % interval over {unit} drawn again and again, the same "
            f"for both models (paired bootstrap); below 100 {unit} the interval alone. Without looking: the best "
            "constant answer, or a random order."
        )
    if not part["units"]:
        lines.append("No labels: the models are compared with the teacher alone.")
    # Many begin with the name of a file or model, so they stay as they are written.
    lines += [f"**{warning}.**" for warning in part["warnings"]]
    lines += [f"{note}." for note in part["notes"] if note]
    return "\n".join(f"- {line}" for line in lines)


def kept_lines(part: Mapping[str, Any]) -> list[str]:
    """One line a student for the end of a command: what it keeps, agreement."""
    main = part["main"][0]
    lines = []
    for name, model in part["models"].items():
        words = []
        if "kept" in model:
            words.append(f"keeps {model['kept'][main]['text']} of the teacher's {_titles(part)[main]}")
        if "agreement" in model["metrics"]:
            words.append(f"agrees with it on {percent(model['metrics']['agreement'])}")
        if words:
            lines.append(f"{name} {', '.join(words)}")
    return lines
