"""Sentence encoders scored as they are: pairs, neighbours, collections, controls, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilfast import InputError
from distilfast.evaluate.options import EvaluateOptions
from distilfast.evaluate.sentences import sentence_report, sentences_markdown
from distilfast.metrics.retrieval import retrieval_scores
from distilfast.metrics.vectors import unit
from distilfast.models.sentence import load_sentence_encoder
from distilfast.models.sentence_folder import SentenceSettings
from distilfast.prepare.sentence_data import read_collection, read_pairs
from scipy import stats
from tiny_sentence import encoder_folder, sentences

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    prompts = SentenceSettings(max_length=20, prompts={"query": "to ", "document": "from "})
    teacher = encoder_folder(folder / "teacher", settings=prompts)
    return {"teacher": teacher, "student": encoder_folder(folder / "student", layers=2, dense=12, seed=1)}


def pairs_file(folder: Path, scores: list[Any] | None = None) -> str:
    first, second = sentences(20), sentences(20, seed=1)
    scores = list(np.linspace(0, 5, 20)) if scores is None else scores
    lines = [f"{a}\t{b}\t{score}" for a, b, score in zip(first, second, scores, strict=True)]
    file = folder / "pairs.tsv"
    file.write_text("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n", encoding="utf-8")
    return str(file)


def collection(folder: Path, qrels: str | None = None) -> str:
    documents, queries = sentences(30), sentences(6, seed=1)
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged = "".join(f"q{i}\td{3 * i}\t1\n" for i in range(5)) if qrels is None else qrels
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return str(folder)


def test_everything_together(paths: dict[str, str], tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(30)) + "\n")
    file, folder = pairs_file(tmp_path), collection(tmp_path / "search")
    options = EvaluateOptions("t", "out", sts_file=[file], sentences=[str(texts)], retrieval_dir=[folder])
    report = sentence_report(paths, "teacher", options, CPU)
    names = ["teacher", "student", "cut, 2 layers", "random weights, 2 layers"]
    sts, neighbours, found = report["sts"]["pairs"], report["neighbours"]["texts"], report["retrieval"]["search"]
    assert [list(part["models"]) for part in (sts, neighbours, found)] == [names] * 3

    teacher = load_sentence_encoder(paths["teacher"])
    pairs = read_pairs(file)
    one, other = teacher.encode(pairs.first), teacher.encode(pairs.second)
    expected = stats.spearmanr((one * other).sum(1), np.linspace(0, 5, 20)).statistic
    assert sts["models"]["teacher"]["spearman"] == pytest.approx(expected)
    assert sts["models"]["teacher"]["teacher_spearman"] == pytest.approx(1)
    assert "kept" not in sts["models"]["teacher"]
    share = sts["models"]["student"]["spearman"] / expected
    assert sts["models"]["student"]["kept"]["share"] == (pytest.approx(share) if expected > 0 else None)

    assert neighbours["models"]["teacher"]["neighbours@10"] == 1
    assert "teacher_cosine" not in neighbours["models"]["student"]  # vectors of another width
    assert any("are few" in note for note in neighbours["notes"])

    queries = teacher.encode(sentences(6, seed=1)[:5], "query")
    products = queries @ teacher.encode(sentences(30), "document").T
    ranks = [int((row > row[3 * i]).sum()) for i, row in enumerate(products)]
    mrr = np.mean([1 / (rank + 1) if rank < 10 else 0 for rank in ranks])
    assert found["models"]["teacher"]["mrr@10"] == pytest.approx(mrr)
    assert found["notes"] == ["1 queries of which test.tsv judges no document relevant left out"]
    written = "\n".join(sentences_markdown(report))
    for heading in ("## pairs: 20 pairs", "## texts: neighbours of", "## search: 5 queries in 30 documents"):
        assert heading in written


@pytest.mark.parametrize("similarity", ["cosine", "dot", None])
def test_documents_are_found_by_the_similarity_that_the_model_names(similarity: str | None, tmp_path: Path) -> None:
    """Its vectors are of many lengths, so that angles and products order documents otherwise."""
    settings = SentenceSettings(max_length=20, prompts={"query": "to the "}, similarity=similarity)
    many: dict[str, Any] = {"pooling": ("mean_sqrt_len_tokens",), "normalize": False}
    model = encoder_folder(tmp_path / "model", layers=1, settings=settings, **many)
    encoder = load_sentence_encoder(model)
    with torch.no_grad():
        states: Any = encoder.model.encoder.layer[-1].output.LayerNorm
        states.bias.add_(torch.linspace(-2, 2, 32))
    encoder.save_pretrained(tmp_path / "model")
    read = read_collection(collection(tmp_path / "search"))
    queries, documents = encoder.encode(read.queries, "query"), encoder.encode(read.documents)
    assert not np.allclose(queries, encoder.encode(read.queries))
    by = {"dot": queries @ documents.T, "cosine": unit(queries) @ unit(documents).T}
    orders = {name: np.argsort(-each, kind="stable") for name, each in by.items()}
    assert (orders["dot"] != orders["cosine"]).any()
    options = EvaluateOptions("t", "out", retrieval_dir=[str(tmp_path / "search")], controls=False)
    report = sentence_report({"model": model}, "model", options, CPU)["retrieval"]["search"]["models"]["model"]
    expected = retrieval_scores(orders["dot" if similarity == "dot" else "cosine"], read.relevant)
    assert report["ndcg@10"] == pytest.approx(expected["ndcg@10"].mean(), abs=1e-6)
    other = retrieval_scores(orders["cosine" if similarity == "dot" else "dot"], read.relevant)
    assert report["ndcg@10"] != pytest.approx(other["ndcg@10"].mean(), abs=1e-6)


def test_a_collapsed_student_is_told(paths: dict[str, str], tmp_path: Path) -> None:
    student = load_sentence_encoder(paths["teacher"])
    with torch.no_grad():
        norm: Any = student.model.encoder.layer[-1].output.LayerNorm
        norm.weight.mul_(0.01)
        norm.bias.add_(1)
    student.save_pretrained(tmp_path / "collapsed")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences(30)) + "\n")
    options = EvaluateOptions("t", "out", sentences=[str(texts)], controls=False)
    models = {"teacher": paths["teacher"], "flat": str(tmp_path / "collapsed")}
    report = sentence_report(models, "teacher", options, CPU)["neighbours"]["texts"]
    spread = [report["models"][name]["uniformity"] for name in models]
    assert spread[1] > spread[0]
    assert ("flat draws all sentences together" in " ".join(report["notes"])) == (spread[1] > spread[0] + 1)


def test_what_is_left_out_of_pairs_and_collections_is_counted(tmp_path: Path) -> None:
    file = Path(pairs_file(tmp_path))
    lines = file.read_text().split("\n")
    lines[3] += "\tmore"
    lines[5] = lines[5].rpartition("\t")[0] + "\t"
    file.write_text("\n".join(lines))
    pairs = read_pairs(str(file))
    assert len(pairs.scores) == 18
    said = " ".join(pairs.notes)
    assert "1 rows with other numbers of cells left out" in said
    assert "1 pairs without a score left out" in said
    assert "'sentence1' and 'sentence2' (found)" in said
    assert str(tmp_path) not in said  # which a report would tell everyone

    folder = Path(collection(tmp_path / "search"))
    expected = read_collection(str(folder))
    corpus = folder / "corpus.jsonl"
    first = json.dumps({"_id": "d0", "text": "an older one"})
    corpus.write_text(f"{first}\n" + corpus.read_text(), encoding="utf-8-sig")
    qrels = folder / "qrels" / "test.tsv"
    qrels.write_text(qrels.read_text().replace("q1\t", "q1\td3\t5\r\nq1\t"), newline="")
    found = read_collection(str(folder))
    assert (found.documents, found.relevant) == (expected.documents, expected.relevant)
    assert "1 lines of corpus.jsonl say again what stands there already: the last counts" in found.notes
    assert "1 judgements of test.tsv say again what stands there already: the last counts" in found.notes


@pytest.mark.parametrize("judged", ["q1\td1\tnan\n", "q1\td1\tinf\n", "q1\td1\n", "q1\t0\td1\t1\n"])
def test_a_judgement_that_is_none_is_refused(judged: str, tmp_path: Path) -> None:
    folder = Path(collection(tmp_path / "search"))
    (folder / "qrels" / "test.tsv").write_text(judged if judged.count("\t") != 2 else f"a\tb\tc\n{judged}")
    with pytest.raises(InputError, match=r"line \d is not a query, a document and a number between tabs"):
        read_collection(str(folder))


def test_refusals(paths: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the label 'much' is no number"):
        read_pairs(pairs_file(tmp_path, ["much"] * 20))
    with pytest.raises(InputError, match="all pairs have the score 3"):
        read_pairs(pairs_file(tmp_path, [3] * 20))
    single = tmp_path / "single.csv"
    single.write_text("text,score\nthe boat,1\nthe town,2\n")
    with pytest.raises(InputError, match=r"one column of text .*; pairs have two"):
        read_pairs(str(single))
    with pytest.raises(InputError, match=r"none of its 2 judgements names a query"):
        read_collection(collection(tmp_path / "a", "q9\td1\t1\nq1\td99\t1\n"))
    with pytest.raises(InputError, match="judges no document relevant"):
        read_collection(collection(tmp_path / "b", "q1\td1\t0\n"))
    with pytest.raises(InputError, match="line 2 is not a query"):
        read_collection(collection(tmp_path / "c", "q1 d1 1\n"))
    folder = Path(collection(tmp_path / "d"))
    (folder / "corpus.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(InputError, match='line 1 is no object with "_id" and "text"'):
        read_collection(str(folder))
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"corpus.jsonl: there is no such file"):
        read_collection(str(folder))
    with pytest.raises(InputError, match="no such folder"):
        read_collection(str(tmp_path / "nowhere"))
    bare = encoder_folder(tmp_path / "bare", bare=True)
    options = EvaluateOptions("t", "out", sts_file=[pairs_file(tmp_path)], controls=False)
    with pytest.raises(InputError, match=r"without modules.json"):
        sentence_report({**paths, "bare": bare}, "teacher", options, CPU)


def test_texts_that_are_cut_are_counted(paths: dict[str, str], tmp_path: Path) -> None:
    """They were cut without a word."""
    long, short = " ".join(sentences(6)), sentences(20)
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join([*short, long, f"{long} more"]) + "\n")
    folder = collection(tmp_path / "search")
    with (Path(folder) / "corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "long", "title": "", "text": long}) + "\n")
    pairs = tmp_path / "long.tsv"
    pairs.write_text(f"sentence1\tsentence2\tscore\n{long}\t{short[0]}\t1\n{short[1]}\t{short[2]}\t2\n")
    options = EvaluateOptions(
        "t", "out", sts_file=[str(pairs)], sentences=[str(texts)], retrieval_dir=[folder], controls=False
    )

    read = [[long, *short[:3]], [*short, long, f"{long} more"], [*sentences(30), long, *sentences(6, seed=1)[:5]]]
    tokenizer = load_sentence_encoder(paths["teacher"]).tokenizer

    def expected(models: dict[str, int]) -> list[list[str]]:
        """`models`: how many tokens each reads; the collection's prompts are of a token each."""
        found = []
        for part, here in enumerate(read):
            prompts = ["from "] * 31 + ["to "] * 5 if part == 2 else [""] * len(here)
            texts = [prompt + text for prompt, text in zip(prompts, here, strict=True)]
            lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
            cut = {name: sum(length > most for length in lengths) for name, most in models.items()}
            line = "{} of {} texts are longer than the {} tokens that are read, and cut"
            lines = [(name, line.format(cut[name], len(here), most)) for name, most in models.items() if cut[name]]
            same = len(lines) == len(models) and len({each for _, each in lines}) == 1
            found.append([lines[0][1]] if same else [f"{name}: {each}" for name, each in lines])
        return found

    def said(given: EvaluateOptions) -> list[list[str]]:
        report = sentence_report(models, "teacher", given, CPU)
        parts = (report["sts"]["long"], report["neighbours"]["texts"], report["retrieval"]["search"])
        return [[note for note in part["notes"] if "longer than" in note] for part in parts]

    prompts = SentenceSettings(max_length=38, prompts={"query": "to ", "document": "from "})
    models = {"teacher": paths["teacher"], "other": encoder_folder(tmp_path / "other", layers=2, settings=prompts)}
    found = said(options)
    assert found == expected({"teacher": 20, "other": 38})
    assert all(part[0].startswith("teacher: ") for part in found)
    # A length that is asked for acts, and where it is the same for all it is said once.
    assert said(replace(options, max_length=10)) == expected({"teacher": 10, "other": 10})
    assert [len(part) for part in said(replace(options, max_length=10))] == [1, 1, 1]
    assert said(replace(options, max_length=1000)) == found
