"""Whole evaluations on tasks at tiny scale: cells kept and not run again, and a copy of the teacher keeping 100 %."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from distilfast import InputError
from distilfast.evaluate import cells
from distilfast.evaluate import run as evaluate
from distilfast.evaluate.finetune import (
    encode_split,
    fine_tune,
    load_for_task,
    predict,
    published_settings,
    run_model,
    soft_task_loss,
    task_loss,
)
from distilfast.evaluate.run import EvaluateOptions, run_evaluation
from distilfast.evaluate.task_data import load_task, read_squad
from distilfast.evaluate.tasks import TASKS
from distilfast.models.load import quiet
from distilfast.tokenizer import load_transformers_tokenizer
from sklearn.metrics import accuracy_score
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
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
    (folder / "SST-2" / "train.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n")
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
    assert "every tenth row" in text
    assert json.loads((tmp_path / "evaluate.json").read_text()) == json.loads(json.dumps(report))
    # The tuned teacher was kept, and its score is what it gives now, by scikit-learn.
    tuned = next((tmp_path / "tuned" / "sst2" / "teacher").glob("*-seed1"))
    found = load_task("sst2", data).dev["dev"]
    tokenizer = load_transformers_tokenizer(str(tuned))
    columns = encode_split(tokenizer, TASKS["sst2"], found, 64)
    (logits,) = predict(
        AutoModelForSequenceClassification.from_pretrained(tuned), tokenizer, columns, torch.device("cpu")
    )
    assert rows["teacher"]["seeds"]["1"] == pytest.approx(100 * accuracy_score(found.labels, logits.argmax(-1)))

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


def test_windows_hold_the_answer_where_they_say(models: Path, data: Path) -> None:
    split = read_squad(data / "squad" / "dev-v1.1.json")
    columns = encode_split(load_transformers_tokenizer(str(models / "teacher")), TASKS["squad"], split, 24)
    assert len(columns["example"]) > len(split)  # long passages are cut
    held = 0
    for start, end, example, offsets in zip(
        columns["start_positions"], columns["end_positions"], columns["example"], columns["offsets"], strict=True
    ):
        if start:
            held += 1
            assert split.second is not None
            assert split.second[example][offsets[start][0] : offsets[end][1]] == "ada"
    assert held >= len(split)


def test_outputs_come_back_in_the_order_of_the_rows(models: Path) -> None:
    tokenizer = load_transformers_tokenizer(str(models / "student"))
    texts = ["good", "the film is a bad film .", "poor plot", "fine ."] * 40
    columns = tokenizer(texts)
    model = AutoModelForSequenceClassification.from_pretrained(models / "student").eval()
    (got,) = predict(model, tokenizer, columns, torch.device("cpu"))
    for row in (0, 1, 2, 159):
        with torch.no_grad():
            inputs = tokenizer(texts[row], return_tensors="pt")
            expected = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        np.testing.assert_allclose(got[row], expected[0].numpy(), atol=1e-5)


def test_the_soft_loss_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 0.0], [3.0, 1.0]])
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p.log() - q.log())).sum() / 2

    class Output(SimpleNamespace):
        def __getitem__(self, name: str) -> Any:
            return getattr(self, name)

    loss = soft_task_loss(TASKS["sst2"], Output(logits=student), Output(logits=teacher), 2.0)
    torch.testing.assert_close(loss, expected)
    both = Output(start_logits=student, end_logits=student), Output(start_logits=teacher, end_logits=student)
    torch.testing.assert_close(soft_task_loss(TASKS["squad"], *both, 2.0), expected / 2)
    scores = Output(logits=student[:, :1]), Output(logits=teacher[:, :1])
    torch.testing.assert_close(soft_task_loss(TASKS["stsb"], *scores, 2.0), torch.tensor((1.0 + 9.0) / 2))


def test_the_loss_is_that_of_transformers(models: Path) -> None:
    torch.manual_seed(0)
    inputs = {"input_ids": torch.randint(5, 20, (6, 9)), "attention_mask": torch.ones(6, 9, dtype=torch.int64)}
    places = {"start_positions": torch.arange(6), "end_positions": torch.arange(6) + 2}
    for task, targets in {
        "mnli": {"labels": torch.arange(6) % 3},
        "stsb": {"labels": torch.arange(6) * 0.7},
        "squad": places,
    }.items():
        model = load_for_task(str(models / "teacher"), TASKS[task], 0)
        expected = model(**inputs, **targets)
        found = run_model(model, inputs, None)
        torch.testing.assert_close(task_loss(TASKS[task], found, targets), expected.loss, rtol=1e-6, atol=1e-6)


def test_bfloat16_learns_the_same_on_float32_weights(models: Path, data: Path, tmp_path: Path) -> None:
    teacher, found = str(models / "teacher"), load_task("sst2", data)
    settings = published_settings(TASKS["sst2"], epochs=8.0, batch_size=8, learning_rate=1e-2, bf16=True)
    tuned = fine_tune(teacher, found, 0, settings, torch.device("cpu"), save_to=tmp_path / "tuned")
    assert tuned.score == 100.0  # which copies that were never made anew could not reach
    assert tuned.losses[-1][1] < 0.3 < tuned.losses[0][1]
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned"),
        load_transformers_tokenizer(teacher),
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    columns = encode_split(tokenizer, TASKS["sst2"], found.dev["dev"], 64)
    (exact,) = predict(model, tokenizer, columns, torch.device("cpu"))
    (near,) = predict(model, tokenizer, columns, torch.device("cpu"), bf16=True)
    assert near.dtype == exact.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.05 * np.abs(exact).max()


def test_only_the_first_gpu_is_taken(models: Path, data: Path) -> None:
    settings = published_settings(TASKS["sst2"])
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES=1"):
        fine_tune(str(models / "teacher"), load_task("sst2", data), 0, settings, torch.device("cuda:1"))


def test_bad_input_is_named(models: Path, data: Path, tmp_path: Path) -> None:
    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=message):
            run_evaluation(options(models, data, tmp_path / "out", **changes))

    refused("two models are called 'teacher'", student=[str(models / "teacher")])
    refused("contradict", sweep=True)
    refused("epochs is 0", epochs=0.0)
    refused("--seeds is 0", seeds=0)
    refused("no folder RTE", tasks="rte")
    bare = tmp_path / "bare"
    BertForMaskedLM.from_pretrained(models / "teacher").save_pretrained(bare)
    refused("bare has no tokenizer", student=[str(bare)])
    assert evaluate.parse_tasks("sst2") == ["sst2"]
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_in_bfloat16_is_tuned_in_float32(models: Path, tmp_path: Path) -> None:
    stored = BertForMaskedLM.from_pretrained(models / "teacher").to(torch.bfloat16)
    stored.save_pretrained(tmp_path)
    for task in ("sst2", "squad"):
        model = load_for_task(str(tmp_path), TASKS[task], 0)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_rows_longer_than_the_positions_are_cut(models: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    rows = [f"{'the film was ' * 40}{word}\t{label}" for word, label in (("bad", 0), ("good", 1)) for _ in range(4)]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / "own" / name).write_text("\n".join(["text\tlabel", *rows]) + "\n")
    found = load_task("own", tmp_path)
    settings = published_settings(found.task, max_length=512, epochs=1.0, batch_size=4)
    result = fine_tune(str(models / "teacher"), found, 0, settings, torch.device("cpu"))
    assert result.steps == 2
    assert result.score == 50.0  # what tells the rows apart is past the cut
