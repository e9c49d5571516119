"""`--quantize int8`: when it begins, what it computes, and that nothing of it is left in what is saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import tiny_rows
import tiny_training
import torch
import transformers
from distilfast import DistillationArguments, InputError, losses
from distilfast.heads import Objective
from distilfast.models.families import mlm_decoder, mlm_transform
from distilfast.models.last_layer import encode
from distilfast.models.quantized import quantized_inputs, quantized_values, quantized_weight, quantized_weights
from distilfast.train.step import DistillationStep
from film_rows import QUICK, reviews, save_blank
from tiny_sentence import encoder_folder, sentences
from train_command import flags, folder, refusal  # noqa: F401

pytestmark = pytest.mark.usefixtures("one_thread")

LAST_HALF: dict[str, Any] = {"quantize": "int8", "quantize_last": 0.5}


class SeeInt8(transformers.TrainerCallback):
    """Notes after every optimiser step whether it was computed in int8."""

    def __init__(self, step: DistillationStep) -> None:
        self.step = step
        self.seen: list[bool] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seen.append(self.step.computes_int8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_last_steps_and_they_alone_are_in_int8(tmp_path: Path, precision: str) -> None:
    curves = []
    for options in (LAST_HALF, {}):
        run = tiny_training.trainer(
            tmp_path / str(len(curves)), precision=precision, logging_steps=1, save_strategy="no", **options
        )
        seen = SeeInt8(run.step)
        run.add_callback(seen)
        run.train()
        curves.append([line["loss"] for line in tiny_training.curve(run)])
        assert seen.seen == ([False] * 4 + [True] * 4 if options else [False] * 8)
    assert len(curves[0]) == 8
    assert curves[0][:4] == curves[1][:4]  # bit for bit, until it begins
    assert curves[0][4] != curves[1][4]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_a_resume_is_the_run_left_alone_on_either_side_of_the_switch(tmp_path: Path, layout: str) -> None:
    options = {**LAST_HALF, "layout": layout}  # from step 4 of 8
    whole = tiny_training.trainer(tmp_path, **options)
    whole.train()
    for step in (2, 4, 6):
        resumed = tiny_training.trainer(tmp_path, **options)
        seen = SeeInt8(resumed.step)
        resumed.add_callback(seen)
        resumed.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert seen.seen == [number >= 4 for number in range(step, 8)]
        assert tiny_training.curve(resumed) == tiny_training.curve(whole)
        expected = tiny_training.weights(whole.step)
        for name, value in tiny_training.weights(resumed.step).items():
            assert torch.equal(value, expected[name]), name
    with pytest.raises(InputError, match=r"quantize was 'int8' and is None"):
        tiny_training.trainer(tmp_path, layout=layout).train(resume_from_checkpoint="last")


def test_killed_within_the_stretch_and_resumed(tmp_path: Path) -> None:
    assert tiny_training.run_ranks(tmp_path / "whole", **LAST_HALF) == [0]
    kill = {"step": 5, "signal": "SIGKILL", "within": True}
    assert tiny_training.run_ranks(tmp_path / "killed", kill=kill, **LAST_HALF) == [-9]
    assert tiny_training.run_ranks(tmp_path / "killed", resume="last", **LAST_HALF) == [0]
    whole, killed = (tiny_training.result(tmp_path / name) for name in ("whole", "killed"))
    assert killed["weights"] == whole["weights"]
    assert killed["curve"] == whole["curve"]


def test_the_loss_of_words_reads_what_a_decoder_in_int8_would_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the linear path, which never calls the decoder."""
    teacher = tiny_training.teacher(dropout=0.0)
    student = tiny_training.create_student(teacher, 1)
    batch = tiny_training.TinyBatches()[0]
    step = DistillationStep(student, teacher, Objective(alpha_mlm=2.0), compute_dtype=torch.float32)
    exact = step(batch)
    step.computes_int8 = True
    found = step(batch)
    names = quantized_weights(student)
    decoder = mlm_decoder(student)
    assert decoder.weight is student.get_input_embeddings().weight
    assert {name for name in names if student.get_parameter(name) is decoder.weight} == {"vocab_projector.weight"}

    def logits(model: Any, say: Any) -> torch.Tensor:
        hidden = encode(model, batch).every
        said: torch.Tensor = say(mlm_transform(model, hidden))
        return said

    with torch.no_grad(), quantized_inputs(student):
        held = {
            name: quantized_weight(value)
            for name, value in student.named_parameters(remove_duplicate=False)
            if name in names
        }
        before = {name: student.get_parameter(name) for name in held}
        for name, value in held.items():
            owner, _, leaf = name.rpartition(".")
            student.get_submodule(owner)._parameters[leaf] = torch.nn.Parameter(value)
        ours = logits(student, mlm_decoder(student))
        for name, value in before.items():
            owner, _, leaf = name.rpartition(".")
            student.get_submodule(owner)._parameters[leaf] = value
    with torch.no_grad():
        theirs = logits(teacher, mlm_decoder(teacher))
    attended = batch["attention_mask"].bool().flatten()
    kl = losses.soft_kl(ours[attended], theirs[attended], temperature=2.0, num_rows=batch["num_attended_in_step"])
    torch.testing.assert_close(found["loss_ce"], kl, rtol=1e-4, atol=1e-6)
    assert abs(float(exact["loss_ce"] - kl)) > 10 * abs(float(found["loss_ce"] - kl))
    # Without a teacher too, at the labelled positions alone, whose range is then that of the features.
    read: list[torch.Tensor] = []
    honest = losses.linear_masked_ce

    def watched(features: torch.Tensor, *rest: Any, **given: Any) -> torch.Tensor:
        read.append(features.detach())
        return honest(features, *rest, **given)

    monkeypatch.setattr(losses, "linear_masked_ce", watched)
    alone = DistillationStep(student, None, Objective(alpha_ce=0.0, alpha_cos=0.0), compute_dtype=torch.float32)
    for as_int8 in (False, True):
        alone.computes_int8 = as_int8
        alone(batch)
    as_floats, as_uint8 = ((features - quantized_values(features)).abs().max() for features in read)
    assert as_uint8 < 1e-5 < 1e-3 < as_floats
    found["loss"].backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in student.parameters())
    assert decoder.weight.grad.abs().sum() > 0
    step.computes_int8 = False
    assert torch.equal(step(batch)["loss"], exact["loss"])


@pytest.mark.parametrize("head", ["tokens", "questions"])
def test_taggers_and_answerers_resume_across_the_switch(tmp_path: Path, head: str) -> None:
    if head == "tokens":
        batches, model = tiny_rows.word_batches(3, 3, 2), lambda: tiny_rows.tagger(["A", "B", "C"])
    else:
        batches, model = tiny_rows.question_batches(3, 2), tiny_rows.answerer
    run = tiny_rows.assert_resumes(tmp_path, head, model, batches, **LAST_HALF)
    assert run.step.computes_int8


def test_the_best_model_is_one_of_the_stretch(tmp_path: Path) -> None:
    """Though the first evaluation is the best by its measure."""
    run = tiny_rows.trainer(
        tmp_path,
        tiny_rows.tagger(["A", "B", "C"]),
        tiny_rows.word_batches(3, 3, 2),
        head="tokens",
        load_best_model_at_end=True,
        metric_for_best_model="runtime_of_nothing",
        greater_is_better=True,
        **LAST_HALF,
    )
    evaluate = run.evaluate

    def falling(*given: Any, **options: Any) -> dict[str, float]:
        metrics = evaluate(*given, **options)
        metrics["eval_runtime_of_nothing"] = -float(run.state.global_step)
        return metrics

    run.evaluate = falling  # type: ignore[method-assign]
    run.train()
    assert run.state.best_global_step == 3
    assert str(run.state.best_model_checkpoint).endswith("checkpoint-3")


def test_what_is_saved_has_no_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A classifier and a sentence encoder with a dense layer, from the data to the folder."""
    save_blank(tmp_path / "teacher")
    rows = reviews(64, 0)
    out = tmp_path / "small"
    options = {**QUICK, "per_device_train_batch_size": 8, "num_train_epochs": 1, **LAST_HALF}
    summary = df.distil(tmp_path / "teacher", rows, out, validation=reviews(16, 1), **options)
    assert "quantize: the last 4 steps in int8; the student stays float" in capsys.readouterr().out
    assert (summary["quantize"], summary["int8_steps"]) == ("int8", 4)
    names = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "teacher").state_dict().keys()
    student = transformers.AutoModelForSequenceClassification.from_pretrained(out)
    assert student.state_dict().keys() < names
    assert any(len(value.unique()) > 256 for value in student.state_dict().values())  # float, not what int8 holds

    encoder_folder(tmp_path / "encoder", dense=12)
    (tmp_path / "texts.txt").write_text("\n".join(sentences(120)) + "\n", encoding="utf-8")
    text = {"report_to": "none", "disable_tqdm": True, "batch_tokens": 256, "use_cpu": True, **LAST_HALF}
    summary = df.distil(tmp_path / "encoder", tmp_path / "texts.txt", tmp_path / "vectors", **text)
    assert summary["int8_steps"] > 0
    assert summary["read_back_difference"] <= 1e-5
    summary = df.distil(tmp_path / "encoder", tmp_path / "texts.txt", tmp_path / "states", head="hidden_states", **text)
    assert summary["int8_steps"] > 0


def test_refusals(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    out = tmp_path / "none"
    for changes, message in [
        ({"quantize_last": 0.2}, "--quantize_last 0.2 does nothing without --quantize int8"),
        ({"quantize": "int8", "quantize_last": 0}, "--quantize_last 0: must be above 0 and at most 1"),
        ({"quantize": "int8", "quantize_last": 1.5}, "--quantize_last 1.5: must be above 0 and at most 1"),
        ({"quantize": "int8", "torch_compile": True}, "--quantize int8 and --torch_compile do not go together"),
    ]:
        assert message in refusal(flags(folder, out, **changes), capsys)
        assert not out.exists()
    with pytest.raises(InputError, match="--quantize int4: only int8 is known"):
        DistillationArguments(str(out), quantize="int4")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--early_stopping_patience do not go together"):
        DistillationArguments(str(out), quantize="int8", early_stopping_patience=2, eval_strategy="epoch")
    with pytest.raises(InputError, match="--fsdp do not go together"):
        DistillationArguments(str(out), quantize="int8", fsdp="full_shard")


def test_a_longer_run_says_that_its_stretch_moves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {**LAST_HALF, "lr_scheduler_type": "constant", "num_train_epochs": 1}
    tiny_training.trainer(tmp_path, **options).train()
    longer = tiny_training.trainer(tmp_path, **{**options, "num_train_epochs": 2})
    longer.train(resume_from_checkpoint="last")
    assert "the last stretch, in int8, is at the end of all steps" in caplog.text
