"""A sentence encoder of two small layers in a folder of sentence-transformers, and sentences for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from distilfast.models.pooling import Dense, Normalize, SentenceModules
from distilfast.models.sentence_folder import SentenceSettings, write_sentence_folder
from transformers import BertConfig, BertModel, BertTokenizer

WORDS = [
    "the",
    "a",
    "small",
    "red",
    "old",
    "boat",
    "river",
    "town",
    "man",
    "woman",
    "child",
    "sees",
    "takes",
    "likes",
    "walks",
    "sings",
    "to",
    "from",
    "and",
    "in",
    "by",
]


def sentences(count: int = 64, seed: int = 0) -> list[str]:
    drawn = random.Random(seed)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(1, 14))) for _ in range(count)]


def encoder_folder(
    folder: Path,
    layers: int = 4,
    width: int = 32,
    dense: int | None = None,
    normalize: bool = True,
    pooling: tuple[str, ...] = ("mean",),
    settings: SentenceSettings | None = None,
    words: list[str] | None = None,
    bare: bool = False,
    positions: int = 40,
    seed: int = 0,
) -> str:
    """Writes the encoder; `dense`: the width of a dense layer behind the pooling; `bare`: the encoder alone."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(WORDS if words is None else words)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer: Any = BertTokenizer(str(folder / "vocab.txt"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=positions,
        initializer_range=0.2,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if not bare:
        steps: list[torch.nn.Module] = []
        if dense is not None:
            steps.append(Dense(width * len(pooling), dense, activation="torch.nn.modules.activation.Tanh"))
        if normalize:
            steps.append(Normalize())
        settings = SentenceSettings(max_length=20) if settings is None else settings
        write_sentence_folder(folder, SentenceModules(width, pooling, steps), settings)
    return str(folder)
