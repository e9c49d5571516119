"""A classifier of half the depth: which package does a paragraph of documentation come from?

    python examples/classifier.py                                                    # offline, on text of this machine
    python examples/classifier.py --teacher my-classifier --rows rows.csv            # yours: columns text and label

Real: the text, the classes, the encoder (MiniLM). Small: the teacher is that encoder, fine-tuned here on a few thousand
paragraphs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import distilfast as df
import documentation
from transformers import pipeline


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="a file of rows; else paragraphs of documentation, the package as the class")
    parser.add_argument("--teacher", help="a fine-tuned classifier; else one is made of --encoder")
    parser.add_argument("--encoder", default=documentation.encoder(), help="what the teacher is made of")
    parser.add_argument("--per_class", type=int, default=300, help="paragraphs of each package")
    parser.add_argument("--epochs", type=float, default=3, help="of both runs")
    parser.add_argument("--output_dir", type=Path, default=Path("out/classifier"))
    given = parser.parse_args(argv)
    options = {"head": "classification", "num_train_epochs": given.epochs, "max_length": 128, "report_to": "none"}

    # 1. Rows: a text and a class each. A tenth of them is held out by a hash of the text.
    rows = given.rows or [
        {"text": each.paragraphs[0], "label": each.package}
        for package in documentation.PACKAGES
        for each in documentation.docstrings(package, given.per_class)
    ]

    # 2. A teacher: the encoder gets a new head and learns the labels.
    teacher = given.teacher
    if teacher is None:
        teacher = str(given.output_dir / "teacher")
        df.distil(None, rows, teacher, student=given.encoder, **options)

    # 3. The student: every other layer of the teacher. It learns from the labels and from all that the teacher says.
    small = str(given.output_dir / "small")
    summary = df.distil(teacher, rows, small, **options)
    kept = summary["report"]["quality"]["models"]["student"]["kept"]["accuracy"]
    print(f"\nkept {kept['text']} of the teacher's accuracy, agrees on {summary['report']['metrics']['agreement']:.1%}")

    # 4. Plain transformers from here on.
    classify = pipeline("text-classification", small)
    for text in ("Compute the eigenvalues of a sparse matrix.", "Tokenize a batch of texts and pad them."):
        print(text, "->", classify(text))


if __name__ == "__main__":
    main()
