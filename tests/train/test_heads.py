"""Heads through the step and the Trainer: losses by their definitions, whatever a step is cut into, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_training
import torch
import torch.nn.functional as F
import transformers
from distilfast import DistillationTrainer, InputError
from distilfast.heads import Objective, choose_head
from distilfast.heads.choice import head_name, head_of_class
from distilfast.heads.classification import Classification
from distilfast.heads.head import Predictions, Rows
from distilfast.train.step import DistillationStep
from transformers import TrainerCallback

pytestmark = pytest.mark.usefixtures("one_thread")

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


def by_definition(kind: str, student: Any, teacher: Any, batch: dict[str, Any], temperature: float) -> torch.Tensor:
    """KL + loss on the labels + cosine of one batch that is a whole step, each written out."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    s = student(**inputs, output_hidden_states=True)
    with torch.no_grad():
        t = teacher(**inputs, output_hidden_states=True)
    labels = batch["labels"]
    if kind == "single_label_classification":
        kl = torch.nn.KLDivLoss(reduction="batchmean")(
            F.log_softmax(s.logits / temperature, -1), F.softmax(t.logits / temperature, -1)
        )
        loss = temperature**2 * kl + torch.nn.CrossEntropyLoss()(s.logits, labels)
    elif kind == "multi_label_classification":
        p, q = torch.sigmoid(t.logits / temperature), torch.sigmoid(s.logits / temperature)
        kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
        known = labels[:, 0] >= 0
        loss = temperature**2 * kl + torch.nn.BCEWithLogitsLoss()(s.logits[known], labels[known])
    else:
        known = labels.isfinite()
        loss = F.mse_loss(s.logits, t.logits) + F.mse_loss(s.logits[known, 0], labels[known])
    attended = batch["attention_mask"].bool()
    hidden = s.hidden_states[-1][attended], t.hidden_states[-1][attended]
    return loss + torch.nn.CosineEmbeddingLoss()(*hidden, torch.ones(len(hidden[0])))


@pytest.mark.parametrize("kind", KINDS)
def test_a_classifiers_losses_are_their_definitions(kind: str) -> None:
    teacher, student = classifier(kind), classifier(kind, 1, seed=1)
    batch = LabelledBatches(kind, ROWS, 1)[0]
    expected = by_definition(kind, student, teacher, batch, 2.0)
    expected.backward()
    gradients = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
    student.zero_grad()
    step = DistillationStep(student, teacher, Objective(alpha_ce=1.0), head=choose_head(teacher))
    losses = step(batch)
    losses["loss"].backward()
    assert losses.keys() == {"loss", "loss_ce", "loss_task", "loss_cos"}
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-5, atol=1e-6)
    for name, weight in student.named_parameters():
        torch.testing.assert_close(
            weight.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


class Gradients(TrainerCallback):
    """The gradient of every parameter before each optimiser step."""

    def __init__(self) -> None:
        self.found: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def trainer_of(folder: Path, kind: str, rows: int, batches_per_step: int, **changes: Any) -> DistillationTrainer:
    options = {"head": "classification", "alpha_ce": 1.0, "max_grad_norm": 0.0, "save_strategy": "no", **changes}
    args = tiny_training.arguments(folder, batches_per_step=batches_per_step, **options)
    batches = LabelledBatches(kind, rows, batches_per_step)
    return DistillationTrainer(classifier(kind, 1, seed=1), classifier(kind), args, batches)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_labelled_rows_has_the_gradient_of_one_big_batch(tmp_path: Path, kind: str) -> None:
    found = []
    for rows, batches in ((ROWS, 1), (3, 4)):
        run = trainer_of(
            tmp_path, kind, rows, batches, num_train_epochs=1, alpha_mse=0.0 if kind == "regression" else 0.2
        )
        run.add_callback(watch := Gradients())
        run.train()
        (gradients,) = watch.found
        found.append(gradients)
    for name, whole in found[0].items():
        torch.testing.assert_close(found[1][name], whole, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_classifier_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 2}
    whole = trainer_of(tmp_path, KINDS[0], 3, 2, **options)
    whole.train()
    expected = tiny_training.weights(whole.step)
    resumed = trainer_of(tmp_path, KINDS[0], 3, 2, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, value in tiny_training.weights(resumed.step).items():
        assert torch.equal(value, expected[name]), name


def test_several_classifiers_teach_the_mean_of_their_classes() -> None:
    head = Classification()
    rows = Rows(torch.ones(1), None, torch.tensor(1), torch.tensor(1))
    teachers = [torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -1.0]])]
    student = torch.tensor([[0.5, 0.0]])
    target = 0.25 * teachers[0].softmax(-1) + 0.75 * teachers[1].softmax(-1)
    expected = (target * (target.log() - student.log_softmax(-1))).sum()
    found = head.soft_loss(rows, student, teachers, [0.25, 0.75], Objective(alpha_ce=1.0, temperature=1.0))
    torch.testing.assert_close(found["loss_ce"][1], expected)
    torch.testing.assert_close(head.mixed(teachers, [0.25, 0.75]).softmax(-1), target)


def test_class_weights_weigh_the_loss_on_labels() -> None:
    rows = Rows(torch.ones(2), torch.tensor([0, 1]), torch.tensor(2), torch.tensor(2))
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    losses = -logits.log_softmax(-1)[[0, 1], [0, 1]]
    torch.testing.assert_close(
        Classification(class_weights=[0.5, 3.0]).hard_loss(rows, logits), (losses @ torch.tensor([0.5, 3.0])) / 2
    )


def test_rows_that_only_keep_a_rank_busy_count_nothing() -> None:
    for kind in KINDS:
        teacher, student = classifier(kind), classifier(kind, 1, seed=1)
        step = DistillationStep(student, teacher, Objective(alpha_ce=1.0), head=choose_head(teacher))
        step({**LabelledBatches(kind, 3, 1)[0], "is_real": torch.tensor(False)})["loss"].backward()
        assert all(not weight.grad.any() for weight in student.parameters() if weight.grad is not None)


def test_metrics_of_a_classifier_and_which_chooses_the_best() -> None:
    head = Classification()
    said = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]], np.float32)
    found = head.metrics(Predictions(said, np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]), np.array([0, 0, -100])))
    assert (found["accuracy"], found["agreement"]) == (0.5, pytest.approx(2 / 3))
    assert head.best_metric(Objective(), True) == "accuracy"
    assert head.best_metric(Objective(), False) == "agreement"


def test_heads_are_found_by_class_and_by_name() -> None:
    assert head_of_class("BertForSequenceClassification") == "classification"
    assert head_of_class("DistilBertForMaskedLM") == "masked_lm"
    assert head_of_class("ModernBertModel") == "hidden_states"
    assert (head_name("mlm"), head_name("encoder")) == ("masked_lm", "hidden_states")
    with pytest.raises(InputError, match="--head ner: there is no such head; there is masked_lm, classification"):
        head_name("ner")
    with pytest.raises(InputError, match="BertForMultipleChoice has a head that cannot be distilled"):
        head_of_class("BertForMultipleChoice")


def test_classifiers_that_do_not_fit_are_refused() -> None:
    teacher = classifier(KINDS[0])
    head = choose_head(teacher)
    other = classifier(KINDS[0], id2label={0: "b", 1: "a", 2: "c"})
    with pytest.raises(
        InputError, match="the teacher's classes are LABEL_0, LABEL_1, LABEL_2 and the student's b, a, c"
    ):
        DistillationStep(other, teacher, Objective(), head=head)
    with pytest.raises(
        InputError, match="the head compares single_label_classification, the student is made for multi"
    ):
        DistillationStep(classifier(KINDS[1]), teacher, Objective(), head=head)
    with pytest.raises(InputError, match="BertForMaskedLM has no sequence-classification head"):
        DistillationStep(tiny_training.teacher(), teacher, Objective(), head=head)
    with pytest.raises(InputError, match="2 class weights for 3 classes"):
        DistillationStep(classifier(KINDS[0]), teacher, Objective(), head=Classification(class_weights=[1, 2]))
    with pytest.raises(InputError, match="masked_lm has no classes to weigh"):
        choose_head(tiny_training.teacher(), class_weights=[1.0])
