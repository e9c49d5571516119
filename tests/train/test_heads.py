"""Heads through the step and the Trainer: losses by their definitions, whatever a step is cut into, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny_training
import torch
import torch.nn.functional as F
from distilfast import DistillationTrainer, InputError, distil
from distilfast.heads import Objective, choose_head
from distilfast.heads.classification import Classification
from distilfast.heads.head import Predictions, Rows
from distilfast.train.inputs import Given, arguments_of
from distilfast.train.run import choose_head_name
from distilfast.train.step import DistillationStep
from film_rows import QUICK, save_blank
from tiny_classifiers import KINDS, ROWS, LabelledBatches, classifier
from transformers import TrainerCallback

pytestmark = pytest.mark.usefixtures("one_thread")


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
    args = tiny_training.arguments(
        folder, batches_per_step=None, gradient_accumulation_steps=batches_per_step, **options
    )
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


def test_what_several_teachers_say_is_the_mean_of_their_probabilities_or_numbers() -> None:
    first, second = torch.tensor([[2.0, -1.0, 0.3]]), torch.tensor([[-3.0, 0.5, 4.0]])
    mixed = Classification("multi_label_classification").mixed([first, second], [0.25, 0.75])
    torch.testing.assert_close(mixed.sigmoid(), 0.25 * first.sigmoid() + 0.75 * second.sigmoid())
    numbers = Classification("regression").mixed([first, second], [0.25, 0.75])
    torch.testing.assert_close(numbers, 0.25 * first + 0.75 * second)


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
    teacher = tiny_training.teacher()
    assert choose_head(teacher).name == "masked_lm"
    assert choose_head(teacher.base_model).name == "hidden_states"
    assert choose_head(teacher, "encoder").name == "hidden_states"
    head = choose_head(classifier(KINDS[1]))
    assert isinstance(head, Classification)
    assert head.problem_type == KINDS[1]
    with pytest.raises(InputError, match="head 'ner' is not known"):
        choose_head(teacher, "ner")


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


def test_rows_from_python_need_no_head_to_be_named(tmp_path: Path) -> None:
    save_blank(tmp_path / "classifier")
    encoder = classifier("regression").bert
    encoder.save_pretrained(tmp_path / "encoder")
    rows = [{"text": "good", "label": "positive"}, {"text": "bad", "label": "negative"}]
    table = {"text": ["good"], "label": ["positive"]}
    for train in (rows, table, "rows.csv", tmp_path / "rows.tsv.gz", pa.table(table)):
        for named, loaded in ((tmp_path / "encoder", None), (tmp_path / "classifier", None), (None, encoder)):
            arguments = arguments_of({"student": None if named is None else str(named), "output_dir": str(tmp_path)})
            assert choose_head_name(arguments, Given(student=loaded, train=train), []) == "classification"
    arguments = arguments_of({"student": str(tmp_path / "encoder"), "output_dir": str(tmp_path)})
    for text in ("text.txt", [tmp_path / "a.txt", "b.jsonl"]):
        assert choose_head_name(arguments, Given(train=text), []) == "masked_lm"


def test_the_mapping_has_the_labels_of_validation_rows_too(tmp_path: Path) -> None:
    rows = [{"text": f"good {number}", "label": "positive"} for number in range(3)]
    held_out = [{"text": "fine", "label": "positive"}, {"text": "bad", "label": "negative"}]
    teacher = save_blank(tmp_path / "teacher")
    found = distil(teacher, rows, tmp_path / "out", validation=held_out, dry_run=True, **QUICK)["data"]
    assert found["labels"]["classes"] == {"positive": "positive", "negative": "negative"}
    said = [note for note in found["notes"] if note.startswith("labels matched")]
    assert said == ["labels matched to classes by name: negative -> negative, positive -> positive"]
