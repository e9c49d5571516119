"""The rows of heads.sh: python heads_data.py TASK DATA OUTPUT writes OUTPUT/TASK.train.* and TASK.dev.*.

SST-2: 20,000 rows and 2,000 others; IMDb: 8,000 and 1,000 others; MRPC: its own dev; tagging: every tenth sentence is
held out.
"""

import csv
import random
import sys
from pathlib import Path


def table(path: Path, columns: tuple[str, ...], skipped: int = 1) -> list[list[str]]:
    """The rows of a tab-separated file without quotation marks: `columns` by the numbers of the header."""
    lines = [line.rstrip("\r").split("\t") for line in path.read_text(encoding="utf-8-sig").split("\n") if line]
    places = [lines[0].index(column) for column in columns]
    return [[line[place] for place in places] for line in lines[skipped:]]


def write_rows(path: Path, header: list[str], rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def sentences(path: Path, word: int, tag: int) -> list[str]:
    """Each sentence as lines 'word<tab>tag'."""
    found: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        if not line.strip():
            found.append([])
        elif not line.startswith("# "):
            cells = line.rstrip("\r").split("\t")
            found[-1].append(f"{cells[word]}\t{cells[tag]}")
    return ["\n".join(lines) for lines in found if lines]


def main(task: str, data: Path, output: Path) -> None:
    if task in ("gum", "ner"):
        file, word, tag = {"gum": ("gum_pos.train.tsv", 0, 1), "ner": ("ewt_ner.train.iob2", 1, 2)}[task]
        rows = sentences(data / "tagging" / file, word, tag)
        parts = {"dev": rows[::10], "train": [row for number, row in enumerate(rows) if number % 10]}
        for part, kept in parts.items():
            (output / f"{task}.{part}.conll").write_text("\n\n".join(kept) + "\n", encoding="utf-8")
        return
    if task == "mrpc":
        names = ("#1 String", "#2 String", "Quality")
        for part in ("train", "dev"):
            rows = table(data / "glue" / "MRPC" / f"{part}.tsv", names)
            write_rows(output / f"mrpc.{part}.csv", ["sentence1", "sentence2", "label"], rows)
        return
    file, names, train, dev = {
        "sst2": ("glue/SST-2/train.tsv", ("sentence", "label"), 20_000, 2_000),
        "imdb": ("imdb/train.tsv", ("text", "label"), 8_000, 1_000),
    }[task]
    rows = table(data / file, names)
    random.Random(1).shuffle(rows)
    write_rows(output / f"{task}.train.csv", ["text", "label"], rows[dev : dev + train])
    write_rows(output / f"{task}.dev.csv", ["text", "label"], rows[:dev])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
