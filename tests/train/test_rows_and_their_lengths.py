"""Labels that follow the length of a text are learned; and a teacher is asked where there are none."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
from film_rows import FILLERS, QUICK, save_blank

pytestmark = pytest.mark.usefixtures("one_thread")


def by_length(number: int, seed: int) -> list[dict[str, Any]]:
    """Texts of 1 to 24 words that say nothing; the longer half has one label, and those of a third of the lengths
    another beside it."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        length = draw.randint(1, 24)
        labels = (["long"] if length > 12 else []) + (["middle"] if 8 < length <= 16 else [])
        rows.append({"text": " ".join(draw.choice(FILLERS) for _ in range(length)), "labels": labels})
    return rows


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_a_label_that_follows_the_length_is_learned(tmp_path: Path, kind: str) -> None:
    train, held_out = by_length(512, 0), by_length(128, 1)
    if kind == "single_label_classification":
        names = {0: "short", 1: "long"}
        for row in (*train, *held_out):
            row["label"] = "long" if "long" in row.pop("labels") else "short"
    else:
        names = {0: "long", 1: "middle"}
    blank = save_blank(tmp_path / "blank", layers=2, id2label=names, problem_type=kind)
    summary = df.distil(
        None,
        train,
        tmp_path / "out",
        held_out,
        student=blank,
        **{**QUICK, "num_train_epochs": 6, "per_device_train_batch_size": 16},
    )
    assert any("labels follow the length of the rows" in note for note in summary["data"]["notes"])
    metrics = summary["report"]["metrics"]
    assert metrics["accuracy" if "accuracy" in metrics else "micro_f1"] > 0.9
