"""Writes the tables and pictures of docs/study.md from the JSON files beside this one: generated_*.md, *.png.

python docs/study/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distilfast.ablate_report import TITLES as VARIANTS
from distilfast.ablate_report import ablation_markdown, draw_deltas
from distilfast.pictures import COLOURS, draw_losses, figure_and_axes
from distilfast.report import number, table

HERE = Path(__file__).parent
TITLES = {
    "teacher": "teacher, 6 layers",
    "distilled": "student, 3 layers, distilled",
    "cut": "the same 3 layers, not trained",
    "random": "3 layers, random weights",
}


def read(name: str) -> dict[str, Any]:
    """The JSON file of that name."""
    return dict(json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")))


def similarity_table(found: dict[str, Any]) -> str:
    """Correlations with people and with the teacher, and how near the vectors are to its."""
    rows = [
        [
            TITLES[name],
            f"{row['parameters'] / 1e6:.1f} M",
            number(row["dev"]["people"], 2),
            number(row["dev"]["teacher"], 2),
            number(row["dev"]["vectors"], 3),
        ]
        for name, row in found["models"].items()
    ]
    header = [
        "encoder",
        "parameters",
        "Spearman with people",
        "Spearman with teacher",
        "cosine of vectors to teacher's",
    ]
    return table(header, rows)


def task_table(judged: dict[str, Any]) -> str:
    """Scores of the teacher and of each student after fine-tuning, a column a task, and their mean without WNLI."""
    tasks, macro = judged["tasks"], judged["macro"]["without_wnli"]["rows"]
    titles = {"teacher": "teacher, 12 layers"} | {f"{variant}-seed0": title for variant, title in VARIANTS.items()}
    rows = []
    for run in macro:
        scores = [task["rows"].get(run, {}).get("median") for task in tasks.values()]
        cells = ["-" if score is None else number(score, 1) for score in (*scores, macro[run]["score"])]
        kept = macro[run]["kept"]
        rows.append([titles[run], *cells, "-" if kept is None else f"{100 * kept:.0f} %"])
    return table(["student", *(task["title"] for task in tasks.values()), "mean without WNLI", "of teacher's"], rows)


def draw_similarity(found: dict[str, Any], path: Path) -> None:
    """Bars of the dev correlations."""
    figure, axes = figure_and_axes(6.4, 2.4)
    names = list(reversed(found["models"]))
    values = [found["models"][name]["dev"]["people"] for name in names]
    bars = axes.barh(
        range(len(names)), values, color=[COLOURS[0] if name != "teacher" else "#8a8a8a" for name in names]
    )
    axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axes.set_xlim(0, 100)
    axes.set_xlabel("STS-B dev, Spearman x 100, no fine-tuning")
    axes.grid(axis="x", linewidth=0.4)
    figure.savefig(path)


def main() -> None:
    similarity = read("sentence_similarity")
    (HERE / "generated_similarity.md").write_text(similarity_table(similarity) + "\n", encoding="utf-8")
    draw_similarity(similarity, HERE / "similarity.png")
    held_out = read("ablation_controls")
    draw_deltas(held_out, HERE / "ablation.png")
    (HERE / "generated_ablation.md").write_text(ablation_markdown(held_out), encoding="utf-8")
    (HERE / "generated_ablation_tasks.md").write_text(task_table(read("ablation_tasks")) + "\n", encoding="utf-8")
    losses = read("losses")
    draw_losses(losses, HERE / "losses.png")


if __name__ == "__main__":
    main()
