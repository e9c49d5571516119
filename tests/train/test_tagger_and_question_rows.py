"""`distil` on sentences with tags and on questions with passages, from file to a student that says the same by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import tiny_rows
import torch
import transformers
from distilfast import InputError
from seqeval.metrics import f1_score

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["O", "I-PER", "B-PER", "B-LOC"]
OPTIONS: dict[str, Any] = {
    "report_to": "none",
    "use_cpu": True,
    "precision": "fp32",
    "learning_rate": 3e-3,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 2,
    "layers": 1,
}


def sentences(number: int, seed: int) -> list[list[tuple[str, str]]]:
    """Words of a, b, c stand outside; d begins a person that e goes on with, f is a place."""
    draws = np.random.default_rng(seed)
    tags = {"a": "O", "b": "O", "c": "O", "d": "B-PER", "f": "B-LOC"}
    found = []
    for _ in range(number):
        row: list[tuple[str, str]] = []
        for letter in draws.choice(list(tags), draws.integers(2, 9)):
            row.append((str(letter), tags[letter]))
            if letter == "d":
                row.append(("e", "I-PER"))
        found.append(row)
    return found


def write_conll(path: Path, rows: list[list[tuple[str, str]]]) -> Path:
    path.write_text("\n".join("".join(f"{word} {tag}\n" for word, tag in row) for row in rows))
    return path


def tags_of(model: Any, tokenizer: Any, rows: list[list[tuple[str, str]]]) -> list[list[str]]:
    """By plain transformers, one sentence at a time; each word is one token."""
    said = []
    for row in rows:
        given = tokenizer([word for word, _ in row], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            classes = model(**given).logits[0, 1:-1].argmax(-1).tolist()
        said.append([model.config.id2label[number] for number in classes])
    return said


def test_a_tagger_from_a_conll_file_keeps_its_tags_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_rows.tagger(NAMES).save_pretrained(tmp_path / "blank")
    tiny_rows.tokenizer().save_pretrained(tmp_path / "blank")
    train = write_conll(tmp_path / "train.conll", sentences(200, 0))
    held_out = sentences(40, 1)
    validation = write_conll(tmp_path / "dev.conll", held_out)
    teacher = tmp_path / "teacher"
    alone = {**OPTIONS, "layers": None, "num_train_epochs": 4, "learning_rate": 1e-2}
    taught = df.distil(None, train, teacher, validation, student=tmp_path / "blank", head="tokens", **alone)
    assert taught["report"]["metrics"]["f1"] > 0.9
    capsys.readouterr()
    summary = df.distil(teacher, train, tmp_path / "small", validation, **OPTIONS)
    said = capsys.readouterr().out
    assert "head: tokens" in said
    assert "labels matched to classes by name" in said
    assert "row 1: [CLS]" in said
    assert summary["data"]["labels"]["classes"] == {name: name for name in sorted(NAMES)}
    student = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "small").eval()
    assert student.config.id2label == dict(enumerate(NAMES))
    assert student.config.num_hidden_layers == 1
    # What is printed is what plain transformers and seqeval make of the student that was saved.
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    truth = [[tag for _, tag in row] for row in held_out]
    ours = tags_of(student, tokenizer, held_out)
    report = summary["report"]
    assert report["metrics"]["f1"] == pytest.approx(f1_score(truth, ours))
    assert report["rows"] == report["quality"]["units"] == 40
    theirs = tags_of(transformers.AutoModelForTokenClassification.from_pretrained(teacher).eval(), tokenizer, held_out)
    kept = report["quality"]["models"]["student"]["kept"]["f1"]["share"]
    assert kept == pytest.approx(f1_score(truth, ours) / f1_score(truth, theirs))
    assert f"agrees with the teacher on {100 * np.mean(np.concatenate(ours) == np.concatenate(theirs)):.1f} %" in said
    found = transformers.pipeline("token-classification", str(tmp_path / "small"), aggregation_strategy="simple")(
        "a d e f"
    )
    assert [(each["entity_group"], each["word"]) for each in found] == [("PER", "d e"), ("LOC", "f")]


def test_tags_that_the_teacher_does_not_have_are_refused(tmp_path: Path) -> None:
    tiny_rows.tagger(NAMES).save_pretrained(tmp_path / "teacher")
    tiny_rows.tokenizer().save_pretrained(tmp_path / "teacher")
    rows = [[(word, tag.replace("LOC", "ORG")) for word, tag in row] for row in sentences(20, 0)]
    with pytest.raises(InputError, match=r"B-ORG.*B-LOC"):
        df.distil(tmp_path / "teacher", write_conll(tmp_path / "train.conll", rows), tmp_path / "small", **OPTIONS)
    assert not (tmp_path / "small").exists()


def squad(path: Path, number: int, seed: int, unanswerable: bool) -> list[dict[str, Any]]:
    """In the layout of SQuAD: the answer is the word behind the one that is asked for; without it there is none."""
    draws = np.random.default_rng(seed)
    questions = []
    for row in range(number):
        letters = draws.permutation(list("bcdefghijk"))
        passage, asked = " ".join(letters), int(draws.integers(0, 9))
        question = {"id": str(row), "question": f"{letters[asked]} ?", "is_impossible": False}
        question["answers"] = [{"text": str(letters[asked + 1]), "answer_start": 2 * asked + 2}]
        if unanswerable and row % 3 == 2:
            question |= {"question": "z ?", "answers": [], "is_impossible": True}
        questions.append({"context": passage, "qas": [question]})
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "letters", "paragraphs": questions}]}))
    return questions


@pytest.mark.parametrize("unanswerable", [False, True])
def test_a_question_answerer_from_a_squad_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unanswerable: bool
) -> None:
    tiny_rows.answerer().save_pretrained(tmp_path / "teacher")
    tiny_rows.tokenizer().save_pretrained(tmp_path / "teacher")
    squad(tmp_path / "train.json", 60, 0, unanswerable)
    rows = squad(tmp_path / "dev.json", 20, 1, unanswerable)
    # 12 tokens hold the question and a part of the passage: each has several windows.
    summary = df.distil(
        tmp_path / "teacher",
        tmp_path / "train.json",
        tmp_path / "small",
        tmp_path / "dev.json",
        max_length=12,
        **OPTIONS,
    )
    said = capsys.readouterr().out
    assert "head: questions" in said
    used = re.search(r"next: (transformers\.AutoModel.*)", said)
    assert used is not None
    assert type(eval(used.group(1))).__name__ == "BertForQuestionAnswering"
    assert "windows beyond the first of a passage" in said
    report = summary["report"]
    assert report["rows"] == report["quality"]["units"] == 20
    student = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "small").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    exact = []
    for row in rows:
        (question,) = row["qas"]
        given = tokenizer(
            question["question"], row["context"], truncation="only_second", max_length=12, stride=3,
            return_overflowing_tokens=True, return_offsets_mapping=True,
        )  # fmt: skip
        best, none, answer = -np.inf, np.inf, ""
        for ids, types, spans in zip(given["input_ids"], given["token_type_ids"], given["offset_mapping"], strict=True):
            with torch.no_grad():
                out = student(torch.tensor([ids]), token_type_ids=torch.tensor([types]))
            start, end = out.start_logits[0].numpy(), out.end_logits[0].numpy()
            none = min(none, start[0] + end[0])
            passage = [place for place in range(len(ids)) if types[place] == 1 and spans[place][1] > 0]
            for first in passage:
                for last in passage:
                    if first <= last and start[first] + end[last] > best:
                        best = start[first] + end[last]
                        answer = row["context"][spans[first][0] : spans[last][1]]
        if unanswerable and none >= best:
            answer = ""
        exact.append(answer == (question["answers"][0]["text"] if question["answers"] else ""))
    assert report["metrics"]["exact_match"] == pytest.approx(np.mean(exact))
    assert ("f1_unanswerable" in report["metrics"]) == unanswerable
