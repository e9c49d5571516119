"""A fine-tuned classifier teaches a shallower one, with labels, soft labels, and on text that nobody labelled."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distilfast import InputError
from distilfast.evaluate.finetune import FineTuneSettings, fine_tune
from distilfast.evaluate.task_data import Split, TaskData, load_task
from distilfast.evaluate.tasks import TASKS
from distilfast.task_distillation import TaskDistillation, distil_task, pseudo_labels, read_unlabelled, with_rows
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
)

FILLERS = ["the", "film", "was", "very", "plot", "and", "music", "seemed", "to", "me"]
WORDS = {"pos": ["good", "great", "fine", "lovely"], "neg": ["bad", "poor", "dull", "awful"]}


def sentences(number: int, seed: int) -> list[tuple[str, str]]:
    """(label, text): five words of filler, and one that says which."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        label = draw.choice(["pos", "neg"])
        words = [draw.choice(FILLERS) for _ in range(5)]
        words.insert(draw.randrange(6), draw.choice(WORDS[label]))
        rows.append((label, " ".join(words)))
    return rows


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> None:
    path.write_text("label\tsentence\n" + "".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name, number in (("films", 240), ("few", 4)):
        (folder / name).mkdir()
        # In `few` the labelled rows hold one word of each kind, so the rest must come from the teacher.
        rows = (
            [("pos", "the film was good"), ("neg", "the film was bad")] * 2 if name == "few" else sentences(number, 0)
        )
        write_tsv(folder / name / "train.tsv", rows)
        write_tsv(folder / name / "dev.tsv", sentences(100, 1))
    (folder / "unlabelled.txt").write_text("\n".join(text for _, text in sentences(300, 2)) + "\n\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory, data_folder: Path) -> Path:
    """A BERT of four layers, fine-tuned on `films`."""
    folder = tmp_path_factory.mktemp("teacher")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *WORDS["pos"], *WORDS["neg"]]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        num_labels=2,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    settings = FineTuneSettings(learning_rate=2e-3, epochs=4, batch_size=16)
    tuned = fine_tune(
        str(folder), load_task("films", data_folder), 0, settings, torch.device("cpu"), save_to=folder / "tuned"
    )
    assert tuned.score > 95
    return folder / "tuned"


def arguments(teacher: Path, data: Path, output: Path, **changes: object) -> TaskDistillation:
    return TaskDistillation(
        **{
            "teacher": str(teacher),
            "task": "films",
            "data_dir": str(data),
            "output_dir": str(output),
            "learning_rate": 2e-3,
            "batch_size": 16,
            "num_train_epochs": 3.0,
            **changes,
        }
    )


def test_a_student_cut_from_the_teacher_keeps_its_quality(
    teacher_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    summary = distil_task(arguments(teacher_folder, data_folder, tmp_path / "student"))
    assert summary["student"]["score"] > 95
    assert summary["rows"] == {"labelled": 240, "unlabelled": 0}
    assert json.loads((tmp_path / "student" / "task_summary.json").read_text())["teacher"]["score"] > 95
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert isinstance(student, BertForSequenceClassification)
    assert student.config.num_hidden_layers == 2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "student")
    with torch.no_grad():
        logits = student(**tokenizer("the music was lovely", return_tensors="pt", return_token_type_ids=False)).logits
    assert student.config.num_labels == 2
    assert logits.argmax().item() == load_task("films", data_folder).task.labels.index("pos")


def test_text_without_labels_teaches_what_few_labels_cannot(
    teacher_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    AutoTokenizer.from_pretrained(teacher_folder).save_pretrained(tmp_path / "blank")
    config = BertConfig.from_pretrained(teacher_folder, num_hidden_layers=2)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "blank")
    common = {"task": "few", "student": str(tmp_path / "blank"), "num_train_epochs": 4.0}
    alone = distil_task(arguments(teacher_folder, data_folder, tmp_path / "alone", **common))
    more = {**common, "unlabelled": str(data_folder / "unlabelled.txt")}
    taught = distil_task(arguments(teacher_folder, data_folder, tmp_path / "taught", **more))
    assert taught["rows"] == {"labelled": 4, "unlabelled": 300}
    assert taught["student"]["score"] > 90
    assert taught["student"]["score"] > alone["student"]["score"] + 10
    assert any("300 rows of unlabelled.txt" in note for note in taught["notes"])


def test_pseudo_labels_are_the_teachers(teacher_folder: Path, data_folder: Path) -> None:
    teacher = AutoModelForSequenceClassification.from_pretrained(teacher_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    task = load_task("films", data_folder).task
    texts = [text for _, text in sentences(40, 5)] + ["the the the", "good bad"]
    rows = pseudo_labels(teacher, tokenizer, task, texts, 16, torch.device("cpu"))
    with torch.no_grad():
        probabilities = [teacher(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0] for text in texts]
    assert rows.first == texts
    assert rows.labels == [int(each.argmax()) for each in probabilities]

    confidence = [float(each.max()) for each in probabilities]
    ranked = sorted(confidence)
    # In the middle of the widest gap, so that no rounding decides.
    floor = max((high - low, (high + low) / 2) for low, high in pairwise(ranked))[1]
    sure = pseudo_labels(teacher, tokenizer, task, texts, 16, torch.device("cpu"), floor)
    assert sure.first == [text for text, each in zip(texts, confidence, strict=True) if each >= floor]
    assert 0 < len(sure) < len(texts)
    with pytest.raises(InputError, match="nowhere as sure as"):
        pseudo_labels(teacher, tokenizer, task, ["the the the"], 16, torch.device("cpu"), 1.0)


def test_pairs_and_bad_confidence_are_refused(data_folder: Path) -> None:
    nothing = SimpleNamespace()
    with pytest.raises(InputError, match="rows of MRPC have two"):
        pseudo_labels(nothing, nothing, TASKS["mrpc"], ["a"], 8, torch.device("cpu"))
    with pytest.raises(InputError, match="is no probability"):
        pseudo_labels(nothing, nothing, TASKS["cola"], ["a"], 8, torch.device("cpu"), 1.5)


def test_added_rows_change_the_fingerprint(data_folder: Path) -> None:
    data: TaskData = load_task("few", data_folder)
    more = with_rows(data, Split(["x"], None, [1]), "one row")
    other = with_rows(data, Split(["x"], None, [0]), "one row")
    assert len(more.train) == len(data.train) + 1
    assert len({data.fingerprint, more.fingerprint, other.fingerprint}) == 3
    assert more.dev == data.dev


@pytest.mark.parametrize(
    ("content", "message"), [(None, "there is no such file"), (b" \n\n", "no line with text"), (b"ab\xff", "at byte 2")]
)
def test_bad_unlabelled_files_are_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_unlabelled(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha_ce": 0.0, "alpha_task": 0.0}, "one of them must be above 0"),
        ({"temperature": 0.0}, "must be greater than 0"),
    ],
)
def test_losses_that_teach_nothing_are_refused(changes: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        distil_task(arguments(tmp_path, tmp_path, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()
