"""`df.distil`: what the command does, with Python values, names or loaded models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import transformers
from distilfast import InputError
from distilfast.prepare.run import prepare
from distilfast.train import run as train
from train_command import flags, folder

__all__ = ["folder"]  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT: dict[str, Any] = {
    "max_length": 48,
    "batch_tokens": 256,
    "max_steps": 2,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


def weights(folder: Path) -> dict[str, Any]:
    return {name: value.tolist() for name, value in transformers.AutoModel.from_pretrained(folder).state_dict().items()}


def test_distil_is_the_command(folder: Path, tmp_path: Path) -> None:
    summary = df.distil(folder / "teacher", folder / "text.txt", tmp_path / "python", layers=1, alpha_cos=0.5, **SHORT)
    train.main(flags(folder, tmp_path / "command", **SHORT, save_steps=None, layers=1, alpha_cos=0.5))
    assert weights(tmp_path / "python") == weights(tmp_path / "command")
    assert summary == json.loads((tmp_path / "python" / "train_summary.json").read_text())
    assert (summary["head"], summary["steps"], summary["alpha_cos"]) == ("masked_lm", 2, 0.5)


def test_loaded_models_and_tokens_and_held_out_text(folder: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "tokens", folder / "vocab.txt", [folder / "text.txt"], max_length=48)
    tokens = df.load_tokens(tmp_path / "tokens")
    teacher = transformers.AutoModelForMaskedLM.from_pretrained(folder / "teacher")
    student = df.create_student(teacher, 1)
    summary = df.distil(
        teacher, tokens, tmp_path / "out", validation=folder / "text.txt", student=student, recipe="distilbert", **SHORT
    )
    assert summary["teacher"] == str(folder / "teacher")
    assert summary["mlm_smoothing"] == 0.7  # of the recipe
    assert [evaluation["step"] for evaluation in summary["evaluations"]] == [1, 2]  # an epoch is a step of the recipe
    assert all(evaluation["eval_kl"] >= 0 for evaluation in summary["evaluations"])
    saved = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert all(value.equal(student.state_dict()[name]) for name, value in saved.state_dict().items())


def test_an_encoder_is_distilled_without_a_flag(folder: Path, tmp_path: Path) -> None:
    for head, teacher in (("encoder", folder / "teacher"), (None, tmp_path / "encoder")):
        if head is None:
            transformers.AutoModel.from_pretrained(folder / "teacher").save_pretrained(teacher)
        summary = df.distil(
            teacher,
            folder / "text.txt",
            tmp_path / f"out-{head}",
            validation=folder / "text.txt",
            head=head,
            tokenizer=folder / "vocab.txt",
            **SHORT,
        )
        assert summary["head"] == "hidden_states"
        assert {name for name in summary["last_log"] if name.startswith("loss")} == {"loss", "loss_cos"}
        assert 0 < summary["evaluations"][-1]["eval_cosine"] <= 1


def test_what_distil_cannot_do_it_says(folder: Path, tmp_path: Path) -> None:
    teacher, text, out = folder / "teacher", folder / "text.txt", tmp_path / "out"
    with pytest.raises(InputError, match="distil\\(\\) has no option 'temperatur'; did you mean temperature"):
        df.distil(teacher, text, out, temperatur=3.0)
    with pytest.raises(InputError, match="--validation_text is never looked at with --eval_strategy no"):
        df.distil(teacher, text, out, validation=text, eval_strategy="no", **SHORT)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(teacher)
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.raises(InputError, match="--batch_tokens is not for the head classification"):
        df.distil(tmp_path / "classifier", text, out, **SHORT)
    with pytest.raises(InputError, match="rows are read from files ending in"):
        df.distil(tmp_path / "classifier", text, out, tokenizer=folder / "teacher", max_steps=1)
    loaded = transformers.BertForMaskedLM(transformers.BertConfig.from_pretrained(teacher))
    with pytest.raises(InputError, match="text needs a tokenizer"):
        df.distil(loaded, text, out, **SHORT)
    assert not out.exists()
