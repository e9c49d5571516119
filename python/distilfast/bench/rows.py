"""`bench train --head classification | tokens`: `transformers.Trainer` with a `compute_loss` of its own, the usual way
to distil a classifier or a tagger, over the same models and rows as ours."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from ..batches.encode import EncodedRows, encode_texts, encode_words
from ..batches.labelled import LabelledBatches
from ..heads.choice import choose_head
from ..models.adaptation import freeze
from ..models.student import create_student
from ..prepare.targets import IGNORED
from ..train.arguments import DistillationArguments
from ..train.kept_outputs import keep_teachers
from ..train.step import DistillationStep
from ..train.trainer import DistillationTrainer
from .trainers import OPTIMISER, Contest

TEMPERATURE = 2.0
CLASSES = 9
"""Classes of a text, or tags of a word (those of CoNLL 2003)."""


class UsualTrainer(Trainer):
    """The KL to a teacher at a temperature, and the model's own loss on labels, over all padded logits."""

    def __init__(self, *arguments: Any, teacher: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.teacher = teacher
        self.model_accepts_loss_kwargs = False  # the loss is the mean of a batch

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return usual_loss(model, self.teacher, inputs)


def usual_loss(student: Any, teacher: Any, inputs: dict[str, Any]) -> Tensor:
    """`F.kl_div` times the temperature squared, and the student's loss on `labels`; of tags at labelled words alone."""
    outputs = student(**inputs)
    with torch.no_grad():
        target = teacher(**{name: value for name, value in inputs.items() if name != "labels"}).logits
    logits = outputs.logits
    if logits.ndim == 3:
        known = inputs["labels"] != IGNORED
        logits, target = logits[known], target[known]
    soft = F.kl_div(
        F.log_softmax(logits / TEMPERATURE, dim=-1),
        F.softmax(target.float() / TEMPERATURE, dim=-1),
        reduction="batchmean",
    )
    loss: Tensor = TEMPERATURE**2 * soft + outputs.loss
    return loss


def contest(
    head: str, config: BertConfig, tokenizer: Any, texts: Sequence[str], batch_size: int, max_length: int, bf16: bool
) -> Contest:
    """Ours and the usual way, as it is and at its best settings, on models of `config`; labels are drawn."""
    draws = np.random.default_rng(0)
    config.num_labels = CLASSES
    torch.manual_seed(0)
    teacher: Any
    if head == "tokens":
        words = [text.split() for text in texts]
        rows = encode_words(
            tokenizer, words, [draws.integers(0, CLASSES, len(row)).tolist() for row in words], max_length
        )
        teacher = freeze(BertForTokenClassification(config))
    else:
        rows = encode_texts(tokenizer, texts, None, draws.integers(0, CLASSES, len(texts)).tolist(), max_length)
        teacher = freeze(BertForSequenceClassification(config))
    student = create_student(teacher)

    def batches() -> LabelledBatches:
        return LabelledBatches(rows, tokenizer, batch_size)

    def ours(folder: Path) -> DistillationTrainer:
        args = DistillationArguments(
            str(folder),
            head=head,
            alpha_ce=1.0,
            alpha_task=1.0,
            alpha_cos=0.0,
            alpha_mlm=0.0,
            temperature=TEMPERATURE,
            precision="bf16" if bf16 else "fp32",
            per_device_train_batch_size=batch_size,
            **OPTIMISER,
        )
        return DistillationTrainer(copy.deepcopy(student), copy.deepcopy(teacher), args, batches())

    def cached(folder: Path) -> Trainer:
        trainer = ours(folder)
        trainer.adapt_models()
        keep_teachers(trainer, cast(LabelledBatches, trainer.train_dataset), str(folder / "cache"), write=True)
        return trainer

    def usual(folder: Path, best: bool) -> Trainer:
        args = TrainingArguments(
            str(folder),
            per_device_train_batch_size=batch_size,
            bf16=best and bf16,
            train_sampling_strategy="group_by_length" if best else "random",
            **OPTIMISER,
        )
        own = copy.deepcopy(teacher).to(args.device, torch.bfloat16 if best and bf16 else torch.float32)
        collator = DataCollatorForTokenClassification if head == "tokens" else DataCollatorWithPadding
        return UsualTrainer(
            model=copy.deepcopy(student),
            args=args,
            train_dataset=as_dataset(rows),
            data_collator=collator(tokenizer),
            teacher=own,
        )

    return Contest(
        losses(student, teacher, batches()[0]),
        {
            "ours": ours,
            "ours, --cache_teacher": cached,
            "usual": lambda folder: usual(folder, best=False),
            "usual, best settings": lambda folder: usual(folder, best=True),
        },
        {"batch": f"{batch_size} rows a batch, at most {max_length} tokens"},
    )


def losses(student: Any, teacher: Any, batch: dict[str, Any]) -> tuple[float, float]:
    """The loss of one batch in float32 without dropout, ours and the usual way's."""
    objective = DistillationArguments("unused", alpha_ce=1.0, alpha_cos=0.0, alpha_mlm=0.0, report_to="none").objective
    own = copy.deepcopy(student).eval()
    step = DistillationStep(own, teacher, objective, head=choose_head(teacher))
    inputs: dict[str, Any] = {
        name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "labels") if name in batch
    }
    with torch.no_grad():
        return float(cast(Any, step)(batch)["loss"]), float(usual_loss(own, teacher, inputs))


def as_dataset(rows: EncodedRows) -> datasets.Dataset:
    """The rows as a data set of lists, which `Trainer` reads."""
    found: dict[str, list[Any]] = {"input_ids": [rows.input_ids[row].tolist() for row in range(len(rows))]}
    found["attention_mask"] = [[1] * len(ids) for ids in found["input_ids"]]
    if rows.token_type_ids is not None:
        found["token_type_ids"] = [rows.token_type_ids[row].tolist() for row in range(len(rows))]
    labels = rows.word_labels
    found["labels"] = (
        rows.targets["labels"].tolist() if labels is None else [labels[row].tolist() for row in range(len(rows))]
    )
    return datasets.Dataset.from_dict(found)
