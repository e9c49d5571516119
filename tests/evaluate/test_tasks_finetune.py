"""Whole evaluations on tasks at tiny scale: cells kept and not run again, and a copy of the teacher keeping 100 %."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from distilfast import InputError
from distilfast.evaluate import cells
from distilfast.evaluate.finetune import fine_tune, published_settings
from distilfast.evaluate.run import EvaluateOptions, run_evaluation
from distilfast.evaluate.scores import parse_tasks
from distilfast.evaluate.tasks import TASKS, load_task
from distilfast.models.load import quiet
from sklearn.metrics import accuracy_score
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
    pipeline,
)

WORDS = ["good", "fine", "bad", "poor", "the", "film", "plot", "is", "was", "a", "who", "wrote", "ada", "?", "."]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small run fastest on one thread; and what is there already need not be looked at by each
    collection of garbage that the Trainer asks for."""
    gc.freeze()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    quiet()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher` (BERT, two layers), `copy` of it, `student` (DistilBERT, one layer)."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    torch.manual_seed(0)
    teacher = BertForMaskedLM(
        BertConfig(
            vocab_size=20,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=64,
            initializer_range=0.1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    student = DistilBertForMaskedLM(
        DistilBertConfig(vocab_size=20, dim=16, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64)
    )
    for name, model in {"teacher": teacher, "copy": teacher, "student": student}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SST-2, told by its adjective; STS-B of equal and different words; SQuAD."""
    folder = tmp_path_factory.mktemp("data")
    generator = random.Random(0)
    for name in ("SST-2", "STS-B", "squad"):
        (folder / name).mkdir()
    rows = []
    for _ in range(80):
        label = generator.randrange(2)
        adjective = generator.choice([["bad", "poor"], ["good", "fine"]][label])
        rows.append(
            f"the {generator.choice(['film', 'plot'])} {generator.choice(['is', 'was'])} {adjective} .\t{label}"
        )
    # Its few texts come again and again, which a hash would put on one side.
    (folder / "SST-2" / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows[:64]]) + "\n")
    (folder / "SST-2" / "dev.tsv").write_text("\n".join(["sentence\tlabel", *rows[64:]]) + "\n")
    (folder / "tags").mkdir()
    sentences = [[generator.choice(WORDS) for _ in range(6)] for _ in range(48)]
    tags = [[f"{word} {'B-PER' if word == 'ada' else 'O'}" for word in words] for words in sentences]
    for name, part in (("train", tags[:36]), ("dev", tags[36:])):
        (folder / "tags" / f"{name}.conll").write_text("".join("\n".join(each) + "\n\n" for each in part))
    pairs = []
    for _ in range(40):
        first, second = generator.choice(WORDS[:4]), generator.choice(WORDS[:4])
        pairs.append(f"the film is {first}\tthe film is {second}\t{5.0 if first == second else 1.0}")
    for name in ("train.tsv", "dev.tsv"):
        (folder / "STS-B" / name).write_text("\n".join(["sentence1\tsentence2\tscore", *pairs]) + "\n")
    paragraphs = [
        {
            "context": "the plot was poor . " * i + "ada wrote the film .",
            "qas": [{"id": str(i), "question": "who wrote ?", "answers": [{"text": "ada", "answer_start": 20 * i}]}],
        }
        for i in range(8)
    ]
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (folder / "squad" / name).write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return folder


def options(models: Path, data: Path, output: Path, **changes: Any) -> EvaluateOptions:
    settings: dict[str, Any] = {
        "tasks": "sst2",
        "seeds": 2,
        "epochs": 2.0,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "speed": False,
        "device": "cpu",
        "student": [str(models / "copy"), str(models / "student")],
    } | changes
    return EvaluateOptions(teacher=str(models / "teacher"), output_dir=str(output), data_dir=str(data), **settings)


def test_a_copy_of_the_teacher_keeps_all_and_finished_cells_are_kept(
    models: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = options(models, data, tmp_path, distil=True)
    report = run_evaluation(wanted)
    rows = report["tasks"]["sst2"]["rows"]
    assert list(rows) == ["teacher", "copy", "student", "copy (D)", "student (D)"]
    assert rows["copy"]["kept"] == 1.0
    assert rows["copy"]["seeds"] == rows["teacher"]["seeds"]
    assert report["macro"]["with_wnli"]["rows"]["copy"] == {"score": rows["teacher"]["median"], "kept": 1.0}
    assert rows["copy"]["losses"] == rows["teacher"]["losses"] != rows["copy (D)"]["losses"]
    assert report["missing"] == []
    text = (tmp_path / "evaluate.md").read_text()
    assert "100.0 %" in text
    assert json.loads((tmp_path / "evaluate.json").read_text()) == json.loads(json.dumps(report))
    # The tuned teacher was kept, and its score is what it gives now, by scikit-learn.
    tuned = next((tmp_path / "tuned" / "sst2" / "teacher").glob("*-seed1"))
    found = load_task("sst2", str(data)).dev["dev"]
    say = pipeline("text-classification", str(tuned), device="cpu")
    said = [each["label"] for each in say(found.column("sentence"))]
    assert rows["teacher"]["seeds"]["1"] == pytest.approx(100 * accuracy_score(found.column("label"), said))

    def not_again(*_: Any, **__: Any) -> Any:
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr(cells, "fine_tune", not_again)
    again = run_evaluation(wanted)
    assert again["tasks"] == report["tasks"]
    with pytest.raises(InputError, match=r"other settings: epochs 2\.0 where 1\.0 is asked for"):
        run_evaluation(options(models, data, tmp_path, epochs=1.0))
    with pytest.raises(InputError, match="model fingerprint"):
        run_evaluation(options(models, data, tmp_path, student=[f"copy={models / 'student'}"]))
    broken = next((tmp_path / "cells" / "sst2" / "copy").glob("*.json"))
    broken.write_text("{")
    with pytest.raises(InputError, match="not a finished cell"):
        run_evaluation(wanted)


def test_what_can_be_learned_is_learned(models: Path, data: Path, tmp_path: Path) -> None:
    report = run_evaluation(options(models, data, tmp_path, student=[], seeds=1, epochs=8.0))
    row = report["tasks"]["sst2"]["rows"]["teacher"]
    assert row["median"] == 100.0
    assert row["losses"][-1][1] < 0.3 < row["losses"][0][1]


def test_parts_and_claims_share_the_cells(models: Path, data: Path, tmp_path: Path) -> None:
    part = options(models, data, tmp_path, shard="1/2", student=[str(models / "student")], epochs=1.0)
    report = run_evaluation(part)
    assert len(report["missing"]) == 2
    assert "Not finished: 2 cells" in (tmp_path / "evaluate.md").read_text()
    assert list(report["tasks"]["sst2"]["rows"]) == ["teacher"]  # every other cell is the teacher's
    part.shard = "2/2"
    held = tmp_path / "cells" / "sst2" / "student" / "lr0.01-seed0.json"
    with cells.claim(held) as claimed:
        assert claimed
        assert len(run_evaluation(part)["missing"]) == 1  # another process has it
    complete = run_evaluation(part)
    assert complete["missing"] == []
    assert len(list(tmp_path.rglob("*seed*.json"))) == 4
    for shard in ("0/2", "3/2", "1", "a/b"):
        part.shard = shard
        with pytest.raises(InputError, match="--shard"):
            run_evaluation(part)


def test_regression_questions_and_a_sweep(models: Path, data: Path, tmp_path: Path) -> None:
    report = run_evaluation(
        options(
            models,
            data,
            tmp_path,
            tasks="stsb,squad",
            seeds=1,
            epochs=1.0,
            distil=True,
            learning_rate=None,
            sweep=True,
            sweep_learning_rates=[1e-3, 5e-3],
            task_max_length=32,
            student=[str(models / "student")],
        )
    )
    for task in ("stsb", "squad"):
        rows = report["tasks"][task]["rows"]
        assert list(rows) == ["teacher", "student", "student (D)"]
        assert rows["student"]["learning_rate"] in (1e-3, 5e-3)
    stsb = report["tasks"]["stsb"]["rows"]["teacher"]
    assert stsb["median"] == pytest.approx((stsb["metrics"]["pearson"] + stsb["metrics"]["spearman"]) / 2)
    squad = report["tasks"]["squad"]["rows"]["teacher"]
    assert squad["median"] == squad["metrics"]["f1"] >= squad["metrics"]["exact_match"]
    assert report["macro"]["with_wnli"]["over"] == ["stsb"]
    assert "best median on dev" in (tmp_path / "evaluate.md").read_text()


def test_tags_are_learned(models: Path, data: Path, tmp_path: Path) -> None:
    student = [str(models / "student")]
    report = run_evaluation(
        options(models, data, tmp_path, tasks="tags", seeds=1, epochs=6.0, student=student, distil=True)
    )
    rows = report["tasks"]["tags"]["rows"]
    assert list(rows) == ["teacher", "student", "student (D)"]
    assert rows["teacher"]["metrics"] == {"f1": rows["teacher"]["median"]} == {"f1": 100.0}


def test_the_loss_beside_a_teacher_has_the_weights_it_is_given(models: Path, data: Path, tmp_path: Path) -> None:
    """alpha_ce weighs what the teacher says and alpha_task the labels, which are read only where that is not 0."""
    found = load_task("sst2", str(data))
    settings = published_settings(TASKS["sst2"], epochs=1.0, batch_size=8, learning_rate=1e-2)
    fine_tune(str(models / "teacher"), found, 0, settings, torch.device("cpu"), tmp_path / "tuned")
    first: dict[tuple[float, float], float] = {}
    for alphas in ((0.9, 0.0), (0.0, 0.2), (0.9, 0.2)):
        chosen = replace(settings, alpha_ce=alphas[0], alpha_task=alphas[1])
        folder, teacher = tmp_path / f"student{len(first)}", str(tmp_path / "tuned")
        student = str(models / "student")
        first[alphas] = fine_tune(student, found, 0, chosen, torch.device("cpu"), folder, teacher).losses[0][1]
    assert first[0.9, 0.2] == pytest.approx(first[0.9, 0.0] + first[0.0, 0.2], rel=1e-5)
    assert 0.0 < first[0.9, 0.0] != first[0.0, 0.2]


def test_order_and_weights_follow_the_seed(models: Path, data: Path, tmp_path: Path) -> None:
    found = load_task("sst2", str(data))
    settings = published_settings(TASKS["sst2"], epochs=1.0, batch_size=8)
    losses = [
        fine_tune(str(models / "teacher"), found, seed, settings, torch.device("cpu"), tmp_path / str(i)).losses
        for i, seed in enumerate((0, 0, 7))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_bfloat16_learns_the_same_on_float32_weights(models: Path, data: Path, tmp_path: Path) -> None:
    teacher, found = str(models / "teacher"), load_task("sst2", str(data))
    settings = published_settings(TASKS["sst2"], epochs=8.0, batch_size=8, learning_rate=1e-2, bf16=True)
    tuned = fine_tune(teacher, found, 0, settings, torch.device("cpu"), tmp_path / "tuned")
    assert tuned.score == 100.0  # which copies that were never made anew could not reach
    assert tuned.losses[-1][1] < 0.3 < tuned.losses[0][1]
    weights = safetensors.torch.load_file(tmp_path / "tuned" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_only_the_first_gpu_is_taken(models: Path, data: Path) -> None:
    settings = published_settings(TASKS["sst2"])
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=1"):
        fine_tune(str(models / "teacher"), load_task("sst2", str(data)), 0, settings, torch.device("cuda:1"), data)


def test_bad_input_is_named(models: Path, data: Path, tmp_path: Path) -> None:
    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=message):
            run_evaluation(options(models, data, tmp_path / "out", **changes))

    refused("two models are called 'teacher'", student=[str(models / "teacher")])
    refused("contradict", sweep=True)
    refused("--epochs 0: must be above 0", epochs=0.0)
    refused("--seeds is 0", seeds=0)
    refused("task 'rte': .* has a folder of that name", tasks="rte")
    bare = tmp_path / "bare"
    BertForMaskedLM.from_pretrained(models / "teacher").save_pretrained(bare)
    refused("bare has no tokenizer", student=[str(bare)])
    assert parse_tasks("sst2") == ["sst2"]
    assert not (tmp_path / "out").exists()


def test_rows_longer_than_the_positions_are_cut(models: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    rows = [f"{'the film was ' * 40}{word}\t{label}" for word, label in (("bad", 0), ("good", 1)) for _ in range(4)]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "own" / name).write_text("\n".join(["text\tlabel", *rows]) + "\n")
    found = load_task("own", str(tmp_path))
    settings = published_settings(found.task, max_length=512, epochs=1.0, batch_size=4)
    result = fine_tune(str(models / "teacher"), found, 0, settings, torch.device("cpu"), tmp_path / "tuned")
    assert result.steps == 2
    assert result.score == 50.0  # what tells the rows apart is past the cut
    assert "rows may have 64 tokens, which the models have positions for, not 512" in result.notes
