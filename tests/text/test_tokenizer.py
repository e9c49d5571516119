"""`Tokenizer`: files, special ids, encoding, Arrow in and out, saving, and what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import distilfast as df
import pyarrow as pa
import pytest
import tokenizers
import transformers
from distilfast.tokenizer import load_tokenizer, load_transformers_tokenizer

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "the",
    "cat",
    "sat",
    "un",
    "##able",
    "##s",
    "##ing",
    "run",
    ".",
    ",",
    "[",
    "]",
    "mask",
    "##k",
    "#",
    "a",
    "b",
    "e",
]
TEXTS = ["The cats sat.", "", "unable, running", "un[UNK]able [MASK] the [ MASK]", "x the", "Éa\u0301 \x0bthe\x0bcat"]


@pytest.fixture
def vocab(tmp_path: Path) -> Path:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(SPECIALS + WORDS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tok(vocab: Path) -> df.Tokenizer:
    return df.Tokenizer.from_file(vocab)


def hugging_face(tok: df.Tokenizer, directory: Path) -> tokenizers.Tokenizer:
    tok.save_pretrained(directory)
    return tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))


def test_ids_and_names(tok: df.Tokenizer) -> None:
    assert (tok.pad_id, tok.unk_id, tok.cls_id, tok.sep_id, tok.mask_id) == (0, 1, 2, 3, 4)
    assert tok.special_ids == [0, 1, 2, 3, 4]
    assert tok.vocab_size == len(SPECIALS + WORDS)
    assert tok.word_starts.dtype == bool
    assert tok.word_starts.tolist() == [not word.startswith("##") for word in SPECIALS + WORDS]


def test_encode_is_hugging_face(tok: df.Tokenizer, tmp_path: Path) -> None:
    expected = hugging_face(tok, tmp_path / "saved")
    for special in (True, False):
        ids = [expected.encode(text, add_special_tokens=special).ids for text in TEXTS]
        assert [tok.encode(text, add_special_tokens=special) for text in TEXTS] == ids
        assert tok.encode_batch(TEXTS, add_special_tokens=special).to_pylist() == ids
    expected.encode_special_tokens = True
    ids = [expected.encode(text).ids for text in TEXTS]
    assert tok.encode_batch(TEXTS, split_special_tokens=True).to_pylist() == ids
    assert tok.mask_id not in ids[3]


@pytest.mark.parametrize("max_length", [2, 3, 5, 100])
def test_truncation_keeps_the_start_and_sep(tok: df.Tokenizer, tmp_path: Path, max_length: int) -> None:
    expected = hugging_face(tok, tmp_path / "saved")
    expected.enable_truncation(max_length)
    ids = [expected.encode(text).ids for text in TEXTS]
    assert tok.encode_batch(TEXTS, max_length=max_length).to_pylist() == ids
    assert [tok.encode(text, max_length=max_length) for text in TEXTS] == ids
    bare = [row[:max_length] for row in tok.encode_batch(TEXTS, add_special_tokens=False).to_pylist()]
    assert tok.encode_batch(TEXTS, add_special_tokens=False, max_length=max_length).to_pylist() == bare


def test_no_room_for_the_special_tokens(tok: df.Tokenizer) -> None:
    with pytest.raises(df.InputError, match="max_length=1"):
        tok.encode_batch(TEXTS, max_length=1)
    with pytest.raises(df.InputError, match="threads=0"):
        tok.encode_batch(TEXTS, threads=0)


def arrow_forms(texts: list[str]) -> dict[str, object]:
    padded = pa.array(["skipped", *texts, "skipped"])
    return {
        "tuple": tuple(texts),
        "generator": (text for text in texts),
        "string": pa.array(texts),
        "large_string": pa.array(texts, pa.large_string()),
        "string_view": pa.array(texts, pa.string_view()),
        "sliced": padded.slice(1, len(texts)),
        "sliced large_string": padded.cast(pa.large_string()).slice(1, len(texts)),
        "sliced string_view": padded.cast(pa.string_view()).slice(1, len(texts)),
        "chunked": pa.chunked_array([texts[:1], [], texts[1:4], texts[4:]], pa.string()),
        "chunked, sliced": pa.chunked_array([["skipped", texts[0]], texts[1:]]).slice(1),
    }


@pytest.mark.parametrize("form", arrow_forms(TEXTS))
def test_every_form_of_input(tok: df.Tokenizer, form: str) -> None:
    expected = [tok.encode(text) for text in TEXTS]
    ids = tok.encode_batch(arrow_forms(TEXTS)[form])
    assert ids.type == pa.list_(pa.uint16())
    assert ids.to_pylist() == expected
    ids.validate(full=True)


def test_nothing_in_nothing_out(tok: df.Tokenizer) -> None:
    for empty in ([], pa.array([], pa.string()), pa.chunked_array([], pa.string())):
        assert tok.encode_batch(empty).to_pylist() == []


def test_bad_rows_are_named(tok: df.Tokenizer) -> None:
    with pytest.raises(df.InputError, match="row 2 is null"):
        tok.encode_batch(pa.chunked_array([["a"], ["b", None]]))
    with pytest.raises(df.InputError, match="row 1 holds a lone surrogate"):
        tok.encode_batch(["a", "\ud800"])
    with pytest.raises(TypeError, match="row 1 is of type int"):
        tok.encode_batch(["a", 3])
    with pytest.raises(TypeError, match="use encode"):
        tok.encode_batch("a")
    with pytest.raises(TypeError, match="Int64"):
        tok.encode_batch(pa.array([1, 2], pa.int64()))
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        raw = pa.array(
            [b"fine", b"fine too", b"\xff\xfe", b"a long row that is not inlined \xc3"],
            {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}[kind],
        )
        broken = pa.Array.from_buffers(kind, len(raw), raw.buffers())
        with pytest.raises(df.InputError, match="row 2 is not UTF-8"):
            tok.encode_batch(broken)
        with pytest.raises(df.InputError, match="row 0 is not UTF-8"):
            tok.encode_batch(broken.slice(3))
        assert tok.encode_batch(broken.slice(0, 2)).to_pylist() == tok.encode_batch(["fine", "fine too"]).to_pylist()


def test_values_and_collections_that_make_no_sense(tok: df.Tokenizer) -> None:
    for value in (-1, 1 << 70):
        with pytest.raises(df.InputError, match=f"max_length={value}"):
            tok.encode_batch(TEXTS, max_length=value)
        with pytest.raises(df.InputError, match=f"max_length={value}"):
            tok.encode("the", max_length=value)
        with pytest.raises(df.InputError, match=f"threads={value}"):
            tok.encode_batch(TEXTS, threads=value)
    with pytest.raises(TypeError, match="a dict has no rows"):
        tok.encode_batch({"text": TEXTS})
    with pytest.raises(TypeError, match="a set has no rows"):
        tok.encode_batch(set(TEXTS))


def test_rows_that_are_whole_only_together_are_refused(tok: df.Tokenizer) -> None:
    halves = pa.array([b"\xc3", b"\xa9"], pa.binary())
    with pytest.raises(df.InputError, match="row 0 is not UTF-8"):
        tok.encode_batch(pa.Array.from_buffers(pa.string(), 2, halves.buffers()))


def test_the_sides_of_a_tokenizer_are_kept(tok: df.Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tok.save_pretrained(tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved", padding_side="left", truncation_side="left")
    df.Tokenizer.from_transformers(theirs).save_pretrained(tmp_path / "again")
    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert (again.padding_side, again.truncation_side) == ("left", "left")


def test_saved_tokenizer_loads_everywhere(tok: df.Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tok.save_pretrained(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert loaded(TEXTS)["input_ids"] == tok.encode_batch(TEXTS).to_pylist()
    assert (loaded.pad_token_id, loaded.mask_token_id, loaded.cls_token_id) == (tok.pad_id, tok.mask_id, tok.cls_id)
    for again in (
        df.Tokenizer.from_pretrained(tmp_path / "saved"),
        df.Tokenizer.from_file(tmp_path / "saved" / "tokenizer.json"),
        pickle.loads(pickle.dumps(tok)),
    ):
        assert again.encode_batch(TEXTS) == tok.encode_batch(TEXTS)
        assert again.fingerprint == tok.fingerprint
        assert (again.special_ids, again.mask_id) == (tok.special_ids, tok.mask_id)


def test_fingerprint_follows_what_changes_ids(vocab: Path, tmp_path: Path) -> None:
    tok = df.Tokenizer.from_file(vocab)
    assert len(tok.fingerprint) == 64
    assert tok.fingerprint != df.Tokenizer.from_file(vocab, lowercase=False).fingerprint
    tok.save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    content["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    path.write_text(json.dumps(content))
    again = df.Tokenizer.from_file(path)
    assert again.fingerprint == tok.fingerprint
    assert again.encode_batch(TEXTS) == tok.encode_batch(TEXTS), "truncation and padding are not applied"


def test_case_of_a_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*SPECIALS, "the", "The"]))
    assert df.Tokenizer.from_file(path).encode("The") == [2, 6, 3]
    assert df.Tokenizer.from_file(path, lowercase=True).encode("The") == [2, 5, 3]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert df.Tokenizer.from_file(path).encode("The") == [2, 5, 3]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        *(("\n".join([*(token for token in SPECIALS if token != gone), "the"]), rf"no \{gone}") for gone in SPECIALS),
        ("A story that is\nno vocabulary\n", r"no \[PAD\]"),
        ("{", "not JSON"),
        ("{}", "no 'model' block"),
        (json.dumps({"version": "2.0", "model": {}}), "format version '2.0'"),
        (json.dumps({"model": {"type": "WordPiece", "unk_token": "u", "vocab": {"u": 0, "a": 0}}}), "share the id 0"),
        (json.dumps({"model": {"type": "WordPiece", "unk_token": "u", "vocab": {"a": 0}}}), "no 'u'"),
        ('{"model": {"type": "WordPiece", "unk_token": "u", "vocab": {"u": 0, "a": 1, "a": 2}}}', "'a' twice"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text(content)
    with pytest.raises(df.InputError, match=reason) as caught:
        df.Tokenizer.from_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        [*SPECIALS, "the ", "cat\t", "sat\u00a0", "on"],
        [*SPECIALS, "the", "cat", "the", "sat"],
        [*SPECIALS, "the", "", "cat", "", "sat", ""],
        [*SPECIALS, "the\r", "cat\r"],
    ],
)
def test_lines_of_a_vocabulary_are_taken_as_hugging_face_takes_them(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode())
    expected = transformers.BertTokenizer(vocab=tokenizers.models.WordPiece.read_file(str(path)))
    ours = df.Tokenizer.from_file(path)
    texts = ["the cat sat on the cat", "zzz the", ""]
    assert [ours.encode(text) for text in texts] == [expected(text)["input_ids"] for text in texts]
    ours.save_pretrained(tmp_path / "saved")
    again = df.Tokenizer.from_pretrained(tmp_path / "saved")
    assert again.fingerprint == ours.fingerprint == df.Tokenizer.from_pretrained(tmp_path).fingerprint
    assert again.encode(texts[0]) == ours.encode(texts[0])


def test_the_fingerprint_is_of_ids_and_not_of_spelling(vocab: Path, tmp_path: Path) -> None:
    ours = df.Tokenizer.from_file(vocab)
    content = json.loads(ours.to_json())
    ids = {token: content["model"]["vocab"][token] for token in ("[CLS]", "[SEP]")}
    spelt = {
        **content,
        "post_processor": {"type": "BertProcessing", **{t.strip("[]").lower(): [t, ids[t]] for t in ids}},
        "added_tokens": content["added_tokens"][::-1],
    }
    assert df.Tokenizer(json.dumps(spelt)).fingerprint == ours.fingerprint
    other = {**spelt, "post_processor": {**spelt["post_processor"], "sep": ["[CLS]", ids["[CLS]"]]}}
    assert df.Tokenizer(json.dumps(other)).fingerprint != ours.fingerprint


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: {**content, "pre_tokenizer": {"type": "NewThing"}},
        lambda content: {**content, "normalizer": {"type": "NewThing"}},
        lambda content: {**content, "version": "2.0"},
        lambda content: {**content, "model": {**content["model"], "type": "NewModel"}},
    ],
)
def test_a_folder_that_does_not_parse_is_refused_in_one_line(vocab: Path, tmp_path: Path, damage: Any) -> None:
    content = json.loads(df.Tokenizer.from_file(vocab).to_json())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "tokenizer.json").write_text(json.dumps(damage(content)))
    for load in (df.Tokenizer.from_pretrained, load_transformers_tokenizer):
        with pytest.raises(df.InputError) as caught:
            load(tmp_path / "folder")
        assert "\n" not in str(caught.value)
    for broken in (b'["a list"]', b'{"cls_token": "\xe9"}'):
        (tmp_path / "folder" / "tokenizer.json").write_text(json.dumps(content))
        (tmp_path / "folder" / "tokenizer_config.json").write_bytes(broken)
        for path in (tmp_path / "folder", tmp_path / "folder" / "tokenizer.json"):
            with pytest.raises(df.InputError, match=r"tokenizer_config|tokenizer"):
                load_tokenizer(path)


TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"added_tokens": "all"}, "added_tokens is no list"),
        ({"added_tokens": [{"content": "[MASK]"}]}, "added_tokens"),
        ({"added_tokens": [{**TOKEN, "content": "[NEW]", "id": 99}]}, "the ids have a gap"),
        ({"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 70_000]}}, "70000"),
        ({"post_processor": {"type": "RobertaProcessing", "sep": ["[SEP]", 99], "cls": ["[CLS]", 2]}}, "99"),
        (
            {
                "post_processor": {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                    ],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [65_536 + 2], "tokens": ["[CLS]"]}},
                }
            },
            "65538",
        ),
        ({"normalizer": {"type": "OfTheFuture"}}, "not a tokenizer.json"),
    ],
)
def test_settings_that_are_refused(tok: df.Tokenizer, tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    """An id of the template that no token has would else be cut to the 16 bits of the others."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(tok.to_json()), **changes}))
    with pytest.raises(df.InputError, match=reason) as caught:
        df.Tokenizer.from_file(path)
    assert str(path) in str(caught.value)


def test_json_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(df.InputError, match="nested too deeply"):
        df.Tokenizer.from_file(path)


def test_a_byte_order_mark_is_named(vocab: Path) -> None:
    vocab.write_text("\ufeff" + vocab.read_text(), encoding="utf-8")
    with pytest.raises(df.InputError, match="begins with a byte order mark"):
        df.Tokenizer.from_file(vocab)


def test_paths_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        df.Tokenizer.from_file(tmp_path / "none.txt")
    with pytest.raises(df.InputError, match="is a folder"):
        df.Tokenizer.from_file(tmp_path)
    (tmp_path / "binary").write_bytes(b"\x80\x81")
    with pytest.raises(df.InputError, match="not UTF-8"):
        df.Tokenizer.from_file(tmp_path / "binary")
    with pytest.raises(df.InputError, match="no tokenizer"):
        df.Tokenizer.from_pretrained(tmp_path)


def test_other_models_go_through_the_library(tmp_path: Path) -> None:
    alphabet = {token: index for index, token in enumerate(["<s>", "</s>", "<pad>", "<mask>", "a", "Ġ", "b", "Ġa"])}
    model = tokenizers.models.BPE(vocab=alphabet, merges=[("Ġ", "a")])
    expected = tokenizers.Tokenizer(model)
    expected.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    expected.decoder = tokenizers.decoders.ByteLevel()
    expected.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 1), ("<s>", 0))
    expected.add_special_tokens(["<s>", "</s>", "<pad>", "<mask>"])
    expected.save(str(tmp_path / "tokenizer.json"))
    tok = df.Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert tok.engine == "tokenizers"
    texts = ["ab a", "b<mask> ab", ""]
    assert tok.encode_batch(texts).to_pylist() == [expected.encode(text).ids for text in texts]
    assert (tok.cls_id, tok.sep_id, tok.pad_id, tok.mask_id, tok.unk_id) == (0, 1, 2, 3, None)
    assert tok.word_starts.tolist() == [True, True, True, True, False, True, False, True]
    assert tok.encode_batch(texts, max_length=3).to_pylist() == [tok.encode(text, max_length=3) for text in texts]


def test_a_model_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(df.InputError, match="has no tokenizer"):
        df.Tokenizer.from_pretrained(tmp_path)
