"""Arrow columns of any layout, cut into any chunks and slices: the same ids as one text at a time."""

from __future__ import annotations

import distilfast as df
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizer_texts import SMALL_VOCABULARY, bert_json

TOK = df.Tokenizer(bert_json(SMALL_VOCABULARY, {}))
KINDS = [pa.string(), pa.large_string(), pa.string_view()]
ROWS = st.lists(st.one_of(st.none(), st.text("abé日 .[MASK]", max_size=30)), max_size=12)


@st.composite
def columns(draw: st.DrawFn) -> pa.Array | pa.ChunkedArray:
    """A column with nulls, of slices of longer arrays."""
    kind = draw(st.sampled_from(KINDS))
    chunks = []
    for rows in draw(st.lists(ROWS, min_size=1, max_size=4)):
        first = draw(st.integers(0, len(rows)))
        chunks.append(pa.array(rows, kind).slice(first, draw(st.integers(0, len(rows)))))
    column = pa.chunked_array(chunks, kind) if len(chunks) > 1 else chunks[0]
    return column.slice(draw(st.integers(0, len(column))))


@given(columns(), st.sampled_from([1, 3]))
def test_any_column(column: pa.Array | pa.ChunkedArray, threads: int) -> None:
    """Nulls outside the slice do not matter; the first one inside is named by its row in the column that was passed."""
    texts = column.to_pylist()
    if None in texts:
        with pytest.raises(df.InputError, match=f"row {texts.index(None)} is null"):
            TOK.encode_batch(column, threads=threads)
        return
    ids = TOK.encode_batch(column, threads=threads)
    ids.validate(full=True)
    assert ids.to_pylist() == [TOK.encode(text) for text in texts]


# Halves of characters, bytes that no text has, those that the engine itself puts between rows among them.
BYTES = [b"the", b" ", b".", b"[MASK]", b"a" * 20, "é日".encode(), b"\xc3", b"\xa9", b"\xe6\x97"]
BYTES += [
    b"\xc0\x80",
    b"\xed\xa0\x80",
    *(bytes([byte]) for byte in (0, 0x80, 0xF4, 0xF5, 0xF8, 0xF9, 0xFD, 0xFE, 0xFF)),
]


def is_text(row: bytes) -> bool:
    try:
        row.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(
    st.lists(st.lists(st.sampled_from(BYTES), max_size=9).map(b"".join), min_size=1, max_size=8),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_bytes_that_are_not_text_are_refused(rows: list[bytes], kind: pa.DataType, add_special_tokens: bool) -> None:
    """The first row that is not UTF-8 is named, whatever the words of the others have left in the cache."""
    binary = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}[kind]
    column = pa.Array.from_buffers(kind, len(rows), pa.array(rows, binary).buffers())
    torn = [number for number, row in enumerate(rows) if not is_text(row)]
    if torn:
        with pytest.raises(df.InputError, match=f"row {torn[0]} is not UTF-8"):
            TOK.encode_batch(column, add_special_tokens)
        return
    expected = [TOK.encode(row.decode(), add_special_tokens) for row in rows]
    assert TOK.encode_batch(column, add_special_tokens).to_pylist() == expected


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_slice_without_rows(kind: pa.DataType) -> None:
    """What is left at the end of a column: its offset lies where the data would end."""
    for column in (pa.array(["the", "cat"], kind).slice(2), pa.array(["the", None], kind).slice(2)):
        assert TOK.encode_batch(column).to_pylist() == []
        assert (
            TOK.encode_batch(pa.chunked_array([["a"], column, ["b"]], kind)).to_pylist()
            == TOK.encode_batch(["a", "b"]).to_pylist()
        )


def test_one_huge_row_among_small_ones() -> None:
    """A row with nothing to cut it at, and one of nothing but places to cut."""
    texts = ["a", "a" * 30_000_000, "b", ". " * 5_000_000, "日" * 3_000_000, "\u302e" * 100_000, ""]
    ids = TOK.encode_batch(texts, threads=2).to_pylist()
    assert [len(row) for row in ids] == [3, 3, 3, 5_000_002, 3_000_002, 3, 2]
    assert ids[1] == [2, 1, 3]
    assert TOK.encode_batch(texts, max_length=5, threads=2).to_pylist() == [
        row if len(row) <= 5 else [*row[:4], 3] for row in ids
    ]


def test_more_threads_than_cores_or_rows() -> None:
    texts = ["ab é日 [MASK]." * 2000] * 200
    expected = TOK.encode_batch(texts, threads=1)
    for threads in (2, 64, 100_000):
        assert TOK.encode_batch(texts, threads=threads) == expected
