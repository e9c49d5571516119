"""How an exported form is judged, on made-up outputs: at masks, at tokens that are there, never at padding."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from distilfast.export.check import compare, judge

MASK = 4
BATCH = {
    "input_ids": torch.tensor([[2, MASK, 7, 8, 3], [2, 9, MASK, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
}
TOKENIZER: Any = SimpleNamespace(mask_token_id=MASK)
PADDING, MASKED, OTHER = (1, 4), (1, 2), (0, 2)


class TinyForMaskedLM:
    config = SimpleNamespace()


class TinyForTokenClassification:
    config = SimpleNamespace()


def changed_at(place: tuple[int, int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Logits [2, 5, 6], and the same with another best token at a place."""
    torch.manual_seed(0)
    expected = torch.randn(2, 5, 6)
    got = expected.clone()
    got[place] = -got[place]
    return [{"logits": got}], [{"logits": expected}]


@pytest.mark.parametrize(
    ("model", "place", "agreement"),
    [
        (TinyForMaskedLM(), MASKED, 1 / 2),
        (TinyForMaskedLM(), OTHER, 1.0),
        (TinyForMaskedLM(), PADDING, 1.0),
        (TinyForTokenClassification(), OTHER, 8 / 9),
        (TinyForTokenClassification(), PADDING, 1.0),
    ],
)
def test_what_differs_where_nobody_looks_does_not_count(model: Any, place: tuple[int, int], agreement: float) -> None:
    got, expected = changed_at(place)
    assert judge(got, expected, [BATCH], model, TOKENIZER)[0] == pytest.approx(agreement)


@pytest.mark.parametrize("place", [PADDING, MASKED, OTHER])
def test_the_largest_difference_is_of_tokens_that_are_there(place: tuple[int, int], tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"x")
    got, expected = changed_at(place)
    check = compare("onnx", file, got, expected, [BATCH], TinyForMaskedLM(), TOKENIZER, 1e-3)
    largest = 0.0 if place == PADDING else float(2 * expected[0]["logits"][place].abs().max())
    assert check.largest_difference == pytest.approx(largest)


class TinyForSequenceClassification:
    config = SimpleNamespace(problem_type=None)


def test_scores_are_compared_by_their_rank_sign_and_all() -> None:
    ours, theirs = (torch.tensor([each]).T for each in ([-3.0, 1.0, 2.0], [-30.0, 2.0, 50.0]))
    model = TinyForSequenceClassification()
    agreement, measured = judge([{"logits": ours}], [{"logits": theirs}], [BATCH], model, TOKENIZER)
    assert (agreement, measured) == (pytest.approx(1.0), "rank correlation of scores")
    reverse = judge([{"logits": -ours}], [{"logits": theirs}], [BATCH], model, TOKENIZER)
    assert reverse[0] == pytest.approx(-1.0)
