"""What teachers say, kept on disk: the losses of a run that reads it, resumed, of another teacher, and what is torn."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import tiny_rows
import tiny_training
import torch
from distilfast import DistillationTrainer, InputError, create_student
from distilfast.batches.encode import encode_texts
from distilfast.batches.labelled import LabelledBatches
from distilfast.train.kept_outputs import keep_teachers, kept_outputs
from film_rows import QUICK, reviews, save_blank, write_csv
from tiny_classifiers import CLASSES
from transformers import BertForSequenceClassification

pytestmark = pytest.mark.usefixtures("one_thread")


def classifier(kind: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = tiny_rows.config(2, num_labels=CLASSES[kind], problem_type=kind)
    return BertForSequenceClassification(config).eval()


def text_batches(kind: str) -> LabelledBatches:
    draws = np.random.default_rng(0)
    tokenizer = tiny_rows.tokenizer()
    texts = [" ".join(tiny_rows.words(draws, 9)) for _ in range(tiny_rows.ROWS)]
    labels: Any = {
        "single_label_classification": draws.integers(0, 3, len(texts)).tolist(),
        "multi_label_classification": draws.integers(0, 2, (len(texts), 3)).astype(float).tolist(),
        "regression": draws.normal(size=len(texts)).tolist(),
    }[kind]
    return LabelledBatches(encode_texts(tokenizer, texts, None, labels, 40), tokenizer, 4, 2, seed=3)


def shuffled(batches: LabelledBatches) -> LabelledBatches:
    return LabelledBatches(batches.rows, batches.tokenizer, 4, 2, seed=3)


CASES: dict[str, Any] = {
    **{kind: lambda kind=kind: (classifier(kind), classifier(kind, 1), text_batches(kind)) for kind in CLASSES},
    "tokens": lambda: (
        tiny_rows.tagger("abcd"),
        tiny_rows.tagger("abcd", seed=1),
        shuffled(tiny_rows.word_batches(4, 4)),
    ),
    "questions": lambda: (
        tiny_rows.answerer(),
        tiny_rows.answerer(seed=1),
        shuffled(tiny_rows.question_batches(4, stride=4, max_length=24)),
    ),
}


def run_of(folder: Path, case: str, cache: Path | None, **options: Any) -> DistillationTrainer:
    first, second, batches = CASES[case]()
    head = case if case in ("tokens", "questions") else "classification"
    args = tiny_rows.arguments(
        folder,
        head=head,
        alpha_ce=1.0,
        alpha_cos=0.0,
        alpha_mse=0.0 if case == "regression" else 0.1,
        num_train_epochs=2,
        save_strategy="steps",
        save_steps=1,
        logging_steps=1,
        **options,
    )
    student, weights = create_student(first, 1), [0.25, 0.75]
    run = DistillationTrainer(student, [first, second], args, batches, teacher_weights=weights)
    if cache is not None:
        run.adapt_models()
        keep_teachers(run, batches, str(cache), write=True)
        for teacher in run.step.teachers:  # what is kept is read, and the teachers are not
            teacher.forward = None
    return run


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_reads_has_the_losses_of_one_that_runs_its_teachers(tmp_path: Path, case: str) -> None:
    plain = run_of(tmp_path / "plain", case, None)
    plain.train()
    cached = run_of(tmp_path / "cached", case, tmp_path / "cache")
    cached.train()
    expected, found = tiny_training.curve(plain), tiny_training.curve(cached)
    assert len(found) == plain.state.global_step > 2
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    resumed = run_of(tmp_path / "cached", case, tmp_path / "cache")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cached" / "checkpoint-1"))
    assert tiny_training.curve(resumed) == found
    for name, value in tiny_training.weights(resumed.step).items():
        assert torch.equal(value, tiny_training.weights(cached.step)[name]), name
    with pytest.raises(InputError, match="data"):  # bits differ from those of a run that runs its teachers
        run_of(tmp_path / "cached", case, None).train(resume_from_checkpoint="last")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_csv(folder / "train.csv", reviews(64, 0))
    write_csv(folder / "other.csv", reviews(64, 5))
    write_csv(folder / "dev.csv", reviews(16, 1))
    for seed, name in enumerate(("teacher", "second")):
        torch.manual_seed(seed)
        save_blank(folder / name)
        model = BertForSequenceClassification.from_pretrained(folder / name)
        torch.nn.init.normal_(model.classifier.weight, std=0.5 + seed)
        model.save_pretrained(folder / name)
    return folder


def distil(films: Path, out: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "teacher": films / "teacher",
        "train": films / "train.csv",
        "validation": films / "dev.csv",
        "cache_teacher": str(films / "cache"),
        "num_train_epochs": 2,
        "logging_steps": 1,
        "report": False,
        **QUICK,
        **changes,
    }
    return df.distil(output_dir=out, **values)


def test_it_is_computed_once_for_a_teacher_and_its_rows(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = distil(films, tmp_path / "first")
    said = capsys.readouterr().out
    assert "teacher 1: 64 rows computed and kept in" in said
    assert "alpha_cos set to 0: --cache_teacher keeps the teacher's logits alone" in said
    assert first["alpha_cos"] == 0
    again = distil(films, tmp_path / "again")
    assert "teacher 1: 64 rows read from" in capsys.readouterr().out
    assert [entry["loss"] for entry in again["log"]] == [entry["loss"] for entry in first["log"]]
    assert len(list((films / "cache").iterdir())) == 1
    for changes in ({"teacher": films / "second"}, {"train": films / "other.csv"}, {"precision": "bf16"}):
        distil(films, tmp_path / "-".join(map(str, changes)), **changes)
        assert "teacher 1: 64 rows computed and kept in" in capsys.readouterr().out
    assert len(list((films / "cache").iterdir())) == 4
    for file in (films / "cache").glob("*/outputs.npy"):
        os.truncate(file, 150)
    with pytest.raises(InputError, match=r"not what a teacher said .*; remove it"):
        distil(films, tmp_path / "torn")


def test_refusals(films: Path, tmp_path: Path) -> None:
    for changes, message in (
        ({"alpha_cos": 1.0}, "--alpha_cos 1 compares the states of tokens, but --cache_teacher keeps"),
        ({"alpha_rel": 0.5}, "--alpha_rel 0.5 compares the states"),
        ({"cache_teacher": str(films / "train.csv")}, r"train\.csv is a file and holds something already"),
        ({"alpha_ce": 0.0}, "--cache_teacher: no loss reads what the teacher says"),
        ({"teacher": None, "student": films / "teacher", "head": "classification"}, "does nothing without --teacher"),
        ({"head": "hidden_states", "train": films / "train.csv"}, "--cache_teacher is not for the head hidden_states"),
    ):
        with pytest.raises(InputError, match=message):
            distil(films, tmp_path / "refused", **changes)
        assert not (tmp_path / "refused").exists()


def test_a_dry_run_keeps_nothing(films: Path, tmp_path: Path) -> None:
    distil(films, tmp_path / "dry", cache_teacher=str(tmp_path / "cache"), dry_run=True)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32).reshape(6, 2)

    def parts(killed: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield np.array([5, 0, 1]), values[[5, 0, 1]]
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        yield np.array([2, 3, 4]), values[[2, 3, 4]]

    child = os.fork()
    if child == 0:
        try:
            kept_outputs(tmp_path, "key", 6, np.float32, parts(True), True)
        finally:
            os._exit(3)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert not (tmp_path / "key").exists()
    found, made = kept_outputs(tmp_path, "key", 6, np.float32, parts(False), True)
    assert made
    np.testing.assert_array_equal(found, values)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    with pytest.raises(InputError, match="holds 6 outputs in float32, not 7"):
        kept_outputs(tmp_path, "key", 7, np.float32, parts(False), True)
