"""A tokenizer of a few words, and one of bytes, for rows with labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import ByteLevelBPETokenizer
from transformers import BertTokenizer, RobertaTokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "some", "dog", "came", "by", "to", "see", "it"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ing", "?", ".", "play", "who"]
NONE = -100


def word_tokenizer(**settings: Any) -> Any:
    return BertTokenizer(vocab={token: number for number, token in enumerate(VOCAB)}, **settings)


def byte_level(folder: Path) -> Any:
    """A tokenizer such as RoBERTa's, of a few texts."""
    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["the cat sat on the mat"] * 10, vocab_size=290, special_tokens=specials)
    trained.save_model(str(folder))
    return RobertaTokenizer.from_pretrained(folder)
