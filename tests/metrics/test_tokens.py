"""Entities by hand, and by seqeval over random tags."""

from __future__ import annotations

import pytest
from distilfast import InputError
from distilfast.metrics.tokens import entity_counts, entity_scores, entity_table, has_entities, token_metrics
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score

TRUTH = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-PER"]]
SAID = [["B-PER", "O", "O", "B-LOC"], ["B-LOC", "B-PER"]]


def test_entities_by_hand() -> None:
    # Right: LOC of the first sentence, PER of the second; predicted 4; true 3.
    assert entity_counts(SAID, TRUTH).tolist() == [[1, 2, 2], [1, 2, 1]]
    found = token_metrics(SAID, TRUTH)
    assert found == {
        "accuracy": pytest.approx(4 / 6),
        "precision": 0.5,
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(4 / 7),
    }
    assert entity_scores([0, 0, 0]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}  # type: ignore[arg-type]
    assert [(row["label"], row["rows"], row["recall"]) for row in entity_table(SAID, TRUTH)] == [
        ("LOC", 1, 1.0),
        ("PER", 2, 0.5),
    ]


def test_plain_tags_have_no_entities() -> None:
    found = token_metrics([["NOUN", "VERB"]], [["NOUN", "NOUN"]], [["VERB", "VERB"]], entities=False)
    assert found == {"accuracy": 0.5, "macro_f1": pytest.approx((2 / 3 + 0) / 2), "agreement": 0.5}
    assert has_entities(["O", "B-PER", "I-PER"])
    assert not has_entities(["NOUN", "VERB", "O"])
    assert not has_entities(["O"])


def test_sentences_of_other_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="sentence 0 has 1 tags and 2 predicted"):
        token_metrics([["O", "O"]], [["O"]])


TAG = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])


@given(st.lists(st.lists(st.tuples(TAG, TAG), min_size=1, max_size=6), min_size=1, max_size=5))
def test_sums_of_sentences_are_what_seqeval_says(sentences: list[list[tuple[str, str]]]) -> None:
    truth = [[one for one, _ in sentence] for sentence in sentences]
    said = [[other for _, other in sentence] for sentence in sentences]
    found = token_metrics(said, truth)
    assert found["f1"] == pytest.approx(f1_score(truth, said, zero_division=0))
    assert found["precision"] == pytest.approx(precision_score(truth, said, zero_division=0))
    assert found["recall"] == pytest.approx(recall_score(truth, said, zero_division=0))
