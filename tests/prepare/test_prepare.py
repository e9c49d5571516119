"""`distilfast.prepare`: what it writes, that `datasets` opens it, and that a directory is whole or not there."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from distilfast.prepare import run
from distilfast.prepare.directory import TokenWriter
from distilfast.prepare.run import load_tokens, main, prepare

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "dog",
    "ran",
    "far",
    "away",
    "from",
    "it",
    "all",
    ".",
    ",",
    "##s",
]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(SPECIALS + WORDS) + "\n")
    return path


def reference_rows(texts: list[str], vocab: Path, max_length: int) -> list[list[int]]:
    """The original's cleaning rules in plain Python over Hugging Face's tokenizer."""
    tokenizer = tokenizers.BertWordPieceTokenizer(str(vocab), lowercase=True)
    rows = []
    for text in texts:
        sequence = tokenizer.encode(text).ids
        pieces = [sequence]
        if len(sequence) > max_length:
            pieces = [sequence[start : start + max_length - 2] for start in range(0, len(sequence), max_length - 2)]
        for piece in pieces:
            row = piece if piece[0] == 2 else [2, *piece]
            row = row if row[-1] == 3 else [*row, 3]
            if len(row) > 11 and row.count(1) / len(row) < 0.5:
                rows.append(row)
    return rows


LONG = "the cat sat on a mat and the dogs ran far away from it all ."
TEXTS = [LONG, "too short .", f"{LONG} {LONG} {LONG}", "zzz qqq " * 8, f"{LONG} , {LONG}"]


def test_lines_follow_the_rules_of_the_original(tmp_path: Path, vocab: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(TEXTS).encode())
    info = prepare(tmp_path / "out", vocab, [text], max_length=20)
    tokens = load_tokens(tmp_path / "out")
    expected = reference_rows(TEXTS, vocab, 20)
    assert tokens.dataset["input_ids"][:] == expected
    assert len(expected) == info["rows"] == 6
    assert (info["dropped_short"], info["dropped_unknown"], info["lines"]) == (2, 1, 5)
    flat = np.concatenate(expected)
    np.testing.assert_array_equal(tokens.token_counts, np.bincount(flat, minlength=tokens.tokenizer.vocab_size))
    assert tokens.dataset.features["input_ids"] == datasets.List(datasets.Value("uint16"))


def test_packed_joins_the_lines_of_a_document(tmp_path: Path, vocab: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the cat\nthe dog ran\nthe mat\n\nthe cat sat\n")
    prepare(tmp_path / "out", vocab, [text], mode="packed", max_length=7, min_length=0)
    tokenizer = df.Tokenizer.from_file(vocab)
    expected = [tokenizer.encode(line) for line in ["the cat the dog ran", "the mat", "the cat sat"]]
    assert datasets.load_from_disk(str(tmp_path / "out"))["input_ids"][:] == expected


@pytest.mark.parametrize("form", ["jsonl", "parquet", "dataset", "saved", "chunked"])
def test_the_same_rows_from_every_kind_of_source(tmp_path: Path, vocab: Path, form: str) -> None:
    dataset = datasets.Dataset.from_dict({"id": list(range(len(TEXTS))), "body": TEXTS})
    arguments = ["--tokenizer", str(vocab), "--output_dir", str(tmp_path / "out"), "--column", "body", "--disable_tqdm"]
    if form == "jsonl":
        path = tmp_path / "text.jsonl"
        path.write_text("".join(json.dumps({"id": 1, "body": text}) + "\n" for text in TEXTS))
        main(["--text", str(path), *arguments])
    elif form == "parquet":
        dataset.to_parquet(tmp_path / "text.parquet")
        main(["--text", str(tmp_path / "*.parquet"), *arguments])
    elif form == "saved":
        datasets.DatasetDict({"train": dataset}).save_to_disk(tmp_path / "saved")
        main(["--dataset", str(tmp_path / "saved"), *arguments])
    else:
        table = pa.table({"body": pa.chunked_array([TEXTS[:2], TEXTS[2:]])})
        source = datasets.Dataset(table) if form == "chunked" else dataset
        prepare(tmp_path / "out", vocab, dataset=source, column="body")
    assert load_tokens(tmp_path / "out").dataset["input_ids"][:] == reference_rows(TEXTS, vocab, 512)


def test_where_blocks_end_does_not_matter(tmp_path: Path, vocab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS * 3) + "\n\n" + LONG)
    prepare(tmp_path / "whole", vocab, [text], mode="packed", max_length=40)
    read_files = run.read_files
    monkeypatch.setattr(run, "read_files", lambda *given, **named: read_files(*given, block_bytes=7, **named))
    prepare(tmp_path / "blocks", vocab, [text], mode="packed", max_length=40)
    whole, blocks = load_tokens(tmp_path / "whole"), load_tokens(tmp_path / "blocks")
    assert whole.dataset["input_ids"][:] == blocks.dataset["input_ids"][:]
    assert {**whole.info, "files": None} == {**blocks.info, "files": None}


def test_special_tokens_written_in_the_text_stay_text(tmp_path: Path, vocab: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(f"{LONG} [MASK] [SEP] [CLS] {LONG}\n")
    prepare(tmp_path / "out", vocab, [text])
    tokens = load_tokens(tmp_path / "out")
    assert tokens.token_counts[tokens.tokenizer.mask_id] == 0
    assert tokens.token_counts[tokens.tokenizer.cls_id] == tokens.token_counts[tokens.tokenizer.sep_id] == 1


def test_a_large_vocabulary_is_stored_in_32_bits(tmp_path: Path) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join([*SPECIALS, *(f"word{number}" for number in range(70_000))]) + "\n")
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"word{number}" for number in range(69_980, 70_000)))
    prepare(tmp_path / "out", vocab, [text])
    assert load_tokens(tmp_path / "out").dataset["input_ids"][:] == [[2, *range(69_985, 70_005), 3]]


def test_shards(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path, 100, shard_bytes=1)
    rows = [[[1, 2, 3]], [[4], []], [[5, 6]]]
    for row in rows:
        writer.write(pa.array(row, pa.list_(pa.uint16())))
    assert sorted(writer.finish()) == [f"data-0000{index}-of-00003.arrow" for index in range(3)]
    assert datasets.load_from_disk(str(tmp_path))["input_ids"][:] == [[1, 2, 3], [4], [], [5, 6]]


def test_a_killed_run_leaves_nothing_and_the_next_one_cleans_up(tmp_path: Path, vocab: Path) -> None:
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_text(LONG)
    script = (
        "import os, signal, sys\n"
        "from distilfast.prepare import run as prepare\n"
        "class Killed(prepare.TokenWriter):\n"
        "    def write(self, rows):\n"
        "        super().write(rows)\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "prepare.TokenWriter = Killed\n"
        "prepare.prepare(*sys.argv[1:3], sys.argv[3:])\n"
    )
    process = subprocess.run([sys.executable, "-c", script, str(out), str(vocab), str(text)])
    assert process.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".out.*.partial/whole/data-*"))) == 1
    assert not out.exists()
    with pytest.raises(df.InputError, match="no such directory"):
        load_tokens(out)

    prepare(out, vocab, [text])
    assert len(load_tokens(out).dataset) == 1
    assert not list(tmp_path.glob(".out.*"))


def test_a_directory_that_is_not_whole_is_noticed(tmp_path: Path, vocab: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(LONG)
    out = tmp_path / "out"

    def refused(match: str) -> None:
        with pytest.raises(df.InputError, match=match):
            load_tokens(out)
        prepare(out, vocab, [text], overwrite=True)
        load_tokens(out)

    prepare(out, vocab, [text])
    (data,) = out.glob("data-*.arrow")
    data.write_bytes(data.read_bytes()[:-8])
    refused("has .* of .* bytes")
    data.unlink()
    refused("is missing")
    np.save(out / "token_counts.npy", np.zeros(len(SPECIALS + WORDS), np.int64))
    refused("does not add up")
    (out / "state.json").unlink()
    refused("not whole")
    info = json.loads((out / "tokens.json").read_text())
    (out / "tokens.json").write_text(json.dumps({**info, "format": 1}))
    refused("format 1")
    (out / "tokens.json").unlink()
    refused("no tokens.json")
    (out / "tokens.json").write_text(json.dumps({**info, "fingerprint": "0" * 64}))
    refused("not the tokenizer that made the tokens")


def test_tokens_of_another_vocabulary_are_refused(tmp_path: Path, vocab: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(LONG)
    prepare(tmp_path / "out", vocab, [text])
    tokens = load_tokens(tmp_path / "out")
    tokens.check_tokenizer(df.Tokenizer.from_file(vocab), "the teacher")
    other = tmp_path / "other.txt"
    other.write_text("\n".join(SPECIALS + WORDS[::-1]) + "\n")
    with pytest.raises(df.InputError, match=r"another vocabulary .* than the teacher"):
        tokens.check_tokenizer(df.Tokenizer.from_file(other), "the teacher")
