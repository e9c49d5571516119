"""Without a teacher the head is the student's; a student without it gets a new one, drawn from the seed and named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import tiny_rows
import torch
import transformers
from distilfast import InputError
from distilfast.models.load import load_model
from distilfast.prepare.targets import IGNORED
from film_rows import QUICK

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["A", "B", "C"]
SHORT: dict[str, Any] = {**QUICK, "max_steps": 2, "max_length": 24}


def rows_for(head: str) -> list[dict[str, Any]]:
    draws = np.random.default_rng(0)
    found: list[dict[str, Any]] = []
    for _ in range(40):
        words = tiny_rows.words(draws, 7)
        if head == "tokens":
            found.append({"tokens": words, "ner_tags": [NAMES[len(word) - 1] for word in words]})
        elif head == "questions":
            answer = {"text": [words[0]], "answer_start": [0]}
            found.append(
                {"question": " ".join(tiny_rows.words(draws, 4)) + " ?", "context": " ".join(words), "answers": answer}
            )
        else:
            found.append({"text": " ".join(words), "label": NAMES[len(words) % 3]})
    return found


def saved(folder: Path, kind: str) -> Path:
    named = {"id2label": dict(enumerate(NAMES)), "label2id": {name: number for number, name in enumerate(NAMES)}}
    config = tiny_rows.config(2, **({} if kind == "ForQuestionAnswering" else named))
    torch.manual_seed(1)
    getattr(transformers, f"Bert{kind}")(config).save_pretrained(folder)
    tiny_rows.tokenizer().save_pretrained(folder)
    return folder


CLASSES = {
    "classification": "ForSequenceClassification",
    "tokens": "ForTokenClassification",
    "questions": "ForQuestionAnswering",
}


@pytest.mark.parametrize("head", CLASSES)
def test_the_head_is_the_students(head: str, tmp_path: Path) -> None:
    student = saved(tmp_path / "student", CLASSES[head])
    summary = df.distil(None, rows_for(head), tmp_path / "out", student=student, **SHORT)
    assert summary["head"] == head


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("kind", ["Model", "ForMaskedLM", "ForTokenClassification", "ForSequenceClassification"])
def test_a_student_without_the_head_gets_a_new_one(
    head: str, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == CLASSES[head]:
        return
    student = saved(tmp_path / "student", kind)
    for again in ("one", "two"):
        df.distil(None, rows_for(head), tmp_path / again, student=student, head=head, **{**SHORT, "max_steps": 1})
    weights = "qa_outputs" if head == "questions" else "classifier"
    assert f"gets a new {head} head: " in caplog.text
    assert f"{weights}.weight" in caplog.text
    assert "are drawn anew" in caplog.text
    first, second = (
        getattr(transformers, f"Bert{CLASSES[head]}").from_pretrained(tmp_path / again).state_dict()
        for again in ("one", "two")
    )
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize(
    ("kind", "head"), [("ForTokenClassification", "classification"), ("ForSequenceClassification", "tokens")]
)
def test_weights_of_another_head_are_not_taken_though_they_fit(kind: str, head: str, tmp_path: Path) -> None:
    """A tagger's classifier has the name and the shape of one of texts."""
    folder = saved(tmp_path / "student", kind)
    theirs = getattr(transformers, f"Bert{kind}").from_pretrained(folder)
    ours = load_model(folder, head, new_head=True)
    assert ours.classifier.weight.shape == theirs.classifier.weight.shape
    assert not torch.isclose(ours.classifier.weight, theirs.classifier.weight).any()
    encoder = theirs.base_model.state_dict()
    assert all(
        torch.equal(value, encoder[name]) for name, value in ours.base_model.state_dict().items() if name in encoder
    )


def test_balanced_weights_of_tags_count_words(tmp_path: Path) -> None:
    student, rows = saved(tmp_path / "student", "ForTokenClassification"), rows_for("tokens")
    options = {"student": student, "class_weights": ["balanced"], **SHORT}
    summary = df.distil(None, rows, tmp_path / "out", rows, **options)
    counts = [sum(row["ner_tags"].count(name) for row in rows) for name in NAMES]
    assert np.allclose(summary["class_weights"], [sum(counts) / (3 * count) for count in counts])
    with pytest.raises(InputError, match="3 numbers that are not negative are needed"):
        df.distil(None, rows, tmp_path / "two", rows, **{**options, "class_weights": ["1", "2"]})
    answerer = saved(tmp_path / "answerer", "ForQuestionAnswering")
    with pytest.raises(InputError, match="answers are places in a passage and have no classes"):
        df.distil(None, rows_for("questions"), tmp_path / "two", **{**options, "student": answerer})
    assert not (tmp_path / "two").exists()


def test_weights_of_tags_are_those_of_cross_entropy() -> None:
    from distilfast.heads import Objective, choose_head
    from distilfast.train.step import DistillationStep

    model, weights = tiny_rows.tagger(NAMES), [0.25, 1.0, 4.0]
    head = choose_head(model, "tokens", weights)
    batch = tiny_rows.word_batches(3, 12)[0]
    objective = Objective(alpha_ce=0.0, alpha_cos=0.0)
    loss = DistillationStep(model, None, objective, head=head)(batch)["loss_task"]
    with torch.no_grad():
        logits = model(**{name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}).logits
    known = batch["labels"] != IGNORED
    single = torch.nn.functional.cross_entropy(logits[known], batch["labels"][known], reduction="none")
    expected = (single * torch.tensor(weights)[batch["labels"][known]]).sum() / known.sum()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("head", ["classification", "tokens", "questions"])
def test_the_tokenizer_that_is_handed_over_stays_as_it_was_and_is_saved_so(head: str, tmp_path: Path) -> None:
    """Whatever is cut and padded to train, and to choose layers on."""
    kinds: dict[str, Any] = {"classification": transformers.BertForSequenceClassification}
    kinds |= {"tokens": transformers.BertForTokenClassification, "questions": transformers.BertForQuestionAnswering}
    names = dict(enumerate(NAMES))
    of_labels = {} if head == "questions" else {"id2label": names, "label2id": {name: n for n, name in names.items()}}
    teacher = kinds[head](tiny_rows.config(3, **of_labels)).eval()
    tokenizer = tiny_rows.tokenizer()
    tokenizer.padding_side = "left"
    df.distil(teacher, rows_for(head), tmp_path / "out", tokenizer=tokenizer, layers="auto", **SHORT)
    assert tokenizer.padding_side == "left"
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == (None, None)
    content = json.loads((tmp_path / "out" / "tokenizer.json").read_text())
    assert (content["truncation"], content["padding"]) == (None, None)
