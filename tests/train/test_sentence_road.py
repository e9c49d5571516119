"""The road of sentence encoders: a folder and texts become a smaller folder of the same kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from distilfast import InputError
from distilfast import _command as command
from distilfast.evaluate.options import EvaluateOptions
from distilfast.evaluate.sentences import sentence_report
from distilfast.models.sentence import load_sentence_encoder
from distilfast.models.sentence_folder import SentenceSettings
from distilfast.train import run as train
from distilfast.train.sentences import read_blocks
from distilfast.train.trainer import EXTRA_WEIGHTS
from safetensors.torch import load_file
from tiny_reranker import reranker_folder
from tiny_sentence import WORDS, encoder_folder, sentences
from transformers import AutoModel, AutoTokenizer

QUIET: dict[str, Any] = {"report_to": "none", "disable_tqdm": True, "batch_tokens": 256, "use_cpu": True}
TEXTS = [*sentences(120), "", "  ", " ".join(["river"] * 60), "the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("road")
    settings = SentenceSettings(max_length=20, prompts={"query": "to ", "document": ""}, similarity="cosine")
    encoder_folder(made / "teacher", dense=12, settings=settings)
    (made / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    (made / "held_out.txt").write_text("\n".join(sentences(40, seed=9)) + "\n", encoding="utf-8")
    return made


def distil(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    teacher = options.pop("teacher", folder / "teacher")
    text = options.pop("text", folder / "texts.txt")
    return df.distil(teacher, text, folder / name, **{**QUIET, **options})


def test_a_student_is_a_folder_of_the_same_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = distil(folder, "small", validation=folder / "held_out.txt", num_train_epochs=2)
    said = capsys.readouterr().out

    assert "texts: 122, cut to 20 tokens: 1 (0.8%)" in said
    assert "warning: 122 texts are few" in said
    assert summary["head"] == "embedding"
    assert (summary["alpha_embedding"], summary["alpha_cos"], summary["alpha_hidden"]) == (1, 1, 1)
    assert summary["learning_rate"] == 2e-4
    assert summary["read_back_difference"] <= 1e-5
    assert {"eval_teacher_spearman", "eval_teacher_cosine", "eval_neighbours@10"} <= set(summary["evaluations"][-1])
    teacher, small = (load_sentence_encoder(folder / each) for each in ("teacher", "small"))
    assert small.settings == teacher.settings
    assert int(small.model.config.num_hidden_layers) == 2
    vectors = small.encode(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    library = pytest.importorskip("sentence_transformers").SentenceTransformer(str(folder / "small"), device="cpu")
    assert library.max_seq_length == 20
    assert library.prompts == {"query": "to ", "document": ""}
    np.testing.assert_allclose(library.encode(TEXTS), vectors, atol=1e-5)
    np.testing.assert_allclose(library.encode(TEXTS, prompt_name="query"), small.encode(TEXTS, "query"), atol=1e-5)

    model, tokenizer = (kind.from_pretrained(folder / "small") for kind in (AutoModel, AutoTokenizer))
    inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        dense = load_file(folder / "small" / "2_Dense" / "model.safetensors")
        pooled = torch.tanh((states * mask).sum(1) / mask.sum(1) @ dense["linear.weight"].T + dense["linear.bias"])
    np.testing.assert_allclose(torch.nn.functional.normalize(pooled, dim=-1).numpy(), vectors, atol=1e-5)


def test_it_learns(folder: Path) -> None:
    summary = distil(folder, "learned", validation=folder / "held_out.txt", num_train_epochs=12, learning_rate=2e-3)
    scores = [entry["eval_teacher_cosine"] for entry in summary["evaluations"]]
    assert scores[-1] > scores[0] + 0.01


def test_the_run_resumes_bit_for_bit(folder: Path) -> None:
    options: dict[str, Any] = {"save_steps": 3, "save_total_limit": 10, "alpha_similarity": 0.5, "dimensions": [6]}
    distil(folder, "whole", max_steps=6, **options)
    distil(folder, "halved", max_steps=6, **options)
    for left in (folder / "halved").glob("checkpoint-6"):
        for file in left.rglob("*"):
            if file.is_file():
                file.unlink()
    distil(folder, "halved", max_steps=6, resume_from_checkpoint="last", **options)
    for file in ("model.safetensors", "2_Dense/model.safetensors", EXTRA_WEIGHTS):
        expected, found = (load_file(folder / name / file) for name in ("whole", "halved"))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert load_sentence_encoder(folder / "whole" / "checkpoint-3").modules.width == 12


def test_layouts_give_the_same_loss(folder: Path) -> None:
    options: dict[str, Any] = {"max_steps": 1, "logging_steps": 1, "alpha_cos": 0.0, "alpha_hidden": 0.0}
    options |= {"batch_tokens": 4096, "precision": "fp32"}
    padded, packed = (distil(folder, layout, layout=layout, **options) for layout in ("padded", "packed"))
    assert padded["log"][0]["loss"] == pytest.approx(packed["log"][0]["loss"], rel=1e-4)


def test_kept_and_given_vectors(folder: Path) -> None:
    options: dict[str, Any] = {"max_steps": 4, "logging_steps": 1, "precision": "fp32"}
    plain = distil(folder, "run", alpha_cos=0.0, alpha_hidden=0.0, **options)
    cached = distil(folder, "kept", cache_teacher=str(folder / "cache"), **options)
    (file,) = (folder / "cache").glob("*/outputs.npy")
    before = file.stat().st_mtime_ns
    again = distil(folder, "again", cache_teacher=str(folder / "cache"), **options)
    assert file.stat().st_mtime_ns == before
    assert [entry["loss"] for entry in cached["log"]] == [entry["loss"] for entry in again["log"]]
    assert cached["log"][-1]["loss"] == pytest.approx(plain["log"][-1]["loss"], rel=1e-2)
    assert cached["alpha_cos"] == 0
    assert "only vectors are there" in " ".join(cached["notes"])

    texts = [text.strip() for text in TEXTS]
    vectors = load_sentence_encoder(folder / "teacher").encode(texts)
    table = pa.table({"text": texts, "vector": [list(map(float, vector)) for vector in vectors]})
    pyarrow.parquet.write_table(table, folder / "texts.parquet")
    given = distil(folder, "given", text=folder / "texts.parquet", teacher_vectors="vector", **options)
    assert given["log"][-1]["loss"] == pytest.approx(plain["log"][-1]["loss"], rel=1e-3)


def test_a_student_of_another_width_and_tokenizer(folder: Path) -> None:
    words = [*reversed(WORDS), "zebra"]
    other = encoder_folder(folder / "other", layers=2, width=16, words=words, seed=3)
    summary = distil(folder, "foreign", student=other, max_steps=4)
    assert "alpha_cos and alpha_hidden set to 0: the models have different tokenizers" in " ".join(summary["notes"])
    found = load_sentence_encoder(folder / "foreign")
    assert [type(step).__name__ for step in found.modules.steps] == ["Dense", "Normalize"]
    assert found.modules.width == 12
    assert found.tokenizer.get_vocab()["zebra"] == len(WORDS) + 5
    distil(folder, "narrow", student=other, max_steps=4, keep_dimension=False)
    assert load_sentence_encoder(folder / "narrow").modules.width == 16


def test_several_teachers(folder: Path) -> None:
    second = encoder_folder(folder / "second", layers=2, seed=5)
    summary = distil(folder, "both", teacher=[folder / "teacher", second], teacher_weights=[3.0, 1.0], max_steps=3)
    assert summary["read_back_difference"] <= 1e-5
    assert len(summary["teacher_parameters"]) == 2


def test_refusals(folder: Path) -> None:
    bare = encoder_folder(folder / "bare", bare=True)
    for options, message in (
        ({"teacher": bare, "head": "embedding"}, "without modules.json"),
        ({"pooling": "cls"}, "--pooling cls: .* pools by mean"),
        ({"max_length": 21}, "--max_length 21: .* reads at most 20"),
        ({"alpha_ce": 1.0}, "--alpha_ce is not for the head embedding"),
        ({"mlm_mask_prop": 0.3}, "--mlm_mask_prop is not for the head embedding"),
        ({"dimensions": [13]}, "--dimensions 13: the student's vectors have 12 numbers"),
        (
            {"cache_teacher": str(folder / "none"), "alpha_hidden": 1.0},
            "--alpha_hidden 1 compares the states of tokens, but only",
        ),
        ({"vocabulary": "10"}, "for sentence encoders give --teacher what distilfast trim"),
        ({"teacher_vectors": "vector"}, "no parquet file with such a column"),
        ({"train_file": "rows.csv"}, "not both|not for the head"),
    ):
        with pytest.raises(InputError, match=message):
            distil(folder, "refused", **options)  # type: ignore[arg-type]
        assert not (folder / "refused").exists()
    distil(folder, "refused", cache_teacher=str(folder / "none"), dry_run=True)
    assert not (folder / "none").exists()
    with pytest.raises(InputError, match="--pooling is not for the head hidden_states"):
        distil(folder, "refused", head="hidden_states", pooling="mean")


def test_a_bare_encoder_with_pooling_named(folder: Path) -> None:
    bare = encoder_folder(folder / "plain", bare=True)
    distil(folder, "pooled", teacher=bare, pooling="cls", normalize=False, max_steps=2)
    modules = json.loads((folder / "pooled" / "modules.json").read_text())
    assert [each["type"].rsplit(".", 1)[1] for each in modules] == ["Transformer", "Pooling"]
    assert load_sentence_encoder(folder / "pooled").modules.pooling == ("cls",)


def pairs_file(folder: Path, name: str = "pairs.tsv", score: str | None = None) -> Path:
    """Pairs whose score is the teacher's cosine, or `score`."""
    first, second = sentences(30, seed=3), sentences(30, seed=4)
    teacher = load_sentence_encoder(folder / "teacher")
    alike = (teacher.encode(first) * teacher.encode(second)).sum(1)
    lines = [f"{a}\t{b}\t{score or value}\n" for a, b, value in zip(first, second, alike, strict=True)]
    (folder / name).write_text("sentence1\tsentence2\tscore\n" + "".join(lines), encoding="utf-8")
    return folder / name


def test_scored_pairs_choose_the_best_model(folder: Path) -> None:
    options: dict[str, Any] = {"sts_file": str(pairs_file(folder)), "num_train_epochs": 6, "learning_rate": 2e-3}
    options |= {"load_best_model_at_end": True, "save_total_limit": 1, "precision": "fp32"}
    alone = distil(folder, "sts", **options)
    both = distil(folder, "sts-text", validation=folder / "held_out.txt", **options)
    for name, summary, prefix in (("sts", alone, "eval_"), ("sts-text", both, "eval_sts_")):
        entries = [entry for entry in summary["evaluations"] if f"{prefix}spearman" in entry]
        found = [entry[f"{prefix}spearman"] for entry in entries]
        assert summary["best_metric"] == pytest.approx(max(found))
        assert [entry[f"{prefix}teacher_spearman"] for entry in entries] == pytest.approx(found)
        report = sentence_report(
            {"teacher": str(folder / "teacher"), "small": str(folder / name)},
            "teacher",
            EvaluateOptions("t", "out", sts_file=[options["sts_file"]], controls=False),
            torch.device("cpu"),
        )
        assert report["sts"]["pairs"]["models"]["small"]["spearman"] == pytest.approx(max(found), abs=1e-4)
    assert "eval_text_neighbours@10" in both["evaluations"][0]
    kept = distil(folder, "sts-kept", cache_teacher=str(folder / "cache"), **options)
    assert kept["evaluations"][0]["eval_teacher_spearman"] == pytest.approx(
        kept["evaluations"][0]["eval_spearman"], abs=1e-3
    )


def collection(folder: Path) -> Path:
    """Documents, and queries that have one of them, said in other words."""
    documents = sentences(40, seed=11)
    made = folder / "collection"
    (made / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", documents), ("queries", [text[: len(text) // 2] for text in documents[:20]])):
        lines = [json.dumps({"_id": str(number), "title": "", "text": text}) for number, text in enumerate(texts)]
        (made / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    judged = "".join(f"{number}\t{number}\t1\n" for number in range(19)) + "nobody\t1\t1\n"
    (made / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged, encoding="utf-8")
    return made


def test_a_search_chooses_the_best_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = collection(folder)
    options: dict[str, Any] = {"retrieval_dir": str(made), "num_train_epochs": 5, "learning_rate": 5e-3}
    options |= {"load_best_model_at_end": True, "save_total_limit": 1, "precision": "fp32"}
    alone = distil(folder, "search", **options)
    assert "held out, retrieval: 1 judgements of queries or documents that are not there" in capsys.readouterr().out
    scores = [entry["eval_ndcg@10"] for entry in alone["evaluations"]]
    assert len(set(scores)) > 1
    assert alone["best_metric"] == max(scores)
    report = sentence_report(
        {"teacher": str(folder / "teacher"), "small": str(folder / "search")},
        "teacher",
        EvaluateOptions("t", "out", retrieval_dir=[str(made)], controls=False),
        torch.device("cpu"),
    )["retrieval"]["collection"]["models"]
    best = alone["evaluations"][scores.index(max(scores))]
    for name in ("ndcg@10", "recall@100", "mrr@10"):
        assert best[f"eval_{name}"] == pytest.approx(report["small"][name], abs=1e-9)
    assert best["eval_kept_ndcg@10"] == pytest.approx(report["small"]["kept"]["share"], abs=1e-9)
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(folder / "search"), device="cpu")
    texts = {
        name: [json.loads(line)["text"] for line in (made / f"{name}.jsonl").read_text().splitlines()]
        for name in ("queries", "corpus")
    }
    found = (model.encode_query(texts["queries"][:19]) @ model.encode_document(texts["corpus"]).T).argsort(1)[:, ::-1]
    places = [row.tolist().index(number) + 1 for number, row in enumerate(found)]
    assert best["eval_mrr@10"] == pytest.approx(np.mean([1 / place if place <= 10 else 0 for place in places]))

    both = distil(folder, "search-sts", sts_file=str(pairs_file(folder)), **{**options, "num_train_epochs": 1})
    assert {"eval_retrieval_ndcg@10", "eval_sts_spearman"} <= {name for each in both["evaluations"] for name in each}
    kept = distil(folder, "search-kept", cache_teacher=str(folder / "cache"), **{**options, "num_train_epochs": 1})
    assert kept["evaluations"][0]["eval_kept_ndcg@10"] > 0
    for metric, words in (("ndcg@1", "an evaluation gives ndcg@10, recall@100, mrr@10"), ("spearman", "ndcg@10")):
        with pytest.raises(InputError, match=words):
            distil(folder, "refused", metric_for_best_model=metric, **options)
    with pytest.raises(InputError, match=r"--retrieval_dir .*: there is no such folder"):
        distil(folder, "refused", retrieval_dir=str(folder / "nowhere"))


def test_teachers_side_by_side(folder: Path) -> None:
    second = encoder_folder(folder / "beside", layers=2, seed=5, width=16)
    options: dict[str, Any] = {"teacher": [folder / "teacher", second], "concatenate_teachers": True}
    options |= {"teacher_weights": [3.0, 1.0], "alpha_cos": 0.0, "alpha_hidden": 0.0, "precision": "fp32"}
    options |= {"num_train_epochs": 12, "learning_rate": 3e-3, "validation": folder / "held_out.txt"}
    summary = distil(folder, "side-by-side", **options)
    small = load_sentence_encoder(folder / "side-by-side")
    assert small.modules.width == 12 + 16
    scores = [each["eval_teacher_cosine"] for each in summary["evaluations"]]
    assert scores[-1] > scores[0] + 0.02
    ours = small.encode(TEXTS)
    theirs = [load_sentence_encoder(each).encode(TEXTS) for each in (folder / "teacher", second)]
    cosines = (ours * np.concatenate([0.75**0.5 * theirs[0], 0.25**0.5 * theirs[1]], axis=1)).sum(1)
    assert cosines.mean() > scores[0]
    distil(folder, "own-width", keep_dimension=False, **{**options, "num_train_epochs": 1})
    assert load_sentence_encoder(folder / "own-width").modules.width == 12
    for more, message in (
        ({"teacher": folder / "teacher", "teacher_weights": None}, "give two or more"),
        ({"dimensions": [6]}, "the first teacher's alone; add --keep_dimension false"),
        ({"cache_teacher": str(folder / "none")}, "keeps the vectors of one teacher"),
    ):
        with pytest.raises(InputError, match=message):
            distil(folder, "refused", **{**options, **more})
        assert not (folder / "refused").exists()


def test_a_run_on_kept_vectors_resumes_bit_for_bit(folder: Path) -> None:
    options: dict[str, Any] = {"save_steps": 3, "save_total_limit": 10, "max_steps": 6, "alpha_similarity": 0.5}
    options["cache_teacher"] = str(folder / "cache-resumed")
    distil(folder, "kept-whole", **options)
    distil(folder, "kept-halved", **options)
    for file in (folder / "kept-halved" / "checkpoint-6").rglob("*"):
        if file.is_file():
            file.unlink()
    distil(folder, "kept-halved", resume_from_checkpoint="last", **options)
    for file in ("model.safetensors", "2_Dense/model.safetensors"):
        expected, found = (load_file(folder / name / file) for name in ("kept-whole", "kept-halved"))
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_bad_input_is_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, texts = str(folder / "teacher"), str(folder / "texts.txt")
    unknown = Path(encoder_folder(tmp_path / "unknown"))
    modules = json.loads((unknown / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "", "type": "own.Whitening"})
    (unknown / "modules.json").write_text(json.dumps(modules))
    tokens = Path(encoder_folder(tmp_path / "tokens"))
    (tokens / "modules.json").write_text(json.dumps(modules[:1] + modules[2:3]))
    bare, narrow = (encoder_folder(tmp_path / name, width=16, bare=name == "bare") for name in ("bare", "narrow"))
    reranker = reranker_folder(tmp_path / "reranker")
    (tmp_path / "pairs.csv").write_text("query,passage,score\nthe boat,a boat,1.5\nthe town,a town,0.5\n")
    (tmp_path / "one.csv").write_text("text,score\nthe boat,1.5\nthe town,0.5\n")
    words = pairs_file(folder, "words.tsv", score="much")
    quiet = ["--report_to", "none", "--use_cpu"]
    for line, words_of_it in (
        (["--teacher", str(unknown), "--text", texts], "own.Whitening is not known"),
        (["--teacher", str(tokens), "--text", texts], "gives no vector of a text that is known here"),
        (["--teacher", bare, "--head", "embedding", "--text", texts], "--pooling mean, cls or max"),
        (["--teacher", teacher, "--student", narrow, "--text", texts, "--alpha_cos", "1"], "--alpha_cos 1"),
        (
            ["--teacher", teacher, "--train_file", str(tmp_path / "pairs.csv")],
            "--train_file is not for the head embedding",
        ),
        (["--teacher", reranker, "--text", texts], "--text is not for the head classification"),
        (["--teacher", reranker, "--train_file", str(tmp_path / "one.csv")], "a cross-encoder, which scores pairs"),
        (["--teacher", teacher, "--text", texts, "--sts_file", str(words)], "'much' is no number"),
        (["--teacher", teacher, "--text", texts, "--sts_file", "nowhere.tsv"], "nowhere.tsv"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            command.run(lambda argv=line: train.main([*argv, "--output_dir", str(tmp_path / "out"), *quiet]))
        assert ended.value.code == 2
        (said,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
        assert words_of_it in said
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ([["a"]] * 2, "holds list<element: string>, not a list of numbers"),
        ([[0.0, 0.0], [1.0, 0.0]], "is all zeros"),
        ([[float("inf"), 0.0], [1.0, 0.0]], "numbers that are not finite"),
        ([[1.0, None], [1.0, 0.0]], "numbers that are not finite"),
        ([1.0, 2.0], "holds double, not a list"),
    ],
)
def test_vectors_that_are_none_are_refused(tmp_path: Path, column: list[Any], words: str) -> None:
    table = pa.table({"text": ["the boat", "a boat"], "vector": column})
    pyarrow.parquet.write_table(table, tmp_path / "vectors.parquet")
    with pytest.raises(InputError, match=re.escape(words)):
        list(read_blocks([str(tmp_path / "vectors.parquet")], "vector"))
    table = table.set_column(0, "text", pa.array([1, 2])).set_column(1, "vector", pa.array([[1.0], [2.0]]))
    pyarrow.parquet.write_table(table, tmp_path / "numbers.parquet")
    with pytest.raises(InputError, match="column 'text' holds int64, not strings"):
        list(read_blocks([str(tmp_path / "numbers.parquet")], "vector"))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="not a parquet file, or a damaged one"):
        list(read_blocks([str(tmp_path / "broken.parquet")], "vector"))
