"""A narrower student that starts from its teacher, against the same one from random weights: a nightly test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
from distilfast.vocabulary import Vocabulary

TEACHER_STEPS, STEPS = 1500, 25
SIZES: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
RUN: dict[str, Any] = {
    "max_length": 32,
    "batch_tokens": 512,
    "batches_per_step": 1,
    "precision": "fp32",
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 50,
    "eval_strategy": "steps",
    "eval_steps": 10000,
    "min_length": 4,
}


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="a minute: nightly")
def test_the_chosen_start_is_half_a_nat_ahead_after_equal_steps(data_dir: Path, tmp_path: Path) -> None:
    losses = losses_after_equal_steps(data_dir, tmp_path)
    assert losses["random"] - losses["teacher"] >= 0.5


def losses_after_equal_steps(data_dir: Path, folder: Path) -> dict[str, float]:
    """The KL to the teacher of students of two thirds of its width and layers, by what they start from; on the text
    that all of them read, so small that the teacher knows it after half a minute.

    Measured once, in float32 on a CPU: 0.36 nats from the teacher's weights, 2.67 from random ones."""
    text = folder / "text.txt"
    lines = (data_dir / "wikitext-2" / "wiki.valid.tokens").read_text(encoding="utf-8").splitlines()[:60]
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = df.Tokenizer.from_file(data_dir / "vocab" / "bert-base-uncased.vocab.txt", lowercase=True)
    tokenizer = Vocabulary.from_texts(whole, lines, 1000, "text").tokenizer
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "config.json").write_text(json.dumps(SIZES), encoding="utf-8")
    teacher = folder / "teacher"
    pretraining = {"tokenizer": str(folder / "tokenizer"), "student_config": str(folder / "config.json")}
    df.distil(None, text, teacher, validation=text, max_steps=TEACHER_STEPS, learning_rate=1.5e-3, **pretraining, **RUN)
    found = {}
    for init in ("teacher", "random"):
        summary = df.distil(
            teacher,
            text,
            folder / f"from_{init}",
            validation=text,
            init=init,
            layers=2,
            hidden_size=48,
            intermediate_size=192,
            max_steps=STEPS,
            learning_rate=1e-3,
            **RUN,
        )
        print(init, summary["evaluations"][-1], flush=True)
        found[init] = float(summary["evaluations"][-1]["eval_kl"])
    return found
