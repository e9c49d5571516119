"""`distil` and `distilfast train` on rows: classes by name, what is said, what is measured, resumed and refused."""

from __future__ import annotations

import csv
import itertools
import json
import signal
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import torch
import transformers
from distilfast import InputError
from distilfast import _command as command
from distilfast.task_distillation import renamed
from distilfast.train import run as train
from distilfast.train.progress import LONG, remaining
from film_rows import QUICK, reviews, save_blank, write_csv
from tiny_training import KillAt
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.csv, dev.csv, more.txt and `teacher`: four layers, fine-tuned here, without a teacher, on the labels."""
    folder = tmp_path_factory.mktemp("films")
    write_csv(folder / "train.csv", reviews(256, 0))
    write_csv(folder / "dev.csv", reviews(120, 1))
    (folder / "more.txt").write_text("".join(row["text"] + "\n" for row in reviews(200, 2)))
    torch.set_num_threads(1)
    summary = df.distil(
        None,
        folder / "train.csv",
        folder / "teacher",
        validation=folder / "dev.csv",
        student=save_blank(folder / "blank"),
        head="classification",
        num_train_epochs=16,
        **QUICK,
    )
    assert summary["report"]["metrics"]["accuracy"] > 0.95
    return folder


def flags(folder: Path, output_dir: Path, **changes: Any) -> list[str]:
    values = {
        "teacher": folder / "teacher",
        "train_file": folder / "train.csv",
        "validation_file": folder / "dev.csv",
        "output_dir": output_dir,
        **QUICK,
        **changes,
    }
    return [
        word
        for name, value in values.items()
        if value is not None
        for word in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of an exit with code 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: train.main(argv))
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_the_command_keeps_the_teachers_classes_by_name(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's labels sort the other way round than the teacher's classes stand."""
    out = tmp_path / "small"
    train.main(flags(films, out, num_train_epochs=3))
    said = capsys.readouterr().out
    for line in (
        "head: classification (single_label_classification)",
        "labels matched to classes by name: negative -> negative, positive -> positive",
        "train: 256 rows, all with a label",
        "validation: 120 rows, all with a label",
        "steps: 24 in 3 epochs",
        "warning: only 24 optimiser steps",
        "the student is in",
        f"distilfast evaluate --teacher {films / 'teacher'} --student {out}",
    ):
        assert line in said, line
    assert "row 1: [CLS] " in said
    summary = json.loads((out / "train_summary.json").read_text())
    assert summary["alpha_mlm"] == 0.0  # no loss of rows: a card would tell it as part of the recipe
    assert summary["data"]["labels"] == {
        "matched by": "names",
        "classes": {"negative": "negative", "positive": "positive"},
    }
    student = AutoModelForSequenceClassification.from_pretrained(out)
    assert type(student) is BertForSequenceClassification
    assert student.config.num_hidden_layers == 2
    assert student.config.id2label == {0: "positive", 1: "negative"}
    assert student.config.problem_type == "single_label_classification"
    pipeline = transformers.pipeline("text-classification", str(out))
    assert [each["label"] for each in pipeline(["the film was good", "the film was awful"])] == ["positive", "negative"]


def test_every_number_of_the_report_is_that_of_plain_transformers(films: Path, tmp_path: Path) -> None:
    summary = df.distil(
        films / "teacher", films / "train.csv", tmp_path / "out", validation=films / "dev.csv", max_steps=3, **QUICK
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    with (films / "dev.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    said: dict[str, torch.Tensor] = {}
    for name, path in (("teacher", films / "teacher"), ("student", tmp_path / "out")):
        model = AutoModelForSequenceClassification.from_pretrained(path).eval()
        with torch.no_grad():
            said[name] = torch.cat([model(**tokenizer(row["text"], return_tensors="pt")).logits for row in rows])
    truth = torch.tensor([{"positive": 0, "negative": 1}[row["label"]] for row in rows])
    right = {name: (logits.argmax(-1) == truth).double().mean().item() for name, logits in said.items()}
    logs = {name: logits.log_softmax(-1) for name, logits in said.items()}
    metrics = summary["report"]["metrics"]
    assert metrics["accuracy"] == pytest.approx(right["student"])
    assert metrics["loss"] == pytest.approx(-logs["student"][range(120), truth].mean().item(), abs=1e-5)
    assert metrics["agreement"] == pytest.approx(
        (said["student"].argmax(-1) == said["teacher"].argmax(-1)).double().mean().item()
    )
    kl = (logs["teacher"].exp() * (logs["teacher"] - logs["student"])).sum(-1).mean().item()
    assert metrics["kl"] == pytest.approx(kl, abs=1e-5)
    quality = summary["report"]["quality"]
    assert quality["models"]["student"]["kept"]["accuracy"]["share"] == pytest.approx(
        right["student"] / right["teacher"]
    )
    assert quality["chance"]["accuracy"] == pytest.approx(
        max(truth.double().mean().item(), (1 - truth.double().mean()).item())
    )
    last = summary["evaluations"][-1]
    assert last["eval_accuracy"] == metrics["accuracy"]
    assert last["step"] == 3
    assert summary["last_log"]["step"] == 3
    size = summary["report"]["size"]
    assert (
        size["student"]["parameters"]
        == AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").num_parameters()
    )


def test_a_dry_run_says_it_all_and_writes_nothing(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*flags(films, tmp_path / "out", unlabelled_file=films / "more.txt", validation_file=None), "--dry_run"])
    said = capsys.readouterr().out
    assert "are held out by a hash of their text" in said
    assert "unlabelled: 200 rows, which learn from the teacher alone" in said
    assert "steps: " in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_stopped_and_resumed_is_the_whole_run(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {
        "validation": films / "dev.csv",
        "unlabelled": films / "more.txt",
        "num_train_epochs": 2,
        "eval_strategy": "steps",
        "eval_steps": 4,
        "logging_steps": 3,
        "class_weights": ["balanced"],
        "load_best_model_at_end": True,
        "save_total_limit": 1,
        **QUICK,
    }

    def distil(folder: Path, **changes: Any) -> dict[str, Any]:
        return df.distil(films / "teacher", films / "train.csv", folder, **(options | changes))

    whole = distil(tmp_path / "whole")
    build = train.build_trainer

    def killed(*arguments: Any) -> Any:
        trainer = build(*arguments)
        trainer.add_callback(KillAt(10, signal.SIGINT))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(train, "build_trainer", killed)
        with pytest.raises(train.TrainingInterruptedError, match="stopped by SIGINT at step 11") as stopped:
            distil(tmp_path / "out")
    assert stopped.value.exit_code == 130
    with pytest.raises(InputError, match="holds a run with checkpoint-11; go on with it by --resume_from_checkpoint"):
        distil(tmp_path / "out")
    resumed = distil(tmp_path / "out", resume_from_checkpoint="last")
    timed = ("tokens_per_second", "eval_runtime", "train_runtime", "train_samples_per_second")
    for name in ("log", "evaluations"):
        one, other = (
            [{k: v for k, v in line.items() if k not in timed} for line in run[name]] for run in (whole, resumed)
        )
        assert one == other
    assert resumed["best_step"] == whole["best_step"]
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    with pytest.raises(InputError, match="class_weights was"):
        distil(tmp_path / "out", resume_from_checkpoint="last", class_weights=["1", "2"])


def test_the_interrupted_command_says_how_to_go_on(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build = train.build_trainer

    def killed(*arguments: Any) -> Any:
        trainer = build(*arguments)
        trainer.add_callback(KillAt(1, signal.SIGINT))
        return trainer

    monkeypatch.setattr(train, "build_trainer", killed)
    argv = flags(films, tmp_path / "out", max_steps=4)
    with pytest.raises(SystemExit) as ended:
        command.run(lambda: train.main(argv))
    assert ended.value.code == 130
    monkeypatch.undo()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    again = line.partition("Go on with: distilfast train ")[2].split()
    assert again == [*argv, "--resume_from_checkpoint", "last"]
    train.main(again)
    assert "the student is in" in capsys.readouterr().out


def test_pseudo_labels_are_the_classes_that_the_teacher_is_sure_of(films: Path, tmp_path: Path) -> None:
    texts = [row["text"] for row in reviews(60, 5)] + ["the the the", "good bad", "film film bad good"]
    teacher = AutoModelForSequenceClassification.from_pretrained(films / "teacher").eval()
    tokenizer = AutoTokenizer.from_pretrained(films / "teacher")
    with torch.no_grad():
        shares = torch.stack([teacher(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0] for text in texts])
    confidence = shares.max(-1).values
    ranked = confidence.sort().values
    gap = int((ranked[1:] - ranked[:-1]).argmax())  # no rounding decides in the middle of the widest gap
    floor = float((ranked[gap] + ranked[gap + 1]) / 2)
    options: dict[str, Any] = {"validation": films / "dev.csv", "unlabelled": {"text": texts}, "dry_run": True, **QUICK}
    data = df.distil(films / "teacher", films / "train.csv", tmp_path / "out", min_confidence=floor, **options)["data"]
    kept = confidence >= floor
    assert data["unlabelled_rows"] == int(kept.sum()) < len(texts)
    counts = torch.bincount(shares.argmax(-1)[kept], minlength=2).tolist()
    assert any(f"(positive {counts[0]}, negative {counts[1]})" in note for note in data["notes"])
    options["unlabelled"] = {"text": ["good bad"]}
    with pytest.raises(InputError, match="nowhere as sure as --min_confidence 1"):
        df.distil(films / "teacher", films / "train.csv", tmp_path / "out", min_confidence=1.0, **options)


def test_class_weights_are_inverse_to_how_often_a_class_is(films: Path, tmp_path: Path) -> None:
    rows = [row for row in reviews(200, 7) if row["label"] == "positive"][:60] + reviews(40, 8)
    positive = sum(row["label"] == "positive" for row in rows)
    options: dict[str, Any] = {"validation": films / "dev.csv", "dry_run": True, **QUICK}
    weights = df.distil(films / "teacher", rows, tmp_path / "out", class_weights=["balanced"], **options)
    expected = [len(rows) / (2 * positive), len(rows) / (2 * (len(rows) - positive))]
    assert np.allclose(weights["class_weights"], expected)


def test_labels_are_optional(films: Path, tmp_path: Path) -> None:
    """The teacher's opinion is enough, and the agreement with it chooses the best model."""
    summary = df.distil(
        films / "teacher",
        [{"text": row["text"]} for row in reviews(200, 3)],
        tmp_path / "out",
        max_steps=8,
        load_best_model_at_end=True,
        eval_strategy="steps",
        eval_steps=4,
        **QUICK,
    )
    assert {name for name in summary["last_log"] if name.startswith("loss")} == {"loss", "loss_ce", "loss_cos"}
    assert summary["data"]["train_rows_with_label"] == 0
    assert summary["best_metric"] == max(each["eval_agreement"] for each in summary["evaluations"])
    assert set(summary["report"]["metrics"]) == {"agreement", "kl"}


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression", "pairs"])
def test_other_problems(kind: str, tmp_path: Path) -> None:
    """Two labels at once, numbers on a scale of their own, and pairs, each from a data set in memory."""
    rows: list[dict[str, Any]] = [{"text": row["text"], "labels": row["label"]} for row in reviews(120, 4)]
    if kind == "multi_label_classification":
        config = {"id2label": {0: "music", 1: "film", 2: "plot"}, "problem_type": kind}
        rows = [{"text": each["text"], "labels": sorted({*each["text"].split()} & {"film", "music"})} for each in rows]
    elif kind == "regression":
        config = {"num_labels": 1}
        rows = [{"text": each["text"], "score": 10.0 + 3 * each["text"].count("film")} for each in rows]
    else:
        config = {"id2label": {0: "different", 1: "same"}}
        rows = [
            {"sentence1": one["text"], "sentence2": other["text"], "label": int(one["labels"] == other["labels"])}
            for one, other in itertools.pairwise(rows)
        ]
    save_blank(tmp_path / "teacher", **config)
    summary = df.distil(tmp_path / "teacher", rows, tmp_path / "out", max_steps=4, student_type="distilbert", **QUICK)
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert student.config.model_type == "distilbert"
    assert (
        student.config.id2label
        == AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher").config.id2label
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.model_input_names == ["input_ids", "attention_mask"]
    metric = {"multi_label_classification": "micro_f1", "regression": "spearman", "pairs": "accuracy"}[kind]
    problem = kind if kind != "pairs" else "single_label_classification"
    assert student.config.problem_type == summary["problem_type"] == problem
    assert summary["report"]["quality"]["main"][0] == metric
    assert {"loss_ce", "loss_task", "loss_cos"} <= set(summary["last_log"])
    assert metric in summary["report"]["metrics"]
    if kind == "multi_label_classification":
        assert summary["data"]["labels"]["classes"] == {"film": "film", "music": "music"}
        pipeline = transformers.pipeline("text-classification", str(tmp_path / "out"), top_k=None)
        assert {each["label"] for each in pipeline("the film was good")[0]} == {"music", "film", "plot"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_file": "{films}/other.csv"}, "none of the teacher's classes; the file has 'fair', 'negative'"),
        ({"train_file": "{films}/other.csv"}, "the teacher 'positive', 'negative'"),
        ({"train_file": "{films}/none.csv"}, "none.csv is not there"),
        ({"train_file": None}, "give what to learn from"),
        ({"dataset_name": "x"}, "give the rows with one of --train_file, --dataset_name"),
        ({"text": "{films}/more.txt"}, "with one of --text, --train_file, and not both"),
        ({"text": "{films}/more.txt", "train_file": None, "validation_file": None}, "give rows with --train_file"),
        ({"batch_tokens": 64}, "use --per_device_train_batch_size"),
        ({"batches_per_step": 2}, "use --gradient_accumulation_steps"),
        ({"mlm_mask_prop": 0.2}, "it is for text; leave it out"),
        ({"text_column": "txet"}, "did you mean 'text'?"),
        ({"class_weights": ["1"]}, "2 numbers that are not negative are needed"),
        ({"class_weights": ["often"]}, "'balanced', or a number for each class"),
        ({"min_confidence": 0.5}, "give them with --unlabelled_file"),
        ({"min_confidence": 1.5, "unlabelled_file": "{films}/more.txt"}, "--min_confidence 1.5 is no probability"),
        ({"max_length": 2}, "leaves no room for text"),
        ({"max_train_rows": 0}, "0 rows are not to be chosen"),
        ({"task": "films", "train_file": None, "data_dir": "{films}"}, "has a folder of that name"),
        ({"head": "masked_lm"}, "masked_lm needs a model fine-tuned for it"),
        ({"load_best_model_at_end": True, "eval_strategy": "no"}, "--load_best_model_at_end needs evaluations"),
        ({"early_stopping_patience": 1, "eval_strategy": "no"}, "--early_stopping_patience needs evaluations"),
        ({"metric_for_best_model": "acuracy", "load_best_model_at_end": True}, "did you mean accuracy?"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    changes: dict[str, Any], message: str, films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(films / "other.csv", [*reviews(20, 0), {"label": "fair", "text": "the plot"}])
    values = {name: value.format(films=films) if isinstance(value, str) else value for name, value in changes.items()}
    assert message in refusal(flags(films, tmp_path / "out", **values), capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_teacher_without_the_head_or_with_other_classes_is_refused(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_blank(tmp_path / "three", num_labels=3)
    blank = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(films / "blank"))
    blank.save_pretrained(tmp_path / "mlm")
    AutoTokenizer.from_pretrained(films / "blank").save_pretrained(tmp_path / "mlm")
    out = tmp_path / "out"
    assert "a teacher that was fine-tuned for a task" in refusal(flags(films, out, teacher=tmp_path / "mlm"), capsys)
    assert "classification needs a model fine-tuned for it" in refusal(
        flags(films, out, teacher=tmp_path / "mlm", head="classification"), capsys
    )
    assert "the teacher 'LABEL_0', 'LABEL_1', 'LABEL_2'" in refusal(
        flags(films, out, teacher=tmp_path / "three"), capsys
    )
    both = [films / "teacher", tmp_path / "three"]
    assert "three has other classes t" in refusal(flags(films, out, teacher=both), capsys)
    assert not out.exists()


def test_a_student_that_reads_other_ids_is_refused(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_blank(tmp_path / "other")
    words = (tmp_path / "other" / "vocab.txt").read_text().split("\n")
    (tmp_path / "other" / "vocab.txt").write_text("\n".join([*words[:6], words[7], words[6], *words[8:]]))
    transformers.BertTokenizer(vocab=str(tmp_path / "other" / "vocab.txt")).save_pretrained(tmp_path / "other")
    line = refusal(flags(films, tmp_path / "out", student=tmp_path / "other"), capsys)
    assert "has another vocabulary than" in line
    assert "its id 6 is 'was' and 'film' here" in line


def test_old_names_of_flags() -> None:
    assert renamed(["--unlabelled", "x.txt", "--batch_size=8", "--seed", "1"]) == [
        *("--unlabelled_file", "x.txt", "--per_device_train_batch_size=8", "--seed", "1")
    ]


def test_the_estimate_of_what_remains() -> None:
    assert remaining(90, 0.5, True).startswith("about 45 s for the other 90 steps")
    assert "--max" not in remaining(7200, LONG / 7200, True)
    assert remaining(7300, 0.5, True).endswith("--max_train_rows or --max_steps makes it shorter")
    assert "1 h 1 min" in remaining(7300, 0.5, False)
