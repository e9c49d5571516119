"""What went wrong when others' models were compared on text: spare rows, more words, text that a vocabulary lacks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import distilfast as df
import pytest
import torch
from distilfast import _command as command
from distilfast.evaluate import run as evaluate
from distilfast.metrics.held_out import evaluate_held_out, held_out_batches
from distilfast.prepare.run import prepare
from transformers import BertConfig, BertForMaskedLM

WORDS = ["the", "river", "had", "risen", "in", "night", "and", "carried", "bridge", "away", ".", "##s"]
LINES = [f"The river had risen {'in the night ' * (number % 5)}." for number in range(30)]


def save(folder: Path, words: list[str] = WORDS, seed: int = 0, positions: int = 512) -> str:
    """A BERT with a word vocabulary."""
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=len(vocabulary), initializer_range=0.5, max_position_embeddings=positions, **sizes)
    BertForMaskedLM(config).save_pretrained(folder)
    df.Tokenizer.from_file(folder / "vocab.txt").save_pretrained(folder)
    return str(folder)


def padded(source: str, folder: Path, rows: int) -> str:
    """The same model, and rows that no word has."""
    torch.manual_seed(7)
    model = BertForMaskedLM.from_pretrained(source)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    df.Tokenizer.from_pretrained(source).save_pretrained(folder)
    return str(folder)


def scored(tmp_path: Path, teacher: str, students: list[str], **options: Any) -> dict[str, Any]:
    (tmp_path / "held_out.txt").write_text("\n".join(LINES) + "\n")
    given = {"text": [str(tmp_path / "held_out.txt")], **options}
    report = df.evaluate_models(
        teacher, students, str(tmp_path / "out"), speed=False, pictures=False, device="cpu", **given
    )
    (part,) = report["held_out"].values()
    return dict(part)


@pytest.mark.parametrize("rows", [18, 64, 1017])
@pytest.mark.parametrize("which", ["student", "teacher", "both"])
def test_models_padded_differently_are_compared_over_the_words_of_both(tmp_path: Path, rows: int, which: str) -> None:
    whole = save(tmp_path / "whole")
    spare = padded(whole, tmp_path / "spare", rows)
    more = padded(whole, tmp_path / "more", rows + 3)
    teacher, student = {"student": (whole, spare), "teacher": (spare, whole), "both": (more, spare)}[which]
    part = scored(tmp_path, teacher, [student])
    models = part["models"]
    (theirs, ours) = models.values()
    if which != "both":  # over the same words it is the same model
        assert ours["agreement_all"] == 1.0
        assert ours["kl_all"] == pytest.approx(0.0, abs=1e-6)
        assert ours["mlm_loss"] == pytest.approx(theirs["mlm_loss"], abs=1e-6)
    assert len(part["notes"]) == 1
    assert f"{17 if which != 'both' else rows:,} that every model has" in part["notes"][0]
    assert "words: all are scored over" in (tmp_path / "out" / "evaluate.md").read_text()
    # By hand: the first batch of the masks, softmax over the common words.
    words = 17 if which != "both" else rows
    batches, _ = held_out_batches({"a": teacher, "b": student}, lines=LINES)
    total, number = 0.0, 0
    model = BertForMaskedLM.from_pretrained(student).eval()
    for index in range(len(batches)):
        batch = batches[index]
        used = batch["mlm_labels"] >= 0
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        chosen = logits.flatten(0, 1)[batch["mlm_positions"][used]][:, :words].log_softmax(-1)
        total -= float(chosen.gather(1, batch["mlm_labels"][used][:, None]).sum())
        number += int(used.sum())
    assert ours["mlm_loss"] == pytest.approx(total / number, rel=1e-5)


def test_a_vocabulary_that_goes_on_is_welcome_where_the_text_reads_the_same(tmp_path: Path) -> None:
    teacher, student = save(tmp_path / "fewer"), save(tmp_path / "more", [*WORDS, "flood", "##ed"], seed=1)
    for first, second in ((teacher, student), (student, teacher)):
        part = scored(tmp_path, first, [second])
        assert math.isfinite(part["models"][Path(second).name]["kl"])
        assert "17 that every model has" in part["notes"][0]
    prepare(tmp_path / "tokens", teacher, [tmp_path / "held_out.txt"], min_length=0, progress=False)
    part = scored(tmp_path, teacher, [student], text=[], tokens=str(tmp_path / "tokens"))
    assert part["rows"] == len(LINES)


@pytest.mark.parametrize(
    ("words", "line", "told"),
    [
        (WORDS[::-1], "the river", "its id 5 is"),
        ([*WORDS, "flood"], "the flood had risen", "which read the text as other ids"),
    ],
)
def test_other_words_or_other_ids_are_refused(
    tmp_path: Path, words: list[str], line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student = save(tmp_path / "teacher"), save(tmp_path / "student", words)
    (tmp_path / "text.txt").write_text(line + "\n")
    flags = ["--teacher", teacher, "--student", student, "--text", str(tmp_path / "text.txt"), "--speed", "false"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as exited:
        command.run(lambda: evaluate.main([*flags, "--output_dir", str(tmp_path / "out")]))
    assert exited.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert told in said
    assert not (tmp_path / "out").exists()


def test_text_that_the_vocabulary_lacks_is_named(tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher")
    (tmp_path / "other.txt").write_text("das wasser stieg in der nacht .\n" * 20)
    part = scored(tmp_path, teacher, [], text=[str(tmp_path / "other.txt")])
    assert part["unknown_share"] == pytest.approx(5 / 7)
    assert part["notes"] == [
        "warning: 71% of the tokens are [UNK]: the vocabulary does not have the words of this text"
    ]
    assert "71% of the tokens are [UNK]" in (tmp_path / "out" / "evaluate.md").read_text()
    (tmp_path / "none.txt").write_text("wasser stieg\n" * 20)
    with pytest.raises(df.InputError, match=r"special ones and \[UNK\]"):
        scored(tmp_path, teacher, [], text=[str(tmp_path / "none.txt")])


def test_ids_past_a_models_words_are_refused() -> None:
    class Batches:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            ids = torch.tensor([[2, 30, 3]])
            return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mlm_labels": torch.tensor([30])}

    model = BertForMaskedLM(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(df.InputError, match="the text has the id 30, and a model has words up to 19 alone"):
        evaluate_held_out(model, {}, Batches(), device="cpu")


def test_text_and_speeds_keep_to_the_positions_that_models_have(tmp_path: Path) -> None:
    teacher = save(tmp_path / "teacher", positions=16)
    student = save(tmp_path / "student", seed=1)
    (tmp_path / "long.txt").write_text("\n".join([*LINES[:4], "the river " * 40]) + "\n")
    given = {"text": [str(tmp_path / "long.txt")], "device": "cpu", "pictures": False}
    report = df.evaluate_models(teacher, student, str(tmp_path / "out"), speed_repeats=1, **given)
    part = report["held_out"]["long"]
    assert part["notes"] == ["rows cut to 16 tokens: 1"]
    assert part["models"]["student"]["tokens"] == sum(min(16, 7 + 3 * number) for number in range(4)) + 16
    assert report["models"]["student"]["speed"]["cpu"]["length"] == 16
    for name in ("speed_repeats", "speed_length", "max_length"):
        with pytest.raises(df.InputError, match=f"--{name} 0: must be above 0"):
            df.evaluate_models(teacher, student, str(tmp_path / "no"), **given, **{name: 0})
        assert not (tmp_path / "no").exists()
