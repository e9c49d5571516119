"""Threads and forks: the same ids in the same order, and no child that waits for ever."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import distilfast as df
import pytest
import tokenizers

WORDS = ["the", "cat", "sat", "on", "##s", ".", "mat", "é", "日"]
TEXTS = ["The cats sat on the mat. é日 cat" * 20, "[MASK] cat", ""] * 3000


@pytest.fixture(scope="module")
def tok() -> df.Tokenizer:
    vocab = {token: index for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    library = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
    library.normalizer = tokenizers.normalizers.BertNormalizer()
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    library.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    library.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return df.Tokenizer(library.to_str())


def test_threads_change_nothing(tok: df.Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    one = tok.encode_batch(TEXTS, threads=1)
    assert one == tok.encode_batch(TEXTS, threads=3)
    monkeypatch.setenv("RAYON_NUM_THREADS", "2")
    assert one == tok.encode_batch(TEXTS)


def test_callers_in_several_threads(tok: df.Tokenizer) -> None:
    expected = tok.encode_batch(TEXTS, threads=1)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: tok.encode_batch(TEXTS, threads=2), range(8)))
    assert all(result == expected for result in results)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_ever(tok: df.Tokenizer) -> None:
    """Children forked while other threads encode; each encodes with threads of its own."""
    expected = tok.encode_batch(TEXTS, threads=2)
    stop = threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            tok.encode_batch(TEXTS[:300], threads=2)

    busy = threading.Thread(target=keep_busy)
    busy.start()
    try:
        context = multiprocessing.get_context("fork")
        children = [context.Process(target=_check, args=(tok, expected)) for _ in range(6)]
        for child in children:
            child.start()
            time.sleep(0.01)
        for child in children:
            child.join(60)
            assert child.exitcode == 0
    finally:
        stop.set()
        busy.join()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_the_first_split_is_prepared() -> None:
    """`split_special_tokens` makes a second tokenizer of the `tokenizers` crate; no child waits for its parent's."""
    vocab = {token: index for index, token in enumerate(["[UNK]", "[SEP]", *WORDS])}
    vocab |= {f"filler{number}": len(vocab) + number for number in range(200_000)}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token="[UNK]"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    library.add_special_tokens(["[SEP]"])
    tok = df.Tokenizer(library.to_str())
    assert tok.engine == "tokenizers"
    preparing = threading.Thread(target=tok.encode, args=("the [SEP]",), kwargs={"split_special_tokens": True})
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_check_split, args=(tok,)) for _ in range(6)]
    preparing.start()
    for child in children:
        child.start()
    preparing.join()
    for child in children:
        child.join(60)
        assert child.exitcode == 0


def _check_split(tok: df.Tokenizer) -> None:
    os._exit(0 if tok.encode("the [SEP]", split_special_tokens=True) == [2, 0, 0, 0] else 1)


def _check(tok: df.Tokenizer, expected: object) -> None:
    os._exit(0 if tok.encode_batch(TEXTS, threads=2) == expected else 1)
