"""CoNLL files in their layouts, and the real files of each kind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from distilfast._core import InputError
from distilfast.prepare.columns import find_columns
from distilfast.prepare.table import read_rows, read_splits
from hypothesis import given
from hypothesis import strategies as st

WORD = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=6).filter(lambda word: word[0] != "#")
SENTENCES = st.lists(
    st.lists(st.tuples(WORD, st.sampled_from(["O", "B-PER", "I-PER"])), min_size=1, max_size=4), min_size=1, max_size=4
)


@given(sentences=SENTENCES, blank=st.sampled_from(["\n", "\t\n", " \n"]))
def test_words_and_tags_come_back(
    tmp_path_factory: pytest.TempPathFactory, sentences: list[list[tuple[str, str]]], blank: str
) -> None:
    path = tmp_path_factory.mktemp("conll") / "rows.conll"
    text = blank.join("".join(f"{word}\t{tag}\n" for word, tag in sentence) for sentence in sentences)
    path.write_text(text, encoding="utf-8")
    rows = read_rows(path)
    assert rows.column("tokens") == [[word for word, _ in sentence] for sentence in sentences]
    assert rows.column("tags") == [[tag for _, tag in sentence] for sentence in sentences]


def test_layouts(tmp_path: Path) -> None:
    four = tmp_path / "conll03.conll"
    four.write_text("-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n", encoding="utf-8")
    rows = read_rows(four)
    assert rows.column("tokens") == [["EU", "rejects"]]
    assert rows.column("tags") == [["B-ORG", "O"]]
    assert rows.column("column_3") == [["I-NP", "I-VP"]]
    assert rows.counts == {"lines that are no word left out": 1}

    ud = tmp_path / "ud.conllu"
    line = "\t_\t_\t_\t_\t_\t_\n"
    ud.write_text(
        f"# text = vámonos\n1-2\tvámonos\t_\t_{line}1\tvamos\tir\tVERB{line}2\tnos\tnosotros\tPRON{line}"
        f"\n# sent_id = 2\n1\tno\tno\tADV{line}",
        encoding="utf-8",
    )
    rows = read_rows(ud)
    assert rows.column("tokens") == [["vamos", "nos"], ["no"]]
    assert rows.column("upos") == [["VERB", "PRON"], ["ADV"]]
    assert find_columns(rows).labels == ("upos",)
    assert rows.counts == {"lines of comments left out": 2, "lines that are no word left out": 1}


def test_a_hash_is_a_word_where_it_has_a_tag(tmp_path: Path) -> None:
    path = tmp_path / "rows.conll"
    path.write_text("# comment\n#photography\tO\n3-4\tO\n\n#\tO\n", encoding="utf-8")
    assert read_rows(path).column("tokens") == [["#photography", "3-4"], ["#"]]


def test_a_table_with_a_blank_line_is_no_conll(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\nit is good\t1\n\nit is bad\t0\n", encoding="utf-8")
    assert read_rows(path).column_names == ["text", "label"]


@pytest.mark.parametrize(
    ("name", "sentences", "words", "tags"),
    [
        ("wnut17.train.conll", 3394, 62730, {"B-person": 660, "B-location": 548}),
        ("wnut17.dev.conll", 1009, 15733, {"B-person": 470}),
        ("ewt_ner.train.iob2", 2001, None, {}),
        ("gum_pos.train.tsv", None, None, {}),
    ],
)
def test_real_files(data_dir: Path, name: str, sentences: int | None, words: int | None, tags: dict[str, int]) -> None:
    """WNUT's numbers are those of the published data."""
    path = data_dir / "tagging" / name
    rows = read_rows(path)
    columns = find_columns(rows)
    assert (columns.kind, columns.texts, columns.labels) == ("tokens", ("tokens",), ("tags",))
    lengths = list(map(len, rows.column("tokens")))
    assert lengths == list(map(len, rows.column("tags")))
    # Every line that is no comment and not blank is a word.
    lines = path.read_text(encoding="utf-8").split("\n")
    comments = [line for line in lines if line.startswith("# ") and "\t" not in line]
    assert sum(lengths) == sum(bool(line.strip()) for line in lines) - len(comments)
    counts = Counter(tag for row in rows.column("tags") for tag in row)
    assert sentences in (None, len(rows))
    assert words in (None, sum(lengths))
    assert all(counts[tag] == number for tag, number in tags.items())
    assert all(word.strip() for row in rows.column("tokens") for word in row)


GLUE = {
    "CoLA": ({"train": 8551, "validation": 527}, ("sentence",), "label"),
    "MRPC": ({"train": 3668, "validation": 408}, ("#1 String", "#2 String"), "Quality"),
    "RTE": ({"train": 2490, "validation": 277}, ("sentence1", "sentence2"), "label"),
    "SST-2": ({"train": 67349}, ("sentence",), "label"),
    "STS-B": ({"train": 5749, "validation": 1500}, ("sentence1", "sentence2"), "score"),
    "WNLI": ({"train": 635, "validation": 71}, ("sentence1", "sentence2"), "label"),
}


@pytest.mark.parametrize("task", GLUE)
def test_folders_of_glue(data_dir: Path, task: str) -> None:
    sizes, texts, label = GLUE[task]
    splits = read_splits(data_dir / "glue" / task)
    assert {name: len(rows) for name, rows in splits.items()} == sizes
    for name, rows in splits.items():
        columns = find_columns(rows)
        assert (columns.texts, columns.labels) == (texts, (label,))
        # As a reader that knows nothing of quotes has it, cell by cell.
        file = data_dir / "glue" / task / ("train.tsv" if name == "train" else "dev.tsv")
        lines = file.read_text(encoding="utf-8-sig").split("\n")
        cells = [line.rstrip("\r").split("\t") for line in lines if line.strip()][0 if task == "CoLA" else 1 :]
        place = rows.column_names.index(texts[0])
        assert rows.column(texts[0]) == [row[place] for row in cells]


def test_imdb(data_dir: Path) -> None:
    rows = read_rows(data_dir / "imdb" / "train.tsv")
    columns = find_columns(rows)
    assert (columns.texts, columns.labels) == (("text",), ("label",))
    assert "'rating'" in columns.note
    assert len(rows) == 24_996
    assert set(rows.column("label")) == {"0", "1"}


def test_no_tags_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.conll"
    path.write_text("1\tHello\n2\tyou\n", encoding="utf-8")
    with pytest.raises(InputError, match="no column of tags"):
        read_rows(path)
