"""The whole road on real text with the real vocabulary: prepare, pretrain, distil, resume, evaluate, export, reload."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from distilfast import _command as command
from distilfast.evaluate.run import EvaluateOptions, run_evaluation
from distilfast.export.run import export_student
from distilfast.prepare.run import load_tokens, prepare
from distilfast.train import run as train

CONFIG = {
    "model_type": "bert",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
SHARED = ["--max_length", "64", "--batch_tokens", "256", "--report_to", "none", "--disable_tqdm", "True"]
STEPS = 200


def test_the_whole_road(data_dir: Path, tmp_path: Path) -> None:
    vocab = data_dir / "vocab" / "bert-base-uncased.vocab.txt"
    tokens = tmp_path / "tokens"
    info = prepare(tokens, vocab, [data_dir / "wikitext-2" / "wiki.train.tokens"], max_length=64)
    assert info["vocab_size"] == 30522
    assert 2.0e6 < info["tokens"] < 3.0e6
    assert load_tokens(tokens).dataset[0]["input_ids"][0] == 101

    (tmp_path / "teacher.json").write_text(json.dumps(CONFIG))
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    shared = ["--tokens", str(tokens), *SHARED]
    pretrain = ["--student_config", str(tmp_path / "teacher.json"), "--output_dir", str(teacher)]
    # Another seed than the student's, or the student would begin with the very batches that the teacher has seen.
    pretrain += ["--max_steps", "60", "--learning_rate", "2e-3", "--save_strategy", "no", "--seed", "7"]
    train.main([*pretrain, *shared])

    distil = ["--teacher", str(teacher), "--output_dir", str(student), "--max_steps", str(STEPS)]
    # The vocabulary is the real one, so the KL at all positions would be most of the time of this test.
    distil += ["--kl_positions", "masked", "--save_steps", "150", "--logging_steps", "25", *shared]
    train.main(distil)
    log = json.loads((student / "train_summary.json").read_text())["log"]
    assert log[-1]["step"] == STEPS
    assert log[-1]["loss"] < log[0]["loss"]

    whole = safetensors.torch.load_file(student / "model.safetensors")
    train.main([*distil, "--resume_from_checkpoint", str(student / "checkpoint-150")])
    resumed = safetensors.torch.load_file(student / "model.safetensors")
    assert whole.keys() == resumed.keys()
    for name, weights in whole.items():
        assert torch.equal(weights, resumed[name]), f"{name} differs after the resume"

    options = EvaluateOptions(
        teacher=f"teacher={teacher}",
        student=[f"student={student}"],
        output_dir=str(tmp_path / "evaluation"),
        text=[str(data_dir / "wikitext-2" / "wiki.valid.tokens")],
        max_lines=200,
        max_length=64,
        speed_length=64,
        speed_repeats=3,
        pictures=False,
        device="cpu",
    )
    scores = run_evaluation(options)["held_out"]["wiki.valid"]["models"]
    assert scores["student"]["mlm_loss"] < 10.0 < torch.tensor(30522.0).log()
    assert "student" in (tmp_path / "evaluation" / "evaluate.md").read_text()

    export_student(student, tmp_path / "exported")
    model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "exported").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    encoded = tokenizer("the [MASK] sat on the mat .", return_tensors="pt")
    original = transformers.AutoModelForMaskedLM.from_pretrained(student).eval()
    inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    with torch.inference_mode():
        torch.testing.assert_close(model(**inputs).logits, original(**inputs).logits)
    assert encoded["input_ids"][0, 2] == tokenizer.mask_token_id == 103


def test_tokens_of_another_vocabulary_end_the_command(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cased vocabulary's tokens cannot train a teacher of the uncased one."""
    text = tmp_path / "text.txt"
    lines = (data_dir / "wikitext-2" / "wiki.valid.tokens").read_text(encoding="utf-8").splitlines()[:50]
    text.write_text("\n".join(lines), encoding="utf-8")
    prepare(tmp_path / "tokens", data_dir / "vocab" / "bert-base-cased.vocab.txt", [text])
    teacher = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=30522, **CONFIG))
    teacher.save_pretrained(tmp_path / "teacher")
    vocab = data_dir / "vocab" / "bert-base-uncased.vocab.txt"
    flags = ["--teacher", str(tmp_path / "teacher"), "--tokens", str(tmp_path / "tokens"), "--tokenizer", str(vocab)]
    with pytest.raises(SystemExit, match="2"):
        command.run(lambda: train.main([*flags, "--output_dir", str(tmp_path / "out"), *SHARED]))
    error = capsys.readouterr().err
    assert "prepared with another vocabulary" in error.splitlines()[-1]
    assert not (tmp_path / "out" / "model.safetensors").exists()
