"""What the training step is measured against: the distillation loop as it is usually written over Hugging Face models.

Padded batches of `DataCollatorForLanguageModeling`, logits at every position, the attended ones picked with
`masked_select`, `nn.KLDivLoss`, `nn.CrossEntropyLoss`, `nn.CosineEmbeddingLoss`, as in the original DistilBERT script.
Its best settings are those that a careful user reaches with switches alone: rows of like length together, bfloat16, and
`torch.compile` where that is faster.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import DataCollatorForLanguageModeling, PreTrainedModel, PreTrainedTokenizerBase

TEMPERATURE, ALPHA_CE, ALPHA_MLM, ALPHA_COS = 2.0, 5.0, 2.0, 1.0


def collated_batches(
    rows: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    batch_tokens: int,
    grouped: bool,
    number: int | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Endless masked batches of about `batch_tokens` tokens of text, padded to the longest row.

    Random rows, a fixed `number` of them (None: as many as hold `batch_tokens` on average); with `grouped`, rows of
    like length, as many as fit `batch_tokens` padded.
    """
    if number is None:
        number = batch_tokens * len(rows) // sum(map(len, rows))
    generator = random.Random(0)
    features = [{"input_ids": row} for row in rows]
    while True:
        order = list(range(len(rows)))
        generator.shuffle(order)
        groups = _like_lengths(rows, order, batch_tokens) if grouped else _fixed_number(order, max(1, number))
        generator.shuffle(groups)
        yield from DataLoader(
            features,  # type: ignore[arg-type]
            batch_sampler=groups,
            collate_fn=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
            pin_memory=torch.cuda.is_available(),
        )


def _fixed_number(order: list[int], number: int) -> list[list[int]]:
    return [order[start : start + number] for start in range(0, len(order) - number + 1, number)]


def _like_lengths(rows: Sequence[list[int]], order: list[int], batch_tokens: int) -> list[list[int]]:
    groups: list[list[int]] = [[]]
    for index in sorted(order, key=lambda index: len(rows[index])):
        if groups[-1] and len(rows[index]) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(index)
    return groups


def distillation_losses(student: Any, teacher: Any, batch: dict[str, Tensor]) -> Tensor:
    """The published weighted sum of KL, masked-language-model loss and cosine loss of one batch; 0-dim.

    `batch`: `input_ids`, `attention_mask` [rows, width], `labels` [rows, width] with -100 where nothing is masked.
    """
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "output_hidden_states": True}
    with torch.no_grad():
        target = teacher(**inputs)
    output = student(**inputs)
    s_logits, t_logits = output.logits, target.logits
    attended = batch["attention_mask"].unsqueeze(-1).expand_as(s_logits).bool()
    s_selected = torch.masked_select(s_logits, attended).view(-1, s_logits.size(-1))
    t_selected = torch.masked_select(t_logits, attended).view(-1, t_logits.size(-1))
    loss_ce = nn.KLDivLoss(reduction="batchmean")(
        F.log_softmax(s_selected / TEMPERATURE, dim=-1), F.softmax(t_selected / TEMPERATURE, dim=-1)
    )
    loss_mlm = nn.CrossEntropyLoss(ignore_index=-100)(s_logits.view(-1, s_logits.size(-1)), batch["labels"].view(-1))
    s_hidden, t_hidden = output.hidden_states[-1], target.hidden_states[-1]
    attended = batch["attention_mask"].unsqueeze(-1).expand_as(s_hidden).bool()
    s_hidden = torch.masked_select(s_hidden, attended).view(-1, s_hidden.size(-1))
    t_hidden = torch.masked_select(t_hidden, attended).view(-1, t_hidden.size(-1))
    loss_cos = nn.CosineEmbeddingLoss(reduction="mean")(s_hidden, t_hidden, s_hidden.new_ones(s_hidden.size(0)))
    total: Tensor = ALPHA_CE * TEMPERATURE**2 * loss_ce + ALPHA_MLM * loss_mlm + ALPHA_COS * loss_cos
    return total


class PlainLoop:
    """One contender: `step()` trains on the next micro-batch and returns its number of tokens of text.

    `bf16` runs under autocast, `compiled` compiles both models. The optimiser steps every `batches_per_step` batches.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        batches: Iterator[dict[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        batches_per_step: int,
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        self.student: Any = torch.compile(student, dynamic=True) if compiled else student
        self.teacher: Any = torch.compile(teacher, dynamic=True) if compiled else teacher
        self.parameters = list(student.parameters())
        self.device = student.device
        self.batches = batches
        self.optimizer = optimizer
        self.batches_per_step = batches_per_step
        self.bf16 = bf16
        self.count = 0

    def step(self) -> int:
        batch = next(self.batches)
        tokens = int(batch["attention_mask"].sum())  # on the host still: reading it from a GPU would wait for the step
        batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = distillation_losses(self.student, self.teacher, batch) / self.batches_per_step
        loss.backward()  # type: ignore[no-untyped-call]
        self.count += 1
        if self.count % self.batches_per_step == 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return tokens
