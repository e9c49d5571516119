"""Evaluation while training: the head's metrics, the best model, early stopping; and not one bit of the run changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training
import torch
from distilfast import DistillationTrainer, InputError, create_student
from distilfast.metrics.held_out import evaluate_held_out
from tiny_classifiers import LabelledBatches, classifier
from transformers import TrainerCallback

pytestmark = pytest.mark.usefixtures("one_thread")

EVALUATING: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


def masked_lm(folder: Path, layout: str = "padded", **changes: Any) -> DistillationTrainer:
    """8 steps on 14 batches, two a step; held out are other sequences of the same kind."""
    args = tiny_training.arguments(folder, **changes)
    teacher = tiny_training.teacher()
    held_out = tiny_training.TinyBatches(3, 1, layout, rows=4)
    held_out.set_epoch(77)
    batches = tiny_training.TinyBatches(7, 2, layout)
    return DistillationTrainer(create_student(teacher, 1), teacher, args, batches, eval_dataset=held_out)


def evaluations(run: DistillationTrainer) -> list[dict[str, float]]:
    return [
        {name: value for name, value in entry.items() if name != "eval_runtime"}
        for entry in run.state.log_history
        if "eval_runtime" in entry
    ]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_evaluation_changes_no_bit_of_a_run_nor_of_its_resume(tmp_path: Path, layout: str) -> None:
    plain = masked_lm(tmp_path / "plain", layout, num_train_epochs=1)
    plain.train()
    whole = masked_lm(tmp_path / "whole", layout, num_train_epochs=1, **EVALUATING)
    whole.train()
    expected = tiny_training.weights(plain.step)
    assert all(torch.equal(value, expected[name]) for name, value in tiny_training.weights(whole.step).items())
    assert tiny_training.curve(whole) == tiny_training.curve(plain)
    assert [entry["step"] for entry in evaluations(whole)] == [1, 2, 3, 4]
    resumed = masked_lm(tmp_path / "whole", layout, num_train_epochs=1, **EVALUATING)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert all(torch.equal(value, expected[name]) for name, value in tiny_training.weights(resumed.step).items())
    assert evaluations(resumed) == evaluations(whole)


def test_the_metrics_of_a_masked_language_model_are_those_of_held_out_text(tmp_path: Path) -> None:
    run = masked_lm(tmp_path, num_train_epochs=1, **EVALUATING)
    run.train()
    scores = evaluate_held_out(run.step.teacher, {"student": run.student}, run.eval_dataset, device="cpu")["student"]
    last = evaluations(run)[-1]
    found = [last[f"eval_{name}"] for name in ("loss", "accuracy", "agreement", "kl")]
    assert found == [scores.mlm_loss, scores.mlm_accuracy, scores.agreement, scores.kl]
    assert (run.args.metric_for_best_model, run.args.greater_is_better) == ("kl", False)
    assert run.state.best_metric == min(entry["eval_kl"] for entry in evaluations(run))
    assert run.student.training


class Spoil(TrainerCallback):
    """Ruins the weights at the begin of a step, so that every later evaluation is worse."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(-3.0)


def test_the_best_model_is_kept_and_loaded_at_the_end(tmp_path: Path) -> None:
    run = masked_lm(tmp_path, save_total_limit=1, load_best_model_at_end=True, **EVALUATING)
    run.add_callback(Spoil(2))
    run.train()
    values = [entry["eval_kl"] for entry in evaluations(run)]
    best = values.index(min(values)) + 1
    assert best <= 2
    assert run.state.best_global_step == best
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == [f"checkpoint-{best}"]
    assert run.evaluate()["eval_kl"] == min(values)


def test_training_stops_where_it_gets_no_better(tmp_path: Path) -> None:
    run = masked_lm(tmp_path, early_stopping_patience=2, num_train_epochs=4, load_best_model_at_end=True, **EVALUATING)
    run.add_callback(Spoil(2))
    run.train()
    best = run.state.best_global_step
    assert run.state.global_step == best + 2 < 16


def labelled(folder: Path, held_out: Any, **changes: Any) -> DistillationTrainer:
    options = {"alpha_ce": 1.0, "batches_per_step": None, "num_train_epochs": 1, **EVALUATING}
    args = tiny_training.arguments(folder, head="classification", **options)
    kind = "single_label_classification"
    batches = LabelledBatches(kind, 3, 1)
    return DistillationTrainer(
        classifier(kind, 1, seed=1), classifier(kind), args, batches, eval_dataset=held_out, **changes
    )


def test_a_classifier_is_scored_against_labels_and_teacher(tmp_path: Path) -> None:
    def share_of_first(prediction: Any) -> dict[str, float]:
        assert prediction.predictions.shape == (12, 3)
        assert (prediction.label_ids == -100).sum() == 3
        return {"share_of_first": float(np.mean(prediction.predictions.argmax(-1) == 0))}

    held_out = LabelledBatches("single_label_classification", 4, 1)
    run = labelled(tmp_path, {"mine": held_out, "same": held_out}, compute_metrics=share_of_first)
    run.args.metric_for_best_model = "mine_accuracy"
    run.train()
    last = run.evaluate()
    for name in ("accuracy", "loss", "agreement", "kl", "share_of_first"):
        assert last[f"eval_mine_{name}"] == last[f"eval_same_{name}"]
    with torch.no_grad():
        inputs = {"input_ids": held_out.ids, "attention_mask": (torch.arange(9) < held_out.lengths[:, None]).long()}
        inputs["input_ids"] = inputs["input_ids"] * inputs["attention_mask"]
        types = (torch.arange(9) >= 5).long() * inputs["attention_mask"]
        logits = run.student.eval()(**inputs, token_type_ids=types).logits
    known = held_out.labels != -100
    expected = (logits.argmax(-1) == held_out.labels)[known].float().mean().item()
    assert last["eval_mine_accuracy"] == pytest.approx(expected)


def test_what_cannot_be_evaluated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the trainer an eval_dataset"):
        tiny_training.trainer(tmp_path).evaluate()
    args, teacher = tiny_training.arguments(tmp_path), tiny_training.teacher()
    student, batches = create_student(teacher, 1), tiny_training.TinyBatches()
    with pytest.raises(InputError, match="compute_metrics gets no predictions from masked_lm"):
        DistillationTrainer(student, teacher, args, batches, compute_metrics=lambda _: {})
