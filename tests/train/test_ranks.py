"""Two gloo ranks started by torchrun give the losses and the weights of one process."""

from __future__ import annotations

import json
import os
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
from distilfast.prepare.run import prepare
from distilfast.train import run as train

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
