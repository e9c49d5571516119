"""`compute_metrics` and `predict` as users of transformers know them: the shapes of each head, in order of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_rows
import torch
from distilfast import DistillationTrainer, InputError, create_student
from distilfast.batches.encode import encode_texts
from distilfast.batches.labelled import LabelledBatches
from distilfast.heads.choice import choose_head
from transformers import BertForSequenceClassification, EvalPrediction

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["single_label_classification", "multi_label_classification", "regression"]


def run_on(folder: Path, teacher: Any, rows: Any, **options: Any) -> tuple[DistillationTrainer, list[EvalPrediction]]:
    """A trainer that evaluates on the rows it has, and what its compute_metrics was called with."""
    seen: list[EvalPrediction] = []

    def keep(given: EvalPrediction) -> dict[str, float]:
        seen.append(given)
        return {"mine": 0.25}

    batches = LabelledBatches(rows, tiny_rows.tokenizer(), 3, 2)
    held_out = LabelledBatches(rows, tiny_rows.tokenizer(), 5, shuffle=False)
    args = tiny_rows.arguments(folder, alpha_ce=1.0, head=choose_head(teacher).name)
    student = create_student(teacher, 1)
    run = DistillationTrainer(student, teacher, args, batches, eval_dataset=held_out, compute_metrics=keep, **options)
    return run, seen


def one_row(rows: Any, row: int) -> dict[str, torch.Tensor]:
    ids = torch.tensor(rows.input_ids[row].astype(np.int64))[None]
    types = torch.tensor(rows.token_type_ids[row].astype(np.int64))[None]
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifier_gives_logits_and_labels_row_by_row(tmp_path: Path, kind: str) -> None:
    draws = np.random.default_rng(0)
    texts = [" ".join(tiny_rows.words(draws, 9)) for _ in range(11)]
    labels: Any = {
        "single_label_classification": [row % 3 for row in range(11)],
        "multi_label_classification": [[float(row % 2), 0.0, float(row % 3 == 0)] for row in range(11)],
        "regression": [row / 2 for row in range(11)],
    }[kind]
    rows = encode_texts(tiny_rows.tokenizer(), texts, labels=labels)
    torch.manual_seed(0)
    classes = 1 if kind == "regression" else 3
    teacher = BertForSequenceClassification(tiny_rows.config(2, num_labels=classes, problem_type=kind)).eval()
    run, seen = run_on(tmp_path, teacher, rows)
    assert run.evaluate()["eval_mine"] == 0.25
    (given,) = seen
    assert given.predictions.shape == (11, classes)
    assert np.array_equal(given.label_ids, np.array(labels, given.label_ids.dtype))
    with torch.no_grad():
        expected = [run.student(**one_row(rows, row)).logits[0].numpy() for row in range(11)]
    np.testing.assert_allclose(given.predictions, expected, atol=1e-5)
    said = run.predict(run.eval_dataset)
    assert np.array_equal(said.predictions, given.predictions)
    assert said.metrics["test_mine"] == 0.25
    assert {"test_agreement", "test_kl"} <= said.metrics.keys() or kind == "regression"


def test_a_tagger_gives_words_by_their_first_tokens(tmp_path: Path) -> None:
    names = ["A", "B", "C"]
    rows = tiny_rows.word_batches(3, 4).rows
    run, seen = run_on(tmp_path, tiny_rows.tagger(names), rows)
    found = run.evaluate()
    (given,) = seen
    logits, labels = given
    most = int(rows.words.lengths.max())
    assert logits.shape == (tiny_rows.ROWS, most, 3)
    assert labels.shape == (tiny_rows.ROWS, most)
    for row in range(tiny_rows.ROWS):
        starts = rows.word_starts[row]
        count = int(starts.sum())
        assert labels[row, :count].tolist() == rows.word_labels[row][starts].tolist()
        assert (labels[row, count:] == -100).all()
        assert (logits[row, count:] == -100).all()
        with torch.no_grad():
            expected = run.student(**one_row(rows, row)).logits[0].numpy()[starts]
        np.testing.assert_allclose(logits[row, :count], expected, atol=1e-5)
    # As the examples of transformers count: argmax, and labels of -100 left out.
    known = labels != -100
    assert 0 < known.sum() < sum(starts.sum() for starts in rows.word_starts)
    assert found["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels)[known].mean())


def test_a_question_answerer_gives_starts_and_ends(tmp_path: Path) -> None:
    rows = tiny_rows.question_rows(max_length=14, stride=3)
    run, seen = run_on(tmp_path, tiny_rows.answerer(), rows)
    run.evaluate()
    ((starts, ends), (start_labels, end_labels)) = seen[0]
    assert starts.shape == ends.shape == (len(rows), int(rows.input_ids.lengths.max()))
    assert start_labels.tolist() == rows.targets["start_positions"].tolist()
    assert end_labels.tolist() == rows.targets["end_positions"].tolist()
    for row in range(len(rows)):
        places = rows.answer_places[row]
        with torch.no_grad():
            out = run.student(**one_row(rows, row))
        width = len(places)
        np.testing.assert_allclose(starts[row, :width][places], out.start_logits[0].numpy()[places], atol=1e-5)
        assert np.isneginf(ends[row, :width][~places]).all()
        assert np.isneginf(ends[row, width:]).all()


@pytest.mark.parametrize("name", ["data_collator", "compute_loss_func", "preprocess_logits_for_metrics"])
def test_what_would_do_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name} would do nothing"):
        run_on(tmp_path, tiny_rows.answerer(), tiny_rows.question_rows(), **{name: lambda *_: None})


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("train_sampling_strategy", "group_by_length"),
        ("include_for_metrics", ["inputs"]),
        ("dataloader_drop_last", True),
    ],
)
def test_flags_that_would_do_nothing_are_refused(tmp_path: Path, flag: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"--{flag} is not supported"):
        tiny_rows.arguments(tmp_path, **{flag: value})
