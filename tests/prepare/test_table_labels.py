"""Columns found or named, classes matched by name, and labels as numbers."""

from __future__ import annotations

import math
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
from distilfast._core import InputError
from distilfast.prepare.columns import Columns, find_columns
from distilfast.prepare.labels import match_labels, new_classes
from distilfast.prepare.table import Rows, read_rows, read_splits
from distilfast.prepare.targets import (
    IGNORED,
    answer_targets,
    label_kind,
    label_values,
    number_targets,
    sequence_targets,
    tag_targets,
    with_text,
)
from hypothesis import given
from hypothesis import strategies as st

SENTIMENT = {0: "positive", 1: "neutral", 2: "negative"}


def rows_of(**columns: list[Any]) -> Rows:
    return read_rows(columns)


def named(*names: str) -> Rows:
    return read_rows({name: ["a b", "c d"] for name in names})


@pytest.mark.parametrize(
    ("names", "texts", "labels", "group"),
    [
        (("label", "rating", "text"), ("text",), ("label",), None),
        (("Sentence", "Label"), ("Sentence",), ("Label",), None),
        (("premise", "hypothesis", "gold_label"), ("premise", "hypothesis"), ("gold_label",), None),
        (("index", "sentence1", "sentence2", "score"), ("sentence1", "sentence2"), ("score",), None),
        (("query", "passage", "relevance"), ("query", "passage"), ("relevance",), "query"),
        (("text", "qid"), ("text",), (), "qid"),
        (("id", "utterance_text", "intent"), ("utterance_text",), ("intent",), None),
        (("title", "text", "label"), ("text",), ("label",), None),
    ],
)
def test_usual_names(
    names: tuple[str, ...], texts: tuple[str, ...], labels: tuple[str, ...], group: str | None
) -> None:
    columns = find_columns(named(*names))
    assert (columns.kind, columns.texts, columns.labels, columns.group) == ("text", texts, labels, group)
    assert all(repr(name) in columns.note for name in names)


def test_named_columns() -> None:
    rows = named("title", "body", "kind", "author")
    columns = find_columns(rows, text_column=["title", "body"], label_column="kind", group_column="author")
    assert columns.texts == ("title", "body")
    assert (columns.labels, columns.group) == (("kind",), "author")
    assert find_columns(named("text", "label"), label_column="none").labels == ()


@pytest.mark.parametrize(
    ("names", "options", "says"),
    [
        (("review", "title", "label"), {}, "could be any of 'review', 'title'"),
        (("a", "b", "c"), {}, "could be any of 'a', 'b', 'c'"),
        (("id", "label"), {}, "none of its columns is text by its name"),
        (("text", "label"), {"text_column": "txt"}, "no column 'txt', only 'text', 'label'; did you mean 'text'"),
        (("text", "label"), {"label_column": "text"}, "both text and label"),
        (("text", "label"), {"text_column": ["text", "text"]}, "two different"),
        (("text", "label"), {"kind": "tokens"}, "no column of words"),
        (("text", "label"), {"kind": "questions"}, "no question and context"),
    ],
)
def test_columns_that_are_not_there_are_refused(names: tuple[str, ...], options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_columns(named(*names), **options)
    with pytest.raises(InputError, match="holds int64, not strings"):
        find_columns(rows_of(text=[1, 2], label=[0, 1]), text_column="text")
    with pytest.raises(InputError, match="'text' holds int64, not strings"):
        find_columns(rows_of(text=[1, 2], label=["a", "b"]))


@given(
    names=st.lists(
        st.text(min_size=1, max_size=5).map(str.strip).filter(bool), min_size=2, max_size=5, unique_by=str.casefold
    ),
    data=st.data(),
)
def test_names_in_any_order_keep_their_class(names: list[str], data: st.DataObject) -> None:
    id2label = dict(enumerate(data.draw(st.permutations(names))))
    file_labels = data.draw(st.lists(st.sampled_from(names), min_size=1))
    mapping = match_labels(file_labels, id2label)
    assert {label: id2label[number] for label, number in mapping.ids.items()} == {name: name for name in file_labels}


@pytest.mark.parametrize(
    ("labels", "id2label", "expected"),
    [
        (["Negative", "POSITIVE"], SENTIMENT, {"Negative": 2, "POSITIVE": 0}),
        (["not-entailment"], {0: "entailment", 1: "not_entailment"}, {"not-entailment": 1}),
        (["LABEL_1"], SENTIMENT, {"LABEL_1": 1}),
        ([1, 0], SENTIMENT, {"1": 1, "0": 0}),
        ([1.0, 0.0], {0: "LABEL_0", 1: "LABEL_1"}, {"1": 1, "0": 0}),
        (["0", "10", "2"], dict(enumerate(f"LABEL_{n}" for n in range(11))), {"0": 0, "2": 2, "10": 10}),
        (["True", "False"], {0: "LABEL_0", 1: "LABEL_1"}, {"True": 1, "False": 0}),
        ([True, False], {0: "true", 1: "false"}, {"True": 0, "False": 1}),
        ([True, False], {0: "yes", 1: "no"}, {"True": 0, "False": 1}),
        (["true"], {0: "Negative", 1: "POSITIVE"}, {"true": 1}),
        (["False", "TRUE"], {0: "pos", 1: "neg"}, {"False": 1, "TRUE": 0}),
        ([True, False], {0: "1", 1: "0"}, {"True": 0, "False": 1}),
        (["True", "0"], {0: "True", 1: "False"}, {"True": 0, "0": 1}),
        (["1", "0"], {0: "False", 1: "True"}, {"1": 1, "0": 0}),
        ([1, 0], {0: "no", 1: "yes"}, {"1": 1, "0": 0}),
        ([1, 0, -100], {0: "O", 1: "B-PER"}, {"1": 1, "0": 0}),
        ([-100, 3], {0: "3", 1: "-100"}, {"-100": 1, "3": 0}),
        (["5", "1"], {n: f"{n + 1} stars" for n in range(5)}, {"5": 4, "1": 0}),
        (["1", "2"], {0: "2", 1: "1"}, {"1": 1, "2": 0}),
        (["B-LOC", "O"], {0: "O", 1: "B-LOC", 2: "BLOC"}, {"B-LOC": 1, "O": 0}),
    ],
)
def test_what_is_understood(labels: list[Any], id2label: dict[int, str], expected: dict[str, int]) -> None:
    mapping = match_labels(labels, id2label)
    assert mapping.ids == expected
    assert mapping.summary["classes"] == {label: id2label[number] for label, number in expected.items()}


@pytest.mark.parametrize(
    ("labels", "id2label", "says"),
    [
        (["good", "positive"], SENTIMENT, "'good' are none of.*'good', 'positive'.*'positive', 'neutral', 'negative'"),
        ([1, 2], {0: "LABEL_0", 1: "LABEL_1"}, "begin at 0"),
        (["pos", "neg"], {0: "LABEL_0", 1: "LABEL_1"}, "have no names: set id2label"),
        ([0, 1, 2], {0: "1 star", 1: "2 stars", 2: "3 stars"}, "none of the teacher's classes"),
        (["0", "1", "2"], {0: "1", 1: "2", 2: "3"}, "'0' are none"),
        (["0", "positive"], SENTIMENT, "'0' are none"),
        ([0.25, 1.0], SENTIMENT, "'0.25'"),
        (["true", "false"], {0: "good", 1: "bad"}, "none of.*'false', 'true', the teacher 'good', 'bad'"),
        ([True, False], {0: "hate", 1: "not_hate"}, "'False', 'True', the teacher 'hate', 'not_hate'"),
        ([True, False], {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}, "'False', 'True' are none of"),
        ([True, "maybe"], {0: "no", 1: "yes"}, "'True', 'maybe' are none of"),
        ([0, 1], {0: "yes", 1: "no"}, "'0', '1' could be the numbers of the teacher's classes 'yes', 'no' or"),
        (["1"], {0: "positive", 1: "negative"}, "could be the numbers"),
        (["0", "1"], {0: "True", 1: "False"}, "could be the numbers"),
        ([-1, 1], {0: "LABEL_0", 1: "LABEL_1"}, "'-1' are none of|'-1', '1' are none of"),
        (["a"], {0: "A ", 1: "a_", 2: "b"}, "'a' are none of"),
    ],
)
def test_what_fits_nowhere_is_refused(labels: list[Any], id2label: dict[int, str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        match_labels(labels, id2label)


def test_integers_for_named_classes_are_said() -> None:
    assert "check that they stand in this order" in match_labels([0, 1], SENTIMENT).note
    assert "check" not in match_labels([0, 1], {0: "LABEL_0", 1: "LABEL_1"}).note


def test_true_and_false_are_said() -> None:
    note = match_labels([True, False], {0: "yes", 1: "no"}).note
    assert note == "labels taken for yes and no: False -> no, True -> yes"
    assert match_labels(["1"], {0: "no", 1: "yes"}).note == "labels taken for class numbers: 1 -> yes"
    scores = rows_of(text=["a", "b", "c"], label=[True, False, None])
    for rows in (scores, rows_of(text=["a", "b", "c"], label=["true", "False", ""])):
        found = sequence_targets(rows, find_columns(rows), "regression", {0: "LABEL_0"})
        assert found.values[:2] == [1.0, 0.0]
        assert "are the numbers 1 and 0" in found.notes[0]


def test_labels_of_100_below_nothing_are_left_out_and_counted() -> None:
    """They were refused as a class that the teacher has not, and made a class of their own where there was none."""
    names = {0: "O", 1: "B-PER"}
    words = rows_of(tokens=[["Ann", "ran"], ["x"], ["y"]], labels=[[1, -100], [-100], None])
    targets = tag_targets(words, find_columns(words), names)
    assert (targets.values, targets.labelled) == ([[1, IGNORED], [IGNORED], [IGNORED]], 1)
    assert "2 of 3 words have the label -100, and count in no loss" in targets.notes[-1]
    texts = rows_of(text=["a", "b", "c"], label=[0, -100, 1])
    single = sequence_targets(texts, find_columns(texts), "single_label_classification", names)
    assert (single.values, single.labelled) == ([0, IGNORED, 1], 2)
    assert "1 of 3 rows have the label -100" in single.notes[-1]
    numbers = sequence_targets(texts, find_columns(texts), "regression", {0: "LABEL_0"})
    assert (numbers.values, numbers.notes) == ([0.0, -100.0, 1.0], ())
    assert new_classes([0, -100, 1]) == {0: "0", 1: "1"}
    for bad in (-1, -99, 2):
        other = rows_of(tokens=[["Ann", "ran"]], labels=[[1, bad]])
        with pytest.raises(InputError, match=f"'{bad}' are none of the teacher's classes|'{bad}', '1' are none"):
            tag_targets(other, find_columns(other), names)
    lists = rows_of(text=["a", "b"], label=[["O", "-100"], ["B-PER"]])
    with pytest.raises(InputError, match="holds -100 among the labels of a row"):
        sequence_targets(lists, find_columns(lists), "multi_label_classification", names)


def test_integers_that_a_class_label_has_no_name_for_are_refused() -> None:
    """Negative ones were taken for names from the end."""
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
    good = read_rows(datasets.Dataset.from_dict({"text": ["x"] * 3, "label": [1, -1, 0]}, features=features))

    def column(*values: int) -> Rows:
        table = good.table.set_column(1, "label", [list(values)])
        return Rows(table, good.source, class_names=good.class_names)

    assert label_values(column(1, -100, -1), "label") == ["b", "-100", None]
    for bad in (-2, 2):
        with pytest.raises(InputError, match=f"column 'label' holds {bad}, and its classes are numbered from 0 to 1"):
            label_values(column(1, bad, 0), "label")


def test_integers_of_a_class_label_stand_for_its_names() -> None:
    names = ["entailment", "neutral", "contradiction"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = read_rows(datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 2, -1]}, features=features))
    columns = find_columns(rows)
    assert label_values(rows, "label") == ["entailment", "contradiction", None]
    teacher = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
    targets = sequence_targets(rows, columns, "single_label_classification", teacher)
    assert targets.values == [2, 0, IGNORED]
    assert targets.labelled == 2
    # A teacher without names gets the numbers of the data set.
    plain = {number: f"LABEL_{number}" for number in range(3)}
    assert sequence_targets(rows, columns, "single_label_classification", plain).values == [0, 2, IGNORED]


def test_new_classes_count_numbers_as_numbers() -> None:
    assert new_classes(["10", "2", "1", ""]) == {0: "1", 1: "2", 2: "10"}
    with pytest.raises(InputError, match="at least two"):
        new_classes(["a", None])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["", None, math.nan], "none"),
        (["0", "1", ""], "integers"),
        ([1.0, 2.0], "integers"),
        (["0.5", "1"], "floats"),
        (["nan", "1"], "names"),
        (["a", "1"], "names"),
        ([["a"], None], "lists"),
    ],
)
def test_label_kinds(values: list[Any], kind: str) -> None:
    assert label_kind(values) == kind


def test_single_label_targets_and_the_mapping_of_training() -> None:
    rows = rows_of(text=["a", "b", "c"], label=["negative", "", "positive"])
    columns = find_columns(rows)
    targets = sequence_targets(rows, columns, "single_label_classification", SENTIMENT)
    assert (targets.values, targets.labelled) == ([2, IGNORED, 0], 2)
    other = rows_of(text=["a"], label=["neutral"])
    again = sequence_targets(other, columns, "single_label_classification", SENTIMENT, mapping=targets.mapping)
    assert again.values == [1]
    assert again.mapping is not None
    assert again.mapping.ids == {"negative": 2, "positive": 0, "neutral": 1}
    unlabelled = sequence_targets(rows, Columns("text", ("text",)), "single_label_classification", SENTIMENT)
    assert (unlabelled.values, unlabelled.labelled) == ([IGNORED] * 3, 0)


def test_regression_targets() -> None:
    rows = rows_of(text=["a", "b", "c"], label=["0.5", "", "-3"])
    targets = sequence_targets(rows, find_columns(rows), "regression", {0: "LABEL_0"})
    assert targets.values[0::2] == [0.5, -3.0]
    assert math.isnan(targets.values[1])
    assert targets.labelled == 2
    for bad in ("high", "inf", "nan"):
        with pytest.raises(InputError, match=r"row 2: the label .* is no number"):
            number_targets(["1", bad], "rows.csv")


def test_multi_label_targets() -> None:
    id2label = {0: "anger", 1: "joy", 2: "fear"}
    problem = "multi_label_classification"
    lists = rows_of(text=["a", "b", "c"], label=[["fear", "Anger"], [], None])
    targets = sequence_targets(lists, find_columns(lists), problem, id2label)
    assert targets.values == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], None]
    assert targets.labelled == 2
    written = rows_of(text=["a", "b"], label=["fear|anger", ""])
    assert sequence_targets(written, find_columns(written), problem, id2label, "|").values == [[1, 0, 1], [0, 0, 0]]
    with pytest.raises(InputError, match=r"'fear\|anger' are none"):
        sequence_targets(written, find_columns(written), problem, id2label)
    hot = rows_of(text=["a", "b"], label=[[0, 1, 0], [1, 1, 0]])
    said = sequence_targets(hot, find_columns(hot), problem, id2label)
    assert said.values == [[0, 1, 0], [1, 1, 0]]
    assert "in the teacher's order" in said.notes[0]
    wide = rows_of(text=["a", "b"], label=[[0, 1, 0, 0], [1, 1, 0, 0]])  # were taken for the numbers of two classes
    with pytest.raises(InputError, match="holds lists of 0 and 1, one of 4, and the model has 3 classes"):
        sequence_targets(wide, find_columns(wide), problem, id2label)
    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [np.array(["fear"]), np.array([]), {"joy"}]})
    (arrays,) = read_splits(frame).values()
    assert sequence_targets(arrays, find_columns(arrays), problem, id2label).values == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    numbers = rows_of(text=["a", "b"], label=[[0, 1, 2], [2]])
    assert sequence_targets(numbers, find_columns(numbers), problem, id2label).values == [[1, 1, 1], [0, 0, 1]]
    columns = rows_of(text=["a", "b"], fear=["1", "0"], joy=["0", "x"])
    with pytest.raises(InputError, match="'x' in column 'joy' is not 0 or 1"):
        sequence_targets(columns, find_columns(columns, label_column=["fear", "joy"]), problem, id2label)
    columns = rows_of(text=["a", "b"], fear=["1", "0"], joy=["0", "0"])
    found = sequence_targets(columns, find_columns(columns, label_column=["fear", "joy"]), problem, id2label)
    assert found.values == [[0, 0, 1], [0, 0, 0]]
    with pytest.raises(InputError, match="holds lists of labels"):
        sequence_targets(lists, find_columns(lists), "single_label_classification", id2label)


def test_tags_of_words() -> None:
    id2label = {0: "O", 1: "B-PER", 2: "I-PER"}
    rows = rows_of(tokens=[["Ann", "ran"], ["No"], ["x"]], ner_tags=[["B-PER", "O"], None, [""]])
    columns = find_columns(rows)
    assert (columns.kind, columns.labels) == ("tokens", ("ner_tags",))
    targets = tag_targets(rows, columns, id2label)
    assert (targets.values, targets.labelled) == ([[1, 0], [IGNORED], [IGNORED]], 1)
    short = rows_of(tokens=[["Ann", "ran"]], ner_tags=[["B-PER"]])
    with pytest.raises(InputError, match="row 1: 2 words and 1 tags"):
        tag_targets(short, find_columns(short), id2label)
    names = datasets.Features(
        {
            "tokens": datasets.List(datasets.Value("string")),
            "ner_tags": datasets.List(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    saved = read_rows(datasets.Dataset.from_dict({"tokens": [["Ann"]], "ner_tags": [[1]]}, features=names))
    assert tag_targets(saved, find_columns(saved), {0: "B-PER", 1: "O"}).values == [[0]]


def test_answers() -> None:
    good = {"text": ["Ann"], "answer_start": [0]}
    rows = rows_of(question=["Who?"] * 2, context=["Ann ran."] * 2, answers=[good, {"text": [], "answer_start": []}])
    columns = find_columns(rows)
    assert (columns.kind, columns.texts, columns.group) == ("questions", ("question", "context"), "context")
    targets = answer_targets(rows, columns)
    assert targets.values == [good, {"text": [], "answer_start": []}]
    assert targets.notes == ("1 of 2 questions have no answer in their passage",)
    flat = rows_of(question=["Who?"] * 2, context=["Ann ran."] * 2, answer_text=["ran", ""], answer_start=["4", ""])
    assert answer_targets(flat, find_columns(flat)).values == [
        {"text": ["ran"], "answer_start": [4]},
        {"text": [], "answer_start": []},
    ]
    blank = {"text": [""], "answer_start": [0]}
    listed = [[{"text": "ran", "answer_start": 4}], []]  # as SQuAD's own files have them
    for answers, expected in (
        ([good, blank], [good, {"text": [], "answer_start": []}]),
        (listed, answer_targets(flat, find_columns(flat)).values),
    ):
        given = rows_of(question=["Who?"] * 2, context=["Ann ran."] * 2, answers=answers)
        found = answer_targets(given, find_columns(given))
        assert (found.values, found.labelled) == (expected, 2)
        assert found.notes == ("1 of 2 questions have no answer in their passage",)
    wrong = rows_of(question=["Who?"], context=["Ann ran."], answers=[{"text": ["Bob"], "answer_start": [0]}])
    with pytest.raises(InputError, match="row 1: an answer is not in the passage where it says"):
        answer_targets(wrong, find_columns(wrong))


def test_rows_without_text_are_left_out_and_counted() -> None:
    rows = rows_of(text=["a", None, ""], label=["1", "1", "0"])
    kept = with_text(rows, find_columns(rows))
    assert kept.column("text") == ["a", ""]
    assert kept.counts == {"rows without text left out": 1, "rows with a blank text": 1}
    words = rows_of(tokens=[["a"], [], None], tags=[["O"], [], None])
    assert with_text(words, find_columns(words)).column("tokens") == [["a"]]
    with pytest.raises(InputError, match="no row has text"):
        with_text(rows_of(text=[None, None], label=[1, 0]), Columns("text", ("text",)))


def test_blank_texts_are_counted_and_refused_where_there_is_no_other() -> None:
    rows = rows_of(premise=["a", " ", "b", ""], hypothesis=["c", "d", "\u00a0\t", ""], label=[0, 1, 0, 1])
    kept = with_text(rows, find_columns(rows))
    assert len(kept) == 4
    assert kept.counts == {"rows with a blank text": 3}
    blank = rows_of(text=["", " \n"], label=[0, 1])
    with pytest.raises(InputError, match="no row has text"):
        with_text(blank, find_columns(blank))


def test_words_for_a_head_of_texts_name_the_head_that_reads_them() -> None:
    words = rows_of(tokens=[["a", "b"], ["c"]], tags=[["O", "O"], ["O"]])
    with pytest.raises(InputError, match=r"lists of words \('tokens', 'tags'\).*--head tokens"):
        find_columns(words, kind="text")
