"""Finished models of every task head scored on rows, against forwards one row at a time by plain transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilfast import InputError, Tokenizer
from distilfast.evaluate import evaluate_models
from sklearn.metrics import f1_score
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)

WORDS = ["the", "river", "had", "risen", "in", "night", "and", "carried", "bridge", "away", "no", "one", "saw", "it"]
CLASSES = {0: "positive", 1: "negative", 2: "neutral"}
TAGS = {0: "O", 1: "B-PER", 2: "I-PER"}


def save(folder: Path, model_class: Any, seed: int = 0, words: list[str] = WORDS, **settings: Any) -> str:
    torch.manual_seed(seed)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=1.0,
        **settings,
    )
    model_class(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    Tokenizer.from_file(folder / "vocab.txt").save_pretrained(folder)
    return str(folder)


def text(seed: int, words: int = 6) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def write_csv(path: Path, header: str, rows: list[str]) -> str:
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


def evaluate(tmp_path: Path, teacher: str, student: Any, file: str, **options: Any) -> dict[str, Any]:
    report = evaluate_models(
        f"teacher={teacher}",
        student,
        str(tmp_path / "out"),
        validation_file=file,
        speed=False,
        pictures=False,
        device="cpu",
        **options,
    )
    part: dict[str, Any] = report["rows"][Path(file).stem]
    return part


def one_by_one(model_class: Any, path: str, *texts: list[str]) -> np.ndarray:
    model, tokenizer = model_class.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        rows = [model(**tokenizer(*row, return_tensors="pt")).logits[0] for row in zip(*texts, strict=True)]
    return torch.stack(rows).numpy()


def reorder(path: str, to: Path, order: list[int]) -> str:
    """The same classifier with its classes in another order."""
    model = BertForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order].clone())
        model.classifier.bias.copy_(model.classifier.bias[order].clone())
    names = {i: CLASSES[number] for i, number in enumerate(order)}
    model.config.id2label, model.config.label2id = names, {name: i for i, name in names.items()}
    shutil.copytree(path, to)
    model.save_pretrained(to)
    return str(to)


def test_classes_are_compared_by_name(tmp_path: Path) -> None:
    teacher = save(tmp_path / "t", BertForSequenceClassification, id2label=CLASSES)
    other = save(tmp_path / "s", BertForSequenceClassification, seed=1, id2label=CLASSES)
    turned = reorder(teacher, tmp_path / "turned", [2, 0, 1])
    texts = [text(i, 3 + i % 5) for i in range(120)]
    labels = np.random.default_rng(0).choice(3, 120)
    file = write_csv(
        tmp_path / "dev.csv", "label,text", [f"{CLASSES[n]},{row}" for n, row in zip(labels, texts, strict=True)]
    )
    part = evaluate(tmp_path, teacher, [turned, f"other={other}"], file)
    models = part["models"]
    said = {
        name: one_by_one(BertForSequenceClassification, path, texts)
        for name, path in (("teacher", teacher), ("other", other))
    }
    for name, logits in said.items():
        metrics = models[name]["metrics"]
        assert metrics["accuracy"] == pytest.approx(np.mean(logits.argmax(-1) == labels))
        assert metrics["macro_f1"] == pytest.approx(f1_score(labels, logits.argmax(-1), average="macro"))
    assert models["other"]["metrics"]["agreement"] == pytest.approx(
        np.mean(said["other"].argmax(-1) == said["teacher"].argmax(-1))
    )
    assert models["turned"]["metrics"]["agreement"] == 1.0
    assert models["turned"]["metrics"]["accuracy"] == models["teacher"]["metrics"]["accuracy"]
    assert models["turned"]["metrics"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert models["turned"]["kept"]["accuracy"]["text"] == "100.0 % (100.0 to 100.0)"
    assert part["chance"]["accuracy"] == pytest.approx(np.bincount(labels).max() / 120)
    assert [row["rows"] for row in models["teacher"]["labels"]] == np.bincount(labels).tolist()
    markdown = (tmp_path / "out" / "evaluate.md").read_text()
    assert "without looking" in markdown
    assert "120 rows, 120 rows with labels" in markdown
    assert "\n- dev.csv: text 'text'" in markdown
    assert str(tmp_path) not in markdown
    assert str(tmp_path) not in (tmp_path / "out" / "evaluate.json").read_text()


def test_text_without_labels_tells_agreement_alone(tmp_path: Path) -> None:
    teacher = save(tmp_path / "t", BertForSequenceClassification, id2label=CLASSES)
    other = save(tmp_path / "s", BertForSequenceClassification, seed=1, id2label=CLASSES)
    file = write_csv(tmp_path / "dev.csv", "text", [text(i) for i in range(20)])
    part = evaluate(tmp_path, teacher, [other], file)
    assert set(part["models"]["s"]["metrics"]) == {"agreement", "kl"}
    assert "kept" not in part["models"]["s"]
    assert "No labels" in (tmp_path / "out" / "evaluate.md").read_text()


def test_pairs_and_numbers(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    teacher = save(tmp_path / "t", BertForSequenceClassification, **settings)
    student = save(tmp_path / "s", BertForSequenceClassification, seed=1, **settings)
    first, second = [text(i) for i in range(30)], [text(100 + i) for i in range(30)]
    rows = [f"{a},{b},{i * 0.5}" for i, (a, b) in enumerate(zip(first, second, strict=True))]
    part = evaluate(tmp_path, teacher, [student], write_csv(tmp_path / "sts.csv", "sentence1,sentence2,score", rows))
    ours = one_by_one(BertForSequenceClassification, student, first, second)[:, 0]
    theirs = one_by_one(BertForSequenceClassification, teacher, first, second)[:, 0]
    metrics = part["models"]["s"]["metrics"]
    assert metrics["pearson"] == pytest.approx(np.corrcoef(ours, np.arange(30))[0, 1], abs=1e-6)
    assert metrics["teacher_pearson"] == pytest.approx(np.corrcoef(ours, theirs)[0, 1], abs=1e-6)
    grouped = [f"{a},{b},{i % 3 == 0:d},{i // 6}" for i, (a, b) in enumerate(zip(first, second, strict=True))]
    file = write_csv(tmp_path / "rank.csv", "query,passage,label,query_id", grouped)
    part = evaluate(tmp_path, teacher, [student, f"copy={teacher}"], file)
    assert part["unit"] == "groups"
    assert part["models"]["copy"]["metrics"]["kendall"] == pytest.approx(1.0)
    assert part["models"]["copy"]["metrics"]["ndcg@10"] == part["models"]["teacher"]["metrics"]["ndcg@10"]


def test_several_labels_a_row(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"id2label": CLASSES, "problem_type": "multi_label_classification"}
    teacher = save(tmp_path / "t", BertForSequenceClassification, **settings)
    texts = [text(i) for i in range(20)]
    labels = [[["positive"], [], ["negative", "neutral"]][i % 3] for i in range(20)]
    file = tmp_path / "dev.jsonl"
    file.write_text("".join(json.dumps({"text": a, "labels": b}) + "\n" for a, b in zip(texts, labels, strict=True)))
    part = evaluate(tmp_path, teacher, [f"copy={teacher}"], str(file))
    truth = np.array([[name in row for name in CLASSES.values()] for row in labels])
    said = one_by_one(BertForSequenceClassification, teacher, texts) > 0
    assert part["models"]["teacher"]["metrics"]["micro_f1"] == pytest.approx(f1_score(truth, said, average="micro"))
    assert part["models"]["copy"]["metrics"]["agreement"] == 1.0
    assert part["models"]["copy"]["kept"]["micro_f1"]["share"] == 1.0


def test_tags(tmp_path: Path) -> None:
    teacher = save(tmp_path / "t", BertForTokenClassification, id2label=TAGS)
    other = save(tmp_path / "s", BertForTokenClassification, seed=1, id2label=TAGS)
    # The last sentence is longer than the models have positions for: 40 less [CLS] and [SEP].
    sentences = [text(i, 4 + i % 4).split() for i in range(24)] + [text(99, 50).split()]
    tags = [[TAGS[(i + j) % 3] for j in range(len(words))] for i, words in enumerate(sentences)]
    file = tmp_path / "dev.jsonl"
    rows = [{"tokens": a, "ner_tags": b} for a, b in zip(sentences, tags, strict=True)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = evaluate(tmp_path, teacher, [f"copy={teacher}", other], str(file))
    model, tokenizer = (
        BertForTokenClassification.from_pretrained(teacher).eval(),
        AutoTokenizer.from_pretrained(teacher),
    )
    right = 0
    for words, truth in zip(sentences, tags, strict=True):
        with torch.no_grad():
            best = model(**tokenizer(" ".join(words[:38]), return_tensors="pt")).logits[0].argmax(-1)[1:-1]
        said = [TAGS[int(one)] for one in best] + ["O"] * (len(words) - 38)
        right += sum(a == b for a, b in zip(said, truth, strict=True))
    assert part["models"]["teacher"]["metrics"]["accuracy"] == pytest.approx(right / sum(map(len, sentences)))
    assert part["models"]["copy"]["metrics"]["agreement"] == 1.0
    assert part["models"]["s"]["metrics"]["agreement"] < 1.0
    assert any("12 words cut off" in note for note in part["notes"])
    assert part["main"] == ["f1", "accuracy"]


def test_questions(tmp_path: Path) -> None:
    teacher = save(tmp_path / "t", BertForQuestionAnswering)
    other = save(tmp_path / "s", BertForQuestionAnswering, seed=1)
    passages = [text(i, 60) for i in range(12)]  # several windows each
    data = []
    for i, passage in enumerate(passages):
        answer = {"text": passage.split()[0], "answer_start": 0}
        question = {"id": str(i), "question": text(50 + i, 4), "answers": [answer] if i % 3 else []}
        data.append({"paragraphs": [{"context": passage, "qas": [question]}]})
    file = tmp_path / "dev.json"
    file.write_text(json.dumps({"data": data}))
    part = evaluate(tmp_path, teacher, [f"copy={teacher}", other], str(file))
    assert part["rows"] == 12
    assert part["models"]["copy"]["metrics"]["agreement"] == 1.0
    assert {"exact_match", "f1", "f1_answerable", "f1_unanswerable"} <= set(part["models"]["s"]["metrics"])
    assert part["chance"]["exact_match"] == pytest.approx(4 / 12)
    assert part["unit"] == "questions"


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    teacher = save(tmp_path / "t", BertForSequenceClassification, id2label=CLASSES)
    file = write_csv(tmp_path / "dev.csv", "label,text", ["positive,the river", "negative,it"])
    others = {0: "good", 1: "bad", 2: "so so"}
    wrong = save(tmp_path / "wrong", BertForSequenceClassification, id2label=others)
    with pytest.raises(InputError, match=r"other classes than the teacher: 'good', 'bad', 'so so' where .* 'positive'"):
        evaluate(tmp_path, teacher, [wrong], file)
    with pytest.raises(InputError, match="BertForMaskedLM, which says nothing about labelled rows"):
        evaluate(tmp_path, save(tmp_path / "mlm", BertForMaskedLM), [], file)
    with pytest.raises(InputError, match="BertForTokenClassification"):
        evaluate(tmp_path, teacher, [save(tmp_path / "ner", BertForTokenClassification, id2label=TAGS)], file)
    several: dict[str, Any] = {"id2label": CLASSES, "problem_type": "multi_label_classification"}
    many = save(tmp_path / "many", BertForSequenceClassification, **several)
    with pytest.raises(InputError, match="many is for multi_label_classification, teacher for single"):
        evaluate(tmp_path, teacher, [many], file)
    with pytest.raises(InputError, match="no option 'validation'"):
        evaluate_models(teacher, [], str(tmp_path / "out"), validation=file)
    assert not (tmp_path / "out").exists()


def test_a_finished_report_is_added_to_and_not_erased(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = save(tmp_path / "t", BertForSequenceClassification, id2label=CLASSES)
    student = save(tmp_path / "s", BertForSequenceClassification, seed=1, id2label=CLASSES)
    out = tmp_path / "out"
    options: dict[str, Any] = {"pictures": False, "device": "cpu"}
    evaluate_models(teacher, student, str(out), speed_length=8, speed_repeats=2, **options)
    file = write_csv(tmp_path / "a.csv", "label,text", [f"{CLASSES[i % 3]},{text(i)}" for i in range(9)])
    other = write_csv(tmp_path / "b.csv", "label,text", [f"{CLASSES[i % 3]},{text(i)}" for i in range(3, 9)])
    evaluate_models(teacher, student, str(out), validation_file=file, speed=False, **options)
    evaluate_models(teacher, [], str(out), validation_file=other, speed=False, **options)
    report = json.loads((out / "evaluate.json").read_text())
    assert report["models"]["s"]["speed"]["cpu"]["latency_ms"] > 0
    assert set(report["rows"]) == {"a", "b"}
    assert set(report["rows"]["a"]["models"]) == {"t", "s"}
    markdown = (out / "evaluate.md").read_text()
    assert "batch 1, ms" in markdown
    assert "a.csv" in markdown
    assert not list(out.glob("1-*"))
    capsys.readouterr()
    # Another model under the same name: the old report is put aside, whole.
    shutil.rmtree(student)
    save(tmp_path / "s", BertForSequenceClassification, seed=2, id2label=CLASSES)
    evaluate_models(teacher, student, str(out), validation_file=file, speed=False, **options)
    assert "kept as 1-evaluate.json" in capsys.readouterr().err
    assert json.loads((out / "1-evaluate.json").read_text()) == report
    assert (out / "1-evaluate.md").read_text() == markdown
    assert set(json.loads((out / "evaluate.json").read_text())["rows"]) == {"a"}
    (out / "evaluate.json").write_text("{}")
    with pytest.raises(InputError, match="not a report"):
        evaluate_models(teacher, student, str(out), validation_file=file, speed=False, **options)
