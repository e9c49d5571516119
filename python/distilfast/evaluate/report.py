"""The report of an evaluation as Markdown, from its JSON."""

from __future__ import annotations

from typing import Any

from ..metrics.markdown import number, percent, table
from ..metrics.speed import speed_warnings
from .pictures import picture_notes
from .row_report import rows_markdown
from .sentences import sentences_markdown


def markdown(report: dict[str, Any]) -> str:
    """The whole report."""
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    machines = "; ".join(f"{device}: {name}" for device, name in report["hardware"].items())
    pictures = picture_notes(report["pictures"]) + "\n\n" if report.get("pictures") else ""
    return f"# Evaluation\n\n{markdown_tables(report)}\n\n{pictures}{machines}. {versions}.\n"


def markdown_tables(report: dict[str, Any]) -> str:
    """Its tables, without a title."""
    sections = [_models(report)]
    sections += [rows_markdown(part, report["teacher"]) for part in report.get("rows", {}).values()]
    texts = report.get("held_out", {})
    sections += [_side_by_side(texts)] if len(texts) > 1 else []
    sections += [_held_out(name, part) for name, part in texts.items()]
    sections += sentences_markdown(report)
    if report.get("tasks"):
        sections.append(_tasks(report))
    return "\n\n".join(sections)


def _models(report: dict[str, Any]) -> str:
    teacher = report["models"][report["teacher"]]
    devices = list(teacher.get("speed", {}))
    rows = [
        [
            name,
            f"{model['parameters']:,}",
            *(f"{model[part]:,}" if part in model else "" for part in ("embeddings", "layers", "head")),
            percent(model["encoder_parameters"] / teacher["encoder_parameters"]),
            number(model["bytes"] / 1e6),
        ]
        for name, model in report["models"].items()
    ]
    header = ["model", "parameters", "embeddings", "layers", "head", "encoder, of teacher", "weights MB"]
    sections = ["## Size and speed", table(header, rows)]
    sections += [_speed(report, device) for device in devices]
    return "\n\n".join(sections)


def _speed(report: dict[str, Any], device: str) -> str:
    speeds = {
        name: model["speed"][device] for name, model in report["models"].items() if device in model.get("speed", {})
    }
    reference = speeds[report["teacher"]]
    rows = [
        [
            name,
            f"{speed['latency_ms']:,.2f} ({number(speed['latency_iqr_ms'], 2)})",
            f"{number(speed['throughput'])} ({percent(speed['throughput_spread'], 0)})",
            f"{reference['latency_ms'] / speed['latency_ms']:.2f}",
            f"{speed['throughput'] / reference['throughput']:.2f}",
        ]
        for name, speed in speeds.items()
    ]
    header = [device, "batch 1, ms (quartiles)", "batch 32, seq/s (spread)", "times, batch 1", "times, batch 32"]
    note = (
        f"The encoder on sequences of {reference['length']} tokens, no padding: median, and the distance of the "
        "quartiles in brackets; the last columns are relative to the teacher, above 1 is faster."
    )
    warnings = [f"**{text[0].upper()}{text[1:]}.**" for text in speed_warnings(speeds)]
    return "\n\n".join([table(header, rows), note, *warnings])


def _side_by_side(texts: dict[str, Any]) -> str:
    """Accuracy of every model on each text, then its KL: what a model keeps of one text and forgets of another."""
    names = dict.fromkeys(name for part in texts.values() for name in part["models"])
    rows = []
    for name in names:
        scores = [part["models"].get(name, {}) for part in texts.values()]
        rows.append([name, *(percent(each.get("mlm_accuracy")) for each in scores)])
        rows[-1] += [number(each.get("kl"), 3) for each in scores]
    header = ["model", *(f"accuracy, {text}" for text in texts), *(f"KL, {text}" for text in texts)]
    return "## Held-out texts side by side\n\n" + table(header, rows)


def _held_out(text: str, held_out: dict[str, Any]) -> str:
    rows = [
        [
            name,
            number(scores["mlm_loss"], 3),
            number(scores["perplexity"], 2),
            percent(scores["mlm_accuracy"]),
            percent(scores["agreement"]),
            number(scores["kl"], 3),
            percent(scores["agreement_all"]),
            number(scores["kl_all"], 3),
        ]
        for name, scores in held_out["models"].items()
    ]
    header = ["model", "MLM loss", "perplexity", "accuracy", "top-1 as teacher", "KL", "top-1, all", "KL, all"]
    first = next(iter(held_out["models"].values()))
    return (
        f"## Held-out text {text}\n\n"
        + table(header, rows)
        + f"\n\n{first['masked']:,} masked of {first['tokens']:,} tokens in {held_out['rows']:,} rows, the same masks "
        "for every model. Loss and KL(teacher || model) in nats; top-1 and KL at masked positions, then at all of them."
        + "".join(f"\n\n{note[0].upper()}{note[1:]}." for note in held_out.get("notes", []))
    )


def _tasks(report: dict[str, Any]) -> str:
    tasks, macro = report["tasks"], report["macro"]
    rows = list(macro["with_wnli"]["rows"])
    kinds = [("with_wnli", "macro"), ("without_wnli", "macro without WNLI")]
    # Without WNLI among the tasks both are the same number.
    kinds = [(kind, title) for kind, title in kinds if macro[kind]["over"]]
    kinds = kinds[1:] if "wnli" not in tasks else kinds
    header = ["model", *[title for _, title in kinds], *[task["title"] for task in tasks.values()]]
    scores, kept = [], []
    for row in rows:
        cells = [task["rows"].get(row) for task in tasks.values()]
        means = [macro[kind]["rows"][row] for kind, _ in kinds]
        scores.append([row, *[number(mean["score"]) for mean in means], *map(_median_and_spread, cells)])
        shares = [mean["kept"] for mean in means] + [(cell or {}).get("kept") for cell in cells]
        kept.append([row, *map(percent, shares)])
    sections = [
        "## Tasks\n\n" + table(header, scores),
        "### Kept of the teacher\n\n" + table(header, kept),
        _task_notes(report),
    ]
    return "\n\n".join(sections)


def _median_and_spread(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "-"
    if len(cell["seeds"]) == 1:
        return number(cell["median"])
    return f"{cell['median']:.1f} ({cell['low']:.1f} to {cell['high']:.1f})"


def _task_notes(report: dict[str, Any]) -> str:
    """How the numbers came about."""
    tasks = report["tasks"]
    seeds = max((len(row["seeds"]) for task in tasks.values() for row in task["rows"].values()), default=0)
    lines = [
        f"Dev split, per cent, {'one seed' if seeds == 1 else f'median of {seeds} seeds (lowest to highest)'}. A task "
        "with several metrics scores their mean, SQuAD its F1. The macro score is the mean over the GLUE tasks of the "
        "table; IMDb, SQuAD and tasks of your own are not in it."
    ]
    if any(row.endswith(" (D)") for row in report["macro"]["with_wnli"]["rows"]):
        lines.append("(D): distilled again during fine-tuning, from the teacher tuned on the task with the same seed.")
    for task in tasks.values():
        settings = task["settings"]
        rates = ", ".join(f"{rate:g}" for rate in settings["learning_rate"])
        swept = " (best median on dev, which flatters every row alike)" if len(settings["learning_rate"]) > 1 else ""
        lines.append(
            f"{task['title']}: {'/'.join(task['metrics'])}; {task['train_rows']:,} train and "
            f"{' + '.join(f'{rows:,}' for rows in task['dev_rows'].values())} dev rows; {settings['epochs']:g} epochs, "
            f"batch {settings['batch_size']}, learning rate {rates}{swept}, {settings['max_length']} tokens."
            + (f" Rows: {'; '.join(task['notes'])}." if task["notes"] else "")
        )
    if report.get("missing"):
        lines.append(f"Not finished: {len(report['missing'])} cells, the first {report['missing'][0]}.")
    return "\n".join(f"- {line}" for line in lines)
