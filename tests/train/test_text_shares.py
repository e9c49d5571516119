"""--text_weights: several texts in the shares of an epoch's tokens that were asked for, no row of any left out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
from distilfast.prepare import load_tokens, prepare
from distilfast.prepare.directory import PreparedTokens
from distilfast.train import run as train
from distilfast.train.text_shares import MOST_TIMES, _part, check_weights, with_shares
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from train_command import flags, folder, refusal

__all__ = ["folder"]  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokens(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedTokens:
    """Of three texts, each row with the letter of its text: 300 of a, 40 of b, 6 of c."""
    home = tmp_path_factory.mktemp("shares")
    draws = np.random.default_rng(0)
    for letter, rows in {"a": 300, "b": 40, "c": 6}.items():
        lines = [" ".join([letter] * int(length)) for length in draws.integers(1, 30, rows)]
        (home / f"{letter}.txt").write_text("\n".join(lines) + "\n")
    names = [home / f"{letter}.txt" for letter in "abc"]
    prepare(home / "tokens", folder / "vocab.txt", names, min_length=0)
    return load_tokens(home / "tokens")


def lists_of(prepared: PreparedTokens) -> list[list[int]]:
    rows: list[list[int]] = prepared.dataset.data.column("input_ids").to_pylist()
    return rows


def rows_by_text(prepared: PreparedTokens) -> dict[int, list[tuple[int, ...]]]:
    """The rows of each text, by the id of its letter."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for row in lists_of(prepared):
        found.setdefault(row[1], []).append(tuple(row))
    return found


def test_the_rows_of_each_text_are_told_apart(tokens: PreparedTokens) -> None:
    expected = [(len(rows), sum(map(len, rows))) for rows in rows_by_text(tokens).values()]
    assert [(text["rows"], text["tokens"]) for text in tokens.info["texts"]] == expected
    assert [text["name"] for text in tokens.info["texts"]] == ["a.txt", "b.txt", "c.txt"]


@pytest.mark.parametrize("mode", ["lines", "packed"])
def test_texts_of_several_blocks_and_files(folder: Path, tmp_path: Path, mode: str) -> None:
    """A text is a name: a folder of several files is one; what is read already under another name is in none."""
    (tmp_path / "many").mkdir()
    for number in range(3):
        (tmp_path / "many" / f"{number}.txt").write_text("a b c\n\na b\nc d\n" * (number + 1))
    (tmp_path / "one.txt").write_text("e f g\n")
    names = [tmp_path / "many", tmp_path / "many" / "1.txt", tmp_path / "one.txt"]
    info = prepare(tmp_path / "tokens", folder / "vocab.txt", names, min_length=0, mode=mode)
    alone = [
        prepare(tmp_path / f"{name.name}.tokens", folder / "vocab.txt", name, min_length=0, mode=mode)
        for name in (names[0], names[2])
    ]
    assert [text["rows"] for text in info["texts"]] == [alone[0]["rows"], 0, alone[1]["rows"]]
    assert [text["tokens"] for text in info["texts"]] == [alone[0]["tokens"], 0, alone[1]["tokens"]]
    with pytest.raises(df.InputError, match=r"no row of .*1\.txt is left"):
        with_shares(load_tokens(tmp_path / "tokens"), [1, 1, 1])


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.lists(st.floats(0.5, 2), min_size=3, max_size=3))
def test_shares_are_exact_to_two_rows_and_no_row_is_left_out(tokens: PreparedTokens, weights: list[float]) -> None:
    longest = max(map(len, lists_of(tokens)))
    mixed = with_shares(tokens, weights)
    before, after = rows_by_text(tokens), rows_by_text(mixed)
    lengths = {letter: sum(map(len, rows)) for letter, rows in after.items()}
    # Of what is longest for its weight every row once.
    scarce = [weight / text["tokens"] for weight, text in zip(weights, tokens.info["texts"], strict=True)]
    first = list(before)[int(np.argmin(scarce))]
    assert after[first] == before[first]
    unit = lengths[first] / weights[int(np.argmin(scarce))]
    for letter, weight in zip(before, weights, strict=True):
        assert abs(lengths[letter] - weight * unit) <= 2 * longest
        times, fewest = Counter(after[letter]), Counter(before[letter])
        assert times.keys() == fewest.keys()
        assert all(times[row] >= fewest[row] for row in fewest)
    assert (
        mixed.token_counts.tolist()
        == np.bincount(np.concatenate(lists_of(mixed)), minlength=len(mixed.token_counts)).tolist()
    )
    for share, found in zip(mixed.info["shares"], lengths.values(), strict=True):
        assert share["tokens"] == found
        assert share["share"] == pytest.approx(found / sum(lengths.values()))


def test_a_part_of_a_text_is_spread_over_it() -> None:
    rows = pa.array([[number] * (1 + number % 7) for number in range(1000)], pa.list_(pa.uint16()))
    for wanted in (0, 1, 100, 1500, 3000, len(rows.flatten())):
        part = [row for chunk in _part([rows.slice(0, 400), rows.slice(400)], wanted) for row in chunk.to_pylist()]
        assert abs(sum(map(len, part)) - wanted) <= 2 * 7
        numbers = [row[0] for row in part]
        assert numbers == sorted(set(numbers))
        if wanted >= 1500:
            assert np.histogram(numbers, bins=4, range=(0, 1000))[0].min() > 0.2 * len(numbers)


def test_weights_in_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Said, kept, the same from text and from tokens, and not resumed with others."""
    (tmp_path / "b.txt").write_text("\n".join(["zz yy xx ww vv uu tt"] * 7) + "\n")
    texts = [folder / "text.txt", tmp_path / "b.txt"]
    out = tmp_path / "small"
    train.main(flags(folder, out, text=texts, text_weights=[3, 1]))
    said = capsys.readouterr().out
    summary: dict[str, Any] = json.loads((out / "train_summary.json").read_text())
    first, second = summary["text_shares"]
    assert first["share"] == pytest.approx(0.75, abs=0.01)
    assert first["times"] == 1
    assert second["times"] > 2
    assert f"b.txt {second['share']:.1%} ({second['tokens']:,} tokens, each text {second['times']:.2f} times)" in said
    assert summary["tokens_per_epoch"] == first["tokens"] + second["tokens"]

    train.main(flags(folder, tmp_path / "again", text=None, tokens=out / "tokens", text_weights=[3, 1]))
    same = json.loads((tmp_path / "again" / "train_summary.json").read_text())
    assert same["data_fingerprint"] == summary["data_fingerprint"]
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    train.main(flags(folder, tmp_path / "even", text=None, tokens=out / "tokens"))
    assert (
        json.loads((tmp_path / "even" / "train_summary.json").read_text())["data_fingerprint"]
        != same["data_fingerprint"]
    )

    resumed = {"resume_from_checkpoint": "last", "max_steps": 6}
    line = refusal(flags(folder, out, text=texts, text_weights=[1, 1], **resumed), capsys)
    assert "cannot resume: --text_weights was 3.0 1.0 and is 1.0 1.0" in line
    train.main(flags(folder, out, text=texts, text_weights=[3, 1], **resumed))


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        ([3], "1 weights for 2 texts"),
        ([3, 1, 1], "3 weights for 2 texts"),
        ([3, 0], "0 is no share of a text"),
        ([3, -1], "-1 is no share of a text"),
        (["nan", 1], "--text_weights nan: must be finite"),
        (["inf", 1], "--text_weights inf: must be finite"),
        ([1, 1e6], "times an epoch, more than 1,000"),
    ],
)
def test_what_are_no_weights_is_refused(
    folder: Path, tmp_path: Path, weights: list[Any], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert MOST_TIMES == 1000
    (tmp_path / "b.txt").write_text("aa bb cc dd ee ff gg\n")
    texts = [folder / "text.txt", tmp_path / "b.txt"]
    assert part in refusal(flags(folder, tmp_path / "out", text=texts, text_weights=weights), capsys)
    assert not (tmp_path / "out").exists()


def test_weights_of_one_text_or_of_tokens_that_do_not_tell_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "shares are of several texts" in refusal(flags(folder, tmp_path / "out", text_weights=[1]), capsys)
    prepare(tmp_path / "tokens", folder / "vocab.txt", folder / "text.txt")
    info = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    del info["texts"]
    (tmp_path / "tokens" / "tokens.json").write_text(json.dumps(info))
    line = refusal(flags(folder, tmp_path / "out", text=None, tokens=tmp_path / "tokens", text_weights=[1, 2]), capsys)
    assert "--text_weights needs tokens that were prepared from several --text" in line
    with pytest.raises(df.InputError, match="nan is no share of a text"):
        check_weights([float("nan"), 1], ["a", "b"])  # from Python
    assert not (tmp_path / "out").exists()
