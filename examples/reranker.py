"""A reranker of half the depth: does this paragraph go on where that first sentence of a docstring ends?

    python examples/reranker.py                                              # offline, on text of this machine
    python examples/reranker.py --teacher my-reranker --rows pairs.csv       # yours: query, passage, score, query_id

Real: the text, and which paragraph belongs to which sentence. Small: the teacher is MiniLM, fine-tuned here on some
thousand pairs.
Needs: pip install 'distilfast[sentence]'
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import distilfast as df
import documentation
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

OTHERS = 3  # paragraphs that do not belong to a query, for each that does


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="a file of pairs with a score; else sentences and paragraphs of documentation")
    parser.add_argument("--teacher", help="a fine-tuned cross-encoder of one score; else one is made of --encoder")
    parser.add_argument("--encoder", default=documentation.encoder(), help="what the teacher is made of")
    parser.add_argument("--per_package", type=int, default=80, help="docstrings of each package")
    parser.add_argument("--epochs", type=float, default=3, help="of both runs")
    parser.add_argument("--output_dir", type=Path, default=Path("out/reranker"))
    given = parser.parse_args(argv)
    options = {"head": "classification", "group_column": "query_id", "report_to": "none"}
    options |= {"num_train_epochs": given.epochs, "max_length": 128}

    # 1. Rows: two texts and a score. Rows of one query stay on one side when a tenth is held out.
    rows = given.rows or [row for package in documentation.PACKAGES for row in pairs(package, given.per_package)]

    # 2. A teacher: the encoder gets a head of one score and learns the scores.
    teacher = given.teacher
    if teacher is None:
        teacher = str(given.output_dir / "teacher")
        model = AutoModelForSequenceClassification.from_pretrained(given.encoder, num_labels=1)
        df.distil(None, rows, teacher, student=model, tokenizer=given.encoder, **options)

    # 3. The student: every other layer of the teacher.
    small = str(given.output_dir / "small")
    summary = df.distil(teacher, rows, small, **options)
    kept = summary["report"]["quality"]["models"]["student"]["kept"]
    print("\nkept of the teacher:", ", ".join(f"{name} {share['text']}" for name, share in kept.items()))

    # 4. Plain sentence-transformers from here on.
    query = "Return the shortest path between two nodes of a graph."
    passages = ["If no target is given, all nodes that can be reached are.", "The mean is taken over the given axis."]
    for ranked in CrossEncoder(small).rank(query, passages, return_documents=True):
        print(f"{ranked['score']:.2f}  {ranked['text']}")


def pairs(package: str, most: int) -> list[dict[str, Any]]:
    """Of each docstring the first sentence with its own second paragraph, and with those of others of the package."""
    found = [each for each in documentation.docstrings(package, 4 * most) if len(each.paragraphs) > 1][:most]
    draw = random.Random(0)
    rows = []
    for each in found:
        own = each.paragraphs[1]
        others = draw.sample([other.paragraphs[1] for other in found if other is not each], min(OTHERS, len(found) - 1))
        for score, passage in ((1.0, own), *((0.0, other) for other in others)):
            query = documentation.sentences(each.paragraphs[0]) or each.paragraphs[:1]
            rows.append({"query": query[0], "passage": passage, "score": score, "query_id": f"{package}.{each.name}"})
    return rows


if __name__ == "__main__":
    main()
