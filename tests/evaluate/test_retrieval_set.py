"""The script that makes a retrieval set of articles: its halves are apart, and what it writes is a collection."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distilfast.metrics.retrieval import candidates
from distilfast.prepare.sentence_data import read_collection

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "study" / "retrieval_set.py"


def article(number: int) -> str:
    """A title, a first paragraph, three long ones of words of its own, and one that is too short."""
    long = [" ".join(f"w{number}x{(place + 7 * start) % 30}" for place in range(40)) for start in range(3)]
    return "\n".join([f"Title {number}", f"Title {number} is a thing. And more of it.", *long, "Short."])


def made(folder: Path, articles: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    text = folder.with_suffix(".txt")
    text.write_text("\n\n".join(articles) + "\n")
    monkeypatch.setattr(sys, "argv", ["retrieval_set.py", str(text), str(folder), "--test_queries", "12"])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    read = {}
    for name in ("corpus", "queries", "pairs-train", "pairs-test"):
        read[name] = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    return read


def test_what_is_made_of_articles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    articles = [*(article(number) for number in range(40)), "Stub\nOne line.", article(3)]
    found = made(tmp_path / "set", articles, monkeypatch)
    assert (len(found["corpus"]), len(found["queries"])) == (120, 40)
    asked = {row["text"] for row in found["queries"]}
    assert 5 < len(asked & {f"Title {number}" for number in range(40)}) < 35
    assert asked <= {text for number in range(40) for text in (f"Title {number}", f"Title {number} is a thing.")}
    halves = [{row["query"] for row in found[f"pairs-{half}"]} for half in ("train", "test")]
    assert not halves[0] & halves[1]
    assert len(halves[1]) == 12
    collection = read_collection(str(tmp_path / "set"))
    assert set(collection.queries) == halves[1]
    assert all(len(relevant) == 3 for relevant in collection.relevant)
    for row in found["pairs-test"]:
        own = f"w{row['query'].split()[1]}x0"
        assert row["relevance"] == float(own in row["passage"].split())
    assert all(sum(row["query"] == query for row in found["pairs-test"]) == 8 for query in halves[1])

    again = made(tmp_path / "again", articles[::-1], monkeypatch)
    assert {row["query"] for row in again["pairs-test"]} == halves[1]


def test_candidates_are_the_nearest_by_words() -> None:
    documents = ["a red boat", "the old town", "red red boat town", "nothing of that kind"]
    found = candidates(["red boat", "town"], documents, 2)
    assert found[0].tolist() == [0, 2]
    assert found[1].tolist() == [1, 2]
    assert candidates(["x"], documents, 9).tolist() == [[0, 1, 2, 3]]
    assert found.dtype == np.int64
