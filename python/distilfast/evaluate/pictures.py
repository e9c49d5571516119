"""The pictures of an evaluation as PNG: shares kept, quality against speed, loss curves."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .published import DISTILBERT, MODELS, published_kept

# Okabe and Ito's colours, told apart with every kind of colour vision; grey is for what others published.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
PUBLISHED = "#8a8a8a"


def can_draw() -> bool:
    """Whether matplotlib is installed; where it is not, a line on stderr says that there are no pictures."""
    if importlib.util.find_spec("matplotlib") is not None:
        return True
    print("no pictures: matplotlib is not installed; pip install 'distilfast[plots]' brings it", file=sys.stderr)
    return False


def figure_and_axes(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes that draw without a screen and touch no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def draw_pictures(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws what the report has numbers for into `folder`; returns the names of the files."""
    if not (report.get("tasks") or report.get("rows")) or not can_draw():
        return []
    drawn = []
    students = [name for name in report["models"] if name != report["teacher"]]
    if report.get("tasks") and students:
        drawn += draw_kept(report, folder / "kept.png")
        drawn += draw_quality(report, folder / "quality.png")
    if report.get("rows") and students:
        drawn += draw_kept_rows(report, folder / "rows.png")
    if report.get("tasks"):
        drawn += draw_task_losses(report, folder / "losses.png")
    return drawn


def draw_kept(report: Mapping[str, Any], path: Path) -> list[str]:
    """Bars of the share of the teacher's score that each student keeps, by task, and DistilBERT's as published."""
    tasks = report["tasks"]
    rows = [row for row in report["macro"]["with_wnli"]["rows"] if row != report["teacher"]]
    groups: list[tuple[str, dict[str, float | None], float | None]] = []
    macro = report["macro"]["without_wnli"]
    if len(macro["over"]) > 1:
        groups.append(("macro\n(no WNLI)", {row: macro["rows"][row]["kept"] for row in rows}, 79.6 / 82.75))
    for name, task in tasks.items():
        kept = {row: task["rows"].get(row, {}).get("kept") for row in rows}
        groups.append((task["title"], kept, published_kept(name)))
    if not any(value is not None for _, kept, _ in groups for value in kept.values()):
        return []
    published = [share for *_, share in groups]
    bars_a_group = len(rows) + any(share is not None for share in published)
    figure, axes = figure_and_axes(max(6.4, 1.1 + 0.42 * len(groups) * bars_a_group), 4.0)
    width = 0.84 / bars_a_group
    for i, row in enumerate(rows):
        at = [group + i * width for group in range(len(groups))]
        heights = [100 * (kept[row] or 0.0) for _, kept, _ in groups]
        bars = axes.bar(at, heights, 0.92 * width, label=row, color=COLOURS[i % len(COLOURS)])
        known = [
            f"{height:.0f}" if kept[row] is not None else ""
            for height, (_, kept, _) in zip(heights, groups, strict=True)
        ]
        labels = axes.bar_label(bars, known, fontsize=7, padding=2)
        for label in labels:
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    heights = [100 * (share or 0.0) for share in published]
    if bars_a_group > len(rows):
        at = [group + len(rows) * width for group in range(len(groups))]
        theirs = "DistilBERT of BERT-base, published"
        axes.bar(at, heights, 0.92 * width, label=theirs, color="white", edgecolor=PUBLISHED, hatch="///")
    axes.axhline(100, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(
        [group + width * (bars_a_group - 1) / 2 for group in range(len(groups))], [title for title, *_ in groups]
    )
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(f"% of {report['teacher']}'s score")
    axes.grid(axis="y", linewidth=0.4)
    top = max(100.0, *heights, *[100 * (value or 0.0) for _, kept, _ in groups for value in kept.values()])
    axes.set_ylim(0, 1.06 * top)
    figure.legend(loc="outside upper center", ncols=min(3, len(rows) + 1), fontsize=8, frameon=False)
    figure.savefig(path)
    return [path.name]


def draw_kept_rows(report: Mapping[str, Any], path: Path) -> list[str]:
    """The share of the teacher's score that each student keeps on each file of rows, a line for its interval."""
    kept = [
        (f"{name}\n{part['file']}, {part['main'][0].replace('_', ' ')}", model["kept"][part["main"][0]])
        for part in report["rows"].values()
        for name, model in part["models"].items()
        if "kept" in model and model["kept"][part["main"][0]]["share"] is not None
    ]
    if not kept:
        return []
    figure, axes = figure_and_axes(6.4, 1.1 + 0.5 * len(kept))
    for i, (_, found) in enumerate(kept):
        if found["low"] is not None:
            axes.plot([100 * found["low"], 100 * found["high"]], [i, i], color=COLOURS[0], linewidth=2.5)
        axes.scatter(100 * found["share"], i, s=50, color=COLOURS[0], zorder=3)
    axes.axvline(100, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(kept)), [label for label, _ in kept], fontsize=8)
    axes.set_ylim(len(kept) - 0.5, -0.5)
    axes.set_xlabel(f"% of {report['teacher']}'s score, 95 % interval")
    axes.grid(axis="x", linewidth=0.4)
    figure.savefig(path)
    return [path.name]


def draw_quality(report: Mapping[str, Any], path: Path) -> list[str]:
    """Share of the teacher's macro score against speed relative to the teacher, beside the published models, each
    relative to the BERT-base of its own source."""
    teacher = report["models"][report["teacher"]]
    speeds = teacher.get("speed", {})
    kind = report["macro"]["without_wnli"]
    if not speeds or not kind["over"]:
        return []
    device = "cuda" if "cuda" in speeds else "cpu"
    figure, axes = figure_and_axes(7.2, 4.6)
    points = []
    for i, (row, means) in enumerate(kind["rows"].items()):
        model = report["models"].get(row.removesuffix(" (D)"))
        if means["kept"] is None or model is None:
            continue
        times = teacher["speed"][device]["latency_ms"] / model["speed"][device]["latency_ms"]
        axes.scatter(times, 100 * means["kept"], s=60, color=COLOURS[i % len(COLOURS)], zorder=3)
        points.append((times, 100 * means["kept"], row, "black"))
    if len(points) < 2:
        return []
    for model in MODELS:
        axes.scatter(model.speed, 100 * model.kept, s=45, facecolor="white", edgecolor=PUBLISHED, marker="s", zorder=2)
        points.append((model.speed, 100 * model.kept, f"{model.name} (published)", PUBLISHED))
    axes.set_xscale("log")
    _label_points(axes, points)
    axes.set_xlabel(f"times as fast as the teacher, batch 1, {device} (published: as fast as BERT-base, own hardware)")
    axes.set_ylabel("% of the teacher's GLUE score")
    ticks = [0.75, 1, 1.5, 2, 3, 4, 6, 8, 12]
    low, high = min(x for x, *_ in points) / 1.15, 1.02 * max(_label_end(x, name) for x, _, name, _ in points)
    axes.set_xticks(
        [tick for tick in ticks if low <= tick <= high], [f"{tick:g}x" for tick in ticks if low <= tick <= high]
    )
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)
    axes.margins(y=0.12)
    axes.grid(linewidth=0.4)
    figure.savefig(path)
    return [path.name]


def _label_points(axes: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside the points, moved up or down until none lies on another."""
    low, high = min(y for _, y, *_ in points), max(y for _, y, *_ in points)
    step = max(0.8, (high - low) / 18)
    taken: list[tuple[float, float, float]] = []
    for x, y, name, colour in sorted(points, key=lambda point: (-point[1], point[0])):
        at, end = y, _label_end(x, name)
        while any(abs(at - other) < step and x < last and first < end for first, last, other in taken):
            at -= step / 4
        taken.append((x, end, at))
        axes.annotate(
            name,
            (x, y),
            (1.05 * x, at),
            fontsize=8,
            color=colour,
            va="center",
            arrowprops={"arrowstyle": "-", "linewidth": 0.5, "color": PUBLISHED} if at != y else None,
        )


def _label_end(x: float, name: str) -> float:
    """About where a label beside `x` ends on the logarithmic axis."""
    return 1.05 * x * math.exp(0.025 * len(name))


def draw_task_losses(report: Mapping[str, Any], path: Path) -> list[str]:
    """The training loss of each row's first seed, one panel a task."""
    curves = {
        task["title"]: {row: found["losses"] for row, found in task["rows"].items() if len(found["losses"]) > 1}
        for task in report["tasks"].values()
    }
    return draw_losses({title: rows for title, rows in curves.items() if rows}, path, "training loss, first seed")


def draw_losses(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]], path: Path, what: str = "training loss"
) -> list[str]:
    """Curves of (step, loss) by name, in panels side by side, three in a row; nothing where there is no panel."""
    if not panels or not can_draw():
        return []
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(1.2 + 3.2 * columns, 0.8 + 2.4 * lines), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False)
    names = list(dict.fromkeys(name for rows in panels.values() for name in rows))
    handles: dict[str, Any] = {}
    for axes, (title, rows) in zip(grid.flat, panels.items(), strict=False):
        axes.spines[["top", "right"]].set_visible(False)
        for name, curve in rows.items():
            i = names.index(name)
            (handles[name],) = axes.plot(
                [step for step, _ in curve],
                [loss for _, loss in curve],
                color=COLOURS[i % len(COLOURS)],
                linestyle=("-", "--", ":")[i // len(COLOURS) % 3],
                linewidth=1.3,
            )
        axes.set_title(title, fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=8)
        axes.grid(linewidth=0.4)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel(what, fontsize=9)
    ordered = [name for name in names if name in handles]
    figure.legend(
        [handles[name] for name in ordered],
        ordered,
        loc="outside upper center",
        ncols=min(4, len(ordered)),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path)
    return [path.name]


def picture_notes(drawn: Sequence[str]) -> str:
    """Markdown that shows the pictures and says what is from elsewhere."""
    texts = {
        "kept.png": f"Share of the teacher's score kept. Hatched: DistilBERT of BERT-base as published ({DISTILBERT}).",
        "quality.png": "Quality against speed. Squares are published figures, each relative to the BERT-base of its "
        "own source and hardware, and none of them measured here: "
        + "; ".join(f"{model.name}, {model.split} ({model.source})" for model in MODELS)
        + ".",
        "rows.png": "Share of the teacher's score kept on labelled rows, with the 95 % interval of a paired bootstrap.",
        "losses.png": "Training loss of each row's first seed.",
    }
    return "\n\n".join(f"![{name.removesuffix('.png')}]({name})\n\n{texts[name]}" for name in drawn)
