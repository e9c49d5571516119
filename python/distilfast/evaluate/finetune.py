"""Fine-tuning one model on one task with one seed, alone or with a task-tuned teacher beside it, and its scores."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.func import functional_call
from torch.nn import functional as F
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from .. import cpu
from .._core import InputError
from ..metrics import questions
from ..models.bf16 import ForgetCopies, WeightCopies
from ..models.load import load_model
from ..models.saved_tokenizer import save_tokenizer
from ..tokenizer import load_transformers_tokenizer
from .forward import room_for
from .length_groups import logits_by_length
from .task_data import Split, TaskData
from .tasks import Task, score, scores

EVALUATION_BATCH = 64
MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Columns of `questions.windows` that lead from a window back to its passage.
NOT_TENSORS = ("example", "offsets")
LOGITS = ("logits", "start_logits", "end_logits")


@dataclass(frozen=True)
class FineTuneSettings:
    """What a score depends on beside model, data and seed; kept with every score.

    The defaults are the recipe of BERT (Devlin et al. 2018) that DistilBERT was evaluated with: AdamW, 3 epochs, batch
    32, linear decay after 10 % warm-up, weight decay 0.01. alpha_ce, alpha_task, temperature: of the loss with a
    teacher, alpha_ce T^2 KL(teacher || student) + alpha_task times the task's own; unused without one.
    """

    learning_rate: float = 2e-5
    epochs: float = 3.0
    batch_size: int = 32
    max_length: int = 128
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_train_rows: int | None = None
    max_dev_rows: int | None = None
    alpha_ce: float = 0.5
    alpha_task: float = 0.5
    temperature: float = 2.0
    bf16: bool = False


def published_settings(task: Task, **changes: Any) -> FineTuneSettings:
    """The published settings of `task` with the `changes` that are not None."""
    settings = FineTuneSettings(task.learning_rate, task.epochs, task.batch_size, task.max_length)
    return dataclasses.replace(settings, **{key: value for key, value in changes.items() if value is not None})


@dataclass(frozen=True)
class FineTuned:
    """scores: the task's metrics in per cent; score: its one number; losses: (step, training loss); seconds: of
    training."""

    scores: dict[str, float]
    score: float
    losses: list[tuple[int, float]]
    steps: int
    seconds: float


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Columns as a map-style dataset of rows."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {key: column[row] for key, column in self.columns.items()}


class _TaskTrainer(Trainer):
    """A Trainer whose batches may carry inputs that only the teacher takes, and whose loss may have a teacher in it."""

    def __init__(self, *arguments: Any, settings: FineTuneSettings, task: Task, teacher: Any = None, **keywords: Any):
        super().__init__(*arguments, **keywords)
        self.settings = settings
        self.task = task
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False).to(self.args.device)
        self.student_inputs = _inputs_of(self.model)
        self.teacher_inputs = () if teacher is None else _inputs_of(teacher)
        self.copies, self.teacher_copies = weight_copies(settings.bf16), weight_copies(settings.bf16)
        if self.copies is not None:
            self.add_callback(ForgetCopies(self.copies))
        # The loss is the mean over one batch; there is no accumulation to correct for.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = self.outputs(model, _taken(inputs, self.student_inputs), self.copies)
        loss = task_loss(self.task, outputs, inputs)
        if self.teacher is not None and model.training:
            with torch.no_grad():
                reference = self.outputs(self.teacher, _taken(inputs, self.teacher_inputs), self.teacher_copies)
            soft = soft_task_loss(self.task, outputs, reference, self.settings.temperature)
            loss = self.settings.alpha_ce * soft + self.settings.alpha_task * loss
        return (loss, outputs) if return_outputs else loss

    def outputs(self, model: Any, inputs: dict[str, Any], copies: WeightCopies | None) -> Any:
        """The model's outputs for a batch; on a CPU, where they are one row of logits each, without most padding."""
        if self.task.kind == "questions" or self.args.device.type != "cpu":
            return run_model(model, inputs, copies)
        logits = logits_by_length(lambda narrow: run_model(model, narrow, copies).logits, inputs)
        return SequenceClassifierOutput(logits=logits)


def weight_copies(bf16: bool) -> WeightCopies | None:
    """What a model computes with in bfloat16; None where it computes with its weights."""
    return WeightCopies(torch.bfloat16, kept=True) if bf16 else None


def run_model(model: Any, inputs: Mapping[str, Any], copies: WeightCopies | None) -> Any:
    """The model's outputs, computed with `copies` of its weights where there are some; logits are float32."""
    outputs = model(**inputs) if copies is None else functional_call(model, copies.of(model), (), dict(inputs))
    for name in LOGITS:
        if name in outputs:
            outputs[name] = outputs[name].float()
    return outputs


def task_loss(task: Task, outputs: Any, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The task's own loss of a batch, the mean over its rows, as the models of `transformers` have it: cross-entropy of
    the classes, squared error for regression, for questions the mean of the cross-entropies of start and end."""
    if task.kind == "regression":
        return F.mse_loss(outputs.logits.squeeze(-1), targets["labels"].float())
    if task.kind == "questions":
        start = F.cross_entropy(outputs.start_logits, targets["start_positions"])
        return (start + F.cross_entropy(outputs.end_logits, targets["end_positions"])) / 2
    return F.cross_entropy(outputs.logits, targets["labels"])


def soft_task_loss(task: Task, student: Any, teacher: Any, temperature: float) -> torch.Tensor:
    """What the teacher's outputs for a batch say about the student's.

    T^2 KL(teacher || student) at temperature T, mean over rows; for questions the mean of that over starts and ends,
    softmax over the padded width as in the original; for regression, which has no distribution, the mean squared
    difference.
    """
    if task.kind == "regression":
        return F.mse_loss(student.logits, teacher.logits)
    names = LOGITS[1:] if task.kind == "questions" else LOGITS[:1]
    divergences = [
        F.kl_div(
            F.log_softmax(student[name] / temperature, dim=-1),
            F.log_softmax(teacher[name] / temperature, dim=-1),
            reduction="batchmean",
            log_target=True,
        )
        for name in names
    ]
    return torch.stack(divergences).mean() * temperature**2


def _inputs_of(model: Any) -> tuple[str, ...]:
    import inspect

    return tuple(name for name in MODEL_INPUTS if name in inspect.signature(model.forward).parameters)


def _taken(inputs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: inputs[name] for name in names if name in inputs}


def load_for_task(path: str, task: Task, seed: int) -> Any:
    """The encoder in `path`, in float32 however it is stored, with a new head for `task`, drawn from `seed`; a head it
    has for it already is kept."""
    transformers.set_seed(seed)
    if task.kind == "questions":
        return load_model(path, "questions", new_head=True)
    labels = 1 if task.kind == "regression" else len(task.labels)
    problem = "regression" if task.kind == "regression" else "single_label_classification"
    return load_model(
        path,
        "classification",
        new_head=True,
        num_labels=labels,
        problem_type=problem,
    )


def encode_split(tokenizer: Any, task: Task, split: Split, max_length: int) -> dict[str, list[Any]]:
    """The model's inputs for each row as columns of lists, with the targets where the task has one a row."""
    if task.kind == "questions":
        assert split.second is not None
        return questions.windows(tokenizer, split.first, split.second, max_length, split.labels)
    encoded = tokenizer(split.first, split.second, truncation=True, max_length=max_length)
    return {key: encoded[key] for key in MODEL_INPUTS if key in encoded} | {"labels": split.labels}


def collator(tokenizer: Any) -> Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]:
    """Pads to the longest row of the batch, and leaves out what no model takes."""
    pad = DataCollatorWithPadding(tokenizer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return dict(pad([{name: row[name] for name in row if name not in NOT_TENSORS} for row in rows]))

    return collate


def predict(
    model: Any, tokenizer: Any, columns: Mapping[str, Sequence[Any]], device: torch.device, bf16: bool = False
) -> list[np.ndarray]:
    """The model's outputs in the order of the rows, float32: [logits], or [start, end] padded with -inf.

    Rows are batched by length, which changes nothing but the time. bf16: computed in bfloat16.
    """
    number = len(columns["input_ids"])
    order = sorted(range(number), key=lambda row: -len(columns["input_ids"][row]))
    rows = _Rows({key: columns[key] for key in MODEL_INPUTS if key in columns})
    collate, names = collator(tokenizer), _inputs_of(model)
    outputs: list[np.ndarray] = []
    copies = weight_copies(bf16)
    model.eval().to(device)
    with torch.no_grad():
        for start in range(0, number, EVALUATION_BATCH):
            here = order[start : start + EVALUATION_BATCH]
            batch = {key: value.to(device) for key, value in collate([rows[row] for row in here]).items()}
            result = run_model(model, _taken(batch, names), copies)
            arrays = [result[name].cpu().numpy() for name in LOGITS if name in result]
            if not outputs:  # the longest rows come first, so the first batch is the widest
                outputs = [np.full((number, array.shape[1]), -np.inf, np.float32) for array in arrays]
            for whole, array in zip(outputs, arrays, strict=True):
                whole[np.asarray(here)[:, None], np.arange(array.shape[1])[None]] = array
    return outputs


def evaluate_task(
    model: Any, tokenizer: Any, data: TaskData, max_length: int, device: torch.device, bf16: bool = False
) -> dict[str, float]:
    """The task's metrics in per cent on its dev splits, rows cut to `max_length` and to the model's positions."""
    max_length = room_for(model, tokenizer, max_length)
    truths, outputs = {}, {}
    for name, split in data.dev.items():
        columns = encode_split(tokenizer, data.task, split, max_length)
        predicted = predict(model, tokenizer, columns, device, bf16)
        if data.task.kind == "questions":
            assert split.second is not None
            answers = questions.best_answers(split.second, columns, predicted[0], predicted[1])
            found = questions.question_metrics(answers, [label["answers"] for label in split.labels])
            return {name: 100 * value for name, value in found.items()}
        truths[name], outputs[name] = split.labels, predicted[0]
    return scores(data.task, truths, outputs)


def fine_tune(
    path: str,
    data: TaskData,
    seed: int,
    settings: FineTuneSettings,
    device: torch.device,
    *,
    teacher: str | None = None,
    save_to: Path | None = None,
) -> FineTuned:
    """Fine-tunes the model in `path` (a directory or hub id) on `data` and scores it after the last step.

    teacher: the directory of a model tuned for the same task, whose outputs are then part of the loss. save_to: where
    the tuned model and its tokenizer go. Raises `InputError` where teacher and student have different vocabularies, and
    for another GPU than the first.
    """
    refuse_other_gpus(device)
    task = data.task
    model = load_for_task(path, task, seed)
    tokenizer = load_transformers_tokenizer(path)
    if teacher is not None:
        tokenizer = _shared_tokenizer(tokenizer, path, teacher)
    if device.type == "cpu":
        cpu.use(model)
    tuned = None if teacher is None else load_for_task(teacher, task, seed)
    longest = min(room_for(each, tokenizer, settings.max_length) for each in (model, tuned) if each is not None)
    columns = encode_split(tokenizer, task, data.train, longest)
    with tempfile.TemporaryDirectory(prefix="distilfast-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            seed=seed,
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            # A share of all steps, as any value below 1.
            warmup_steps=settings.warmup,
            weight_decay=settings.weight_decay,
            lr_scheduler_type="linear",
            use_cpu=device.type == "cpu",
            logging_steps=max(1, round(settings.epochs * len(columns["input_ids"]) / settings.batch_size / 50)),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        # Several GPUs would each take a batch of that size; cells are spread over them by processes.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        trainer = _TaskTrainer(
            model=model,
            args=arguments,
            train_dataset=_Rows(columns),
            data_collator=collator(tokenizer),
            callbacks=[],
            settings=settings,
            task=task,
            teacher=tuned,
        )
        trainer.remove_callback(transformers.PrinterCallback)
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
    metrics = evaluate_task(model, tokenizer, data, longest, device, settings.bf16)
    if save_to is not None:
        model.save_pretrained(save_to)
        save_tokenizer(tokenizer, model, save_to)
    losses = [(int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry]
    return FineTuned(metrics, score(task, metrics), losses, int(trainer.state.global_step), seconds)


def refuse_other_gpus(device: torch.device) -> None:
    """Raises `InputError` for a GPU that the Trainer would not take: it trains on the first one that it sees."""
    if device.type == "cuda" and device.index not in (None, 0):
        raise InputError(
            f"device {device}: fine-tuning takes the first GPU that is visible; set CUDA_VISIBLE_DEVICES={device.index}"
        )


def _shared_tokenizer(tokenizer: Any, path: str, teacher: str) -> Any:
    """The teacher's tokenizer, which also gives the inputs that only the teacher takes."""
    other = load_transformers_tokenizer(teacher)
    if other.get_vocab() != tokenizer.get_vocab():
        raise InputError(f"{path} and its task teacher {teacher} have different vocabularies; they need the same ids")
    return other
