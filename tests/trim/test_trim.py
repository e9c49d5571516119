"""`distilfast trim`: fewer words, the same numbers on what is kept, files that others load, and refusals."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import distilfast as df
import numpy as np
import pytest
import tiny_rows
import torch
import transformers
from distilfast import InputError
from distilfast import _command as command
from distilfast.models.load import load_model
from distilfast.models.sentence import load_sentence_encoder
from distilfast.models.vocabulary import keep_words
from distilfast.trim.run import main, trim_model
from distilfast.vocabulary import trim_tokenizer
from distilfast.vocabulary.from_files import parse_size
from small_families import FAMILIES
from tiny_sentence import encoder_folder, sentences
from tiny_tokenizers import tiny_tokenizer
from tokenizers import Tokenizer
from train_command import folder  # noqa: F401

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
}
TEXT = ["the file of a token", "a folder that holds the text", "tokens and ids"]


def save_model(path: Path, kind: str, tied: bool = True) -> Path:
    """A masked-language model of a few weights with a tokenizer of `kind`, as transformers saves both."""
    tiny = tiny_tokenizer(kind)
    content = json.loads(tiny.to_json())["model"]
    torch.manual_seed(0)
    roomy = {"vocab_size": tiny.vocab_size + 3, "tie_word_embeddings": tied, **SIZES}  # rounded up, as many are
    tokenizer: Any
    if kind == "bytes":
        merges = [tuple(merge) for merge in content["merges"]]
        tokenizer = transformers.RobertaTokenizer(vocab=content["vocab"], merges=merges)
        model: Any = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**roomy))
    elif kind == "unigram":
        tokenizer = transformers.XLMRobertaTokenizer(vocab=[tuple(each) for each in content["vocab"]])
        model = transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**roomy))
    else:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(tiny.to_json()),
            pad_token="<pad>",
            mask_token="<mask>",
            unk_token="<unk>",
        )
        model = transformers.BertForMaskedLM(transformers.BertConfig(**roomy, pad_token_id=1))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["wordpiece", "bytes", "unigram"])
def test_the_trimmed_model_says_the_same_of_the_text(tmp_path: Path, kind: str) -> None:
    source = save_model(tmp_path / "whole", kind, tied=kind != "bytes")
    (tmp_path / "text.txt").write_text("\n".join(TEXT), encoding="utf-8")
    report = trim_model(source, tmp_path / "small", 1.0, [tmp_path / "text.txt"])
    assert report == json.loads((tmp_path / "small" / "trim.json").read_text())
    assert (report["texts"], report["texts_same"], report["coverage"]) == (3, 3, 1)
    assert report["vocabulary_after"] < report["vocabulary_before"]
    whole, small = load_model(source), load_model(tmp_path / "small")
    assert type(small) is type(whole)
    assert small.config.vocab_size == report["vocabulary_after"]
    assert small.num_parameters() == report["parameters_after"] < report["parameters_before"]
    tied = small.get_output_embeddings().weight is small.get_input_embeddings().weight
    assert tied == (kind != "bytes")
    old = transformers.AutoTokenizer.from_pretrained(source)
    new = transformers.AutoTokenizer.from_pretrained(tmp_path / "small")
    assert type(new) is type(old)
    ours = df.Tokenizer.from_pretrained(tmp_path / "small")
    teacher_ids = [old.convert_tokens_to_ids(token) for token in new.convert_ids_to_tokens(range(len(new)))]
    assert small.config.pad_token_id == new.pad_token_id == ours.pad_id
    for text in TEXT:
        before, after = old(text, return_tensors="pt"), new(text, return_tensors="pt")
        ids = after["input_ids"][0].tolist()
        assert ours.encode(text) == ids
        assert [teacher_ids[index] for index in ids] == before["input_ids"][0].tolist()
        with torch.no_grad():
            expected, found = whole(**before).logits, small(**after).logits
        torch.testing.assert_close(found, expected[..., teacher_ids], atol=1e-5, rtol=1e-5)


def test_a_trimmed_sentence_encoder_gives_the_same_vectors(tmp_path: Path) -> None:
    words = ["other", "words", "that", "never", "come", *{word for text in sentences() for word in text.split()}]
    source = encoder_folder(tmp_path / "whole", words=words, dense=7)
    (tmp_path / "text.txt").write_text("\n".join(sentences()), encoding="utf-8")
    report = trim_model(source, tmp_path / "small", "100%", [tmp_path / "text.txt"])
    assert report["vocabulary_before"] - report["vocabulary_after"] == 5
    expected = load_sentence_encoder(source).encode(sentences())
    np.testing.assert_allclose(load_sentence_encoder(tmp_path / "small").encode(sentences()), expected, atol=1e-6)
    package = pytest.importorskip("sentence_transformers")
    theirs = package.SentenceTransformer(str(tmp_path / "small"), device="cpu")
    np.testing.assert_allclose(theirs.encode(sentences()), expected, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_words_of_every_family(name: str) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForMaskedLM.from_config(
        copy.deepcopy(FAMILIES[name]), attn_implementation="sdpa"
    ).eval()
    kept = [0, 1, 2, 3, 7, 11, 12, 40, 60]
    small = keep_words(model, kept)
    ids = torch.tensor([[4, 8, 5, 6, 7, 4]])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(kept)[ids]).logits[..., kept]
        torch.testing.assert_close(small(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-5)
    assert small.config.vocab_size == len(kept)
    assert model.config.vocab_size == 61
    everything = keep_words(model, range(61))
    for key, value in model.state_dict().items():
        assert torch.equal(everything.state_dict()[key], value)


def test_a_student_of_fewer_layers_and_words(folder: Path) -> None:  # noqa: F811
    teacher = df.load_teacher(folder / "teacher")
    tokenizer = df.Tokenizer.from_pretrained(folder / "teacher")
    letters = df.Vocabulary.from_texts(tokenizer, ["x ray"], 59)
    assert letters.tokenizer.vocab_size == 59  # single characters all
    vocabulary = trim_tokenizer(tokenizer, np.array([*range(20), 31, 40, 58]))
    student = df.create_student(teacher, 1, vocabulary=vocabulary)
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert student.config.vocab_size == vocabulary.tokenizer.vocab_size
    words = teacher.get_input_embeddings().weight[torch.from_numpy(vocabulary.teacher_ids)]
    assert torch.equal(student.get_input_embeddings().weight, words)


def test_positions_that_begin_behind_the_padding_are_refused_if_it_moves() -> None:
    model = transformers.AutoModel.from_config(copy.deepcopy(FAMILIES["roberta"]), attn_implementation="sdpa").eval()
    with pytest.raises(InputError, match="does not stay the same with fewer words"):
        keep_words(model, range(1, 61))
    for wrong in ([0, 0, 1], [61], [-1], []):
        with pytest.raises(InputError, match="different ids from 0 to 60"):
            keep_words(model, wrong)


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exited:
        command.run(lambda: main(argv))
    assert exited.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    text, words, broken = folder / "text.txt", tmp_path / "words.txt", tmp_path / "broken.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    broken.write_text("[PAD]\na\n")
    flags = ["--model", str(folder / "teacher"), "--text", str(text), "--output_dir", str(tmp_path / "small")]
    for vocabulary, message in [
        ("3", "too small"),
        ("1000000", "the model's has 59"),
        ("0%", "above 0 %"),
        ("nowhere.txt", "no file that is there"),
        (str(broken), "lacks the special tokens"),
    ]:
        assert message in refused([*flags, "--vocabulary", vocabulary], capsys)
        assert not (tmp_path / "small").exists()
    assert "there is no such" in refused(["--model", str(tmp_path / "none"), *flags[2:], "--vocabulary", "59"], capsys)
    main([*flags, "--vocabulary", str(words)])
    printed = capsys.readouterr().out
    assert "added to the file's tokens: 53" in printed
    assert "coverage: 100.000%" in printed
    assert "holds something already" in refused([*flags, "--vocabulary", "59"], capsys)
    main([*flags, "--vocabulary", "59", "--overwrite"])
    assert load_model(tmp_path / "small").config.vocab_size == 59


@pytest.mark.parametrize("kind", ["masked_lm", "embedding"])
def test_what_is_written_says_nothing_of_this_machine(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    if kind == "embedding":
        encoder_folder(source)
    else:
        transformers.BertForMaskedLM(tiny_rows.config(1)).save_pretrained(source)
        tiny_rows.tokenizer().save_pretrained(source)
    (tmp_path / "text.txt").write_text("the film was good and long\n" * 20)
    trim_model(source, tmp_path / "out", "99%", [tmp_path / "text.txt"])
    written = {path.name: path.read_text() for path in (tmp_path / "out").rglob("*.json")}
    assert {"trim.json", "tokenizer_config.json", "config.json"} <= written.keys()
    assert json.loads(written["trim.json"])["model"] == "source"
    for content in written.values():
        assert str(tmp_path) not in content
        assert not {"is_local", "local_files_only", "name_or_path"} & set(re.findall(r"\w+", content))


def test_sizes_as_they_are_written() -> None:
    assert [parse_size(each) for each in ("8,000", "8_000", 12)] == [8000, 8000, 12]
    assert parse_size("99.9 %") == pytest.approx(0.999)
    with pytest.raises(InputError, match="no number of tokens"):
        parse_size("many")
