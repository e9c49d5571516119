"""What went wrong when others' habits were tried on batches: workers that persist, tokenizers of another library."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import datasets
import distilfast as df
import numpy as np
import pytest
import tiny_exports
import torch
from distilfast.batches.shared_epoch import SharedEpoch
from distilfast.prepare.directory import load_tokens
from distilfast.prepare.run import prepare
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

VOCAB = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\ndog\nsat\non\nmat\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A vocabulary, prepared tokens of a text, and the same tokenizer as `transformers` has it."""
    (tmp_path / "vocab.txt").write_text(VOCAB)
    lines = [f"the cat sat on the {'mat ' * (number % 7)}" for number in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines) + "\n")
    prepare(tmp_path / "tokens", tmp_path / "vocab.txt", tmp_path / "text.txt", min_length=0, progress=False)
    df.Tokenizer.from_file(tmp_path / "vocab.txt").save_pretrained(tmp_path / "tokenizer")
    return tmp_path


def ids(batch: dict[str, Any]) -> bytes:
    return b"".join(np.asarray(batch[name]).tobytes() for name in ("input_ids", "mlm_labels"))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_that_persist_see_the_epoch(folder: Path, context: str) -> None:
    batches = df.MaskedBatches(load_tokens(folder / "tokens"), folder / "vocab.txt", batch_tokens=64, max_length=32)
    epochs = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        epochs.append([ids(batch) for batch in batches])
    assert len({*map(tuple, epochs)}) == 3
    batches.set_epoch(0)
    loader = DataLoader(
        batches, batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context=context
    )
    for epoch in (0, 1, 2, 0):
        batches.set_epoch(epoch)
        assert [ids(batch) for batch in loader] == epochs[epoch]
        assert batches.epoch == epoch


def test_an_epoch_is_shared_or_copied() -> None:
    epoch = SharedEpoch(3)
    copy = pickle.loads(pickle.dumps(epoch))
    assert copy.number == 3
    epoch.number = 2**40
    assert (epoch.number, copy.number) == (2**40, 3)


def test_batches_take_what_people_have(folder: Path) -> None:
    """The prepared tokens themselves, a tokenizer of transformers, or where one lies: the same batches."""
    tokens = load_tokens(folder / "tokens")
    expected = df.MaskedBatches(tokens.dataset, tokens.tokenizer, token_counts=tokens.token_counts)
    for given in (folder / "vocab.txt", str(folder / "tokenizer"), AutoTokenizer.from_pretrained(folder / "tokenizer")):
        batches = df.MaskedBatches(tokens, given, masking=df.Masking(smoothing=0.7))
        assert ids(batches[0]) == ids(
            df.MaskedBatches(tokens.dataset, tokens.tokenizer, masking=df.Masking(smoothing=0.7))[0]
        )
        assert batches.state_fingerprint != expected.state_fingerprint
        assert df.MaskedBatches(tokens, given).state_fingerprint == expected.state_fingerprint


def test_other_things_are_answered_with_a_sentence(folder: Path) -> None:
    tokens = load_tokens(folder / "tokens")
    with pytest.raises(df.InputError, match="a dict is no tokenizer"):
        df.MaskedBatches(tokens, {"the": 1})
    with pytest.raises(df.InputError, match="another vocabulary"):
        df.MaskedBatches(tokens, tiny_exports.tokenizer())
    with pytest.raises(TypeError, match="not str"):
        df.MaskedBatches("tokens", tokens.tokenizer)
    texts = datasets.Dataset.from_dict({"text": ["the cat"]})
    with pytest.raises(df.InputError, match="tokenise the text first"):
        df.MaskedBatches(texts, tokens.tokenizer)
    assert torch.is_tensor(df.MaskedBatches(tokens, tokens.tokenizer)[0]["input_ids"])
