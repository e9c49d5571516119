"""Metrics equal to scikit-learn, scipy and hand-worked values on the same predictions."""

from __future__ import annotations

import numpy as np
import pytest
from distilfast import InputError
from distilfast.evaluate.scores import macro_scores, parse_tasks
from distilfast.evaluate.tasks import TASKS, score, scores
from distilfast.metrics.kept import share_of
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

GENERATOR = np.random.default_rng(0)
TRUTH = GENERATOR.integers(0, 2, 200)
LOGITS = GENERATOR.normal(size=(200, 2)) + np.eye(2)[TRUTH]
PREDICTED = LOGITS.argmax(-1)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ("cola", {"matthews": matthews_corrcoef(TRUTH, PREDICTED)}),
        ("mrpc", {"accuracy": accuracy_score(TRUTH, PREDICTED), "f1": f1_score(TRUTH, PREDICTED)}),
        ("qqp", {"accuracy": accuracy_score(TRUTH, PREDICTED), "f1": f1_score(TRUTH, PREDICTED)}),
        ("sst2", {"accuracy": accuracy_score(TRUTH, PREDICTED)}),
        ("rte", {"accuracy": accuracy_score(TRUTH, PREDICTED)}),
        ("imdb", {"accuracy": accuracy_score(TRUTH, PREDICTED)}),
    ],
)
def test_classification(task: str, expected: dict[str, float]) -> None:
    found = scores(TASKS[task], {"dev": TRUTH.tolist()}, {"dev": LOGITS})
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})
    assert score(TASKS[task], found) == pytest.approx(100 * np.mean(list(expected.values())))


def test_regression() -> None:
    truth = GENERATOR.uniform(0, 5, 100)
    output = (truth + GENERATOR.normal(size=100))[:, None]
    found = scores(TASKS["stsb"], {"dev": truth.tolist()}, {"dev": output})
    assert found["pearson"] == pytest.approx(100 * pearsonr(truth, output[:, 0]).statistic)
    assert found["spearman"] == pytest.approx(100 * spearmanr(truth, output[:, 0]).statistic)
    assert score(TASKS["stsb"], found) == pytest.approx((found["pearson"] + found["spearman"]) / 2)


def test_constant_predictions_correlate_with_nothing() -> None:
    assert scores(TASKS["stsb"], {"dev": [1.0, 2.0]}, {"dev": np.ones((2, 1))}) == {"pearson": 0.0, "spearman": 0.0}
    assert scores(TASKS["cola"], {"dev": [0, 1]}, {"dev": np.array([[0.0, 1], [0, 1]])}) == {"matthews": 0.0}


def test_two_dev_splits_are_scored_apart_and_averaged() -> None:
    logits = np.eye(3)[[0, 1, 2, 0]]
    found = scores(
        TASKS["mnli"],
        {"matched": [0, 1, 2, 0], "mismatched": [0, 1, 1, 1]},
        {"matched": logits, "mismatched": logits},
    )
    assert found == {"accuracy matched": 100.0, "accuracy mismatched": 50.0}
    assert score(TASKS["mnli"], found) == 75.0


def test_outputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="diverged"):
        scores(TASKS["stsb"], {"dev": [1.0, 2.0]}, {"dev": np.array([[1.0], [np.nan]])})


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
