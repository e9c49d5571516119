"""Answers by hand-made passages, and by the official rules of SQuAD 1.1 and 2.0."""

from __future__ import annotations

import numpy as np
import pytest
from distilfast.metrics.questions import best_answers, exact_match, f1, normalise, question_metrics
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Beatles!", "beatles"),
        ("a man, an apple", "man apple"),
        ("U.S.", "us"),
        ("Theatre of the absurd", "theatre of absurd"),
        ("the", ""),
    ],
)
def test_the_official_normalisation(answer: str, expected: str) -> None:
    assert normalise(answer) == expected


def test_squad_scores_by_hand() -> None:
    assert exact_match("the Denver Broncos", "Denver Broncos.") == 1.0
    # Two of the three words predicted are among the four true ones: precision 2/3, recall 2/4.
    assert f1("big red dog", "red dog in town") == pytest.approx(2 * (2 / 3) * 0.5 / (2 / 3 + 0.5))
    assert f1("dog dog", "dog") == pytest.approx(2 * 0.5 / 1.5)
    assert f1("", "dog") == 0.0
    found = question_metrics(["red dog", "cat"], [["dog", "red dog"], ["mouse"]])
    assert found == {"exact_match": 0.5, "f1": 0.5}


@given(st.text(max_size=40))
def test_an_answer_matches_itself(answer: str) -> None:
    assert exact_match(answer, answer) == 1.0
    assert f1(answer, answer) == 1.0


def test_the_best_span_is_in_the_passage_in_order_and_over_all_windows() -> None:
    passages = ["one two three four"]
    spans = [None, (0, 3), (4, 7), (8, 13), (14, 18)]
    columns = {"example": [0, 0], "offsets": [spans, spans[:3]]}
    start = np.full((2, 5), -9.0)
    end = np.full((2, 5), -9.0)
    start[0, 0] = end[0, 0] = 50.0  # the question, which is never an answer
    start[0, 4], end[0, 2] = 9.0, 9.0  # back to front
    start[0, 2], end[0, 3] = 2.0, 9.5
    assert best_answers(passages, columns, start, end) == ["two three"]
    start[1, 1], end[1, 2] = 8.0, 8.0  # likelier, in the other window
    start[1, 4] = end[1, 4] = 99.0  # padding of the shorter window
    assert best_answers(passages, columns, start, end) == ["one two"]


def test_no_answer_is_an_answer() -> None:
    # Two questions with answers, two without; one of each kind is right.
    found = question_metrics(["dog", "", "", "cat"], [["dog"], ["red dog"], [], []])
    assert found["exact_match"] == found["f1"] == 0.5
    assert found["exact_match_answerable"] == found["exact_match_unanswerable"] == 0.5
    assert "f1_answerable" not in question_metrics(["dog"], [["dog"]])
    assert "f1_answerable" not in question_metrics([""], [[]])
    # Answers that are only articles do not count, as in the official script of 2.0.
    assert question_metrics(["dog"], [["the", "dog"]])["f1"] == 1.0


def test_agreement_with_the_teacher_is_over_its_answers() -> None:
    found = question_metrics(["red dog", "", "cat"], None, ["the red dog", "", "mouse"])
    assert found == {"agreement": pytest.approx(2 / 3), "teacher_f1": pytest.approx(2 / 3)}


def test_no_answer_wins_where_no_window_has_a_likelier_span() -> None:
    columns = {"example": [0, 0, 1], "offsets": [[None, (0, 3)]] * 3}
    start = np.array([[5.0, 1.0], [3.0, 2.0], [0.0, 1.0]])
    end = start.copy()
    # Of the first question the windows say 10 and 6 for none (6 counts), 2 and 4 for the span.
    assert best_answers(["one", "one"], columns, start, end, unanswerable=True) == ["", "one"]
    assert best_answers(["one", "one"], columns, start, end) == ["one", "one"]
    start[0, 1] = end[0, 1] = 4.0  # a span of 8 beats the 6
    assert best_answers(["one", "one"], columns, start, end, unanswerable=True) == ["one", "one"]
