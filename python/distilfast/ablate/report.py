"""The ablation as a table and a picture, beside the published one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluate.pictures import COLOURS, PUBLISHED, can_draw, figure_and_axes
from ..evaluate.published import ABLATION, DISTILBERT
from ..metrics.markdown import number, table

TITLES = {
    "full": "full loss",
    "no_kl": "no KL",
    "no_cosine": "no cosine",
    "no_mlm": "no masked-LM loss",
    "random_init": "random initialisation",
    "mlm_only": "masked-LM loss alone",
    "cut": "cut, not trained",
}
# Title, digits, and whether more is better.
METRICS: dict[str, tuple[str, int, bool]] = {
    "tasks": ("tasks, points", 2, True),
    "mlm_accuracy": ("MLM accuracy, points", 2, True),
    "mlm_loss": ("MLM loss", 3, False),
    "agreement": ("top-1 as teacher, points", 2, True),
    "kl": ("KL", 3, False),
}


def ablation_markdown(report: Mapping[str, Any]) -> str:
    """The whole report."""
    metrics = [metric for metric in METRICS if metric in report["scores"]["full-seed0"]]
    titles = [METRICS[metric][0] for metric in metrics]
    absolute = [
        [name, *[_spread([report["scores"][run][metric] for run in runs], metric, signed=False) for metric in metrics]]
        for name, runs in _titled_runs(report).items()
    ]
    relative = [
        [
            TITLES[variant],
            *[_spread(found[metric], metric, signed=True) for metric in metrics],
            f"{ABLATION[variant]:+.2f}" if variant in ABLATION else "-",
        ]
        for variant, found in report["deltas"].items()
    ]
    tasks = report.get("tasks")
    judged = f" Tasks: mean of {', '.join(task['title'] for task in tasks.values())}." if tasks else ""
    flags = f" Training flags: `{' '.join(report['train_flags'])}`." if report["train_flags"] else ""
    seeds = "one seed" if report["seeds"] == 1 else f"{report['seeds']} seeds: median (lowest to highest)"
    sections = [
        "# Ablation",
        f"{report['steps']:,} steps a student, {seeds}. The same batches "
        f"in one order for every row of a seed.{judged} Held-out text of {report['held_out']['rows']:,} rows.{flags}",
        *[f"{note[0].upper()}{note[1:]}." for note in report["held_out"].get("notes", [])],
        table(["student", *titles], absolute),
        "## Against the full loss, same seed",
        table(["student", *titles, "published, GLUE points"], relative),
        f"Published: change of the GLUE macro score, {DISTILBERT}; it was not measured here.",
        ordering(report),
        *([_task_scores(report)] if tasks else []),
        *[f"![ablation]({name})" for name in report.get("pictures", [])],
    ]
    return "\n\n".join(sections) + "\n"


def _titled_runs(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the runs of each row of the tables."""
    return {"teacher": ["teacher"]} | {TITLES[variant]: names for variant, names in report["runs"].items()}


def _task_scores(report: Mapping[str, Any]) -> str:
    """Each task's score, so that the mean hides nothing."""
    tasks = report["tasks"]
    rows = [
        [name, *[_spread([task["rows"][run]["median"] for run in runs], "tasks", False) for task in tasks.values()]]
        for name, runs in _titled_runs(report).items()
    ]
    return "## Tasks\n\n" + table(["student", *[task["title"] for task in tasks.values()]], rows)


def _spread(values: Sequence[float], metric: str, signed: bool) -> str:
    digits = METRICS[metric][1]
    shown = [f"{value:+.{digits}f}" if signed else number(value, digits) for value in values]
    middle = statistics.median(values)
    median = f"{middle:+.{digits}f}" if signed else number(middle, digits)
    if len(values) == 1:
        return median
    order = sorted(range(len(values)), key=lambda i: values[i])
    return f"{median} ({shown[order[0]]} to {shown[order[-1]]})"


def costs(report: Mapping[str, Any], metric: str) -> dict[str, float]:
    """How much quality each part of the method is worth by `metric`: the loss of the variant without it, median over
    seeds, the costliest first; below 0 it is better without."""
    sign = -1.0 if METRICS[metric][2] else 1.0
    lost = {variant: sign * statistics.median(found[metric]) for variant, found in _parts(report).items()}
    return dict(sorted(lost.items(), key=lambda item: -item[1]))


def _parts(report: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of the variants that lack a part of the method, without the controls."""
    return {variant: found for variant, found in report["deltas"].items() if variant in ABLATION}


def ordering(report: Mapping[str, Any]) -> str:
    """What costs most, by each metric and in the published study, and where the sign is not the same in all seeds."""

    def listed(order: Sequence[str]) -> str:
        return ", ".join(TITLES[variant] for variant in order)

    lines = [f"- published: {listed(sorted(ABLATION, key=lambda variant: ABLATION[variant]))}"]
    for metric, (title, *_) in METRICS.items():
        if metric not in next(iter(report["deltas"].values())):
            continue
        unclear = [variant for variant, found in _parts(report).items() if min(found[metric]) < 0 < max(found[metric])]
        doubt = f"; of either sign, depending on the seed: {listed(unclear)}" if unclear else ""
        lines.append(f"- by {title.removesuffix(', points')}: {listed(list(costs(report, metric)))}{doubt}")
    return "What costs most when it is left out, the costliest first:\n\n" + "\n".join(lines)


def draw_deltas(report: Mapping[str, Any], path: Path) -> list[str]:
    """The change by variant: every seed a dot, the median a line and a number; an arrow where it lies far outside.

    The published change is a square where the tasks were scored, and nowhere else: it is one of task scores.
    """
    if not can_draw():
        return []
    metric = "tasks" if "tasks" in next(iter(report["deltas"].values())) else "mlm_accuracy"
    figure, axes = figure_and_axes(7.0, 3.2)
    names = list(reversed(report["deltas"]))
    changes = {name: report["deltas"][name][metric] for name in names}
    published = {name: ABLATION[name] for name in names if name in ABLATION and metric == "tasks"}
    end = _reach([[*changes[name], *([published[name]] if name in published else [])] for name in names])
    for row, values in enumerate(changes.values()):
        median = statistics.median(values)
        axes.annotate(f"{median:+.2f}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
        if abs(median) > end:
            side = 1 if median > 0 else -1
            arrow = {"arrowstyle": "->", "color": COLOURS[0], "linewidth": 2}
            axes.annotate("", (side * end, row), (side * 0.85 * end, row), arrowprops=arrow)
            continue
        axes.scatter(values, [row] * len(values), color=COLOURS[0], s=28, zorder=3)
        axes.plot([median] * 2, [row - 0.25, row + 0.25], color=COLOURS[0], linewidth=2, zorder=3)
    if published:
        rows = [names.index(name) for name in published]
        square = {"facecolor": "white", "edgecolor": PUBLISHED, "marker": "s", "s": 40, "zorder": 2}
        axes.scatter(list(published.values()), rows, label="published, GLUE", **square)
        axes.scatter([], [], color=COLOURS[0], s=28, label="one seed")
        figure.legend(loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(-end, max(0.15 * end, *(max(values) for values in changes.values() if max(values) <= end)) * 1.05)
    axes.set_xlabel(f"{METRICS[metric][0]}, against the full loss with the same seed")
    axes.grid(axis="x", linewidth=0.4)
    figure.savefig(path)
    return [path.name]


def _reach(values: Sequence[Sequence[float]]) -> float:
    """How far from 0 the axis goes: as far as anything lies, but for one that lies three times as far as the others."""
    furthest = sorted(max(map(abs, each)) for each in values)
    if len(furthest) > 1 and furthest[-1] > 3 * furthest[-2] > 0:
        return 1.15 * furthest[-2]
    return 1.05 * furthest[-1] or 1.0
