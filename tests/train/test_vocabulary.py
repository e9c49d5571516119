"""`distilfast train --vocabulary`: a student of fewer words that learns from the whole teacher."""

from __future__ import annotations

import json
from pathlib import Path

import distilfast as df
import numpy as np
import pytest
import torch
from distilfast.models.load import load_model
from distilfast.models.vocabulary import keep_words
from distilfast.train import run as train
from train_command import LETTERS, SPECIALS, flags, folder, refusal, save_teacher  # noqa: F401

WORDS = ["layers", "student", "##ing", "##s", "teacher", "the", "model"]


@pytest.fixture(scope="module")
def wordy(folder: Path) -> Path:  # noqa: F811
    """A teacher with some whole words beside the letters."""
    (folder / "wordy.txt").write_text("\n".join(SPECIALS + WORDS + LETTERS) + "\n")
    save_teacher(folder / "wordy", folder / "wordy.txt")
    (folder / "few.txt").write_text("the teacher, the model\nthe student\n")
    return folder


def test_the_teacher_of_the_kept_words_is_the_whole_one_renormalised(wordy: Path) -> None:
    whole = load_model(wordy / "wordy")
    vocabulary = df.Vocabulary.from_texts(df.Tokenizer.from_pretrained(wordy / "wordy"), ["the teacher"], 1.0)
    ids = torch.tensor([vocabulary.tokenizer.encode("the model of the teacher")])
    kept = torch.from_numpy(vocabulary.teacher_ids)
    with torch.no_grad():
        said = whole(input_ids=kept[ids]).logits.double().softmax(-1)[..., kept]
        found = keep_words(whole, vocabulary.teacher_ids)(input_ids=ids).logits.double().softmax(-1)
    torch.testing.assert_close(found, said / said.sum(-1, keepdim=True), atol=1e-6, rtol=1e-5)


def test_a_student_of_fewer_words_is_trained(wordy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "student"
    options = {"teacher": wordy / "wordy", "vocabulary": "100%", "vocabulary_text": [str(wordy / "few.txt")]}
    # All layers and hardly a learning rate: the student still is its teacher, if both read the same words.
    train.main(flags(wordy, out, **options, layers=2, learning_rate=1e-12, dropout="false"))
    printed = capsys.readouterr().out
    assert "vocabulary: 66 tokens before, 63 after" in printed
    summary = json.loads((out / "train_summary.json").read_text())
    assert summary["vocabulary"]["coverage"] == 1
    assert summary["teacher_parameters"] == [load_model(wordy / "wordy").num_parameters()]
    assert summary["student_parameters"] < summary["teacher_parameters"][0]
    assert all(entry["loss_ce"] < 1e-6 for entry in summary["log"])
    student, tokenizer = load_model(out), df.Tokenizer.from_pretrained(out)
    assert student.config.vocab_size == tokenizer.vocab_size == 63
    whole = df.Tokenizer.from_pretrained(wordy / "wordy")
    places = [whole.tokens().index(token) for token in tokenizer.tokens()]
    rows = load_model(wordy / "wordy").get_input_embeddings().weight[places].detach()
    np.testing.assert_allclose(student.get_input_embeddings().weight.detach(), rows, atol=1e-6)


def test_what_cannot_be_chosen_is_refused(wordy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "none"
    for changes, message in [
        ({"vocabulary": 3}, "too small"),
        ({"vocabulary_text": [str(wordy / "few.txt")]}, "do nothing without --vocabulary"),
        ({"vocabulary": 60, "text": None, "tokens": "tokens"}, "needs raw --text"),
    ]:
        assert message in refusal(flags(wordy, out, **{"teacher": wordy / "wordy", **changes}), capsys)
        assert not out.exists()
