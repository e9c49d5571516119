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


def ablation_table(ablation: dict[str, Any], found: dict[str, Any]) -> str:
    """Held-out text and STS-B without fine-tuning, a row a student."""
    titles = {"teacher": "teacher, 6 layers"} | {
        run: VARIANTS[variant] for variant, runs in ablation["runs"].items() for run in runs
    }
    rows = [
        [
            title,
            number(ablation["scores"][run]["mlm_accuracy"], 1),
            number(ablation["scores"][run]["mlm_loss"], 3),
            number(ablation["scores"][run]["kl"], 3),
            number(ablation["scores"][run]["agreement"], 1),
            number(found["models"][run]["dev"]["people"], 1),
            number(found["models"][run]["dev"]["teacher"], 1),
        ]
        for run, title in titles.items()
    ]
    header = ["student", "MLM accuracy %", "MLM loss", "KL", "top-1 as teacher %", "STS-B, people", "STS-B, teacher"]
    return table(header, rows)


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
    ablation = read("ablation")
    draw_deltas(ablation, HERE / "ablation.png")
    (HERE / "generated_ablation.md").write_text(ablation_markdown(ablation), encoding="utf-8")
    both = ablation_table(ablation, read("ablation_similarity"))
    (HERE / "generated_ablation_similarity.md").write_text(both + "\n", encoding="utf-8")
    losses = read("losses")
    draw_losses(losses, HERE / "losses.png")


if __name__ == "__main__":
    main()
