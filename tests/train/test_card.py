"""The card that `train` writes: true for every head, its example runs as it stands, and nothing in it is idle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import tiny_rows
import tiny_sentence
import transformers
import yaml
from distilfast.models import card as model_card
from distilfast.train import run as train
from film_rows import QUICK, reviews, save_blank
from train_command import flags as text_flags
from train_command import folder

__all__ = ["folder"]  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT: dict[str, Any] = {**QUICK, "max_steps": 2, "max_length": 24}


def example(card: str) -> None:
    """Runs the lines of the card."""
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(lines, "README.md", "exec"), {})


def made(head: str, home: Path, folder: Path) -> dict[str, Any]:
    """A student in home / "small"."""
    out = home / "small"
    if head in ("masked_lm", "hidden_states"):
        train.main(text_flags(folder, out, head=head, max_steps=2, validation_text=folder / "text.txt"))
        return {}
    if head == "embedding":
        teacher = tiny_sentence.encoder_folder(home / "teacher")
        (home / "text.txt").write_text("\n".join(tiny_sentence.sentences()) + "\n")
        return df.distil(teacher, home / "text.txt", out, report_to="none", use_cpu=True, max_steps=2)
    if head == "classification":
        return df.distil(save_blank(home / "teacher"), reviews(60, 0), out, reviews(30, 1), **SHORT)
    if head == "regression":
        rows = [{"text": row["text"], "score": float(len(row["text"]))} for row in reviews(60, 0)]
        return df.distil(save_blank(home / "teacher", num_labels=1), rows, out, **SHORT)
    names = ["O", "B-PER", "I-PER"]
    model = tiny_rows.tagger(names) if head == "tokens" else tiny_rows.answerer()
    model.save_pretrained(home / "teacher")
    tiny_rows.tokenizer().save_pretrained(home / "teacher")
    draws = np.random.default_rng(0)
    sentences = [tiny_rows.words(draws, 7) for _ in range(40)]
    if head == "tokens":
        rows = [{"tokens": row, "ner_tags": [names[len(word) - 1] for word in row]} for row in sentences]
    else:
        rows = [
            {
                "question": " ".join(tiny_rows.words(draws, 4)) + " ?",
                "context": " ".join(row),
                "answers": {"text": [row[0]], "answer_start": [0]},
            }
            for row in sentences
        ]
    return df.distil(home / "teacher", rows, out, **SHORT)


HEADS = {
    "masked_lm": ("fill-mask", "agreement"),
    "hidden_states": ("feature-extraction", "cosine"),
    "embedding": ("sentence-similarity", None),
    "classification": ("text-classification", "F1 of negative"),
    "regression": ("text-classification", "spearman"),
    "tokens": ("token-classification", "F1 of entities"),
    "questions": ("question-answering", "F1 of the answers' words"),
}


@pytest.mark.parametrize("head", HEADS)
def test_train_writes_a_card_that_runs(
    head: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(head, tmp_path, folder)
    pipeline, metric = HEADS[head]
    card = (tmp_path / "small" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["pipeline_tag"] == pipeline
    assert "base_model" not in header  # the teacher is a folder
    assert str(tmp_path) not in card
    assert str(folder) not in card
    assert metric is None or f"| {metric} | " in card
    assert "# small" in card
    if head == "embedding":
        pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path / "small")
    example(card)


def test_losses_that_are_off_are_not_told(tmp_path: Path) -> None:
    teacher, rows = save_blank(tmp_path / "teacher"), reviews(60, 0)
    plain = df.distil(teacher, rows, tmp_path / "plain", **SHORT)
    assert plain["temperature"] == 2.0
    idle = {"hidden_kind", "hidden_map", "relation_heads", "relation_layers", "similarity_temperature", "dimensions"}
    assert not {*idle, "kl_positions", "cos_positions"} & plain.keys()
    card = (tmp_path / "plain" / "README.md").read_text()
    assert "| alpha_ce | 1.0 |" in card
    assert "| temperature | 2.0 |" in card
    assert "| alpha_rel |" not in card
    assert not any(f"| {name} |" in card for name in ("kl_positions", *idle))
    full = df.distil(teacher, rows, tmp_path / "full", alpha_hidden=1.0, alpha_rel=1.0, alpha_ce=0.0, **SHORT)
    assert {"hidden_kind", "relation_heads"} <= full.keys()
    assert "temperature" not in full


def test_the_best_evaluation_is_named(tmp_path: Path) -> None:
    summary = df.distil(save_blank(tmp_path / "teacher"), reviews(60, 0), tmp_path / "out", reviews(40, 1), **SHORT)
    assert summary["metric_for_best_model"] == "accuracy"
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| best evaluation | accuracy {summary['best_metric']:.6g} at step" in card
    assert "best_metric" not in card
    quality = summary["report"]["quality"]["models"]
    teacher, student = (quality[name]["metrics"]["accuracy"] for name in ("teacher", "student"))
    assert f"| accuracy | {teacher:.4f} | {student:.4f} |" in card
    assert "| on 40 held-out rows | teacher | student |" in card
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").num_hidden_layers == 2


def test_a_class_name_with_a_bar_divides_no_cell() -> None:
    said = model_card._report({"rows": 2, "metrics": {"f1": 0.5}, "titles": {"f1": "F1 of a|b"}})
    assert said.splitlines()[-1] == r"| F1 of a\|b | 0.5000 |"
