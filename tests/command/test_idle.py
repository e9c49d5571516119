"""Flags that the road of a call does not read are refused, whichever command has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from distilfast import InputError
from distilfast._command import changed, idle, refuse_idle
from distilfast.ablate import run as ablate
from distilfast.bench import train as bench_train
from distilfast.demo import run as demo
from distilfast.export import run as export
from distilfast.prepare import run as prepare
from distilfast.train.inputs import PARTS, arguments_of
from distilfast.train.inputs import refuse_idle as refuse_idle_in_training
from distilfast.trim import run as trim

OTHER: dict[str, Any] = {
    "hub_model_id": "me/model",
    "hub_strategy": "end",
    "hub_token": "hf_secret",
    "hub_private_repo": True,
    "hub_always_push": True,
    "hub_revision": "main2",
    "temperature": 3.0,
    "kl_positions": "masked",
    "kl_sample_share": 0.3,
    "restrict_ce_to_mask": True,
    "cos_positions": "kl",
    "class_weights": ["balanced"],
    "hidden_map": "1:2",
    "hidden_kind": "mse",
    "relation_heads": 2,
    "relation_layers": [1, 1],
    "similarity_temperature": 0.1,
    "dimensions": [8],
    "teacher_weights": [0.5, 0.5],
    "revision": "main2",
    "cache_teacher": "cache",
    "min_length": 3,
}
"""A value of each flag that is of a part of a training."""
ASKED: dict[str, Any] = {"push_to_hub": True, "teacher": ["owner/a", "owner/b"], "text": ["t.txt"]}
ZERO = dict.fromkeys(("alpha_ce", "alpha_mlm", "alpha_task", "alpha_cos", "alpha_mse"), 0.0)


def training(tmp_path: Path, **values: Any) -> None:
    values = {"output_dir": str(tmp_path / "out"), "report_to": "none", "use_cpu": True, **values}
    refuse_idle_in_training(values, arguments_of({**ZERO, "alpha_margin_mse": 1.0, **values}))


@pytest.mark.parametrize(
    ("asker", "name"), [(asker, name) for askers, names in PARTS for asker in askers for name in names]
)
def test_a_flag_of_a_part_of_training_that_nobody_asked_for(asker: str, name: str, tmp_path: Path) -> None:
    given = {name: OTHER[name]}
    with pytest.raises(InputError, match=rf"--{name} .* does nothing without .*--{asker}") as refused:
        training(tmp_path, **given)
    assert "hf_secret" not in str(refused.value)
    if name == "kl_sample_share":
        with pytest.raises(InputError, match=r"--kl_sample_share 0\.3 does nothing without --kl_positions sampled"):
            training(tmp_path, **given, **{asker: 1.0})
        given["kl_positions"] = "sampled"
    training(tmp_path, **given, **{asker: ASKED.get(asker, 1.0)})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"eval_steps": 7, "eval_strategy": "epoch"}, "--eval_steps 7 does nothing with --eval_strategy epoch"),
        ({"save_steps": 7, "save_strategy": "epoch"}, "--save_steps 7 does nothing with --save_strategy epoch"),
        ({"logging_steps": 7, "logging_strategy": "epoch"}, "--logging_steps 7 does nothing with --logging_strategy"),
        ({"init": "random", "student": "owner/s"}, "--init random does nothing with --student"),
        ({"student_type": "same", "student_config": "c.json"}, "--student_type same does nothing with --student_con"),
        ({"student_config": "c.json", "student": "owner/s"}, "--student_config c.json does nothing with --student"),
        ({"per_device_eval_batch_size": 2, "head": "masked_lm"}, "--per_device_eval_batch_size 2 does nothing with"),
        ({"revision": "v2", "teacher": ["./teacher"]}, "--revision v2 does nothing with a teacher on this machine"),
    ],
)
def test_a_flag_that_another_leaves_without_effect(values: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        training(tmp_path, **values)
    training(tmp_path, **{name: value for name, value in values.items() if name != said.split()[0][2:]})


def test_defaults_are_no_flags(tmp_path: Path) -> None:
    training(tmp_path, temperature=2.0, hub_strategy="every_save", save_steps=500, save_strategy="no")


def test_parts_that_nobody_asks_for() -> None:
    options = export.ExportOptions(student="s", output_dir="o", int8_agreement=0.5)
    with pytest.raises(InputError, match=r"--int8_agreement 0\.5 does nothing without --int8"):
        refuse_idle(changed(options), export.PARTS, lambda name: getattr(options, name))
    options.int8 = True
    refuse_idle(changed(options), export.PARTS, lambda name: getattr(options, name))
    assert idle(export.PARTS, {"text": None, "onnx": False, "int8": True}.get) == {"lines": "--text"}


COMMANDS: dict[str, tuple[Any, list[str]]] = {
    "export": (export, ["--student", "teacher"]),
    "prepare": (prepare, ["--tokenizer", "vocab.txt", "--text", "text.txt"]),
    "trim": (trim, ["--model", "teacher", "--vocabulary", "70", "--text", "text.txt"]),
    "bench": (bench_train, ["--size", "tiny"]),
    "demo": (demo, []),
    "ablate": (ablate, ["--text", "text.txt", "--held_out", "text.txt", "--teacher", "teacher"]),
}


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("export", ["--lines", "3"], "--lines 3 does nothing without --text"),
        ("export", ["--onnx_tolerance", "0.1"], "--onnx_tolerance 0.1 does nothing without --onnx or --int8"),
        ("prepare", ["--split", "test"], "--split test does nothing without --dataset"),
        ("prepare", ["--dataset_config", "en"], "--dataset_config en does nothing without --dataset"),
        ("prepare", ["--column", "body"], "--column body names the text of jsonl and parquet"),
        ("trim", ["--column", "body"], "--column body names the text of jsonl and parquet"),
        ("ablate", ["--task_seeds", "2"], "--task_seeds 2 does nothing without --tasks"),
        (
            "bench",
            ["--head", "classification", "--batch_tokens", "64"],
            "--batch_tokens 64 does nothing with --head cl",
        ),
        ("bench", ["--rows", "64"], "--rows 64 does nothing with --head masked_lm"),
        ("bench", ["--overwrite", "true"], "--overwrite does nothing where no file is written"),
        ("demo", ["--text", "text.txt", "--megabytes", "2"], "--megabytes 2 does nothing with --text"),
        ("ablate", ["--teacher_steps", "2"], "--teacher_steps 2 does nothing with --teacher"),
    ],
)
def test_each_command_refuses_them(
    command: str, flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    Path("text.txt").write_text("a a a\n")
    module, call = COMMANDS[command]
    with pytest.raises(InputError, match=said):
        module.main([*call, *flags, *(["--output_dir", "out"] if command != "bench" else [])])
    assert not Path("out").exists()


def test_what_has_no_splits_has_none_to_choose(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text\na b\n")
    with pytest.raises(InputError, match=r"--split test: .* is one file, which has no splits"):
        prepare.load_dataset(str(file), split="test")
    with pytest.raises(InputError, match="--dataset_config en is of a dataset on the Hub"):
        prepare.load_dataset(str(file), "en")
    assert len(prepare.load_dataset(str(file))) == 1
