"""ONNX files run by onnxruntime on shapes they were not traced with."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from distilfast import InputError
from distilfast.export import onnx as onnx_export
from distilfast.export.check import Check, encode, outputs_of
from distilfast.export.run import export_student
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DistilBertConfig,
    DistilBertForMaskedLM,
)

pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[DistilBertForMaskedLM, Any]:
    folder = tmp_path_factory.mktemp("words")
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "river",
        "had",
        "risen",
        "in",
        "night",
        "?",
        ".",
        "why",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(words), dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64
    )
    return DistilBertForMaskedLM(config), BertTokenizer(vocab=str(folder / "vocab.txt"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, student: tuple[Any, Any]) -> tuple[Path, list[Check]]:
    """Writing ONNX takes seconds; once is enough."""
    model, tokenizer = student
    folder = tmp_path_factory.mktemp("exported") / "out"
    return folder, export_student(model, folder, tokenizer=tokenizer, int8=True, int8_agreement=0.5)


def test_onnx_and_int8_are_compared(exported: tuple[Path, list[Check]]) -> None:
    folder, checks = exported
    assert [check.form for check in checks] == ["safetensors", "onnx", "onnx int8"]
    plain, int8 = checks[1:]
    assert plain.largest_difference < 1e-3
    assert plain.agreement == 1.0
    assert int8.largest_difference > plain.largest_difference
    assert int8.bytes == (folder / "model.int8.onnx").stat().st_size < plain.bytes
    assert "int8" in (folder / "README.md").read_text()


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 33)])
def test_batch_and_length_are_free(
    exported: tuple[Path, list[Check]], student: tuple[Any, Any], shape: tuple[int, int]
) -> None:
    model = student[0].eval()
    ids = torch.randint(5, model.config.vocab_size, shape)
    mask = torch.ones_like(ids)
    mask[-1, shape[1] // 2 + 1 :] = 0
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask).logits
    (got,) = onnx_export.run_onnx(exported[0] / "model.onnx", [{"input_ids": ids, "attention_mask": mask}])
    torch.testing.assert_close(got["logits"][mask.bool()], expected[mask.bool()], atol=1e-4, rtol=1e-4)


def test_past_tolerance_nothing_is_written(
    tmp_path: Path, exported: tuple[Path, list[Check]], student: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = student

    def other_model(_: Any, path: Path, *__: Any) -> None:
        """The quantised file in the place of the plain one."""
        shutil.copy(exported[0] / "model.int8.onnx", path)

    monkeypatch.setattr(onnx_export, "write_onnx", other_model)
    with pytest.raises(InputError, match=r"onnx: .* more than"):
        export_student(model, tmp_path / "out", tokenizer=tokenizer, onnx=True, onnx_tolerance=1e-5)
    assert not (tmp_path / "out").exists()


def test_too_rough_a_quantisation_is_refused(
    tmp_path: Path, exported: tuple[Path, list[Check]], student: tuple[Any, Any]
) -> None:
    model, tokenizer = student
    batches = encode(tokenizer, ["the river", "why ?"], model)
    reference = outputs_of(model.eval(), batches)
    shutil.copy(exported[0] / "model.onnx", tmp_path / "model.onnx")
    other = [{"logits": -each["logits"]} for each in reference]
    with pytest.raises(InputError, match="onnx int8: same top-1 on masks is"):
        onnx_export.check_int8(model, tokenizer, tmp_path, batches, other, 0.8)
    assert onnx_export.check_int8(model, tokenizer, tmp_path, batches, reference, 0.5).agreement >= 0.5


def test_a_tokenizer_without_token_types_makes_a_file_without_them(student: tuple[Any, Any], tmp_path: Path) -> None:
    """Though the model takes them: what the tokenizer gives is all that the file asks for."""
    tokenizer = copy.deepcopy(student[1])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=student[0].config.vocab_size, **sizes)).eval()
    export_student(model, tmp_path / "out", tokenizer=tokenizer, onnx=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    assert [each.name for each in session.get_inputs()] == ["input_ids", "attention_mask"]
    given = tokenizer(["the river had risen", "why ?"], ["in the night", "."], padding=True, return_tensors="np")
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(value) for name, value in given.items()}).logits
    torch.testing.assert_close(torch.from_numpy(session.run(None, dict(given))[0]), expected, atol=1e-4, rtol=1e-4)
