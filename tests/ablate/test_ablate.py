"""The whole study at tiny scale: its own teacher, five students a seed, kept and compared."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_exports
import torch
from distilfast import InputError
from distilfast.ablate import run as ablate
from distilfast.ablate.report import costs
from distilfast.ablate.run import CONTROLS, CUT, VARIANTS, AblateOptions, deltas, run_ablation
from distilfast.evaluate.published import ABLATION
from distilfast.models.load import load_teacher

WORDS = ["the", "river", "had", "risen", "in", "night", "and", "carried", "bridge", "away", "old", "new", "."]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small run fastest on one thread; what is there already need not be looked for garbage."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.freeze()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


@pytest.fixture
def options(tmp_path: Path) -> AblateOptions:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    lines = [
        f"the {a} river had {b} in the night and carried the {c} bridge away . " * 2
        for a in WORDS[10:12]
        for b in WORDS
        for c in WORDS[10:12]
    ]
    (tmp_path / "text.txt").write_text("\n".join(lines[:40]) + "\n")
    (tmp_path / "held_out.txt").write_text("\n".join(lines[40:]) + "\n")
    return AblateOptions(
        output_dir=str(tmp_path / "out"),
        held_out=[str(tmp_path / "held_out.txt")],
        text=[str(tmp_path / "text.txt")],
        tokenizer=str(tmp_path / "vocab.txt"),
        teacher_layers=2,
        teacher_hidden=64,
        teacher_steps=4,
        steps=3,
        seeds=2,
        train_flags="--batch_tokens 512 --learning_rate 1e-3",
        max_length=32,
        device="cpu",
    )


def test_the_study(options: AblateOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run_ablation(options)
    folder = Path(options.output_dir)
    assert json.loads((folder / "ablate.json").read_text()) == json.loads(json.dumps(report))
    assert set(report["scores"]) == {"teacher"} | {f"{variant}-seed{seed}" for variant in VARIANTS for seed in range(2)}
    assert report["deltas"].keys() == ABLATION.keys()
    for variant, found in report["deltas"].items():
        for metric, values in found.items():
            for seed, value in enumerate(values):
                scores = report["scores"]
                assert value == scores[f"{variant}-seed{seed}"][metric] - scores[f"full-seed{seed}"][metric]
    # Cut from the teacher, it is nearer to it than from nothing.
    assert min(report["deltas"]["random_init"]["kl"]) > 0
    text = (folder / "ablate.md").read_text()
    for words in ("random initialisation", "-3.69", "published", "ablation.png", "--batch_tokens 512"):
        assert words in text
    assert (folder / "ablation.png").stat().st_size > 10_000

    # Equal budget and data: the summaries of all students of a seed name the same batches; seeds have other ones.
    def data(run: str) -> Any:
        summary = json.loads((folder / "students" / run / "train_summary.json").read_text())
        assert summary["steps"] == 3
        return summary["data_fingerprint"]

    for seed in range(2):
        assert len({data(f"{variant}-seed{seed}") for variant in VARIANTS}) == 1
    assert data("full-seed0") != data("full-seed1")

    def not_again(*_: Any, **__: Any) -> None:
        raise AssertionError("a finished run was run again")

    monkeypatch.setattr(ablate, "distil", not_again)
    assert run_ablation(options)["scores"] == report["scores"]
    options.steps = 4
    with pytest.raises(InputError, match="other settings: steps 3 where 4 is asked for"):
        run_ablation(options)


def test_controls_share_budget_and_start(options: AblateOptions) -> None:
    options.seeds = 1
    options.controls = True
    report = run_ablation(options)
    students = Path(options.output_dir) / "students"
    assert set(report["scores"]) == {"teacher", CUT} | {f"{variant}-seed0" for variant in [*VARIANTS, "mlm_only"]}
    assert set(report["deltas"]) == {*ABLATION, *CONTROLS}
    summary = json.loads((students / "mlm_only-seed0" / "train_summary.json").read_text())
    assert (summary["alpha_ce"], summary["alpha_cos"], summary["init"], summary["steps"]) == (0, 0, "teacher", 3)
    # The cut is the teacher's own first layer, untouched: what every other student starts from.
    teacher = load_teacher(Path(options.output_dir) / "teacher").state_dict()
    weights = load_teacher(students / CUT).state_dict()
    first = weights["distilbert.transformer.layer.0.ffn.lin1.weight"]
    assert torch.equal(first, teacher["bert.encoder.layer.0.intermediate.dense.weight"])
    text = (Path(options.output_dir) / "ablate.md").read_text()
    for title in ("masked-LM loss alone", "cut, not trained"):
        assert text.count(f"| {title}") == 2
    # A control is no part of the method, so it is not in the order of what the parts are worth.
    assert "alone" not in next(line for line in text.splitlines() if line.startswith("- by MLM loss"))


def test_costs_are_ordered_with_the_right_sign() -> None:
    scores = {f"{variant}-seed0": {"kl": 1.0 + i, "mlm_accuracy": 50.0 - i} for i, variant in enumerate(VARIANTS)}
    report = {"deltas": deltas(scores, 1)}
    for metric in ("kl", "mlm_accuracy"):
        assert costs(report, metric) == {"random_init": 4.0, "no_mlm": 3.0, "no_cosine": 2.0, "no_kl": 1.0}


def test_bad_input_is_named(options: AblateOptions, tmp_path: Path) -> None:
    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(InputError, match=message):
            run_ablation(AblateOptions(**{**vars(options), **changes}))

    refused("not both", tokens="somewhere")
    refused("not both", text=[])
    refused("needs --tokenizer", tokenizer=None)
    refused("--seed is set by the study itself", train_flags="--seed 3")
    refused("--init=random is set by the study itself", train_flags="--init=random")
    refused("No closing quotation", train_flags="'")
    refused("--steps is 0", steps=0)
    refused("multiple of 64", teacher_hidden=100)
    refused("--teacher_layers 2 does nothing with --teacher", teacher=str(tmp_path))
    given: dict[str, Any] = {"teacher_layers": 4, "teacher_hidden": 128, "teacher_steps": 1000}  # as by default
    refused("no config.json", teacher=str(tmp_path), **given)
    refused("there is no such file", held_out=[str(tmp_path / "gone.txt")])
    refused("there is no such file", text=[str(tmp_path / "gone.txt")])
    refused("there is no such file", tokenizer=str(tmp_path / "gone.txt"))
    tiny_exports.model("bert", "classification").save_pretrained(tmp_path / "classifier")
    refused("which has the head classification; masked_lm needs", teacher=str(tmp_path / "classifier"), **given)
    assert not (tmp_path / "out").exists()
    for folder in ("students/full-seed0", "teacher"):
        text = tmp_path / "out" / folder / "held_out.txt"
        text.parent.mkdir(parents=True)
        text.write_text("the river\n")
        refused(rf"{folder}/held_out.txt lies in .*out/.* and would be lost", held_out=[str(text)])
        assert text.read_text() == "the river\n"
