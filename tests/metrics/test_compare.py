"""Of every head: scores over draws of units are the measures themselves; chance by hand; what is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from distilfast.evaluate.row_report import kept_lines, rows_markdown
from distilfast.metrics.compare import (
    Answers,
    Comparison,
    ManyLabels,
    Numbers,
    OneClass,
    Ranking,
    Tags,
    compared,
    macro_f1,
)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score


def cases(seed: int) -> list[tuple[Comparison, Any, Any]]:
    """A comparison of each head with a model's outputs and a teacher's, some rows without labels."""
    generator = np.random.default_rng(seed)
    rows, names = 30, ["a", "b", "c"]
    one = np.where(np.arange(rows) < 25, generator.integers(0, 3, rows), -100)
    many = np.where(np.arange(rows)[:, None] < 25, generator.integers(0, 2, (rows, 3)) * 1.0, np.nan)
    logits, others = generator.normal(size=(2, rows, 3))
    numbers = np.where(np.arange(rows) < 25, generator.normal(size=rows), np.nan)
    relevance, groups = generator.integers(0, 3, rows) * 1.0, np.repeat(np.arange(6), 5)

    def tags(of: list[str]) -> list[list[str]]:
        return [[str(tag) for tag in generator.choice(of, 1 + i % 4)] for i in range(rows)]

    entities, plain = ["O", "B-X", "I-X", "B-Y"], ["NOUN", "VERB"]
    answers = [[["red dog"], [], ["the cat", "cat"]][i % 3] for i in range(rows)]
    said = [str(word) for word in generator.choice(["", "dog", "red dog", "cat"], rows)]
    return [
        (OneClass(one, names), logits, others),
        (ManyLabels(many, names), logits, others),
        (Numbers(numbers), logits[:, 0], others[:, 0]),
        (Ranking(relevance, groups), logits[:, 0], others[:, 0]),
        (Tags(tags(entities), entities), tags(entities), tags(entities)),
        (Tags(tags(plain), plain), tags([*plain, ""]), tags(plain)),
        (Answers(answers), said, said[::-1]),
    ]


@given(st.integers(0, 2**31))
def test_a_score_over_every_unit_is_the_measure(seed: int) -> None:
    for comparison, outputs, _ in cases(seed):
        found = comparison.metrics(outputs, None)
        units = np.arange(comparison.units())
        for metric in comparison.main:
            assert comparison.scorer(metric, outputs)(units) == pytest.approx(found[metric]), (comparison, metric)


@given(st.integers(0, 2**31))
def test_units_that_are_drawn_twice_count_twice(seed: int) -> None:
    for comparison, outputs, _ in cases(seed):
        units = np.arange(comparison.units())
        for metric in comparison.main:
            score = comparison.scorer(metric, outputs)
            assert score(np.concatenate([units, units])) == pytest.approx(score(units))
            # Almost all draws are of the first unit: the score is nearly that of the first alone.
            if metric in ("accuracy", "exact_match", "mrr@10"):
                heavy = np.concatenate([np.zeros(100_000, np.int64), units])
                assert score(heavy) == pytest.approx(score(units[:1]), abs=0.01)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_macro_f1_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, said = np.array(pairs).T
    assert macro_f1(truth, said, 4) == pytest.approx(f1_score(truth, said, average="macro", zero_division=0.0))


def test_chance_by_hand() -> None:
    one = OneClass(np.array([0, 1, 1, 1, -100]), ["a", "b"])
    assert one.chance("accuracy") == 0.75
    assert one.chance("macro_f1") == pytest.approx((0 + 2 * 3 / 7) / 2)
    # Label b everywhere: 2 right, 3 given, 3 true; b and a everywhere: 3 right of 6 given.
    many = ManyLabels(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), ["a", "b"])
    assert many.chance("micro_f1") == pytest.approx(max(2 * 2 / 6, 2 * 3 / 9))
    entities = Tags([["O", "B-X", "O"]], ["O", "B-X"])
    assert entities.chance("f1") == 0.0
    assert entities.chance("accuracy") == pytest.approx(2 / 3)
    assert Answers([["dog"], [], []]).chance("exact_match") == pytest.approx(2 / 3)
    assert Numbers(np.array([1.0, 2.0])).chance("spearman") == 0.0
    groups = Ranking(np.array([1.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 1]))
    assert groups.chance("mrr@10") == pytest.approx((0.75 + 1) / 2)


def test_a_copy_keeps_everything_and_words_are_there_for_every_head() -> None:
    for comparison, outputs, other in cases(3):
        part = compared(comparison, {"t": outputs, "copy": outputs, "s": other}, "t")
        for metric in comparison.main:
            kept = part["models"]["copy"]["kept"][metric]
            assert kept["share"] in (1.0, None)
        assert all("agreement" not in part["models"]["t"]["metrics"] for _ in part)
        text = rows_markdown({**part, "file": "dev.csv", "rows": 30, "notes": ["text 'a'"]}, "t")
        assert "| copy" in text
        assert "without looking" in text
        assert len(kept_lines(part)) == 2


def test_a_teacher_that_is_no_better_than_chance_is_named() -> None:
    labels = np.array([0, 0, 0, 1] * 30)
    guess = np.eye(2)[np.array([0, 1, 0, 0] * 30)]
    part = compared(OneClass(labels, ["a", "b"]), {"t": guess, "s": np.eye(2)[labels]}, "t")
    no_better, above, *_ = part["warnings"]
    assert "t scores 50.0 accuracy, no more than 75.0" in no_better
    assert "s scores above t in accuracy, more than" in above
    # Every share above 100 % has its word.
    high = [metric for metric, kept in part["models"]["s"]["kept"].items() if kept["share"] > 1]
    assert high == ["accuracy", "macro_f1"]
    assert all(any(f"above t in {metric.replace('_', ' ')}" in said for said in part["warnings"]) for metric in high)
    text = rows_markdown({**part, "file": "dev.csv", "rows": 120, "notes": []}, "t")
    assert "**t scores 50.0" in text
