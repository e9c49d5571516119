"""--guard_text: what a student keeps of a text that it is not trained on, said, evaluated and chosen by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import torch
import transformers
from distilfast.metrics.held_out import evaluate_held_out, held_out_batches
from distilfast.train import guard as guarding
from distilfast.train import run as train
from train_command import SIZES, flags, folder, refusal

__all__ = ["folder"]  # the fixture

pytestmark = pytest.mark.usefixtures("one_thread")

CONSONANTS = "bcdfghjklmnpqrstvwxz"


@pytest.fixture(scope="module")
def other(folder: Path) -> Path:
    """Text of another kind than `folder` / "text.txt", consonants without a word in them; and a teacher whose cut is
    far from it, `folder` / "sharp"."""
    torch.manual_seed(0)
    tokenizer = df.Tokenizer.from_pretrained(folder / "teacher")
    config = transformers.BertConfig(vocab_size=tokenizer.vocab_size, initializer_range=0.4, **SIZES)
    transformers.BertForMaskedLM(config).save_pretrained(folder / "sharp")
    tokenizer.save_pretrained(folder / "sharp")
    draws = torch.Generator().manual_seed(0)
    lines = [
        " ".join("".join(CONSONANTS[int(i)] for i in torch.randint(0, 20, (5,), generator=draws)) for _ in range(5))
        for _ in range(40)
    ]
    path = folder / "other.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def sharp(folder: Path, out: Path, **changes: Any) -> list[str]:
    """The flags of a run with that teacher, in float32."""
    return flags(folder, out, **{"teacher": folder / "sharp", "precision": "fp32", **changes})


def summary_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "train_summary.json").read_text())
    return found


def test_start_and_end_are_said_and_are_those_of_held_out_text(
    folder: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    train.main(sharp(folder, out, guard_text=other, max_length=64, batch_tokens=512))
    said = capsys.readouterr().out
    found = summary_of(out)["guard"]
    # 40 texts of 27 tokens: all of them are looked at, in another order than that of the file.
    assert "guard text: 40 of 40 texts are looked at, 1,080 tokens" in said
    lines = other.read_text().splitlines()
    ordered = [lines[place] for place in guarding._drawn(len(lines))]
    assert ordered != lines
    assert sorted(ordered) == sorted(lines)
    paths = {"teacher": str(folder / "sharp"), "student": str(out)}
    batches, _ = held_out_batches(paths, lines=ordered, max_length=64, batch_tokens=512)
    models = {name: transformers.AutoModelForMaskedLM.from_pretrained(path) for name, path in paths.items()}
    teacher = models["teacher"]
    cut = df.create_student(teacher)
    scores = evaluate_held_out(teacher, {"start": cut, "student": models["student"]}, batches, device="cpu")
    for who in ("start", "student"):
        expected = scores[who]
        assert found["guard"][who]["kl"] == pytest.approx(expected.kl, rel=1e-5)
        assert found["guard"][who]["accuracy"] == expected.mlm_accuracy
        assert f"{expected.kl:.4f}" in said
    assert found["guard"]["teacher"]["accuracy"] == scores["teacher"].mlm_accuracy
    assert found["metric"] == "kl"
    assert found["forgot"] == (scores["student"].kl > scores["start"].kl)
    assert ("warning: the student forgot" in said) == found["forgot"]
    for kind in ("on the text trained on, ", "on the guard text, 1,080 tokens: "):
        assert kind in said
    card = (out / "README.md").read_text()
    assert (
        f"| another text, kl | {found['guard']['start']['kl']:.4f} | {found['guard']['student']['kl']:.4f} | - |"
        in card
    )


def test_a_student_that_forgot_is_told(
    folder: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on labels alone at a high rate, it leaves its teacher, on both kinds of text."""
    out = tmp_path / "small"
    changes = {"alpha_ce": 0, "alpha_cos": 0, "learning_rate": 0.05, "max_steps": 12, "warmup_steps": 0}
    train.main(sharp(folder, out, guard_text=other, **changes))
    said, found = capsys.readouterr().out, summary_of(out)["guard"]
    assert found["forgot"]
    assert found["guard"]["student"]["kl"] > found["guard"]["start"]["kl"]
    (warning,) = [line for line in said.splitlines() if line.startswith("warning: the student forgot")]
    assert "--text_weights" in warning
    assert "eval_guard_kl" in warning
    assert "The student forgot" in (out / "README.md").read_text()


def test_it_is_an_evaluation_that_chooses_and_stops(folder: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "small"
    changes = {"alpha_ce": 0, "alpha_cos": 0, "learning_rate": 0.05, "max_steps": 12, "warmup_steps": 0}
    often = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    train.main(
        sharp(
            folder,
            out,
            guard_text=other,
            validation_text=folder / "text.txt",
            metric_for_best_model="eval_guard_kl",
            load_best_model_at_end=True,
            early_stopping_patience=2,
            **changes,
            **often,
        )
    )
    summary = summary_of(out)
    values = [each["eval_guard_kl"] for each in summary["evaluations"] if "eval_guard_kl" in each]
    plain = [each["eval_kl"] for each in summary["evaluations"] if "eval_kl" in each]
    # One a step, and that of the best at the end.
    assert len(values) == len(plain) == summary["steps"] + 1 < 12
    assert summary["best_metric"] == min(values) == values.pop()
    assert values.index(min(values)) == len(values) - 3  # two in a row that were no better
    assert summary["guard"]["guard"]["student"]["kl"] == pytest.approx(min(values), rel=1e-5)


def test_without_held_out_text_the_guard_alone_is_evaluated(folder: Path, other: Path, tmp_path: Path) -> None:
    train.main(sharp(folder, tmp_path / "small", guard_text=other, eval_strategy="steps", eval_steps=2))
    found = summary_of(tmp_path / "small")["evaluations"]
    assert [each["step"] for each in found] == [2, 4]
    assert all("eval_guard_kl" in each for each in found)


def test_it_changes_no_bit_of_a_run_nor_of_its_resume(folder: Path, other: Path, tmp_path: Path) -> None:
    for name, changes in {"plain": {}, "guarded": {"guard_text": other}}.items():
        train.main(sharp(folder, tmp_path / name, **changes))
    plain, guarded = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "guarded"))
    assert plain == guarded
    (tmp_path / "guarded" / "checkpoint-4" / "distilfast.json").unlink()
    before = summary_of(tmp_path / "guarded")["guard"]
    train.main(sharp(folder, tmp_path / "guarded", guard_text=other, resume_from_checkpoint="last"))
    assert (tmp_path / "guarded" / "model.safetensors").read_bytes() == plain
    assert summary_of(tmp_path / "guarded")["guard"] == before


def test_an_encoder_is_guarded_by_its_cosine(folder: Path, other: Path, tmp_path: Path) -> None:
    train.main(sharp(folder, tmp_path / "small", head="hidden_states", guard_text=other))
    found = summary_of(tmp_path / "small")["guard"]
    assert found["metric"] == "cosine"
    assert found["forgot"] == (found["guard"]["student"]["cosine"] < found["guard"]["start"]["cosine"])


def test_a_model_without_a_teacher_is_guarded_by_its_loss(folder: Path, other: Path, tmp_path: Path) -> None:
    train.main(
        sharp(
            folder,
            tmp_path / "on",
            teacher=None,
            student=folder / "sharp",
            tokenizer=folder / "vocab.txt",
            guard_text=other,
        )
    )
    found = summary_of(tmp_path / "on")["guard"]
    assert found["metric"] == "loss"
    assert "teacher" not in found["guard"]


def test_no_more_than_so_much_is_looked_at(
    folder: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "MOST_TOKENS", 100)
    train.main(sharp(folder, tmp_path / "small", guard_text=other, max_length=20, dry_run=True))
    said = capsys.readouterr().out
    assert "guard text: 5 of 40 texts are looked at, 100 tokens; 40 of 40 texts are longer than 20 tokens" in said
    assert "before training, on the guard text: accuracy" in said
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"guard_text": "none.txt"}, "none.txt: there is no such file"),
        ({"guard_text": "empty.txt"}, "empty.txt is empty"),
        ({"guard_text": "text.txt"}, "is among --text: what is trained on does not show what is forgotten"),
        ({"guard_text": "unknown.txt"}, "no position of the held-out text is masked"),
        ({"guard_text": "other.txt", "metric_for_best_model": "eval_guard_kl"}, "does nothing without an evaluation"),
        (
            {"guard_text": "other.txt", "eval_strategy": "epoch", "metric_for_best_model": "guard_k"},
            "an evaluation gives guard_loss, guard_accuracy, guard_agreement, guard_kl; did you mean guard_kl?",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    folder: Path, other: Path, tmp_path: Path, change: dict[str, Any], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "empty.txt").write_text("")
    (folder / "unknown.txt").write_text("ж ж ж\n")
    values = {**change, "guard_text": folder / change["guard_text"]}
    assert part in refusal(flags(folder, tmp_path / "out", **values), capsys)
    assert not (tmp_path / "out").exists()


def test_other_heads_have_no_use_for_it(folder: Path, tmp_path: Path) -> None:
    from film_rows import QUICK, reviews, save_blank

    teacher = save_blank(tmp_path / "teacher")
    with pytest.raises(df.InputError, match="--guard_text is not for the head classification"):
        df.distil(teacher, reviews(20, 0), tmp_path / "out", guard_text=str(folder / "text.txt"), **QUICK)
    with pytest.raises(df.InputError, match="--guard_text is not for the head embedding"):
        df.distil(
            folder / "teacher", folder / "text.txt", tmp_path / "out", head="embedding", pooling="mean", guard_text="x"
        )
    assert not (tmp_path / "out").exists()
