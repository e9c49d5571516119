"""Made-up reviews that a tiny BERT learns in seconds, as rows and as files, and classifiers fine-tuned on them."""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

FILLERS = ["the", "film", "was", "very", "plot", "and", "music", "seemed", "to", "me"]
WORDS = {"positive": ["good", "great", "fine", "lovely"], "negative": ["bad", "poor", "dull", "awful"]}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *WORDS["positive"], *WORDS["negative"]]

QUICK: dict[str, Any] = {"report_to": "none", "use_cpu": True, "precision": "fp32", "learning_rate": 3e-3}
"""Options of a run that takes seconds."""


def reviews(number: int, seed: int) -> list[dict[str, str]]:
    """{"label", "text"}: five words of filler, and one that says which."""
    draw = random.Random(seed)
    rows = []
    for _ in range(number):
        label = draw.choice(sorted(WORDS))
        words = [draw.choice(FILLERS) for _ in range(5)]
        words.insert(draw.randrange(6), draw.choice(WORDS[label]))
        rows.append({"label": label, "text": " ".join(words)})
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def save_blank(folder: Path, layers: int = 4, **config: Any) -> Path:
    """An untrained BERT classifier with its tokenizer; by default two classes, the positive one first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    named = {"id2label": {0: "positive", 1: "negative"}, "label2id": {"positive": 0, "negative": 1}}
    settings = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
        "hidden_dropout_prob": 0.0,
        **(config or named),
    }
    BertForSequenceClassification(BertConfig(**settings)).save_pretrained(folder)
    return folder
