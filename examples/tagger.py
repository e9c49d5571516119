"""A tagger of half the depth: which words of a sentence are code?

    python examples/tagger.py                                                        # offline, on text of this machine
    python examples/tagger.py --teacher my-tagger --rows tags.conll                  # yours: a word and its tag a line

Real: the sentences and the tags. Authors of documentation put code between backticks; the backticks are taken away, and
the tagger is to find what stood between them. Small: the teacher is MiniLM, fine-tuned here.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import distilfast as df
import documentation
from transformers import pipeline


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="a file of words and tags; else sentences of documentation")
    parser.add_argument("--teacher", help="a fine-tuned tagger; else one is made of --encoder")
    parser.add_argument("--encoder", default=documentation.encoder(), help="what the teacher is made of")
    parser.add_argument("--per_package", type=int, default=200, help="docstrings of each package")
    parser.add_argument("--epochs", type=float, default=3, help="of both runs")
    parser.add_argument("--output_dir", type=Path, default=Path("out/tagger"))
    given = parser.parse_args(argv)
    options = {"head": "tokens", "num_train_epochs": given.epochs, "max_length": 128, "report_to": "none"}

    # 1. Rows: words and as many tags.
    rows = given.rows or [
        tagged(sentence)
        for package in documentation.PACKAGES
        for each in documentation.docstrings(package, given.per_package)
        for paragraph in each.paragraphs
        for sentence in documentation.sentences(paragraph)
        if len(re.findall("`+", sentence)) in (2, 4, 6)
    ]

    # 2. A teacher: the encoder gets a new head and learns the tags.
    teacher = given.teacher
    if teacher is None:
        teacher = str(given.output_dir / "teacher")
        df.distil(None, rows, teacher, student=given.encoder, **options)

    # 3. The student: every other layer of the teacher.
    small = str(given.output_dir / "small")
    summary = df.distil(teacher, rows, small, **options)
    kept = summary["report"]["quality"]["models"]["student"]["kept"]
    print("\nkept of the teacher:", ", ".join(f"{name} {share['text']}" for name, share in kept.items()))

    # 4. Plain transformers from here on.
    tag = pipeline("token-classification", small, aggregation_strategy="simple")
    for text in ("If axis is None, call reshape on the array first.", "The default of drop_last is False."):
        print(text, "->", [found["word"] for found in tag(text)])


def tagged(sentence: str) -> dict[str, list[str]]:
    """The words of a sentence; those between backticks are B-code, and I-code where more follow."""
    tokens: list[str] = []
    tags: list[str] = []
    for number, part in enumerate(re.split(r"`+", sentence)):
        words = re.findall(r"[\w.]*\w|[^\w\s]", part)
        tokens += words
        tags += ["B-code", *["I-code"] * len(words)][: len(words)] if number % 2 else ["O"] * len(words)
    return {"tokens": tokens, "tags": tags}


if __name__ == "__main__":
    main()
