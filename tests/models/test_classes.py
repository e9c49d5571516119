"""Classes matched by name: the order of one model's in another's, and heads put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import tiny_rows
import torch
import transformers
from distilfast import InputError
from distilfast.models.classes import align_classes, class_order, label_names
from film_rows import QUICK
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["A", "B", "C"]
CLASSES = {"classification": "ForSequenceClassification", "tokens": "ForTokenClassification"}


def model_of(head: str, names: list[str], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    return getattr(transformers, f"Bert{CLASSES[head]}")(tiny_rows.config(2, **labels)).eval()


def reordered(head: str, order: list[int], names: list[str]) -> Any:
    """The model of seed 0, which says the same with its classes in another order."""
    model, other = model_of(head, NAMES), model_of(head, names)
    for weight, of in zip(other.classifier.parameters(), model.classifier.parameters(), strict=True):
        weight.data = of.data[order].clone()
    return other


def test_orders_of_classes() -> None:
    names = ["positive", "negative", "neutral"]
    assert class_order(names, names, "s") == ([0, 1, 2], "")
    order, note = class_order(names, ["Neutral", "POSITIVE", "negative"], "s")
    assert order == [1, 2, 0]
    assert "Neutral -> neutral" in note
    order, note = class_order(names, ["LABEL_0", "LABEL_1", "LABEL_2"], "s")
    assert order == [0, 1, 2]
    assert note
    with pytest.raises(InputError, match="other classes"):
        class_order(names, ["positive", "negative"], "s")
    assert class_order(["LABEL_0"], ["score"], "s") == ([0], "")


@pytest.mark.parametrize("head", CLASSES)
def test_heads_in_one_order_say_the_same(head: str) -> None:
    first, other = model_of(head, NAMES), reordered(head, [2, 0, 1], ["c", "a", "b"])
    ids = torch.arange(5, 14)[None]
    with torch.no_grad():
        expected = first(input_ids=ids).logits
        assert (other(input_ids=ids).logits - expected).abs().max() > 1e-3
        (note,) = align_classes([first, other], ["one", "two"])
        torch.testing.assert_close(other(input_ids=ids).logits, expected, rtol=0, atol=0)
    assert "the teacher two: its classes are put into the order of one: a -> A, b -> B, c -> C" in note
    assert label_names(other.config) == NAMES
    assert align_classes([first, other], ["one", "two"]) == []
    with pytest.raises(InputError, match=r"the teacher two has other classes than one: 'A', 'X', 'C' where one has"):
        align_classes([first, model_of(head, ["A", "X", "C"])], ["one", "two"])


@pytest.mark.parametrize("head", CLASSES)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_teacher_and_itself_in_another_order_teach_what_it_teaches(
    head: str, loaded: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They were refused, with a hint to cut the student, which was cut."""
    teachers = []
    for name, model in (("one", model_of(head, NAMES)), ("two", reordered(head, [1, 2, 0], ["B", "C", "A"]))):
        model.save_pretrained(tmp_path / name)
        tiny_rows.tokenizer().save_pretrained(tmp_path / name)
        of_class = getattr(transformers, f"Bert{CLASSES[head]}")
        teachers.append(of_class.from_pretrained(tmp_path / name) if loaded else str(tmp_path / name))
    rows: Any = [{"text": "a b", "label": "B"}, {"text": "b a a", "label": "C"}] * 10
    if head == "tokens":
        rows = [{"tokens": ["a", "b"] * 4, "ner_tags": ["A", "C"] * 4}] * 20
    short: dict[str, Any] = {**QUICK, "max_steps": 2, "max_length": 24, "learning_rate": 1e-2, "dropout": False}
    short["validation"] = rows[:4]
    df.distil(teachers, rows, tmp_path / "both", **short)
    assert caplog.text.count("its classes are put into the order of") == 1
    df.distil(str(tmp_path / "one"), rows, tmp_path / "alone", **short)
    both, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("both", "alone"))
    for name, value in alone.items():
        torch.testing.assert_close(both[name], value, rtol=1e-4, atol=1e-5)
