"""What a task scores of a finished model's measures, equal to scikit-learn and scipy; macro scores; task lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilfast import InputError
from distilfast.evaluate import finetune
from distilfast.evaluate.scores import macro_scores, parse_tasks
from distilfast.evaluate.tasks import TASKS, TaskData, score
from distilfast.metrics.compare import Numbers, OneClass, compared
from distilfast.metrics.kept import share_of
from distilfast.prepare.records import rows_of_columns
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

GENERATOR = np.random.default_rng(0)
TRUTH = GENERATOR.integers(0, 2, 200)
LOGITS = GENERATOR.normal(size=(200, 2)) + np.eye(2)[TRUTH]
PREDICTED = LOGITS.argmax(-1)
NUMBERS = GENERATOR.uniform(0, 5, 200)
GUESSES = NUMBERS + GENERATOR.normal(size=200)
ROWS = rows_of_columns({"text": ["a"], "label": ["0"]}, "rows")


def scored(monkeypatch: pytest.MonkeyPatch, name: str, **dev: Any) -> dict[str, float]:
    """The scores of a model whose outputs are known, on dev splits {name: comparison and outputs}."""
    found = iter([compared(comparison, {"tuned": outputs}, "tuned") for comparison, outputs in dev.values()])
    monkeypatch.setattr(finetune, "rows_report", lambda *_: next(found))
    data = TaskData(TASKS[name], "text", ROWS, dict.fromkeys(dev, ROWS), (), "")
    return finetune.scores_of(Path(), data, 128, torch.device("cpu"))


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("cola", {"matthews": matthews_corrcoef(TRUTH, PREDICTED)}),
        ("mrpc", {"accuracy": accuracy_score(TRUTH, PREDICTED), "f1": f1_score(TRUTH, PREDICTED)}),
        ("qqp", {"accuracy": accuracy_score(TRUTH, PREDICTED), "f1": f1_score(TRUTH, PREDICTED)}),
        ("sst2", {"accuracy": accuracy_score(TRUTH, PREDICTED)}),
        ("rte", {"accuracy": accuracy_score(TRUTH, PREDICTED)}),
        ("imdb", {"accuracy": accuracy_score(TRUTH, PREDICTED)}),
        ("stsb", {"pearson": pearsonr(NUMBERS, GUESSES)[0], "spearman": spearmanr(NUMBERS, GUESSES)[0]}),
    ],
)
def test_a_task_scores_the_mean_of_its_metrics(
    monkeypatch: pytest.MonkeyPatch, task: str, expected: dict[str, float]
) -> None:
    classes: Any = (OneClass(TRUTH, ["0", "1"]), LOGITS)
    dev: Any = (Numbers(NUMBERS), GUESSES) if task == "stsb" else classes
    found = scored(monkeypatch, task, dev=dev)
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})
    assert score(TASKS[task], found) == pytest.approx(100 * np.mean(list(expected.values())))


def test_squad_scores_its_f1() -> None:
    assert score(TASKS["squad"], {"exact_match": 10.0, "f1": 30.0}) == 30.0


def test_two_dev_splits_are_scored_apart_and_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, names = np.eye(3)[[0, 1, 2, 0]], ["a", "b", "c"]
    first, second = (OneClass(np.array(labels), names) for labels in ([0, 1, 2, 0], [0, 1, 1, 1]))
    found = scored(monkeypatch, "mnli", matched=(first, logits), mismatched=(second, logits))
    assert found == {"accuracy matched": 100.0, "accuracy mismatched": 50.0}
    assert score(TASKS["mnli"], found) == 75.0


def test_macro_scores_with_and_without_wnli() -> None:
    def task(glue: bool, teacher: float, student: float | None) -> dict[str, object]:
        rows = {"t": {"median": teacher}} | ({} if student is None else {"s": {"median": student}})
        return {"glue": glue, "rows": rows}

    tasks = {"cola": task(True, 50.0, 40.0), "wnli": task(True, 60.0, 56.0), "imdb": task(False, 90.0, 10.0)}
    macro = macro_scores(tasks, ["t", "s"], "t")
    assert macro["with_wnli"]["rows"]["s"] == {"score": 48.0, "kept": pytest.approx(48 / 55)}
    assert macro["without_wnli"]["rows"]["s"] == {"score": 40.0, "kept": pytest.approx(0.8)}
    tasks["cola"] = task(True, 50.0, None)
    assert macro_scores(tasks, ["t", "s"], "t")["with_wnli"]["rows"]["s"] == {"score": None, "kept": None}


def test_shares_of_nothing_are_not_made_up() -> None:
    assert share_of(10.0, 0.0) is None
    assert share_of(10.0, -3.0) is None
    assert share_of(50.0, 50.0) == 1.0


def test_task_lists() -> None:
    assert parse_tasks("cola, rte,") == ["cola", "rte"]
    for bad in ("", "rte,rte"):
        with pytest.raises(InputError, match="--tasks"):
            parse_tasks(bad)
