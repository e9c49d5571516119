"""What went wrong when bug reports of others were tried on `export`: all families and heads, what must stay here."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_exports
import torch
import yaml
from distilfast import InputError
from distilfast.export.check import SENTENCES, judge, texts_for
from distilfast.export.pooling import read_pooling
from distilfast.export.run import export_student
from distilfast.models.card import hub_id, model_card, without_paths
from distilfast.models.sentence import load_sentence_encoder
from tiny_exports import FAMILIES, HEADS, model, tokenizer
from tiny_sentence import encoder_folder, sentences
from transformers import AutoTokenizer, FlaubertConfig, FlaubertWithLMHeadModel

ALL = [(family, head) for family in FAMILIES for head in HEADS]
# One head of each family and every head of one: the others are in the nightly run.
SOME = [("bert", head) for head in HEADS] + [
    ("electra", "classification"),
    ("roberta", "masked_lm"),
    ("xlm-roberta", "questions"),
    ("modernbert", "tokens"),
    ("distilbert", "classification"),
]


def session_outputs(path: Path, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """What onnxruntime gives for all that a tokenizer gives, as its users write it."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, dict(inputs))), strict=True))


@pytest.mark.parametrize(
    ("family", "head"),
    [pytest.param(*each, marks=[] if each in SOME else pytest.mark.slow) for each in ALL],
)
def test_every_family_and_head(tmp_path: Path, family: str, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file takes what the saved tokenizer gives, pairs and other lengths too, int8 is judged, the card runs."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    original = model(family, head)
    checks = export_student(
        original, tmp_path / "out", tokenizer=tokenizer(family), int8=True, int8_agreement=0.3, card={"title": "Small"}
    )
    assert [check.form for check in checks] == ["safetensors", "onnx", "onnx int8"]
    assert checks[1].agreement == pytest.approx(1.0, abs=1e-6)
    assert 0.3 <= checks[2].agreement <= 1.0
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    for given in (
        (["the river had risen ."], ["why ?"]),
        (["the bridge", "she asked for two tickets ."], ["the coast", "rain is expected in the north"]),
        (["the film works"],),
    ):
        options = {"padding": True}
        inputs = saved(*given, **options, return_tensors="np")
        with torch.no_grad():
            expected = original(**saved(*given, **options, return_tensors="pt"))
        got = session_outputs(tmp_path / "out" / "model.onnx", inputs)
        attended = torch.from_numpy(inputs["attention_mask"]).bool()
        for name, value in got.items():
            theirs = expected[name]
            rows = value.dim() == 3 or name in ("start_logits", "end_logits")
            torch.testing.assert_close(
                *((each[attended] if rows else each) for each in (value, theirs)), atol=2e-4, rtol=2e-4
            )
    card = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path / "out")
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(lines, "README.md", "exec"), {})


def test_the_two_segments_of_a_pair_reach_the_file(tmp_path: Path) -> None:
    """Token types decide here: with them left out the class is another one."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    original = model("bert", "classification")
    with torch.no_grad():
        original.bert.embeddings.token_type_embeddings.weight.mul_(20)
    export_student(original, tmp_path / "out", tokenizer=tokenizer(), onnx=True)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")("the river", "the coast", return_tensors="np")
    assert "token_type_ids" in inputs
    right = session_outputs(tmp_path / "out" / "model.onnx", inputs)["logits"]
    other = {**inputs, "token_type_ids": 0 * inputs["token_type_ids"]}
    assert float((session_outputs(tmp_path / "out" / "model.onnx", other)["logits"] - right).abs().max()) > 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_written_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    checks = export_student(model("distilbert").to(dtype), tmp_path / "out", tokenizer=tokenizer(), onnx=True)
    assert checks[1].largest_difference < 1e-3


def test_a_masked_language_model_is_judged_by_its_masks_whatever_its_class_is_called(tmp_path: Path) -> None:
    words = tokenizer()
    config = FlaubertConfig(vocab_size=len(words), emb_dim=16, n_layers=1, n_heads=2, max_position_embeddings=64)
    (check,) = export_student(FlaubertWithLMHeadModel(config).eval(), tmp_path / "out", tokenizer=words)
    assert (check.measured, check.agreement) == ("same top-1 on masks", 1.0)


def test_what_int8_is_judged_by() -> None:
    """Hand-made outputs: two texts, three positions, the last one of the second padded."""
    one = {"input_ids": torch.tensor([[1, 4, 2], [1, 2, 0]]), "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]])}
    words = tokenizer()
    assert words.mask_token_id == 4

    def judged(head: str, ours: Any, theirs: Any, **changes: Any) -> tuple[float, str]:
        kind = model("bert", head, **changes)
        return judge([ours], [theirs], [one], kind, words)

    def logits(*rows: Any) -> dict[str, torch.Tensor]:
        return {"logits": torch.tensor(rows, dtype=torch.float)}

    assert judged("classification", logits([1, 0, 0], [0, 1, 0]), logits([9, 0, 0], [9, 1, 0])) == (
        0.5,
        "same class on texts",
    )
    both = judged(
        "classification",
        logits([1, -1, 1], [1, 1, -1]),
        logits([1, 1, 1], [1, 1, -1]),
        problem_type="multi_label_classification",
    )
    assert both[0] == pytest.approx(5 / 6)
    for ours, expected in ((logits([5], [9]), 1.0), (logits([9], [5]), -1.0), (logits([5], [5]), 0.0)):
        assert judged("classification", ours, logits([1], [2]), num_labels=1)[0] == pytest.approx(expected)
    right, wrong = [0.0, 1.0], [1.0, 0.0]
    theirs = {"logits": torch.tensor([[right, right, right], [right, right, right]])}
    ours = {"logits": torch.tensor([[right, wrong, right], [right, right, wrong]])}
    assert judged("tokens", ours, theirs) == (pytest.approx(4 / 5), "same class on tokens")
    assert judged("masked_lm", ours, theirs) == (0.0, "same top-1 on masks")
    ends = {
        "start_logits": torch.tensor([[0.0, 1, 2], [0, 1, 9]]),
        "end_logits": torch.tensor([[0.0, 1, 2], [0, 1, 9]]),
    }
    moved = {**ends, "start_logits": torch.tensor([[5.0, 1, 2], [0, 1, 0]])}
    assert judged("questions", moved, ends) == (0.75, "same answer ends")


def test_vectors_are_judged_by_the_similarities_between_texts() -> None:
    kind, words = model("bert", "hidden_states"), tokenizer()
    batch = {"input_ids": torch.ones(6, 4, dtype=torch.long), "attention_mask": torch.ones(6, 4, dtype=torch.long)}
    hidden = torch.randn(6, 4, 8, generator=torch.Generator().manual_seed(0))
    turned = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1)))[0]
    for ours, least, most in ((hidden @ turned, 0.999, 1.0001), (hidden.flip(0) * torch.randn(8), -0.9, 0.9)):
        agreement, _ = judge([{"last_hidden_state": ours}], [{"last_hidden_state": hidden}], [batch], kind, words)
        assert least <= agreement <= most


def test_noise_in_place_of_scores_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    from distilfast.export import onnx

    honest = onnx.run_onnx
    monkeypatch.setattr(
        onnx,
        "run_onnx",
        lambda path, batches: [
            {name: -value if "int8" in path.name else value for name, value in batch.items()}
            for batch in honest(path, batches)
        ],
    )
    with pytest.raises(InputError, match=r"onnx int8: rank correlation of scores is -\d+\.\d %"):
        export_student(
            model("bert", "classification", num_labels=1), tmp_path / "out", tokenizer=tokenizer(), int8=True
        )
    assert not list(tmp_path.iterdir())


def sentence_encoder(folder: Path, mode: str = "mean", normalize: bool = True) -> Path:
    model("bert", "hidden_states").save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    for path, _ in modules[1:]:
        (folder / path).mkdir()
    modes = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens"}
    config = {"word_embedding_dimension": 32, **{f"pooling_mode_{key}": name == mode for name, key in modes.items()}}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 24, "do_lower_case": False}))
    return folder


@pytest.mark.parametrize(("mode", "normalize"), [("mean", True), ("cls", False), ("max", True)])
def test_a_sentence_encoder_stays_one(
    tmp_path: Path, mode: str, normalize: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    library = pytest.importorskip("sentence_transformers", reason="needs the extra sentence")
    source = sentence_encoder(tmp_path / "source", mode, normalize)
    export_student(source, tmp_path / "out", int8=True, int8_agreement=0.3)
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    texts = ["the river had risen .", "why ?"]
    expected = library.SentenceTransformer(str(source), device="cpu").encode(texts, convert_to_tensor=True)
    again = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts, convert_to_tensor=True)
    torch.testing.assert_close(again, expected)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(texts, padding=True, return_tensors="np")
    vectors = session_outputs(tmp_path / "out" / "model.onnx", inputs)["sentence_embedding"]
    torch.testing.assert_close(vectors, expected, atol=1e-4, rtol=1e-4)
    card = (tmp_path / "out" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert (header["library_name"], header["pipeline_tag"]) == ("sentence-transformers", "sentence-similarity")
    monkeypatch.chdir(tmp_path / "out")
    exec(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], {})


def test_other_modules_are_kept_and_have_no_output(tmp_path: Path) -> None:
    folder = sentence_encoder(tmp_path / "source")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules, {**modules[-1], "path": "3_Dense", "type": "a.Dense"}]))
    assert read_pooling(folder) is None
    (folder / "modules.json").write_text("{")
    with pytest.raises(InputError, match=r"modules\.json"):
        read_pooling(folder)


def test_the_pooled_vector_of_a_file_is_that_of_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    source = encoder_folder(tmp_path / "source", layers=2, dense=7, pooling=("cls", "mean"))
    export_student(source, tmp_path / "out", onnx=True)
    texts = sentences(9)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(texts, padding=True, return_tensors="np")
    vectors = session_outputs(tmp_path / "out" / "model.onnx", inputs)["sentence_embedding"]
    np.testing.assert_allclose(vectors.numpy(), load_sentence_encoder(source).encode(texts), atol=1e-5)
    np.testing.assert_array_equal(
        load_sentence_encoder(tmp_path / "out").encode(texts), load_sentence_encoder(source).encode(texts)
    )


def test_nothing_of_this_machine_is_in_what_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "secret" / "student"
    model("distilbert").save_pretrained(source)
    tokenizer().save_pretrained(source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    (source / "tokenizer_config.json").write_text(json.dumps({**config, "is_local": True, "local_files_only": True}))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "bert").mkdir()
    summary = {
        "teacher": "m/bert",
        "output_dir": "runs/secret-name",
        "seconds": 3.14159265,
        "run": {
            "output_dir": str(source),
            "logging_dir": f"{source}/runs",
            "temperature": 2.0,
            "text": ["~/secret/x.txt"],
        },
        "data": [{"file": "C:\\secret\\x.csv"}, "../secret/y.csv"],
        "ratio": "a/b of the text",
    }
    (source / "train_summary.json").write_text(json.dumps(summary))
    monkeypatch.chdir(tmp_path)
    export_student(source, tmp_path / "out", card={"title": "Small", "dataset": str(tmp_path / "secret")})
    for file in ("README.md", "train_summary.json", "tokenizer_config.json", "config.json", "export.json"):
        text = (tmp_path / "out" / file).read_text()
        assert str(tmp_path) not in text, file
        assert "secret/" not in text, file
        assert "secret\\" not in text, file
    kept = json.loads((tmp_path / "out" / "train_summary.json").read_text())
    assert kept["teacher"] == "bert"
    assert kept["run"]["temperature"] == 2.0
    assert kept["ratio"] == "a/b of the text"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "base_model" not in yaml.safe_load(card.split("---")[1])
    assert "3.14159 " in card
    saved = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert saved["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"is_local", "local_files_only"} & set(saved)
    with pytest.raises(InputError, match="--base_model"):
        export_student(source, tmp_path / "other", card={"base_model": str(tmp_path / "m" / "bert")})
    for name in (str(tmp_path), "m/bert", "never/loaded", None, ["a", "b"]):
        assert hub_id(name) is None
    assert without_paths({"path": "owner/name"}) == {"path": "name"}


def test_a_task_student_brings_its_scores(tmp_path: Path) -> None:
    source = tmp_path / "student"
    model("distilbert", "classification").save_pretrained(source)
    tokenizer().save_pretrained(source)
    scores = {"task": "sst-2", "teacher": {"path": "/x/big", "score": 93.25}, "student": {"path": None, "score": 91.0}}
    (source / "task_summary.json").write_text(json.dumps({**scores, "steps": 12}))
    export_student(source, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| teacher | 93.2 |" in card
    assert "| student | 91.0 |" in card
    assert "| steps | 12 |" in card
    assert "/x/" not in card


@pytest.mark.parametrize("overwrite", [False, True])
def test_never_destroys(tmp_path: Path, overwrite: bool) -> None:
    source = tmp_path / "models" / "student"
    model("distilbert").save_pretrained(source)
    tokenizer().save_pretrained(source)
    os.mkfifo(tmp_path / "pipe")
    before = sorted((str(path), path.lstat().st_mode) for path in tmp_path.rglob("*"))
    for out in (source, source.parent, tmp_path / "pipe", Path("/dev/null"), source / "config.json"):
        with pytest.raises(InputError, match=r"would be lost|holds something"):
            export_student(source, out, overwrite=overwrite)
    assert sorted((str(path), path.lstat().st_mode) for path in tmp_path.rglob("*")) == before


def test_texts_that_the_vocabulary_does_not_know_are_replaced_by_its_own() -> None:
    assert texts_for(tokenizer(), None) == list(SENTENCES)
    proteins = tiny_exports.tokenizer()
    proteins.backend_tokenizer.normalizer = tiny_exports.normalizers.Replace("e", "#")
    proteins.backend_tokenizer.normalizer = tiny_exports.normalizers.Sequence(
        [tiny_exports.normalizers.Replace(letter, letter.upper()) for letter in "abcdefghijklmnopqrstuvwxyz"]
    )
    texts = texts_for(proteins, None)
    assert texts != list(SENTENCES)
    assert len(texts) == 10


def test_the_example_of_a_card_is_of_words_that_the_vocabulary_has(tmp_path: Path) -> None:
    proteins = tiny_exports.tokenizer()
    proteins.backend_tokenizer.normalizer = tiny_exports.normalizers.Sequence(
        [tiny_exports.normalizers.Replace(letter, letter.upper()) for letter in "abcdefghijklmnopqrstuvwxyz"]
    )
    own = "the river had risen in night and [MASK]"  # the first words of the vocabulary
    for words, expected in ((tiny_exports.tokenizer(), "The river had risen in the [MASK]"), (proteins, own)):
        card = model_card(model("bert", "masked_lm"), words, tmp_path, {}, {})
        assert f"model({expected!r})" in card
