"""A tiny cross-encoder in a folder, and pairs of queries and passages for it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tiny_sentence import WORDS
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

IDENTITY = "torch.nn.modules.linear.Identity"
LONGEST = 24


def reranker_folder(folder: Path, layers: int = 4, seed: int = 0, **config: Any) -> str:
    """Writes a model of random weights that looks at token types, with the settings that CrossEncoder keeps."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,
        "hidden_dropout_prob": 0.0,
        "num_labels": 1,
        "sentence_transformers": {"activation_fn": IDENTITY, "version": "5.0.0"},
    }
    BertForSequenceClassification(BertConfig(**{**settings, **config})).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=LONGEST).save_pretrained(folder)
    return str(folder)


def queries_and_passages(queries: int = 24, passages: int = 4, seed: int = 0, labels: bool = False) -> list[Any]:
    """Rows of {"query", "passage"}, and "relevance" where `labels`: 1 for the first passage of each query."""
    draw = random.Random(seed)
    rows: list[Any] = []
    for number in range(queries):
        query = " ".join([*draw.choices(WORDS, k=3), WORDS[number % len(WORDS)], WORDS[number // len(WORDS)]])
        for passage in range(passages):
            row: dict[str, Any] = {"query": query, "passage": " ".join(draw.choices(WORDS, k=draw.randint(2, 12)))}
            rows.append(row | ({"relevance": float(passage == 0)} if labels else {}))
    return rows
