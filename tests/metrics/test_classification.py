"""Scores of classifiers by hand-made numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from distilfast import InputError
from distilfast.metrics.classification import (
    IGNORED,
    label_table,
    multi_label_metrics,
    single_label_metrics,
    softmax_divergence,
)

# Predicted classes 0, 0, 1, 2, 2; true ones 0, 1, 1, 2, 0.
LOGITS = np.log(np.array([[8, 1, 1], [8, 1, 1], [1, 8, 1], [1, 1, 8], [1, 1, 8]]) / 10)
LABELS = np.array([0, 1, 1, 2, 0])


def test_one_class_a_row_by_hand() -> None:
    found = single_label_metrics(LOGITS, LABELS)
    assert found["accuracy"] == 0.6
    # F1 of each class: 2 TP / (predicted + true): 2/4, 2/3, 2/3.
    assert found["macro_f1"] == pytest.approx((0.5 + 2 / 3 + 2 / 3) / 3)
    # R_k: (c s - sum p t) / sqrt((s^2 - sum p^2)(s^2 - sum t^2)), c = 3, s = 5, p = 2, 1, 2, t = 2, 2, 1.
    assert found["matthews"] == pytest.approx((15 - 8) / math.sqrt((25 - 9) * (25 - 9)))
    assert found["loss"] == pytest.approx(-(3 * math.log(0.8) + 2 * math.log(0.1)) / 5)
    assert "f1" not in found
    assert "agreement" not in found


def test_rows_without_a_label_count_for_agreement_only() -> None:
    labels = np.where(np.arange(5) < 3, LABELS, IGNORED)
    found = single_label_metrics(LOGITS, labels, teacher_logits=LOGITS[[0, 1, 2, 3, 0]])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["agreement"] == 0.8
    # Only the last row differs: teacher 0.8, 0.1, 0.1 against 0.1, 0.1, 0.8.
    assert found["kl"] == pytest.approx(0.7 * math.log(8) / 5)
    assert set(single_label_metrics(LOGITS, np.full(5, IGNORED), LOGITS)) == {"agreement", "kl"}
    assert "accuracy" not in single_label_metrics(LOGITS)


def test_two_classes_have_the_f1_of_class_1() -> None:
    logits = np.eye(2)[[1, 1, 0, 0]]
    assert single_label_metrics(logits, np.array([1, 0, 1, 0]))["f1"] == 0.5
    assert single_label_metrics(logits, np.array([1, 1, 1, 0]))["f1"] == pytest.approx(0.8)


def test_divergence_of_a_model_to_itself_is_0_and_not_below() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 7)) * 10
    assert str(softmax_divergence(logits, logits)) == "0.0"
    assert str(multi_label_metrics(logits, None, logits)["kl"]) == "0.0"
    # Which of the two is the teacher matters: KL((3/4, 1/4) || (1/2, 1/2)) by hand.
    teacher, student = np.log([[0.75, 0.25]]), np.zeros((1, 2))
    assert softmax_divergence(teacher, student) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert softmax_divergence(student, teacher) == pytest.approx(0.5 * math.log(2 / 3) + 0.5 * math.log(2))


def test_many_labels_a_row_by_hand() -> None:
    logits = np.where(np.array([[1, 0, 1], [0, 0, 1], [1, 1, 0]]), 2.0, -2.0)
    labels = np.array([[1, 0, 0], [0, 0, 1], [1, 0, 0]])
    found = multi_label_metrics(logits, labels)
    # 3 of 5 predicted labels are right, all 3 true ones are found.
    assert found["micro_f1"] == pytest.approx(2 * 3 / (5 + 3))
    assert found["macro_f1"] == pytest.approx((1.0 + 0.0 + 2 / 3) / 3)
    assert found["subset_accuracy"] == pytest.approx(1 / 3)
    right, wrong = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    assert found["loss"] == pytest.approx((7 * right + 2 * wrong) / 9)


def test_a_label_is_given_above_a_half() -> None:
    # Probabilities just above and just below a half.
    found = multi_label_metrics(np.array([[0.01, -0.01], [0.4, -0.4]]), np.array([[1, 0], [1, 0]]))
    assert found["subset_accuracy"] == found["micro_f1"] == 1.0


def test_many_labels_beside_the_teacher() -> None:
    teacher, student = np.array([[math.log(3), -1.0]]), np.array([[0.0, -1.0]])  # probabilities 3/4 and 1/2
    found = multi_label_metrics(student, np.full((1, 2), IGNORED), teacher)
    assert found["agreement"] == 0.5  # 0 is not above a half
    assert found["kl"] == pytest.approx((0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 2)
    assert set(found) == {"agreement", "kl"}
    assert set(multi_label_metrics(student, np.full((1, 2), np.nan), teacher)) == {"agreement", "kl"}


def test_the_table_of_labels() -> None:
    table = label_table(LOGITS.argmax(-1), np.append(LABELS[:4], IGNORED), ["no", "yes", "may be"])
    assert [row["label"] for row in table] == ["no", "yes", "may be"]
    assert [row["rows"] for row in table] == [1, 2, 1]
    assert [row["precision"] for row in table] == [0.5, 1.0, 1.0]
    assert [row["recall"] for row in table] == [1.0, 0.5, 1.0]
    many = label_table(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]]), ["a", "b"])
    assert [(row["precision"], row["recall"], row["rows"]) for row in many] == [(0.5, 1.0, 1), (1.0, 1.0, 1)]


def test_outputs_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        single_label_metrics(np.array([[0.0, np.nan]]), np.array([0]))
    with pytest.raises(InputError, match="not finite"):
        multi_label_metrics(np.array([[0.0, np.inf]]))
