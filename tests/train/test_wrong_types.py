"""What people hand over to `distil` and its like from memory: understood, or answered with a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import distilfast as df
import numpy as np
import pytest
import torch
import transformers
from distilfast import InputError
from distilfast._command import fitted
from distilfast.train.inputs import arguments_of
from film_rows import QUICK, reviews, save_blank

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT: dict[str, Any] = {**QUICK, "max_steps": 1, "max_length": 24, "report": False}
ROWS = reviews(24, 0)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_blank(tmp_path_factory.mktemp("types") / "teacher"))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a learning rate in words": ({"learning_rate": "1e-3"}, "learning_rate is '1e-3', a str; give a number"),
    "steps in words": ({"max_steps": "1"}, "max_steps is '1', a str; give a whole number"),
    "half a step": ({"max_steps": 1.5}, "max_steps is 1.5, a float; give a whole number"),
    "a weight in words": ({"alpha_ce": "high"}, "alpha_ce is 'high', a str; give a number"),
    "two temperatures": ({"temperature": [1, 2]}, r"temperature is \[1, 2\], a list; give a number"),
    "yes": ({"overwrite": "no"}, "overwrite is 'no', a str; give True or False"),
    "a seed in words": ({"seed": "a"}, "seed is 'a', a str; give a whole number"),
    "half a layer": ({"layers": 1.5}, "--layers 1.5: it takes a number of layers"),
    "a number for a tokenizer": ({"tokenizer": 3}, "tokenizer is a int; give a directory"),
    "a class for a student": (
        {"student": transformers.BertForSequenceClassification},
        "student is a BertForSequenceClassification; give a directory, an id on the Hub, or a loaded model",
    ),
    "a configuration for a student": ({"student": transformers.BertConfig()}, "student is a BertConfig; give"),
    "arguments of Trainer": ({"args": None}, "no option 'args'; DistillationTrainer has it"),
    "epochs": ({"epochs": 3}, "no option 'epochs'; did you mean num_train_epochs"),
    "eval_dataset": ({"eval_dataset": ROWS}, "no option 'eval_dataset'; did you mean validation"),
    "one weight for two": ({"teacher_weights": 0.5}, "1 teacher weights? for 2|weights? .* for 2 teachers|2 teachers"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_type_is_answered_with_a_sentence(name: str, teacher: str, tmp_path: Path) -> None:
    options, said = WRONG[name]
    whose = [teacher, teacher] if name == "one weight for two" else teacher
    with pytest.raises(InputError, match=said):
        df.distil(whose, ROWS, tmp_path / "out", **{**SHORT, **options})
    assert not (tmp_path / "out").exists()


def test_places_that_are_no_paths(teacher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder called None, or 3, was written."""
    monkeypatch.chdir(tmp_path)
    for place in (None, 3):
        with pytest.raises(InputError, match=f"output_dir is {place}; give the directory"):
            df.distil(teacher, ROWS, place, **SHORT)  # type: ignore[arg-type]
    for model in (3, {"a": teacher}, torch.nn.Linear(2, 2), transformers.AutoConfig.from_pretrained(teacher)):
        with pytest.raises(InputError, match=f"teacher is a {type(model).__name__}; give a directory"):
            df.distil(model, ROWS, "out", **SHORT)  # type: ignore[arg-type]
    pipeline = transformers.pipeline("text-classification", model=teacher)
    with pytest.raises(InputError, match=r"teacher is a TextClassificationPipeline; .*; its .model is one"):
        df.distil(pipeline, ROWS, "out", **SHORT)
    assert not list(tmp_path.iterdir())


def test_what_can_only_be_meant_one_way_is_taken(tmp_path: Path) -> None:
    values = {
        "output_dir": tmp_path,
        "max_steps": 3.0,
        "learning_rate": np.float32(0.5),
        "seed": np.int64(7),
        "layers": [np.int64(1), 0],
        "class_weights": "balanced",
        "text_column": "text",
        "dimensions": 8,
        "report_to": "none",
        "use_cpu": 1,
    }
    models, rows, _, args = arguments_of(values)
    assert (args.output_dir, args.max_steps, args.learning_rate) == (str(tmp_path), 3, 0.5)
    assert type(args.max_steps) is type(args.seed) is int
    assert (models.layers, rows.class_weights, rows.text_column) == (["1", "0"], ["balanced"], ["text"])
    assert (args.dimensions, args.use_cpu) == ([8], True)
    assert arguments_of({**values, "class_weights": torch.tensor([1.0, 2.0])}).rows.class_weights == ["1.0", "2.0"]
    assert fitted(type(args), {"lr_scheduler_kwargs": {"a": 1}, "save_total_limit": None, "other": "x"}) == {
        "lr_scheduler_kwargs": {"a": 1},
        "save_total_limit": None,
        "other": "x",
    }
    with pytest.raises(InputError, match="alpha_ce is '1', a str"):
        df.DistillationArguments(str(tmp_path), alpha_ce="1")  # type: ignore[arg-type]


def test_labels_in_tensors_are_numbers(teacher: str, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "label": torch.tensor(int(row["label"] == "negative"))} for row in ROWS]
    with pytest.raises(InputError, match="could be the numbers"):  # of a positive class that stands first
        df.distil(teacher, rows, tmp_path / "out", **SHORT)
    columns = {"text": [row["text"] for row in ROWS], "score": torch.arange(24) / 24}
    config = {"num_labels": 1, "problem_type": "regression"}
    scorer = save_blank(tmp_path / "scorer", layers=2, **config)
    summary = df.distil(str(scorer), columns, tmp_path / "out", layers=np.int64(1), **SHORT)
    assert summary["data"]["train_rows_with_label"] > 15


CALLS: dict[str, tuple[Callable[[str, Path], Any], str]] = {
    "load_teacher": (lambda t, _: df.load_teacher(torch.nn.Linear(2, 2)), "a Linear is no name of a model"),  # type: ignore[arg-type]
    "create_student": (lambda t, _: df.create_student(df.load_teacher(t), 1.5), "layers is 1.5; give a number"),  # type: ignore[arg-type]
    "evaluate_models": (lambda t, o: df.evaluate_models(df.load_teacher(t), [], str(o)), "is no name of a model"),  # type: ignore[arg-type]
    "evaluate_models rows": (
        lambda t, o: df.evaluate_models(t, [], str(o), validation_file=ROWS),
        "validation_file is .*, a dict; give text",
    ),
    "load_tokens": (lambda t, _: df.load_tokens(datasets.Dataset.from_list(ROWS)), "a Dataset is no directory"),  # type: ignore[arg-type]
    "tokenize_dataset": (lambda t, _: df.tokenize_dataset(["a"], t), "dataset is a list; make one with"),  # type: ignore[arg-type]
    "trim_model": (lambda t, o: df.trim_model(df.load_teacher(t), o, 8, ["x"]), "is no name of a model"),  # type: ignore[arg-type]
    "no student": (lambda t, o: df.DistillationTrainer(args=df.DistillationArguments(str(o))), "not batches; make"),
}


@pytest.mark.parametrize("name", CALLS)
def test_other_calls(name: str, teacher: str, tmp_path: Path) -> None:
    call, said = CALLS[name]
    with pytest.raises(InputError, match=said):
        call(teacher, tmp_path / "out")


def test_a_tokenizer_of_transformers_is_taken(teacher: str, tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(teacher)
    ours = df.Tokenizer.from_pretrained(tokenizer)
    assert ours.encode("the good film") == tokenizer("the good film")["input_ids"]
    (tmp_path / "text.txt").write_text("the good film was very good to me and the plot\n" * 4)
    assert df.prepare(tmp_path / "tokens", tokenizer, tmp_path / "text.txt", min_length=0)["rows"] == 4
    rows = df.tokenize_dataset(datasets.Dataset.from_list(ROWS), tokenizer, min_length=0)
    assert len(rows) == len(ROWS)
