"""Preparing with other engines: `tokenize_dataset`, `datasets.map`, Ray Data; the rows are those of `prepare`."""

from __future__ import annotations

import pickle
from pathlib import Path

import datasets
import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
from distilfast.prepare.rows import save_tokens
from distilfast.prepare.run import load_tokens, prepare

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "."]
TEXTS = [f"the cat sat on the mat . {'the mat ' * count}" for count in range(0, 60, 7)] + ["short"]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCAB) + "\n")
    return path


@pytest.fixture
def expected(tmp_path: Path, vocab: Path) -> list[list[int]]:
    source = datasets.Dataset.from_dict({"text": TEXTS})
    prepare(tmp_path / "expected", vocab, dataset=source, max_length=32)
    rows: list[list[int]] = load_tokens(tmp_path / "expected").dataset["input_ids"][:]
    return rows


@pytest.mark.parametrize("batch_size", [2, 1000])
def test_tokenize_dataset(vocab: Path, expected: list[list[int]], batch_size: int) -> None:
    source = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(len(TEXTS)))})
    tokens = df.tokenize_dataset(source, df.Tokenizer.from_file(vocab), max_length=32, batch_size=batch_size)
    assert tokens.column_names == ["input_ids"]
    assert tokens.features["input_ids"] == datasets.List(datasets.Value("uint16"))
    assert tokens["input_ids"][:] == expected


def test_shards_of_another_engine_become_a_prepared_directory(
    tmp_path: Path, vocab: Path, expected: list[list[int]]
) -> None:
    """What the recipe of docs/preparing.md does, the engine being this loop: pickled to a worker, parquet by shard."""
    import pyarrow.parquet

    tokenize = pickle.loads(pickle.dumps(df.BatchTokenizer(vocab, max_length=32)))
    for number, start in enumerate(range(0, len(TEXTS), 4)):
        shard = tokenize(pa.table({"text": TEXTS[start : start + 4]}))
        pyarrow.parquet.write_table(shard, tmp_path / f"shard-{number}.parquet")
    shards = sorted(str(path) for path in tmp_path.glob("shard-*.parquet"))
    rows = datasets.Dataset.from_parquet(shards, cache_dir=str(tmp_path / "cache"))
    info = save_tokens(rows, vocab, tmp_path / "out", max_length=32)
    tokens, direct = load_tokens(tmp_path / "out"), load_tokens(tmp_path / "expected")
    assert tokens.dataset["input_ids"][:] == expected
    np.testing.assert_array_equal(tokens.token_counts, direct.token_counts)
    assert info["fingerprint"] == direct.info["fingerprint"]


def test_ray_data(vocab: Path, expected: list[list[int]]) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray (pip install 'ray[data]')")
    shards = ray.data.from_arrow(pa.table({"text": TEXTS})).map_batches(
        df.BatchTokenizer,
        fn_constructor_args=[str(vocab)],
        fn_constructor_kwargs={"max_length": 32, "threads": 1},
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    rows = [list(row["input_ids"]) for row in shards.take_all()]
    assert sorted(rows) == sorted(expected)


def test_bad_input(tmp_path: Path, vocab: Path) -> None:
    texts = datasets.Dataset.from_dict({"body": ["the cat", None]})
    with pytest.raises(df.InputError, match="no column 'text', only 'body'"):
        df.tokenize_dataset(texts, vocab)
    with pytest.raises(df.InputError, match="has no text in column 'body'"):
        df.tokenize_dataset(texts, vocab, column="body")
    with pytest.raises(df.InputError, match="max_length 2"):
        df.BatchTokenizer(vocab, max_length=2)

    def refused(rows: list[list[int] | None], match: str) -> None:
        with pytest.raises(df.InputError, match=match):
            save_tokens(datasets.Dataset.from_dict({"input_ids": rows}), vocab, tmp_path / "out", max_length=4)
        assert not (tmp_path / "out").exists()

    refused([[2, 5, 3], [2, 5]], "row 1 .* is not")
    refused([[2, 5, 5, 5, 3]], "row 0 .* at most 4 tokens")
    refused([[2, 11, 3]], "goes from 2 to 11")
    refused([[2, 3], None], "nulls")
    refused([[2, 3], []], "row 1")
