"""Options of a run as a whole: several losses and teachers at once, `torch.compile`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
import transformers
from distilfast import DistillationTrainer, InputError, create_student
from distilfast.heads.objective import Objective
from distilfast.train.step import DistillationStep
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("one_thread")


def run_of(
    folder: Path,
    student: Any = None,
    teachers: Any = None,
    layout: str = "padded",
    weights: list[float] | None = None,
    **changes: Any,
) -> DistillationTrainer:
    args = tiny_training.arguments(folder, **{"num_train_epochs": 1, "max_steps": 3, **changes})
    teacher = tiny_training.teacher()
    assert args.batches_per_step is not None
    return DistillationTrainer(
        create_student(teacher, 1) if student is None else student,
        teacher if teachers is None else teachers,
        args,
        tiny_training.TinyBatches(7, args.batches_per_step, layout),
        callbacks=[tiny_training.Quiet()],
        teacher_weights=weights,
    )


def test_flags_become_the_objective(tmp_path: Path) -> None:
    args = tiny_training.arguments(
        tmp_path,
        kl_positions="sampled",
        kl_sample_share=0.3,
        cos_positions="kl",
        alpha_hidden=0.5,
        hidden_map="1:2,2:4",
        hidden_kind="mse",
        alpha_rel=0.25,
        relation_heads=2,
        relation_layers=[1, 2],
        seed=9,
    )
    assert args.objective == Objective(
        kl_positions="sampled",
        cos_positions="kl",
        alpha_hidden=0.5,
        hidden_map=((1, 2), (2, 4)),
        hidden_kind="mse",
        alpha_rel=0.25,
        relation_heads=2,
        relation_layers=(1, 2),
        seed=9,
    )


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_all_losses_of_two_teachers_are_trained_logged_and_resumed(tmp_path: Path, layout: str) -> None:
    """The student is narrower, so projections are learned beside it and must be in the checkpoint."""
    teachers = [tiny_training.teacher(seed=0), tiny_training.teacher(seed=1)]
    config = transformers.BertConfig.from_dict(
        {**teachers[0].config.to_dict(), "hidden_size": 8, "num_hidden_layers": 1}
    )

    def run(folder: Path) -> DistillationTrainer:
        torch.manual_seed(4)
        student = transformers.BertForMaskedLM(config)
        options = {"alpha_cos": 0.0, "alpha_hidden": 1.0, "alpha_rel": 0.5}
        return run_of(folder, student, teachers, layout, [2.0, 1.0], save_steps=1, logging_steps=1, **options)

    whole = run(tmp_path / "whole")
    whole.train()
    lines = [entry for entry in whole.state.log_history if "loss" in entry]
    assert {"loss_ce", "loss_mlm", "loss_hidden", "loss_rel"} <= set(lines[0])
    kept = load_file(tmp_path / "whole" / "checkpoint-1" / "step.safetensors")
    assert sorted(kept) == [f"hidden_losses.{teacher}.projections.0.weight" for teacher in (0, 1)]

    resumed = run(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    expected = tiny_training.weights(whole.step)
    for name, value in tiny_training.weights(resumed.step).items():
        assert torch.equal(value, expected[name]), name
    assert not torch.equal(
        expected["hidden_losses.0.projections.0.weight"], kept["hidden_losses.0.projections.0.weight"]
    )


def test_teacher_weights_must_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="for 1 teachers"):
        run_of(tmp_path, weights=[1.0, 2.0])


@pytest.mark.parametrize("objective", [Objective(), Objective(kl_positions="masked", cos_positions="kl")])
def test_a_compiled_step_gives_the_same_losses_and_gradients(objective: Objective) -> None:
    teacher = tiny_training.teacher(dropout=0.0)
    student = create_student(teacher, 1)
    step = DistillationStep(student, teacher, objective).eval()
    batch = tiny_training.TinyBatches()[0]
    expected = step(batch)
    expected["loss"].backward()
    gradients = {name: weight.grad.clone() for name, weight in student.named_parameters() if weight.grad is not None}
    step.zero_grad()
    compiled: Any = torch.compile(step, backend="aot_eager")
    found = compiled(batch)
    found["loss"].backward()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-5)
    for name, weight in student.named_parameters():
        if name in gradients:
            torch.testing.assert_close(weight.grad, gradients[name], rtol=1e-4, atol=1e-6)


# Inductor compiles C++ for a minute.
BACKENDS = ["aot_eager", "inductor"] if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else ["aot_eager"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_batches_of_one_shape_are_compiled_once(backend: str, dtype: torch.dtype | None) -> None:
    """With the numbers of rows that count, and with weights that change, nothing is compiled again."""
    teacher = tiny_training.teacher(dropout=0.0)
    if dtype is not None:
        teacher.to(dtype)
    student = create_student(tiny_training.teacher(dropout=0.0), 1)
    step = DistillationStep(student, teacher, compute_dtype=dtype).train()
    if step.copies is not None:
        step.copies.kept = True
    batches = tiny_training.TinyBatches()
    torch._dynamo.reset()
    compiled: Any = torch.compile(step, backend=backend, dynamic=False)
    for number in range(3):
        with torch._dynamo.config.patch(error_on_recompile=number > 0):
            found = compiled(batches[number])
            found["loss"].backward()
        expected = step(batches[number])["loss"].item()
        assert found["loss"].item() == pytest.approx(expected, rel=1e-4 if dtype is None else 0.02)
        with torch.no_grad():
            for weight in student.parameters():
                weight.mul_(0.9)
        if step.copies is not None:
            step.copies.forget()


def test_a_compiled_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    """`--torch_compile` as a user gives it; the backend traces and differentiates but generates no code."""
    ends = []
    # A plain optimiser: Adam makes rounding as large as any other gradient where the true one is 0.
    plain = {"optim": "sgd", "learning_rate": 0.05, "save_strategy": "no"}
    for options in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        teacher = tiny_training.teacher(dropout=0.0)
        run = run_of(tmp_path / str(len(ends)), create_student(teacher, 1), teacher, **plain, **options)
        run.train()
        ends.append(tiny_training.weights(run.student))
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"torch_compile_mode": "reduce-overhead"}, {"torch_compile_backend": "cudagraphs"}]
)
def test_modes_that_record_cuda_graphs_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="records CUDA graphs, which no run here has been measured with"):
        tiny_training.arguments(tmp_path, torch_compile=True, **options)
