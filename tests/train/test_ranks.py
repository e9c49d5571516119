"""Two gloo ranks started by torchrun give the losses and the weights of one process."""

from __future__ import annotations

import json
import os
import signal
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import tiny_training
import torch
import transformers
from distilfast import _command as command
from distilfast.prepare.run import prepare
from distilfast.train import checkpoint
from distilfast.train import run as train
from distilfast.train.callbacks import Interruption
from distilfast.train.stopped import TrainingInterruptedError, resume

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_two_ranks_have_the_gradients_of_one(tmp_path: Path, layout: str) -> None:
    # 7 batches, 4 a step: the second step has a rank without a batch. A plain optimiser shows the gradient itself.
    options: dict[str, Any] = {
        "layout": layout,
        "dropout": 0.0,
        "batches_per_step": 4,
        "optim": "sgd",
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "max_grad_norm": 0.0,
    }
    assert tiny_training.run_ranks(tmp_path / "one", 1, **options) == [0]
    assert tiny_training.run_ranks(tmp_path / "two", 2, **options) == [0, 0]
    one, two, other = (
        tiny_training.result(tmp_path / name, rank) for name, rank in (("one", 0), ("two", 0), ("two", 1))
    )
    assert two["weights"] == other["weights"]
    for name, value in one["weights"].items():
        torch.testing.assert_close(torch.tensor(two["weights"][name]), torch.tensor(value), rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(two["curve"], one["curve"], strict=True):
        for name in ("loss", "loss_ce", "loss_mlm", "loss_cos", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_ctrl_c_on_one_rank_ends_an_evaluation_on_all(tmp_path: Path, ranks: int) -> None:
    """With several ranks the whole evaluation was waited for, longer than torchrun waits."""
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "save_strategy": "no"}
    last = {"batch": 3, "ranks": [ranks - 1]}
    codes = tiny_training.run_ranks(tmp_path, ranks, batches_per_step=2, kill_evaluating=last, **options)
    assert codes == [143] * ranks
    (folder,) = tmp_path.glob("checkpoint-*")
    assert folder.name == "checkpoint-2"
    assert checkpoint.tear(folder) is None


def test_a_signal_while_the_others_are_asked_is_not_lost() -> None:
    interruption = Interruption()
    asked = interruption._agree

    def struck(bad: bool) -> tuple[bool, bool]:
        """The answer of before, with the signal between it and the caller."""
        found = asked(bad)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    with interruption:
        interruption._agree = struck  # type: ignore[method-assign]
        assert not interruption.asked_on_any_rank()
        interruption._agree = asked  # type: ignore[method-assign]
        assert not interruption.requested
        assert interruption.asked_on_any_rank()
        assert interruption.requested
    with interruption:
        assert not interruption.asked_on_any_rank()


def test_the_command_that_goes_on_is_torchruns_where_it_started_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--resume_from_checkpoint", "last", "--text", "a b.txt", "--output_dir", "out"]
    flags = "--text 'a b.txt' --output_dir out --resume_from_checkpoint last"
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert resume(argv) == f"distilfast train {flags}"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert resume(argv) == f"torchrun --nproc-per-node 4 -m distilfast.train {flags}"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_rank_says_how_to_go_on(
    rank: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise TrainingInterruptedError("stopped", signal.SIGINT)

    monkeypatch.setattr(train, "run", stopped)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as exited:
        command.run(lambda: train.main(["--text", "t.txt", "--output_dir", "out"]))
    assert exited.value.code == 130
    assert capsys.readouterr().err.count("Go on with: ") == (rank == "0")


def test_torchrun_trains_like_one_process(tmp_path: Path) -> None:
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]) + "\n")
    (tmp_path / "text.txt").write_text("\n".join((train.__doc__ or "").split() * 20) + "\n")
    tokenizer = df.Tokenizer.from_file(tmp_path / "vocab.txt")
    prepare(tmp_path / "tokens", tokenizer, [tmp_path / "text.txt"], max_length=32, min_length=0)
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path / "teacher")
    logs = []
    for ranks in (1, 2):
        out = tmp_path / f"out{ranks}"
        argv = [
            f"--teacher={tmp_path / 'teacher'}",
            f"--tokens={tmp_path / 'tokens'}",
            f"--output_dir={out}",
            "--max_length=32",
            "--batch_tokens=128",
            "--batches_per_step=4",
            "--max_steps=3",
            "--logging_steps=1",
            "--save_strategy=no",
            "--report_to=none",
            "--disable_tqdm=true",
            *(["--use_cpu=true"] if ranks == 1 else []),  # with several, that is found out
            "--precision=fp32",
        ]
        if ranks == 1:
            train.main(argv)
        else:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            subprocess.run([*launch, "-m", "distilfast.train", *argv], check=True, env=environment, timeout=300)
        logs.append(json.loads((out / "train_summary.json").read_text())["log"])
    for one, two in zip(*logs, strict=True):
        for name in ("loss", "loss_ce", "loss_mlm", "loss_cos", "grad_norm"):
            assert two[name] == pytest.approx(one[name], rel=1e-3)
