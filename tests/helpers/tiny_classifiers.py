"""Tiny classifiers and labelled batches, for the tests of heads and of evaluation."""

from __future__ import annotations

from typing import Any

import torch
import transformers

KINDS = ("single_label_classification", "multi_label_classification", "regression")
CLASSES = {"single_label_classification": 3, "multi_label_classification": 3, "regression": 1}
ROWS = 12


def classifier(kind: str, layers: int = 2, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=53,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=CLASSES[kind],
        problem_type=kind,
        **changes,
    )
    return transformers.BertForSequenceClassification(config).eval()


class LabelledBatches:
    """`ROWS` labelled sequences, `rows` a batch; every fourth has no label. The same rows however they are cut."""

    def __init__(self, kind: str, rows: int, batches_per_step: int) -> None:
        self.kind, self.size, self.batches_per_step = kind, rows, batches_per_step
        generator = torch.Generator().manual_seed(3)
        self.ids = torch.randint(5, 53, (ROWS, 9), generator=generator)
        self.lengths = torch.randint(3, 10, (ROWS,), generator=generator)
        none = torch.arange(ROWS) % 4 == 3
        if kind == "single_label_classification":
            self.labels = torch.randint(0, 3, (ROWS,), generator=generator).masked_fill(none, -100)
        elif kind == "multi_label_classification":
            self.labels = torch.randint(0, 2, (ROWS, 3), generator=generator).float()
            self.labels[none] = -100
        else:
            self.labels = torch.randn(ROWS, generator=generator).masked_fill(none, float("nan"))
        self.none = none

    def __len__(self) -> int:
        return ROWS // self.size

    def set_epoch(self, epoch: int) -> None:
        pass

    @property
    def state_fingerprint(self) -> str:
        return f"{self.kind}-{self.size}-{self.batches_per_step}"

    def __getitem__(self, number: int) -> dict[str, Any]:
        own = slice(number * self.size, (number + 1) * self.size)
        first = number - number % self.batches_per_step
        step = slice(first * self.size, (first + self.batches_per_step) * self.size)
        mask = (torch.arange(9) < self.lengths[own, None]).long()
        return {
            "input_ids": self.ids[own] * mask,
            "attention_mask": mask,
            "token_type_ids": (torch.arange(9) >= 5).long().expand_as(mask) * mask,
            "labels": self.labels[own],
            "num_tokens": mask.sum(),
            "num_attended_in_step": self.lengths[step].sum(),
            "num_rows_in_step": torch.tensor(len(self.lengths[step])),
            "num_labelled_in_step": (~self.none[step]).sum(),
        }
