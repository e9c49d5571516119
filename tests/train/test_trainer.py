"""The trainer: the gradient of one big batch however the step is cut, and the traps of the libraries beneath it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
import transformers
from distilfast import DistillationTrainer, InputError, create_student
from distilfast.batches.loader import RankBatches
from distilfast.heads.objective import Objective
from distilfast.heads.positions import labels_of_all_positions
from distilfast.train.arguments import DistillationArguments
from distilfast.train.callbacks import NonFiniteLossError
from distilfast.train.checkpoint import read_seal
from distilfast.train.step import DistillationStep
from torch import Tensor
from transformers import TrainerCallback

pytestmark = pytest.mark.usefixtures("one_thread")

SEQUENCES = 24


class Gradients(TrainerCallback):
    """The gradient of every parameter just before the first optimiser step, unclipped."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.found = self.found or {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def gradients(folder: Path, layout: str, batches: int, **changes: Any) -> dict[str, Tensor]:
    """Of one optimiser step over the same 24 sequences in `batches` micro-batches."""
    run = tiny_training.trainer(
        folder,
        layout,
        count=batches,
        rows=SEQUENCES // batches,
        dropout=0.0,
        **{"batches_per_step": batches, "num_train_epochs": 1, "save_strategy": "no", "max_grad_norm": 0.0, **changes},
    )
    run.add_callback(watch := Gradients())
    run.train()
    return watch.found


def assert_equal_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """To float32 rounding: 2e-6 of the largest entry of all, and 1e-4 of each."""
    assert actual.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(
            actual[name], gradient, rtol=1e-4, atol=2e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(("kl_positions", "cuts"), [("all", (1, 2, 8)), ("masked", (8,))])
def test_a_step_has_the_gradient_of_one_big_batch_however_it_is_cut(
    tmp_path: Path, kl_positions: str, cuts: tuple[int, ...]
) -> None:
    whole = gradients(tmp_path, "padded", 1, kl_positions=kl_positions)
    for layout in ("padded", "packed"):
        for batches in cuts:
            assert_equal_gradients(gradients(tmp_path, layout, batches, kl_positions=kl_positions), whole)


def test_the_log_has_the_losses_of_the_whole_step(tmp_path: Path) -> None:
    logs = []
    for batches in (1, 8):
        run = tiny_training.trainer(
            tmp_path,
            count=batches,
            rows=SEQUENCES // batches,
            dropout=0.0,
            batches_per_step=batches,
            logging_steps=1,
            num_train_epochs=1,
            save_strategy="no",
        )
        run.train()
        logs.append(tiny_training.curve(run)[0])
    for name in ("loss", "loss_ce", "loss_mlm", "loss_cos"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-5)
    total = 5 * logs[0]["loss_ce"] + 2 * logs[0]["loss_mlm"] + logs[0]["loss_cos"]
    assert logs[0]["loss"] == pytest.approx(total, rel=1e-6)


def test_every_line_of_the_log_has_speed_and_padding(tmp_path: Path) -> None:
    run = tiny_training.trainer(tmp_path, num_train_epochs=1)
    run.train()
    lines = [entry for entry in run.state.log_history if "loss" in entry]
    assert len(lines) == 2
    assert all(entry["tokens_per_second"] > 0 and 0 < entry["padding"] < 1 for entry in lines)


def test_the_batch_order_is_that_of_the_epochs(tmp_path: Path) -> None:
    run = tiny_training.trainer(tmp_path, count=5, num_train_epochs=2)
    run.train()
    assert run.train_dataset.requested == [(epoch, number) for epoch in range(2) for number in range(5)]


@pytest.mark.parametrize("is_scaled", [None, True, False])
def test_accumulation_does_not_scale_the_gradient(tmp_path: Path, is_scaled: bool | None) -> None:
    # Some versions of Trainer divide a loss by the number of micro-batches, some do not, some ask this attribute.
    run = tiny_training.trainer(
        tmp_path, count=4, dropout=0.0, batches_per_step=4, num_train_epochs=1, save_strategy="no", max_grad_norm=0.0
    )
    run.loss_is_scaled_for_ga = is_scaled
    run.add_callback(watch := Gradients())
    run.train()
    assert_equal_gradients(watch.found, by_hand())


def by_hand() -> dict[str, Tensor]:
    """The gradient of the same step, summed over its micro-batches without a trainer."""
    teacher = tiny_training.teacher(0.0)
    step = DistillationStep(create_student(teacher, 1), teacher, Objective())
    batches = tiny_training.TinyBatches(4, 4)
    for number in range(4):
        step(batches[number])["loss"].backward()
    return {name: p.grad for name, p in step.named_parameters() if p.grad is not None}


def test_bfloat16_computes_on_copies_of_float32_weights(tmp_path: Path) -> None:
    teacher = tiny_training.teacher(0.0)
    student = create_student(teacher, 1)
    step = DistillationStep(student, teacher.bfloat16(), Objective(), compute_dtype=torch.bfloat16)
    seen: list[torch.dtype] = []
    student.distilbert.transformer.layer[0].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    losses = step(tiny_training.TinyBatches()[0])
    losses["loss"].backward()
    assert seen == [torch.bfloat16]
    assert losses["loss"].dtype == torch.float32
    assert all(p.dtype == torch.float32 and p.grad.dtype == torch.float32 for p in student.parameters())
    assert student.get_input_embeddings().weight is student.get_output_embeddings().weight

    exact = tiny_training.teacher(0.0)
    other = create_student(exact, 1)
    DistillationStep(other, exact, Objective())(tiny_training.TinyBatches()[0])["loss"].backward()
    mine = torch.cat([p.grad.flatten() for p in student.parameters()])
    float32 = torch.cat([p.grad.flatten() for p in other.parameters()])
    assert torch.nn.functional.cosine_similarity(mine, float32, dim=0) > 0.999


def test_the_steps_output_is_scalars_and_the_teacher_is_outside() -> None:
    teacher = tiny_training.teacher()
    step = DistillationStep(create_student(teacher, 1), teacher, Objective(alpha_mse=0.1))
    losses = step(tiny_training.TinyBatches()[0])
    assert losses.keys() == {"loss", "loss_ce", "loss_mlm", "loss_mse", "loss_cos"}
    assert all(value.dim() == 0 for value in losses.values())
    assert all(name.startswith("student.") for name in step.state_dict())
    step.train()
    assert not teacher.training
    teacher.train()
    with pytest.raises(InputError, match="the teacher BertForMaskedLM is in training mode"):
        step(tiny_training.TinyBatches()[0])


def test_a_trainer_changes_no_model_before_it_trains(tmp_path: Path) -> None:
    """Not the classes of layers, the mode, what asks for a gradient, nor a dropout module."""

    def looks_of(model: Any) -> list[Any]:
        modules = [(name, type(module), module.training) for name, module in model.named_modules()]
        weights = [(name, weight.dtype, weight.requires_grad) for name, weight in model.named_parameters()]
        return [*modules, *weights, model.config._attn_implementation, *model.modules()]

    teacher = tiny_training.teacher().train()
    student = create_student(teacher, 1)
    before = looks_of(student), looks_of(teacher)
    args = tiny_training.arguments(tmp_path, dropout=False, kl_positions="masked", cos_positions="kl", precision="bf16")
    run = DistillationTrainer(student, teacher, args, tiny_training.TinyBatches(layout="packed"))
    assert (looks_of(student), looks_of(teacher)) == before
    run.train()
    assert looks_of(student) != before[0]
    assert teacher.dtype == torch.bfloat16


def test_labels_are_laid_out_at_their_positions() -> None:
    labels = labels_of_all_positions(torch.tensor([3, 0, 0, 0]), torch.tensor([7, 9, -100, -100]), 5)
    assert labels.tolist() == [9, -100, -100, 7, -100]


def test_the_last_round_is_filled_up_with_batches_that_count_nothing() -> None:
    batches = tiny_training.TinyBatches(5, 4)
    filled = RankBatches(batches, 2)
    assert len(filled) == 6
    assert [bool(filled[number]["is_real"]) for number in range(6)] == [True] * 5 + [False]
    teacher = tiny_training.teacher(0.0)
    step = DistillationStep(create_student(teacher, 1), teacher, Objective())
    step(filled[5])["loss"].backward()
    assert all(not p.grad.any() for p in step.parameters() if p.grad is not None)
    assert "is_real" not in RankBatches(batches, 1)[0]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 3:
                with torch.no_grad():
                    next(model.parameters()).fill_(float("nan"))

    run = tiny_training.trainer(tmp_path)
    run.add_callback(Poison())
    with pytest.raises(NonFiniteLossError, match="at optimiser step 4 loss is nan") as caught:
        run.train()
    assert str(tmp_path / "checkpoint-2") in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    run = tiny_training.trainer(tmp_path)

    class Overflow(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 3:
                next(model.parameters()).grad.fill_(float("inf"))

    run.add_callback(Overflow())
    with pytest.raises(NonFiniteLossError, match="weights are not finite after optimiser step 4"):
        run.train()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_masked_language_model_alone_needs_no_teacher(tmp_path: Path) -> None:
    args = tiny_training.arguments(tmp_path, alpha_ce=0.0, alpha_cos=0.0, alpha_mlm=1.0, num_train_epochs=1)
    student = create_student(tiny_training.teacher(), 1, init="random")
    run = DistillationTrainer(student, None, args, tiny_training.TinyBatches())
    run.train()
    assert {"loss", "loss_mlm"} <= tiny_training.curve(run)[0].keys()
    assert read_seal(tmp_path / "checkpoint-2")["run"]["teacher (checksum of weights)"] is None


def test_an_encoder_is_distilled_with_the_cosine_alone(tmp_path: Path) -> None:
    encoder = transformers.BertModel(tiny_training.teacher().config)
    args = tiny_training.arguments(tmp_path, alpha_ce=0.0, alpha_mlm=0.0, num_train_epochs=1)
    run = DistillationTrainer(create_student(encoder, 1), encoder, args, tiny_training.TinyBatches())
    run.train()
    assert {"loss", "loss_cos"} <= tiny_training.curve(run)[0].keys()


def test_models_that_do_not_fit_are_refused() -> None:
    teacher = tiny_training.teacher()
    student = create_student(teacher, 1)
    encoder = transformers.BertModel(teacher.config)
    with pytest.raises(InputError, match="no masked-language-model head to compare with"):
        DistillationStep(student, encoder, Objective())
    with pytest.raises(
        InputError, match="DistilBertModel has no masked-language-model head, like its teacher BertModel"
    ):
        DistillationStep(create_student(encoder, 1), encoder, Objective())
    with pytest.raises(InputError, match="there is no teacher"):
        DistillationStep(student, None, Objective())
    with pytest.raises(InputError, match="nothing to learn"):
        DistillationStep(student, teacher, Objective(alpha_ce=0, alpha_mlm=0, alpha_cos=0))
    config = transformers.BertConfig(**{**teacher.config.to_dict(), "vocab_size": 60})
    with pytest.raises(InputError, match=r"vocabulary has 60 entries and the student's 53"):
        DistillationStep(student, transformers.BertForMaskedLM(config), Objective())
    config = transformers.BertConfig(**{**teacher.config.to_dict(), "hidden_size": 32})
    with pytest.raises(InputError, match="32 wide and the student's 16"):
        DistillationStep(student, transformers.BertForMaskedLM(config), Objective())


def test_arguments_that_cannot_be_trained_with_are_refused(tmp_path: Path) -> None:
    for name, value in {"fp16": True, "label_smoothing_factor": 0.1, "prediction_loss_only": True}.items():
        with pytest.raises(InputError, match=f"--{name} is not supported"):
            DistillationArguments(str(tmp_path), **{name: value})
    with pytest.raises(InputError, match="--temperature 0"):
        DistillationArguments(str(tmp_path), temperature=0)
    with pytest.raises(InputError, match="--batches_per_step 0"):
        DistillationArguments(str(tmp_path), batches_per_step=0)
    args = tiny_training.arguments(tmp_path, batches_per_step=3)
    teacher = tiny_training.teacher()
    with pytest.raises(InputError, match="planned for 2 micro-batches a step"):
        DistillationTrainer(create_student(teacher, 1), teacher, args, tiny_training.TinyBatches(6, 2))


def test_batches_are_copied_to_a_gpu_without_waiting(tmp_path: Path) -> None:
    trainer = tiny_training.trainer(tmp_path, use_cpu=False)
    assert trainer.accelerator.dataloader_config.non_blocking is True
    given = {"accelerator_config": {"split_batches": False}, "dataloader_pin_memory": False, "use_cpu": False}
    assert (
        tiny_training.arguments(tmp_path, dataloader_pin_memory=False, use_cpu=False).accelerator_config.non_blocking
        is False
    )
    assert tiny_training.arguments(tmp_path, **given).accelerator_config.non_blocking is False
    # Of which transformers would warn on every run.
    assert tiny_training.arguments(tmp_path, use_cpu=True).accelerator_config.non_blocking is False


def test_bf16_means_our_own_and_not_autocast(tmp_path: Path) -> None:
    args = DistillationArguments(str(tmp_path), bf16=True, use_cpu=True)
    assert (args.bf16, args.precision, args.compute_dtype) == (False, "bf16", torch.bfloat16)
    assert args.mixed_precision == "no"
    assert DistillationArguments(str(tmp_path), restrict_ce_to_mask=True).objective.kl_positions == "masked"


def test_the_saved_student_is_plain_transformers(tmp_path: Path) -> None:
    run = tiny_training.trainer(tmp_path, num_train_epochs=1)
    run.train()
    run.save_model(str(tmp_path / "student"))
    reloaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "student")
    for name, value in run.student.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], value), name
    assert json.loads((tmp_path / "student" / "config.json").read_text())["architectures"] == ["DistilBertForMaskedLM"]
