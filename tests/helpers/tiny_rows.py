"""Tiny taggers and question answerers, rows for them, and what holds of every head that learns from rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tiny_training
import torch
import transformers
from distilfast import DistillationArguments, DistillationTrainer, create_student
from distilfast.batches.encode import EncodedRows, encode_words
from distilfast.batches.labelled import LabelledBatches
from distilfast.batches.question_windows import encode_questions
from distilfast.heads import Objective, choose_head
from distilfast.train.step import DistillationStep

LETTERS = list("abcdefghijklmnopqrstuvwxyz")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
ROWS = 12


def tokenizer() -> Any:
    return transformers.BertTokenizer(vocab={token: number for number, token in enumerate(VOCABULARY)})


def config(layers: int, **changes: Any) -> transformers.BertConfig:
    return transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **changes,
    )


def tagger(names: Sequence[str], layers: int = 2, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    of_names = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    return transformers.BertForTokenClassification(config(layers, **of_names)).eval()


def answerer(layers: int = 2, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return transformers.BertForQuestionAnswering(config(layers)).eval()


def words(draws: np.random.Generator, most: int) -> list[str]:
    """Words of one to three letters, a token each."""
    return ["".join(draws.choice(LETTERS, draws.integers(1, 4))) for _ in range(draws.integers(1, most + 1))]


def word_batches(tags: int, size: int, batches_per_step: int = 1, seed: int = 0) -> LabelledBatches:
    """`ROWS` sentences in batches of `size`; every sixth word has no tag, and neither has the last sentence."""
    draws = np.random.default_rng(seed)
    sentences = [words(draws, 7) for _ in range(ROWS)]
    labels = [draws.integers(0, tags, len(sentence)) for sentence in sentences]
    labels = [np.where(draws.random(len(row)) < 1 / 6, -100, row) for row in labels]
    labels[-1][:] = -100
    rows = encode_words(tokenizer(), sentences, [row.tolist() for row in labels], 40)
    return LabelledBatches(rows, tokenizer(), size, batches_per_step, shuffle=False)


def question_rows(seed: int = 0, stride: int | None = None, max_length: int = 40) -> EncodedRows:
    """`ROWS` questions; every fourth has no answer in its passage, and of the last nobody knows."""
    draws = np.random.default_rng(seed)
    passages = [words(draws, 9) for _ in range(ROWS)]
    answers: list[Any] = []
    for number, passage in enumerate(passages):
        first = int(draws.integers(0, len(passage)))
        start = len("".join(f"{word} " for word in passage[:first]))
        none = number % 4 == 3
        answers.append({"text": [] if none else [passage[first]], "answer_start": [] if none else [start]})
    answers[-1] = None
    questions = [" ".join(words(draws, 3)) + " ?" for _ in range(ROWS)]
    return encode_questions(
        tokenizer(), questions, [" ".join(passage) for passage in passages], answers, max_length, stride
    )


def question_batches(size: int, batches_per_step: int = 1, seed: int = 0, **how: Any) -> LabelledBatches:
    return LabelledBatches(question_rows(seed, **how), tokenizer(), size, batches_per_step, shuffle=False)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The gradient of each weight, which forgets it."""
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    return found


def assert_gradients(model: torch.nn.Module, expected: dict[str, torch.Tensor], **tolerances: float) -> None:
    found = gradients(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=lambda m, n=name: f"{n}: {m}", **tolerances)


def assert_cut_is_whole(step: DistillationStep, cut: LabelledBatches, whole: LabelledBatches, pieces: int) -> None:
    """Each step has the losses and the gradient of its rows in one batch, however they are cut."""
    step.double()
    for teacher in step.teachers:
        teacher.double()
    for number in range(len(whole)):
        losses: dict[str, Any] = step(whole[number])
        losses["loss"].backward()
        expected = gradients(step)
        total = dict.fromkeys(losses, 0.0)
        for piece in range(number * pieces, min((number + 1) * pieces, len(cut))):
            parts = step(cut[piece])
            parts["loss"].backward()
            total = {name: total[name] + parts[name].detach() for name in total}
        for name, value in losses.items():
            torch.testing.assert_close(total[name], value.detach(), rtol=1e-9, atol=1e-12)
        assert_gradients(step, expected, rtol=1e-7, atol=1e-10)


def arguments(folder: Path, **options: Any) -> DistillationArguments:
    """Two batches a step."""
    counted: dict[str, Any] = {"batches_per_step": None, "gradient_accumulation_steps": 2}
    return tiny_training.arguments(folder, **counted, **options)


def trainer(folder: Path, teacher: Any, batches: LabelledBatches, **options: Any) -> DistillationTrainer:
    """Trains the teacher's first layer, and evaluates on the rows that it learns from after every step."""
    evaluating: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    args = arguments(folder, alpha_ce=1.0, **evaluating, **options)
    held_out = LabelledBatches(batches.rows, batches.tokenizer, 5, shuffle=False)
    return DistillationTrainer(create_student(teacher, 1), teacher, args, batches, eval_dataset=held_out)


def evaluations(run: DistillationTrainer) -> list[dict[str, float]]:
    lines = [line for line in run.state.log_history if "eval_runtime" in line]
    return [{name: value for name, value in line.items() if name != "eval_runtime"} for line in lines]


def assert_resumes(
    folder: Path, head: str, model: Callable[[], Any], batches: LabelledBatches, **options: Any
) -> DistillationTrainer:
    """A run that goes on from within an epoch ends with the bits of one that was left alone; the latter is returned."""
    whole = trainer(folder, model(), batches, head=head, **options)
    whole.train()
    assert whole.state.global_step == 4
    expected, curve = tiny_training.weights(whole.step), tiny_training.curve(whole)
    assert {"loss_ce", "loss_task", "loss_cos"} <= curve[0].keys()
    resumed = trainer(folder, model(), batches, head=head, **options)
    resumed.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    assert tiny_training.curve(resumed) == curve
    assert len(evaluations(whole)) == 4
    assert evaluations(resumed) == evaluations(whole)
    for name, value in tiny_training.weights(resumed.step).items():
        assert torch.equal(value, expected[name]), name
    return whole


def assert_step_gives(expected: torch.Tensor, student: Any, teacher: Any, batch: dict[str, Any]) -> None:
    """The step's loss with alpha_ce 1 is `expected`, a function of the student's weights, and so are its gradients."""
    expected.backward()
    before = gradients(student)
    step = DistillationStep(student, teacher, Objective(alpha_ce=1.0), head=choose_head(teacher))
    losses = step(batch)
    losses["loss"].backward()
    assert losses.keys() == {"loss", "loss_ce", "loss_task", "loss_cos"}
    torch.testing.assert_close(losses["loss"].double(), expected, rtol=1e-6, atol=1e-6)
    assert_gradients(student, before, rtol=1e-5, atol=1e-8)
