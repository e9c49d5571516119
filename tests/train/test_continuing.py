"""A run that goes on: with more steps than it was to have, after Ctrl-C at once, and with what was due made up for."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distilfast as df
import pytest
import torch
from distilfast import InputError
from distilfast.train import run as train
from distilfast.train.continuing import steps_an_epoch, steps_to_come
from film_rows import QUICK, reviews, save_blank
from tiny_training import KillAt
from transformers import AutoModelForSequenceClassification

pytestmark = pytest.mark.usefixtures("one_thread")

TRAIN, HELD_OUT = reviews(64, 0), reviews(24, 1)
TIMED = ("tokens_per_second", "eval_runtime")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_blank(tmp_path_factory.mktemp("teacher"))


def distil(teacher: Path, output_dir: Path, **options: Any) -> dict[str, Any]:
    """Eight rows a step, eight steps an epoch."""
    sizes: dict[str, Any] = {"per_device_train_batch_size": 8, "logging_steps": 1}
    return df.distil(teacher, TRAIN, output_dir, HELD_OUT, **{**QUICK, **sizes, **options})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForSequenceClassification.from_pretrained(folder).state_dict()


def untimed(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in TIMED} for line in lines]


@pytest.mark.parametrize(
    ("schedule", "same"),
    [
        ({"lr_scheduler_type": "constant"}, True),
        ({"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3}, True),
        ({"lr_scheduler_type": "linear", "warmup_steps": 0}, False),
    ],
)
def test_a_finished_run_takes_more_steps(
    teacher: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    schedule: dict[str, Any],
    same: bool,
) -> None:
    whole = distil(teacher, tmp_path / "whole", max_steps=12, **schedule)
    distil(teacher, tmp_path / "out", max_steps=6, **schedule)
    assert "to train on from checkpoint-6: the same command with --resume_from_checkpoint last and a larger" in (
        capsys.readouterr().out
    )
    with pytest.raises(InputError, match=r"a finished run with checkpoint-6; go on .*more steps.*--num_train_epochs"):
        distil(teacher, tmp_path / "out", max_steps=12, **schedule)
    longer = distil(teacher, tmp_path / "out", max_steps=12, resume_from_checkpoint="last", **schedule)
    assert "goes on from step 6 to 12, where it was to end at 6" in caplog.text
    assert ("the steps are those of a run that was to have 12" in caplog.text) == same
    assert longer["steps"] == 12
    assert [line["step"] for line in longer["log"]] == list(range(1, 13))
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "out")
    assert all(torch.equal(expected[name], value) for name, value in found.items()) == same
    if same:
        assert untimed(longer["log"]) == untimed(whole["log"])
    # From where it goes on, the learning rates are the longer schedule's.
    assert [line["learning_rate"] for line in longer["log"]][6:] == [line["learning_rate"] for line in whole["log"]][6:]


def test_epochs_can_be_added_and_not_taken_away(teacher: Path, tmp_path: Path) -> None:
    distil(teacher, tmp_path, num_train_epochs=2)
    with pytest.raises(InputError, match="was to have 16 steps and would now have 8; give as many"):
        distil(teacher, tmp_path, num_train_epochs=1, resume_from_checkpoint="last")
    assert distil(teacher, tmp_path, num_train_epochs=3, resume_from_checkpoint="last")["steps"] == 24
    with pytest.raises(InputError, match="learning_rate was"):
        distil(teacher, tmp_path, num_train_epochs=4, resume_from_checkpoint="last", learning_rate=1e-4)


@pytest.mark.parametrize(("step", "due"), [(8, True), (5, False)])
def test_ctrl_c_saves_at_once_and_the_evaluation_is_made_up_for(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, due: bool
) -> None:
    """Stopped at the last step of an epoch, where the student would have been evaluated first, and elsewhere."""
    options: dict[str, Any] = {
        "num_train_epochs": 2,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
    }
    whole = distil(teacher, tmp_path / "whole", **options)
    build, evaluated = train.build_trainer, []

    def stopped(*arguments: Any) -> Any:
        trainer = build(*arguments)
        trainer.add_callback(KillAt(step - 1, signal.SIGINT))
        evaluate = trainer.evaluate

        def counted(*given: Any, **named: Any) -> Any:
            evaluated.append(trainer.state.global_step)
            return evaluate(*given, **named)

        trainer.evaluate = counted
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(train, "build_trainer", stopped)
        with pytest.raises(train.TrainingInterruptedError, match=f"stopped by SIGINT at step {step}"):
            distil(teacher, tmp_path / "out", **options)
    assert evaluated == []
    assert [each.name for each in (tmp_path / "out").glob("checkpoint-*")] == [f"checkpoint-{step}"]
    resumed = distil(teacher, tmp_path / "out", resume_from_checkpoint="last", **options)
    assert untimed(resumed["evaluations"]) == untimed(whole["evaluations"])
    assert (resumed["best_step"], resumed["best_metric"]) == (whole["best_step"], whole["best_metric"])
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(expected[name], value) for name, value in weights(tmp_path / "out").items())
    assert due == (step % 8 == 0)


def test_ctrl_c_within_an_evaluation_ends_it(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": "no"}
    whole = distil(teacher, tmp_path / "whole", **options)
    build, said = train.build_trainer, []

    def stopped(*arguments: Any) -> Any:
        trainer = build(*arguments)

        def stop_second(model: Any, *_: Any) -> None:
            if not model.training and trainer.state.global_step == 8:
                said.append(len(said))
                if len(said) == 2:
                    signal.raise_signal(signal.SIGINT)

        trainer.student.register_forward_hook(stop_second)
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(train, "build_trainer", stopped)
        with pytest.raises(train.TrainingInterruptedError, match="stopped by SIGINT at step 8"):
            distil(teacher, tmp_path / "out", per_device_eval_batch_size=4, **options)
    assert len(said) == 2
    assert [each.name for each in (tmp_path / "out").glob("checkpoint-*")] == ["checkpoint-8"]
    resumed = distil(teacher, tmp_path / "out", resume_from_checkpoint="last", **options)
    assert untimed(resumed["evaluations"]) == untimed(whole["evaluations"])
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(expected[name], value) for name, value in weights(tmp_path / "out").items())


@pytest.mark.parametrize("where", ["evaluate", "report", "measure_speed"])
def test_ctrl_c_after_the_last_step_says_what_stands(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    if where == "evaluate":
        monkeypatch.setattr(train.output, "summarise", interrupt)
    else:
        monkeypatch.setattr(f"distilfast.train.{'run' if where == 'report' else 'report'}.{where}", interrupt)
    with pytest.raises(train.TrainingInterruptedError) as stopped:
        distil(teacher, tmp_path, max_steps=2)
    assert stopped.value.exit_code == 130
    if where == "evaluate":
        assert "checkpoint-2 is whole, with all its steps" in str(stopped.value)
        assert stopped.value.resumable
        assert not (tmp_path / "model.safetensors").exists()
    else:
        assert "is whole, but what it keeps of its teacher was not measured" in str(stopped.value)
        assert not stopped.value.resumable
        assert weights(tmp_path)
        assert (tmp_path / "train_summary.json").is_file()
        assert (tmp_path / "README.md").is_file()


@pytest.mark.parametrize(("batches", "steps"), [(1, 1), (4, 1), (5, 2), (8, 2), (10, 3)])
def test_the_last_step_of_an_epoch_may_be_a_part_of_one(batches: int, steps: int) -> None:
    """As `Trainer` counts them, whose bar and schedule go by it."""
    args: Any = SimpleNamespace(batches_per_step=4, max_steps=-1, num_train_epochs=2.5)
    assert steps_an_epoch(args, batches) == steps
    assert steps_to_come(args, batches) == math.ceil(2.5 * steps)
    args.max_steps = 7
    assert steps_to_come(args, batches) == 7
