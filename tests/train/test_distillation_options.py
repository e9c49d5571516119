"""Options of a run as a whole: several losses and teachers at once, the profile, utilisation, `torch.compile`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
import transformers
from distilfast import DistillationTrainer, InputError, create_student
from distilfast.train import graphs
from distilfast.train.objective import Objective
from distilfast.train.profile import PARTS
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
        kl_sample_share=0.3,
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
    assert all(0 < line["model_flops_utilization"] < 1 for line in lines)
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


def test_profile_is_printed_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profiled = run_of(tmp_path / "profiled", profile=True)
    profiled.train()
    assert profiled.step.profile is not None
    report = profiled.step.profile.report()
    assert report["steps"] == 3
    assert all(report["parts"][part]["seconds"] > 0 for part in PARTS)
    printed = capsys.readouterr().out
    assert all(f"| {part} |" in printed for part in PARTS)
    plain = run_of(tmp_path / "plain")
    plain.train()
    expected = tiny_training.weights(plain.student)
    for name, value in tiny_training.weights(profiled.student).items():
        assert torch.equal(value, expected[name]), name


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


def test_graphs_are_recorded_of_both_models_and_replayed_one_micro_batch_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What CUDA graphs need of the loop, looked at without one: the module is taken as compiled and recorded."""
    compiled: list[tuple[Any, dict[str, Any]]] = []
    beginnings: list[bool] = []

    def compile_nothing(model: Any, **options: Any) -> Any:
        compiled.append((model, options))
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: beginnings.append(True))
    for name in ("BACKEND", "MODE"):  # TrainingArguments sets them
        monkeypatch.setenv(f"ACCELERATE_DYNAMO_{name}", "no")
    assert graphs.records_graphs("reduce-overhead", "inductor", torch.device("cuda"))
    assert not graphs.records_graphs("max-autotune-no-cudagraphs", "inductor", torch.device("cuda"))
    assert not graphs.records_graphs("reduce-overhead", "inductor", torch.device("cpu"))
    ends = []
    for recorded in (False, True):
        monkeypatch.setattr("distilfast.train.trainer.records_graphs", lambda *_, recorded=recorded: recorded)
        teacher = tiny_training.teacher(dropout=0.0)
        options = {"torch_compile_mode": "reduce-overhead", "save_strategy": "no", "max_steps": 2}
        run = run_of(tmp_path / str(recorded), create_student(teacher, 1), teacher, **options)
        run.train()
        ends.append(tiny_training.weights(run.student))
    (module, given), *_ = compiled
    assert isinstance(module, DistillationStep)
    assert module.teacher is not None
    assert given["mode"] == "reduce-overhead"
    assert len(beginnings) == 2 * 2  # steps, micro-batches
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_replay_leaves_gradients_and_losses_of_the_one_before() -> None:
    """Memory that a replay writes over is neither a gradient nor a loss that is looked at later."""
    weight, frozen = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3), requires_grad=False)
    graphs.begin_replay([weight, frozen])
    assert frozen.grad is None
    space = weight.grad
    (2 * weight).sum().backward()
    assert weight.grad is space
    graphs.begin_replay([weight])
    (2 * weight).sum().backward()
    assert weight.grad is space
    assert weight.grad.tolist() == [4.0, 4.0, 4.0]
    loss = torch.tensor(3.0)
    copies = graphs.kept({"loss": loss})
    loss.fill_(7.0)
    assert copies["loss"].item() == 3.0
