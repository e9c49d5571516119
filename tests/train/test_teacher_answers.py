"""What several teachers say of rows before training: the mean of their probabilities, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_rows
import torch
import transformers
from distilfast.batches.encode import encode_texts
from distilfast.heads import choose_head
from distilfast.train.teacher_answers import answers

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["a b c", "d", "e f g h i j", "k l", "m n o p"]


def teacher(kind: str, seed: int) -> Any:
    torch.manual_seed(seed)
    labels = 1 if kind == "regression" else 3
    config = tiny_rows.config(2, num_labels=labels, problem_type=kind)
    return transformers.BertForSequenceClassification(config).eval()


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification", "regression"])
@pytest.mark.parametrize("count", [1, 3])
def test_they_are_the_mean_of_what_each_says_of_each_text(kind: str, count: int) -> None:
    teachers = [teacher(kind, seed) for seed in range(count)]
    tokenizer = tiny_rows.tokenizer()
    rows = encode_texts(tokenizer, TEXTS, max_length=16)
    found = answers(rows, tokenizer, teachers, choose_head(teachers[0]), batch_size=2)
    expected = []
    for text in TEXTS:
        with torch.no_grad():
            logits = [each(**tokenizer(text, return_tensors="pt")).logits[0] for each in teachers]
        if kind == "regression":
            said = logits
        elif kind == "single_label_classification":
            said = [each.softmax(-1) for each in logits]
        else:
            said = [each.sigmoid() for each in logits]
        expected.append(torch.stack(said).mean(0).numpy())
    np.testing.assert_allclose(found, np.stack(expected), atol=1e-5)
