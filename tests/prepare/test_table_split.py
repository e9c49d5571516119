"""Rows held out by a hash: the same whatever their order, and what belongs together on one side."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from distilfast._core import InputError
from distilfast.prepare.columns import Columns, find_columns
from distilfast.prepare.split import choose_rows, hold_out, row_keys, shared_rows
from distilfast.prepare.table import Rows, read_rows
from hypothesis import given
from hypothesis import strategies as st

TEXTS = Columns("text", ("text",))
PAIRS = Columns("text", ("first", "second"))


def texts_of(rows: Rows, chosen: list[int], columns: Columns = TEXTS) -> list[tuple[str, ...]]:
    values = list(zip(*(rows.column(name) for name in columns.texts), strict=True))
    return sorted(values[number] for number in chosen)


def sentences(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [f"{number} {draw.random()}" for number in range(count)]


@given(texts=st.lists(st.text(max_size=6), min_size=2, max_size=60), shuffle=st.randoms())
def test_the_order_changes_nothing(texts: list[str], shuffle: random.Random) -> None:
    rows = read_rows({"text": texts})
    if len({" ".join(text.casefold().split()) for text in texts}) < 2:
        with pytest.raises(InputError, match="belong together"):
            hold_out(rows, TEXTS)
        return
    split = hold_out(rows, TEXTS)
    assert sorted(split.train + split.validation) == list(range(len(texts)))
    assert split.train
    assert split.validation
    other = list(texts)
    shuffle.shuffle(other)
    again = read_rows({"text": other})
    assert texts_of(again, hold_out(again, TEXTS).validation) == texts_of(rows, split.validation)


@given(pairs=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=60))
def test_no_text_of_a_pair_is_on_both_sides(pairs: list[tuple[int, int]]) -> None:
    rows = read_rows({"first": [f"a {one}" for one, _ in pairs], "second": [f"a {two}" for _, two in pairs]})
    try:
        split = hold_out(rows, PAIRS)
    except InputError:
        assert len(pairs) <= 60
        return
    sides = [
        {text for pair in texts_of(rows, side, PAIRS) for text in pair} for side in (split.train, split.validation)
    ]
    assert not sides[0] & sides[1]


def test_a_tenth_is_held_out_and_further_rows_move_none() -> None:
    texts = sentences(5000)
    rows = read_rows({"text": texts})
    split = hold_out(rows, TEXTS)
    # Five standard deviations of a binomial with 5,000 draws of a tenth.
    assert abs(len(split.validation) - 500) < 106
    assert f"{len(split.validation)} of 5000 rows" in split.note
    more = read_rows({"text": texts + sentences(1000, seed=1)})
    assert {number for number in hold_out(more, TEXTS).validation if number < 5000} == set(split.validation)


def test_the_hash_is_the_same_in_every_process() -> None:
    # Found once by this function; another number here would split everyone's data anew.
    rows = read_rows({"text": ["The cat sat.", "the  CAT sat."]})
    assert row_keys(rows, TEXTS) == [(14061881864042762660,), (14061881864042762660,)]
    code = (
        "from distilfast.prepare.split import *; from distilfast.prepare.table import read_rows; "
        "from distilfast.prepare.columns import Columns; "
        "print(hold_out(read_rows({'text': [str(n) for n in range(200)]}), Columns('text', ('text',))).validation)"
    )
    expected = str(hold_out(read_rows({"text": [str(number) for number in range(200)]}), TEXTS).validation)
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
        )
        assert run.stdout.strip() == expected, run.stderr


def test_groups_stay_together() -> None:
    texts = sentences(400)
    rows = read_rows({"text": texts, "group": [f"author {number % 40}" for number in range(400)]})
    split = hold_out(rows, find_columns(rows))
    groups = rows.column("group")
    assert not {groups[number] for number in split.train} & {groups[number] for number in split.validation}
    assert "'group'" in split.note
    # A duplicate ties two groups together.
    texts[1] = texts[0]
    tied = read_rows({"text": texts, "group": rows.column("group")})
    sides = hold_out(tied, find_columns(tied))
    assert (0 in sides.validation) == (1 in sides.validation)


def test_texts_that_tie_too_much_do_not() -> None:
    rows = read_rows({"first": sentences(300), "second": ["yes"] * 300})
    split = hold_out(rows, PAIRS)
    assert 5 < len(split.validation) < 60
    assert "second texts occur on both sides" in split.note


def test_shared_rows_are_found_in_either_order() -> None:
    train = read_rows({"first": ["a", "c"], "second": ["B", "d"]})
    other = read_rows({"first": ["b ", "c", "a"], "second": ["a", "a", "a"]})
    assert shared_rows(train, PAIRS, other, PAIRS) == [0]
    # Whichever of the two texts has the smaller hash.
    first, second = list("abcdefgh"), list("ijklmnop")
    train, other = read_rows({"first": first, "second": second}), read_rows({"first": second, "second": first})
    assert shared_rows(train, PAIRS, other, PAIRS) == list(range(8))


@given(count=st.integers(1, 30), seed=st.integers(0, 3), shuffle=st.randoms())
def test_a_choice_is_fixed_nested_and_without_order(count: int, seed: int, shuffle: random.Random) -> None:
    texts = [*sentences(25), *["again"] * 5]
    rows = read_rows({"text": texts})
    chosen = choose_rows(rows, TEXTS, count, seed)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == count
    assert set(chosen) <= set(choose_rows(rows, TEXTS, count + 1, seed))
    shuffle.shuffle(texts)
    other = read_rows({"text": texts})
    assert texts_of(other, choose_rows(other, TEXTS, count, seed)) == texts_of(rows, chosen)


def test_rows_with_equal_texts_are_chosen_one_by_one() -> None:
    rows = read_rows({"text": [*["again"] * 60, *sentences(60)]})
    again = [sum(row < 60 for row in choose_rows(rows, TEXTS, 60, seed)) for seed in range(5)]
    assert all(15 < count < 45 for count in again)


def test_another_seed_chooses_others() -> None:
    rows = read_rows({"text": sentences(200)})
    assert choose_rows(rows, TEXTS, 100, 0) != choose_rows(rows, TEXTS, 100, 1)
    with pytest.raises(InputError):
        choose_rows(rows, TEXTS, 0)


@pytest.mark.parametrize(("task", "held"), [("SST-2", 6753), ("MRPC", 360), ("STS-B", 577)])
def test_real_rows(data_dir: Path, task: str, held: int) -> None:
    rows = read_rows(data_dir / "glue" / task)
    columns = find_columns(rows)
    split = hold_out(rows, columns)
    # The number that was found when this was written: it must be the same on every machine.
    assert len(split.validation) == held
    assert shared_rows(rows.take(split.train), columns, rows.take(split.validation), columns) == []
