"""Added tokens with any settings: the ids of Hugging Face, whether our engine takes them or the library is asked."""

from __future__ import annotations

from typing import Any

import distilfast as df
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_oracle import library_of
from tokenizer_texts import SMALL_VOCABULARY, SPECIALS, added_token, bert_json

FLAGS = ["lstrip", "rstrip", "single_word", "normalized", "special"]
CONTENTS = [
    "[MASK]",
    "[MASK]]",
    "[MASK",
    "MASK",
    "mask",
    "a",
    "ab",
    "b",
    "É",
    "é",
    "e\u0301",
    "\u0301",
    "日",
    "日本",
    "..",
    ".",
    "a b",
    "the ",
    " a",
    "##ing",
    "İ",
    "ﬁ",
    "\u3000",
    "가",
    "\u00ad",
]
BETWEEN = ["", "", " ", "  ", "\t\n", "x", "the", "A", ".", "[", "]", "_", "\u0301", "\x0b", "\u3000", "\u00ad", "é"]


def engines(added: list[dict[str, Any]], lowercase: bool = True) -> tuple[df.Tokenizer, Any]:
    """Ours and theirs for these added tokens."""
    text = bert_json(SMALL_VOCABULARY, {"lowercase": lowercase}, added)
    tok = df.Tokenizer(text)
    # Found letter by letter in the raw text, and nowhere near white space: that the engine does itself.
    simple = all(
        not (token["normalized"] or token["single_word"]) and not any(char.isspace() for char in token["content"])
        for token in added
    )
    assert tok.engine == ("wordpiece" if simple else "tokenizers")
    return tok, library_of(text)


def check(tok: df.Tokenizer, library: Any, texts: list[str]) -> None:
    for split_special_tokens in (False, True):
        for max_length in (None, 5):
            library.encode_special_tokens = split_special_tokens
            library.no_truncation()
            if max_length is not None:
                library.enable_truncation(max_length)
            wanted = {text: ids_of(library, text) for text in texts}
            options: dict[str, Any] = {"max_length": max_length, "split_special_tokens": split_special_tokens}
            whole = [text for text in texts if wanted[text] is not None]
            assert tok.encode_batch(whole, **options).to_pylist() == [wanted[text] for text in whole]
            for text in wanted.keys() - set(whole):
                with pytest.raises(df.InputError, match="row 0 cannot be encoded"):
                    tok.encode_batch([text], **options)


def ids_of(library: Any, text: str) -> list[int] | None:
    """None where `tokenizers` panics, as it does on some texts with an added token that is normalised to nothing."""
    try:
        ids: list[int] = library.encode(text).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None
    return ids


@given(
    st.lists(
        st.builds(
            lambda content, flags: added_token(content, **flags),
            st.sampled_from(CONTENTS),
            st.fixed_dictionaries({flag: st.sampled_from([False, False, True]) for flag in FLAGS}),
        ),
        min_size=1,
        max_size=6,
        unique_by=lambda token: token["content"],
    ),
    st.booleans(),
    st.data(),
)
def test_any_settings(added: list[dict[str, Any]], lowercase: bool, data: st.DataObject) -> None:
    """Strings are the added tokens, in either case, their pieces, and what may stand between them."""
    contents = [token["content"] for token in added]
    parts = [*contents, *(content.swapcase() for content in contents), *(content[:-1] for content in contents)]
    text = st.lists(st.tuples(st.sampled_from(BETWEEN), st.sampled_from(parts)), max_size=8).map(
        lambda pairs: "".join(between + part for between, part in pairs)
    )
    check(*engines(added, lowercase), data.draw(st.lists(text, min_size=1, max_size=8)))


@given(st.lists(st.sampled_from([*CONTENTS, *BETWEEN, *SPECIALS]), max_size=12).map("".join))
def test_overlapping_tokens_in_the_engine(text: str) -> None:
    check(*OVERLAPPING, [text, text.upper(), text + "\u0301", f"un{text}able"])


OVERLAPPING = engines(
    [
        added_token("[MASK]", special=True, lstrip=True),
        added_token("[MASK]]", special=True),
        added_token("[MASK"),
        added_token("ab", rstrip=True),
        added_token("b", special=True),
        added_token("é"),
        added_token("日本", lstrip=True, rstrip=True),
        added_token("##ing"),
    ]
)


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("content", ["[MASK]", "mask", "É"])
def test_each_setting_alone(flag: str, content: str) -> None:
    tok, library = engines([added_token(content, **{flag: True})])
    texts = [
        f"{before}{middle}{after}" for before in BETWEEN for middle in (content, content.lower()) for after in BETWEEN
    ]
    check(tok, library, texts)


def test_a_long_row_is_never_cut_inside_an_added_token() -> None:
    """Rows are worked on in blocks; a token may stand anywhere in them."""
    tok, library = engines([added_token("[MASK]]", special=True), added_token("ab"), added_token("日本")])
    texts = [("a" * shift + "[MASK]] 日本 ab " * 4000)[:40_000] for shift in range(0, 16, 3)]
    assert tok.encode_batch(texts).to_pylist() == [library.encode(text).ids for text in texts]
    texts = ["a" * (16_384 - shift) + "[MASK]]" for shift in range(9)]
    assert tok.encode_batch(texts).to_pylist() == [library.encode(text).ids for text in texts]
