"""The road of rerankers: a cross-encoder and pairs become a smaller one that orders passages likewise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import torch
from distilfast import InputError
from distilfast.evaluate.run import evaluate_models
from distilfast.export.run import export_student
from safetensors.torch import load_file
from scipy import stats
from tiny_reranker import LONGEST, queries_and_passages, reranker_folder
from transformers import AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

QUIET: dict[str, Any] = {
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "precision": "fp32",
    "learning_rate": 2e-3,
    "per_device_train_batch_size": 16,
    "logging_steps": 1,
}
GROUPS: dict[str, Any] = {"alpha_margin_mse": 0.5, "alpha_listnet": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rerankers")
    reranker_folder(made / "teacher")
    return made


def distil(folder: Path, name: str, rows: Any = None, **options: Any) -> dict[str, Any]:
    teacher = options.pop("teacher", folder / "teacher")
    options.setdefault("validation", queries_and_passages(12, seed=1))
    return df.distil(teacher, queries_and_passages() if rows is None else rows, folder / name, **{**QUIET, **options})


def scores(folder: Path | str, rows: list[Any]) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(
        [row["query"] for row in rows], [row["passage"] for row in rows], padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        logits: np.ndarray = model(**inputs).logits[:, 0].numpy()
    return logits


def test_a_student_of_groups_orders_as_its_teacher_and_opens_as_a_cross_encoder(folder: Path) -> None:
    rows = queries_and_passages(12)
    options: dict[str, Any] = {"num_train_epochs": 16, "load_best_model_at_end": True, "save_total_limit": 1}
    options["metric_for_best_model"] = "kendall"
    options |= {"eval_strategy": "steps", "eval_steps": 8, "per_device_train_batch_size": 24}
    summary = distil(folder, "small", rows, validation=rows, **GROUPS, **options)
    assert summary["head"] == "classification"
    assert {"loss_ce", "loss_margin_mse", "loss_listnet", "loss_cos"} <= set(summary["log"][0])
    kendall = [entry["eval_kendall"] for entry in summary["evaluations"]]
    assert summary["best_metric"] == pytest.approx(max(kendall))
    assert max(kendall) > kendall[0] + 0.05
    teacher, small = scores(folder / "teacher", rows), scores(folder / "small", rows)
    expected = np.mean(
        [
            stats.kendalltau(*(each[start : start + 4] for each in (teacher, small))).statistic
            for start in range(0, len(rows), 4)
        ]
    )
    assert summary["report"]["metrics"]["kendall"] == pytest.approx(expected)

    library = pytest.importorskip("sentence_transformers").CrossEncoder
    pairs = [(row["query"], row["passage"]) for row in rows]
    for name in ("teacher", "small"):
        opened = library(str(folder / name), device="cpu")
        assert type(opened.activation_fn).__name__ == "Identity"
        assert opened.max_seq_length == LONGEST
        np.testing.assert_allclose(opened.predict(pairs), scores(folder / name, rows), atol=1e-5)


def test_a_folder_that_cross_encoder_wrote(folder: Path) -> None:
    """Its activation and length stand in files of their own."""
    library = pytest.importorskip("sentence_transformers").CrossEncoder
    reranker_folder(folder / "plain", sentence_transformers=None)
    written = library(str(folder / "plain"), device="cpu", activation_fn=torch.nn.Tanh(), max_length=20)
    written.save_pretrained(str(folder / "written"))
    distil(folder, "of-written", teacher=folder / "written", max_steps=2)
    opened = library(str(folder / "of-written"), device="cpu")
    assert type(opened.activation_fn).__name__ == "Tanh"
    assert opened.max_seq_length == 20
    export_student(folder / "of-written", folder / "exported-written")
    opened = library(str(folder / "exported-written"), device="cpu")
    assert type(opened.activation_fn).__name__ == "Tanh"


def test_onnx_ranks_the_same(folder: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    export_student(folder / "teacher", folder / "onnx", onnx=True)
    rows = queries_and_passages(12, seed=1)
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    assert "token_type_ids" in names
    texts = [[row[name] for row in rows] for name in ("query", "passage")]
    inputs = dict(AutoTokenizer.from_pretrained(folder / "onnx")(*texts, padding=True, return_tensors="np"))
    found = session.run(["logits"], {name: inputs[name] for name in names})[0][:, 0]
    expected = scores(folder / "teacher", rows)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert stats.kendalltau(found, expected).statistic == pytest.approx(1)
    # Without the types of its tokens the same file ranks otherwise: it does read them.
    blind = session.run(["logits"], {**{n: inputs[n] for n in names}, "token_type_ids": inputs["input_ids"] * 0})
    assert stats.kendalltau(blind[0][:, 0], expected).statistic < 0.99


def test_several_teachers_and_a_resume_are_exact(folder: Path) -> None:
    second = reranker_folder(folder / "second", layers=2, seed=5)
    options: dict[str, Any] = {"teacher": [folder / "teacher", second], "teacher_weights": [3.0, 1.0], "max_steps": 8}
    options |= {"save_steps": 5, "save_total_limit": 5, "save_strategy": "steps", "eval_strategy": "no", **GROUPS}
    rows = queries_and_passages(labels=True)
    whole = distil(folder, "whole", rows, **options)
    distil(folder, "halved", rows, **options)
    for file in (folder / "halved" / "checkpoint-8").rglob("*"):
        if file.is_file():
            file.unlink()
    distil(folder, "halved", rows, **options, resume_from_checkpoint="last")
    expected, found = (load_file(folder / name / "model.safetensors") for name in ("whole", "halved"))
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert "loss_task" in whole["log"][-1]
    labelled = queries_and_passages(12, seed=1, labels=True)
    del labelled[0]["relevance"]  # its group cannot be scored
    measured = distil(folder, "measured", rows, **{**options, "max_steps": 1}, validation=labelled)["report"]
    assert (measured["quality"]["unit"], measured["quality"]["units"]) == ("groups", 11)
    assert set(measured["quality"]["models"]["student"]["kept"]) == {"ndcg@10", "mrr@10"}
    assert measured["metrics"]["groups_left_out"] == 1
    assert "train: 24 groups of 4 to 4 rows" in whole["data"]["notes"]


def test_groups_by_equal_first_texts_or_a_column(folder: Path) -> None:
    rows = queries_and_passages(8)
    renamed = [{"text_a": row["query"], "text_b": row["passage"], "of": number % 16} for number, row in enumerate(rows)]
    options: dict[str, Any] = {"max_steps": 1, "alpha_cos": 0.0, "alpha_ce": 0.0, "seed": 3, **GROUPS}
    of_texts = distil(folder, "by-text", [{k: r[k] for k in ("text_a", "text_b")} for r in renamed], **options)
    assert of_texts["log"][0]["loss_listnet"] > 0
    # Of two rows of one value: other groups, another loss.
    of_column = distil(folder, "by-column", renamed, group_column="of", validation=renamed, **options)
    assert of_column["log"][0]["loss_listnet"] != of_texts["log"][0]["loss_listnet"]


def test_evaluate_measures_a_file_of_groups_and_a_collection(folder: Path) -> None:
    labelled = queries_and_passages(12, seed=1, labels=True)
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    search = folder / "search"
    (search / "qrels").mkdir(parents=True)
    documents = [row["passage"] for row in labelled]
    queries = [row["query"] for row in labelled[::4]]
    for name, texts in (("corpus", documents), ("queries", queries)):
        lines = [json.dumps({"_id": f"{name}{number}", "text": text}) + "\n" for number, text in enumerate(texts)]
        (search / f"{name}.jsonl").write_text("".join(lines))
    judged = [f"queries{number}\tcorpus{4 * number}\t1\n" for number in range(len(queries))]
    (search / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    student = reranker_folder(folder / "other", layers=2, seed=7)
    models = str(folder / "teacher"), student
    options: dict[str, Any] = {"speed": False, "pictures": False}
    report = evaluate_models(
        *models, str(folder / "report"), validation_file=str(file), retrieval_dir=str(search), **options
    )
    of_rows = report["rows"]["pairs"]["models"]["other"]
    assert {"ndcg@10", "mrr@10", "kendall"} <= set(of_rows["metrics"])
    assert set(of_rows["kept"]) == {"ndcg@10", "mrr@10"}
    found = report["retrieval"]["search"]
    assert list(found["models"]) == ["teacher", "other", "cut, 2 layers", "random weights, 2 layers"]
    assert "kendall" not in found["models"]["teacher"]
    of = {name: each["ndcg@10"] for name, each in found["models"].items()}
    assert found["models"]["other"]["kept"]["share"] == pytest.approx(of["other"] / of["teacher"])
    # All 30 candidates of a query, scored and ordered here.
    every = scores(folder / "teacher", [{"query": query, "passage": text} for query in queries for text in documents])
    from distilfast.metrics.retrieval import candidates

    shown = candidates(queries, documents, 30)
    gains = []
    for number, row in enumerate(every.reshape(len(queries), -1)):
        order = shown[number][np.argsort(-row[shown[number]], kind="stable")][:10]
        place = np.flatnonzero(order == 4 * number)
        gains.append(1 / np.log2(place[0] + 2) if len(place) else 0.0)
    assert found["models"]["teacher"]["ndcg@10"] == pytest.approx(np.mean(gains), abs=1e-6)
    written = (folder / "report" / "evaluate.md").read_text()
    assert "Kendall to the teacher" in written
    assert "in the order of the words" in written
    with pytest.raises(InputError, match="--sentences is for sentence encoders"):
        evaluate_models(*models, str(folder / "no"), sentences=str(file), retrieval_dir=str(search), **options)


def test_refusals(folder: Path) -> None:
    apart = [{**row, "query": f"{row['query']} {'the ' * n}"} for n, row in enumerate(queries_and_passages(3, 2))]
    single = [{"text": row["passage"], "score": 0.5} for row in queries_and_passages(3)]
    scored = [{**row, "relevance": "much"} for row in queries_and_passages(3)]
    scoreless = [{**row, "relevance": -0.5} for row in queries_and_passages(3)]  # none is relevant
    reranker_folder(folder / "number", sentence_transformers=None)
    for rows, options, message in (
        (apart, {}, "no two rows are of one; name the query's column with --group_column"),
        (single, {"validation": single}, "the model is a cross-encoder, which scores pairs"),
        (single, {"validation": single, "teacher": folder / "number"}, "nothing says which rows are of one"),
        (None, {"per_device_train_batch_size": 3}, "a group has 4 rows and a batch 3"),
        (scored, {"validation": scored}, "'much' is no number"),
        (scoreless, {"validation": scoreless, "metric_for_best_model": "ndcg@10"}, "ndcg@10: an evaluation gives"),
        (None, {"metric_for_best_model": "kendal"}, "did you mean kendall"),
        (None, {"alpha_similarity": 1.0}, "--alpha_similarity is not for the head classification"),
    ):
        with pytest.raises(InputError, match=message):
            distil(folder, "refused", rows, **{**GROUPS, **options})  # type: ignore[dict-item]
        assert not (folder / "refused").exists()
    classes = reranker_folder(folder / "classes", num_labels=2)
    with pytest.raises(InputError, match="gives no single number a row"):
        distil(folder, "refused", teacher=classes, **GROUPS)


def test_scored_pairs_of_as_many_queries_are_numbers(folder: Path, tmp_path: Path) -> None:
    """Rows each alone in its group rank nothing: the run was lost at its first evaluation, for want of an nDCG."""
    scored = [{**row, "score": float(number % 3)} for number, row in enumerate(queries_and_passages(12))]
    rows = [{**row, "query": f"{row['query']} {number}"} for number, row in enumerate(scored)]
    summary = distil(folder, str(tmp_path / "alone"), rows, validation=None, max_steps=2)
    found = summary["report"]["metrics"]
    assert {"spearman", "teacher_spearman"} <= set(found)
    assert not {"ndcg@10", "kendall"} & set(found)
    low = [{**row, "score": -1.0 - row["score"]} for row in scored]  # nothing is relevant
    summary = distil(folder, str(tmp_path / "low"), low, validation=low, max_steps=2, load_best_model_at_end=True)
    assert summary["best_metric"] == summary["evaluations"][-1]["eval_kendall"]
