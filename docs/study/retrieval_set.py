"""A small retrieval set out of a text of articles, in BEIR's layout, with half of its queries held out.

    python retrieval_set.py articles.txt retrieval

TEXT is UTF-8: an article's title on a line, its paragraphs on the next, a blank line before the next article. An
article asks once, by its title or by its first sentence (every other one, by a hash of the title). The documents are
paragraphs of at least 200 characters, up to three of each article, and never the first, which the sentence is from;
those of the article itself are the relevant ones, as far as anyone has judged them. An article with fewer than two such
paragraphs has none. One half of the articles, by another hash, is for training, the other for `qrels/test.tsv`;
documents of both are searched. Nothing depends on the machine or on the order of the articles but the ids.

Written: train.txt, in TEXT's form, the articles that test.tsv does not ask for; corpus.jsonl, queries.jsonl,
qrels/train.tsv, qrels/test.tsv; and for rerankers pairs-train.jsonl and pairs-test.jsonl: {"query", "passage",
"relevance"}, eight rows a query: its relevant documents and those nearest to it by their words (TF-IDF) that are not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distilfast.metrics.retrieval import candidates

SHORTEST, LONGEST_QUERY = 200, 300
PARAGRAPHS, ROWS = 3, 8


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def read_articles(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(title, paragraphs) of each article whose title has not been there before."""
    seen = set()
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        title, *paragraphs = [line.strip() for line in block.split("\n") if line.strip()] or [""]
        if title and title not in seen:
            seen.add(title)
            yield title, paragraphs


def chosen(title: str, paragraphs: list[str]) -> list[str]:
    """Up to `PARAGRAPHS` of an article, in their order."""
    long = [text for text in dict.fromkeys(paragraphs[1:]) if len(text) >= SHORTEST]
    best = sorted(long, key=lambda text: hash_of(f"paragraph {title} {text}"))[:PARAGRAPHS]
    return [text for text in long if text in best]


def question(title: str, paragraphs: list[str]) -> str:
    if hash_of(f"question {title}") % 2:
        return title
    return re.split(r"(?<=[.!?]) ", paragraphs[0])[0][:LONGEST_QUERY]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("--test_queries", type=int, default=500, help="at most, chosen by a hash of the title")
    arguments = parser.parse_args()
    corpus: list[dict[str, Any]] = []
    queries: list[dict[str, Any]] = []
    relevant: dict[str, list[str]] = {}
    halves: dict[str, list[str]] = {"train": [], "test": []}
    articles: dict[str, str] = {}
    for title, paragraphs in read_articles(arguments.text):
        documents = chosen(title, paragraphs)
        query = f"q{len(queries)}" if len(documents) >= 2 else f"not asked: {title}"
        articles[query] = "\n".join([title, *paragraphs, ""])
        if len(documents) < 2:
            continue
        queries.append({"_id": query, "text": question(title, paragraphs)})
        relevant[query] = [f"d{len(corpus) + number}" for number in range(len(documents))]
        corpus += [{"_id": f"d{len(corpus) + i}", "title": "", "text": text} for i, text in enumerate(documents)]
        halves["test" if hash_of(f"half {title}") % 2 else "train"].append(query)
    texts = {row["_id"]: row["text"] for row in (*corpus, *queries)}
    halves["test"] = sorted(halves["test"], key=lambda query: hash_of(texts[query]))[: arguments.test_queries]
    folder = arguments.output_dir
    (folder / "qrels").mkdir(parents=True)
    for query in halves["test"]:
        del articles[query]
    (folder / "train.txt").write_text("\n".join(articles.values()), encoding="utf-8")
    write_lines(folder / "corpus.jsonl", corpus)
    write_lines(folder / "queries.jsonl", queries)
    names = [row["_id"] for row in corpus]
    for half, asked in halves.items():
        lines = [f"{query}\t{document}\t1\n" for query in asked for document in relevant[query]]
        (folder / "qrels" / f"{half}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines), encoding="utf-8")
        near = candidates([texts[query] for query in asked], [texts[name] for name in names], 2 * ROWS)
        rows = []
        for query, found in zip(asked, near, strict=True):
            others = [names[number] for number in found if names[number] not in relevant[query]]
            for document in [*relevant[query], *others][:ROWS]:
                judged = {"relevance": float(document in relevant[query])}
                rows.append({"query": texts[query], "passage": texts[document], **judged})
        write_lines(folder / f"pairs-{half}.jsonl", rows)
    counts = ", ".join(f"{len(asked):,} queries to {half}" for half, asked in halves.items())
    print(f"{folder}: {len(corpus):,} documents, {counts}")


if __name__ == "__main__":
    main()
