"""Writes the tables and pictures of docs/study.md from the JSON files beside this one.

python docs/study/tables.py

A table stands in docs/study.md below the line `<!-- table: its name -->`. A test compares them with the JSON.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

from distilfast.ablate.report import TITLES as VARIANTS
from distilfast.ablate.report import ablation_markdown, draw_deltas
from distilfast.evaluate.pictures import COLOURS, figure_and_axes
from distilfast.metrics.markdown import number, table

HERE = Path(__file__).parent
PAGE = HERE.parent / "study.md"
PLACE = re.compile(r"(?m)^<!-- table: (\w+) -->\n\n((?:\|.*\n)+)")
TITLES = {
    "teacher": "teacher, 6 layers",
    "distilled": "student, 3 layers, distilled",
    "cut": "the same 3 layers, not trained",
    "random": "3 layers, random weights",
    "paragraphs_dropout": "300 steps on pieces of paragraphs, with dropout",
    "paragraphs": "300 steps on pieces of paragraphs",
    "sentences": "300 steps on sentences",
}
LEARNED = ("cola", "sst2", "mrpc", "stsb")
LONGER = "full loss, 600 steps, no dropout"


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


def task_table(first: dict[str, Any], second: dict[str, Any], earlier: dict[str, Any], longer: dict[str, Any]) -> str:
    """Scores of the teacher and of each student after fine-tuning, a column a task: of the students of the first seed
    and, behind the stroke, of those of the second, or of the first with an earlier version of the program; the mean is
    that of the first over the tasks that the teacher learned."""
    tasks = {name: first["tasks"][name] for name in (*LEARNED, "rte", "wnli")}
    titles = {"teacher": "teacher, 12 layers"} | {f"{variant}-seed0": title for variant, title in VARIANTS.items()}
    runs = {run: [task["rows"][run]["median"] for task in tasks.values()] for run in first["tasks"]["cola"]["rows"]}
    seconds = {run.removesuffix("0") + "1": run for run in runs if run != "teacher"}
    others = {
        (run, name): task["rows"][other]["median"]
        for name, task in second["tasks"].items()
        for other, run in seconds.items()
    } | {(run, "stsb"): row["median"] for run, row in earlier["tasks"]["stsb"]["rows"].items()}
    reference = statistics.fmean(runs["teacher"][: len(LEARNED)])
    rows = []
    for run, scores in runs.items():
        found = [(score, others.get((run, name))) for name, score in zip(tasks, scores, strict=True)]
        rows.append([titles[run], *(strokes(*pair) for pair in found), *mean_and_share(scores, reference)])
    scores = [longer["tasks"][name]["rows"]["longer"]["median"] if name in LEARNED else None for name in tasks]
    rows.append([LONGER, *("-" if score is None else strokes(score) for score in scores)])
    rows[-1] += mean_and_share([score for score in scores if score is not None], reference)
    return table(
        ["student", *(task["title"] for task in tasks.values()), "mean of the first four", "of teacher's"], rows
    )


def strokes(*scores: float | None) -> str:
    """The scores that there are, strokes between."""
    return " / ".join(number(score, 1) for score in scores if score is not None)


def mean_and_share(scores: list[float], reference: float) -> list[str]:
    """The mean of the tasks that the teacher learned, and its share of the teacher's."""
    mean = statistics.fmean(scores[: len(LEARNED)])
    return [number(mean, 1), f"{100 * mean / reference:.0f} %"]


def longer_table(longer: dict[str, Any], short: dict[str, Any]) -> str:
    """The student that was trained longest beside the teacher and the ablation's full student, on held-out text."""
    rows = []
    for title, row in (
        ("teacher", longer["held_out"]["models"]["teacher"]),
        ("full loss, 120 steps", short["held_out"]["models"]["full"]),
        ("full loss, 120 steps, no dropout", short["held_out"]["models"]["nodrop"]),
        (LONGER, longer["held_out"]["models"]["longer"]),
    ):
        shares = [number(100 * row[key], 1) for key in ("mlm_accuracy", "agreement")]
        rows.append([title, shares[0], number(row["mlm_loss"], 3), shares[1], number(row["kl"], 3)])
    return table(["student", "MLM accuracy, %", "MLM loss", "top-1 as teacher, %", "KL"], rows)


FORGETTING = {
    "full": "full loss, learning rate 5e-4",
    "mixed": "a quarter of the text of the other kinds",
    "slow": "learning rate 1e-4",
    "cosine": "alpha_cos 10",
}


def forgetting_table(runs: dict[str, Any]) -> str:
    """Accuracy of the untrained cut, the student and the teacher, and KL of the first two, on a sample of the text that
    the student was trained on and of another."""
    rows = []
    for name, title in FORGETTING.items():
        if name + "-seed0" in runs:
            rows.append([title])
            for kind in ("trained_on", "guard"):
                found = runs[name + "-seed0"]["guard"][kind]
                shares = [number(100 * found[who]["accuracy"], 1) for who in ("start", "student", "teacher")]
                rows[-1] += [
                    " / ".join(shares),
                    " / ".join(number(found[who]["kl"], 3) for who in ("start", "student")),
                ]
    header = ["cut / student / teacher", "accuracy on its text, %", "KL", "accuracy on other kinds, %", "KL there"]
    return table(header, rows)


def forgetting_held_out_table(report: dict[str, Any]) -> str:
    """Every model on held-out text of the kind trained on, and of the other kinds."""
    texts = [text["models"] for text in report["held_out"].values()]
    titles = {"teacher": "teacher, 8 layers", **FORGETTING, "cut, 4 layers": "4 layers, not trained"}
    rows = []
    for name, title in titles.items():
        if name in texts[0]:
            rows.append([title])
            for models in texts:
                shares = [number(100 * models[name][key], 1) for key in ("mlm_accuracy", "agreement")]
                rows[-1] += [*shares, number(models[name]["kl"], 3)]
    measures = ["accuracy, %", "as the teacher, %", "KL"]
    return table(["model", *measures, *(f"other kinds: {measure}" for measure in measures)], rows)


def tables() -> dict[str, str]:
    """Every table of the page by its name, as Markdown."""
    absolute, relative = re.findall(r"(?m)(?:^\|.*\n)+", ablation_markdown(read("ablation_controls")))
    tasks = task_table(*map(read, ("ablation_tasks", "ablation_tasks_seed1", "stsb_earlier", "longer")))
    return {
        "similarity": similarity_table(read("sentence_similarity")) + "\n",
        "ablation": absolute,
        "against_the_full_loss": relative,
        "forgetting": forgetting_table(read("forgetting")) + "\n",
        "forgetting_held_out": forgetting_held_out_table(read("forgetting_held_out")) + "\n",
        "longer": longer_table(read("longer"), read("dropout")) + "\n",
        "tasks": tasks + "\n",
    }


def filled(page: str) -> str:
    """The page with each of its tables as the JSON has it. Raises `ValueError` where it lacks one, or has another."""
    found = tables()
    if sorted(found) != sorted(match[1] for match in PLACE.finditer(page)):
        raise ValueError(f"{PAGE} must have the tables {', '.join(found)}, once each")
    return PLACE.sub(lambda match: f"<!-- table: {match[1]} -->\n\n{found[match[1]]}", page)


def draw_similarity(found: dict[str, Any], path: Path) -> None:
    """Dots of the dev correlations, their numbers beside them."""
    figure, axes = figure_and_axes(7.0, 2.6)
    names = list(reversed(found["models"]))
    values = [found["models"][name]["dev"]["people"] for name in names]
    axes.scatter(values, range(len(names)), s=36, zorder=3, color=COLOURS[0])
    for row, value in enumerate(values):
        axes.annotate(f"{value:.1f}", (1.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(found["models"]["teacher"]["dev"]["people"], color="#8a8a8a", linewidth=0.8)
    axes.set_yticks(range(len(names)), [TITLES[name] for name in names])
    axes.set_xlim(50, 90)
    axes.set_xlabel("Spearman x 100 on STS-B dev, no fine-tuning")
    axes.grid(axis="x", linewidth=0.4)
    figure.savefig(path)


def main() -> None:
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw_similarity(read("sentence_similarity"), HERE / "similarity.png")
    draw_deltas(read("ablation_controls"), HERE / "ablation.png")


if __name__ == "__main__":
    main()
