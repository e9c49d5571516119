"""Exports reload with plain transformers to the same numbers, or nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from distilfast import InputError
from distilfast.export import run as export
from distilfast.export.check import SENTENCES
from distilfast.export.run import export_student, read_lines
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
)

WORDS = [
    "the",
    "river",
    "had",
    "risen",
    "in",
    "night",
    "and",
    "she",
    "asked",
    "for",
    "two",
    "tickets",
    "to",
    "why",
    "?",
    ".",
]


def word_tokenizer(folder: Path) -> Any:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return BertTokenizer(vocab=str(folder / "vocab.txt"))


def student(tmp_path: Path) -> tuple[DistilBertForMaskedLM, Any]:
    tokenizer = word_tokenizer(tmp_path / "words")
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=64
    )
    return DistilBertForMaskedLM(config), tokenizer


def saved_student(tmp_path: Path) -> Path:
    model, tokenizer = student(tmp_path)
    model.save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    return tmp_path / "student"


def logits(folder: Path) -> torch.Tensor:
    inputs = AutoTokenizer.from_pretrained(folder)(list(SENTENCES), padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        return AutoModelForMaskedLM.from_pretrained(folder)(**inputs).logits


def test_what_is_exported_is_what_was_there(tmp_path: Path) -> None:
    source = saved_student(tmp_path)
    (source / "train_summary.json").write_text(json.dumps({"teacher": "some/teacher", "temperature": 2.0}))
    (check,) = export_student(source, tmp_path / "out")
    assert check.form == "safetensors"
    assert check.largest_difference <= 1e-5
    assert check.agreement == 1.0
    assert check.bytes == (tmp_path / "out" / "model.safetensors").stat().st_size
    torch.testing.assert_close(logits(tmp_path / "out"), logits(source))
    assert json.loads((tmp_path / "out" / "export.json").read_text())["checks"][0]["form"] == "safetensors"
    assert (tmp_path / "out" / "train_summary.json").is_file()


def test_a_loaded_model_is_exported_and_stays_as_it_was(tmp_path: Path) -> None:
    model, tokenizer = student(tmp_path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    export_student(model, tmp_path / "out", tokenizer=tokenizer, texts=["the river", "why ?"])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(InputError, match="tokenizer="):
        export_student(model, tmp_path / "other")


@pytest.mark.parametrize("loaded", [True, False])
def test_the_exported_tokenizer_cuts_and_pads_no_more_than_it_did(tmp_path: Path, loaded: bool) -> None:
    """Who reads tokenizer.json alone gets the text whole, though texts were cut and padded to compare the forms."""
    model, tokenizer = student(tmp_path)
    if loaded:
        export_student(model, tmp_path / "exported", tokenizer=tokenizer)
    else:
        model.save_pretrained(tmp_path / "student")
        tokenizer.save_pretrained(tmp_path / "student")
        export_student(tmp_path / "student", tmp_path / "exported")
    content = json.loads((tmp_path / "exported" / "tokenizer.json").read_text())
    assert (content["truncation"], content["padding"]) == (None, None)
    assert (tokenizer.backend_tokenizer.truncation, tokenizer.backend_tokenizer.padding) == (None, None)


def test_a_head_for_a_task_is_exported_as_itself(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(tmp_path / "words")
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    export_student(BertForSequenceClassification(config), tmp_path / "out", tokenizer=tokenizer)
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "text-classification"


def test_past_tolerance_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = saved_student(tmp_path)
    honest = export.load_model

    def damaged(path: str, **options: Any) -> Any:
        """A reload that loses a little of the weights."""
        model = honest(path, **options)
        if Path(path) != source:
            with torch.no_grad():
                model.vocab_projector.bias[7] += 0.01
        return model

    monkeypatch.setattr(export, "load_model", damaged)
    with pytest.raises(InputError, match=r"differs from the original by 0\.01, more than the 1e-05"):
        export_student(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["student", "words"]
    (check,) = export_student(source, tmp_path / "out", tolerance=0.02)
    assert check.largest_difference == pytest.approx(0.01, rel=1e-3)


def test_nan_is_past_every_tolerance(tmp_path: Path) -> None:
    model, tokenizer = student(tmp_path)
    with torch.no_grad():
        model.vocab_projector.bias[3] = torch.nan
    with pytest.raises(InputError, match="differs"):
        export_student(model, tmp_path / "out", tokenizer=tokenizer, tolerance=1e9)


def test_bad_input_is_named_and_nothing_half_written(tmp_path: Path) -> None:
    source = saved_student(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something"):
        export_student(source, tmp_path / "full")
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match=r"no config\.json"):
        export_student(tmp_path / "words", tmp_path / "out")
    with pytest.raises(InputError, match="there is no such directory"):
        export_student(tmp_path / "nowhere", tmp_path / "out")
    for file in ("vocab.txt", "tokenizer.json"):
        (source / file).unlink(missing_ok=True)
    with pytest.raises(InputError, match="has no tokenizer"):
        export_student(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_text_for_the_comparison(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("one\n\n two \nthree\n")
    assert read_lines(file, 2) == ["one", "two"]
    file.write_bytes(b"caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_lines(file, 2)
    file.write_text("\n\n")
    with pytest.raises(InputError, match="no line"):
        read_lines(file, 2)
    with pytest.raises(InputError, match="no such file"):
        read_lines(tmp_path / "gone.txt", 2)


def test_card_carries_recipe_fields_and_numbers(tmp_path: Path) -> None:
    source = saved_student(tmp_path)
    summary = {"steps": 500, "run": {"temperature": 2.0, "logging_steps": 7}}
    (source / "train_summary.json").write_text(json.dumps(summary))
    model = {"encoder_parameters": 10, "parameters": 12, "bytes": 48}
    report = {"teacher": "big", "models": {"big": model, "small": {**model, "encoder_parameters": 5}}}
    (tmp_path / "evaluate.json").write_text(json.dumps(report))
    card = {
        "title": "Small",
        "base_model": "some/teacher",
        "license": "apache-2.0",
        "language": "en",
        "dataset": "wikitext",
        "evaluation": str(tmp_path / "evaluate.json"),
    }
    export_student(source, tmp_path / "out", card=card)
    text = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "apache-2.0"
    assert header["base_model"] == "some/teacher"
    assert header["datasets"] == ["wikitext"]
    assert header["pipeline_tag"] == "fill-mask"
    assert text.count("# Small") == 1
    assert "distilled from `some/teacher`" in text
    assert "| temperature | 2.0 |" in text
    assert "| steps | 500 |" in text
    assert "logging_steps" not in text
    assert "50.0 %" in text
    with pytest.raises(InputError, match="not readable as JSON"):
        export_student(source, tmp_path / "again", card={"evaluation": str(tmp_path / "gone.json")})
    assert not (tmp_path / "again").exists()
