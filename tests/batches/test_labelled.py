"""Batches of labelled rows: each row once, pure in (seed, epoch), and denominators that add up."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distilfast._core import InputError
from distilfast.batches.encode import (
    EncodedRows,
    Ragged,
    encode_texts,
    encode_words,
    fast_tokenizer,
    joined,
    longest_input,
)
from distilfast.batches.labelled import LabelledBatches, batch_order
from distilfast.batches.question_windows import encode_questions
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer
from transformers import BertConfig, BertTokenizer, ModernBertConfig, RobertaConfig, RobertaTokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "some", "dog", "came", "by", "to", "see", "it"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s", "##ing", "?", ".", "play", "who"]
NONE = -100


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return BertTokenizer(vocab={token: number for number, token in enumerate(VOCAB)})


def some_rows(lengths: list[int], labels: list[int] | None = None) -> EncodedRows:
    """Rows whose ids say which row they are."""
    ids = [[row % 7 + 1] * length for row, length in enumerate(lengths)]
    targets = {} if labels is None else {"labels": np.array(labels, np.int64)}
    return EncodedRows(Ragged.of(ids, np.int32), None, targets, row_numbers=np.arange(len(lengths)))


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=200)


@given(lengths=LENGTHS, size=st.integers(1, 9), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_order_has_each_row_once_and_is_pure(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    array = np.array(lengths)
    order = batch_order(array, size, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    np.random.seed(seed + epoch + 1)
    torch.manual_seed(seed + epoch + 1)
    random.seed(epoch)
    assert batch_order(array, size, seed, epoch).tolist() == order.tolist()


def test_the_order_is_the_same_on_every_machine() -> None:
    # Written down when it was made; another order would not go on with a run that was begun before.
    assert batch_order(np.arange(24) % 7, 3, 7, 3).tolist() == EXPECTED_ORDER


EXPECTED_ORDER = [3, 17, 9, 16, 7, 0, 8, 22, 21, 20, 13, 11, 2, 23, 15, 5, 19, 18, 10, 1, 14, 6, 12, 4]


def test_few_rows_meet_others_in_every_epoch() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 96)
    batches = [
        {frozenset(batch_order(lengths, 8, 0, epoch)[at : at + 8].tolist()) for at in range(0, 96, 8)}
        for epoch in (0, 1)
    ]
    assert not batches[0] & batches[1]


def test_rows_of_like_length_go_together_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 5000)
    orders = [batch_order(lengths, 16, 0, epoch) for epoch in range(2)]
    assert (orders[0] != orders[1]).mean() > 0.9
    spreads = [np.ptp(lengths[order[:4992].reshape(-1, 16)], axis=1).mean() for order in orders]
    # Pools of 800 rows sorted by length: neighbours differ by 200 / 50 on average, rows drawn at random by 176.
    assert max(spreads) < 8
    firsts = lengths[orders[0]][:4992:16]
    # Batches are shuffled: their lengths neither rise nor fall along the epoch.
    assert abs(np.corrcoef(np.arange(len(firsts)), firsts)[0, 1]) < 0.2


@given(
    lengths=LENGTHS,
    size=st.integers(1, 9),
    per_step=st.integers(1, 5),
    epoch=st.integers(0, 2),
    unlabelled=st.randoms(),
)
@settings(max_examples=20)
def test_batches_have_each_row_once_and_denominators_add_up(
    tokenizer: Any, lengths: list[int], size: int, per_step: int, epoch: int, unlabelled: random.Random
) -> None:
    labels = [NONE if unlabelled.random() < 0.3 else number % 3 for number in range(len(lengths))]
    batches = LabelledBatches(some_rows(lengths, labels), tokenizer, size, per_step, seed=1)
    batches.set_epoch(epoch)
    every = [batches[number] for number in range(len(batches))]
    seen = torch.cat([batch["row_numbers"] for batch in every]).tolist()
    assert sorted(seen) == list(range(len(lengths)))
    assert len(batches) == math.ceil(len(lengths) / size)
    elements = sum(batch["input_ids"].numel() for batch in every)
    assert batches.padding == pytest.approx(1 - sum(lengths) / elements)
    for start in range(0, len(every), per_step):
        step = every[start : start + per_step]
        for batch in step:
            assert batch["num_attended_in_step"] == sum(int(each["attention_mask"].sum()) for each in step)
            assert batch["num_rows_in_step"] == sum(len(each["input_ids"]) for each in step)
            assert batch["num_labelled_in_step"] == sum(int((each["labels"] != NONE).sum()) for each in step)
    for batch in every:
        rows = batch["row_numbers"].tolist()
        assert batch["labels"].tolist() == [labels[row] for row in rows]
        assert batch["attention_mask"].sum(1).tolist() == [lengths[row] for row in rows]
        assert batch["num_tokens"] == sum(lengths[row] for row in rows)
        assert batch["input_ids"].shape[1] == max(lengths[row] for row in rows)
        for ids, mask, row in zip(batch["input_ids"], batch["attention_mask"], rows, strict=True):
            assert set(ids[mask == 1].tolist()) == {row % 7 + 1}
            assert ids[mask == 0].tolist() == [0] * int((mask == 0).sum())


def test_batches_are_asked_for_in_any_order_and_again(tokenizer: Any) -> None:
    rows = some_rows([3, 9, 4, 4, 8, 1, 2], [0, 1, 0, 1, 0, 1, 0])
    batches = LabelledBatches(rows, tokenizer, 2)
    batches.set_epoch(2)
    forward = [batches[number]["input_ids"] for number in range(len(batches))]
    batches.set_epoch(0)
    _ = batches[1]
    other = LabelledBatches(rows, tokenizer, 2)
    other.set_epoch(2)
    for number in reversed(range(len(other))):
        assert torch.equal(other[number]["input_ids"], forward[number])
    assert torch.equal(other[-1]["input_ids"], forward[-1])
    with pytest.raises(IndexError):
        other[len(other)]


def test_evaluation_keeps_every_row_longest_first(tokenizer: Any) -> None:
    batches = LabelledBatches(some_rows([3, 9, 4, 4]), tokenizer, 3, shuffle=False)
    assert [batches[number]["row_numbers"].tolist() for number in range(2)] == [[1, 2, 3], [0]]
    assert "labels" not in batches[0]
    assert batches[0]["num_labelled_in_step"] == 0


def test_the_fingerprint_tells_what_changes_a_batch(tokenizer: Any) -> None:
    def fingerprint(lengths: tuple[int, ...] = (3, 4), labels: tuple[int, ...] = (0, 1), **settings: Any) -> str:
        return LabelledBatches(some_rows(list(lengths), list(labels)), tokenizer, **settings).state_fingerprint

    same = fingerprint()
    assert fingerprint() == same
    others = [
        fingerprint((4, 3)),
        fingerprint(labels=(1, 0)),
        fingerprint(seed=1),
        fingerprint(batch_size=2),
        fingerprint(batches_per_step=2),
        fingerprint(pad_to_multiple_of=8),
        fingerprint(shuffle=False),
    ]
    assert len({same, *others}) == len(others) + 1


SENTENCE = st.lists(st.sampled_from([*WORDS, "cats", "playing", "strange", "[SEP]", "?"]), max_size=12).map(" ".join)


@given(texts=st.lists(SENTENCE, min_size=1, max_size=8), max_length=st.integers(3, 9), pairs=st.booleans())
def test_texts_are_encoded_and_cut_as_the_library_does(
    tokenizer: Any, texts: list[str], max_length: int, pairs: bool
) -> None:
    max_length += 2 * pairs
    second = [text[::-1] for text in texts] if pairs else None
    rows = encode_texts(tokenizer, texts, second, max_length=max_length)
    expected = tokenizer(texts, second, truncation=True, max_length=max_length)
    whole = tokenizer(texts, second)["input_ids"]
    assert [ids.tolist() for ids in map(rows.input_ids.__getitem__, range(len(texts)))] == expected["input_ids"]
    assert rows.token_type_ids is not None
    types = [rows.token_type_ids[row].tolist() for row in range(len(texts))]
    assert types == expected["token_type_ids"]
    cut = sum(len(ids) > max_length for ids in whole)
    assert rows.counts == ({f"rows cut to {max_length} tokens": cut} if cut else {})


def test_single_texts_go_through_the_fast_tokenizer(tokenizer: Any) -> None:
    assert fast_tokenizer(tokenizer, ["the cat"]) is not None
    assert (
        fast_tokenizer(BertTokenizer(vocab={token: n for n, token in enumerate(VOCAB)}, truncation_side="left"), ["a"])
        is None
    )


def test_labels_of_every_kind(tokenizer: Any) -> None:
    texts = ["the cat", "a dog", "it"]
    one = encode_texts(tokenizer, texts, labels=[1, NONE, 0]).targets["labels"]
    assert (one.dtype, one.tolist()) == (np.int64, [1, NONE, 0])
    number = LabelledBatches(encode_texts(tokenizer, texts, labels=[0.5, math.nan, 2.0]), tokenizer, shuffle=False)
    assert number[0]["labels"].dtype == torch.float32
    assert number[0]["num_labelled_in_step"] == 2
    several = LabelledBatches(encode_texts(tokenizer, texts, labels=[[1.0, 0.0], None, [0.0, 0.0]]), tokenizer)
    batch = several[0]
    by_row = dict(zip(batch["row_numbers"].tolist(), batch["labels"].tolist(), strict=True))
    assert by_row == {0: [1, 0], 1: [NONE, NONE], 2: [0, 0]}
    assert batch["num_labelled_in_step"] == 2


def test_unlabelled_rows_beside_labelled(tokenizer: Any) -> None:
    labelled = encode_texts(tokenizer, ["the cat", "a dog"], labels=[1, 0])
    unlabelled = encode_texts(tokenizer, ["it sat on the mat"])
    both = LabelledBatches([labelled, unlabelled], tokenizer, shuffle=False)
    batch = both[0]
    assert dict(zip(batch["row_numbers"].tolist(), batch["labels"].tolist(), strict=True)) == {0: 1, 1: 0, 2: NONE}
    assert (both.num_labelled, len(both.rows)) == (2, 3)
    several = encode_texts(tokenizer, ["the cat"], labels=[[1.0, 0.0]])
    assert joined([several, unlabelled]).targets["labels"].tolist() == [[1, 0], [NONE, NONE]]
    with pytest.raises(InputError, match="do not go together"):
        joined([labelled, encode_words(tokenizer, [["the"]])])


WORD = st.sampled_from([*WORDS, "cats", "playing", "sats", "", "​"])
SENTENCES = st.lists(st.lists(WORD, min_size=1, max_size=10), min_size=1, max_size=6)


@given(words=SENTENCES, max_length=st.integers(3, 12), side=st.sampled_from(["left", "right"]))
@settings(max_examples=30)
def test_tags_stand_at_the_first_token_of_each_word(
    tokenizer: Any, words: list[list[str]], max_length: int, side: str
) -> None:
    tags = [[number % 5 for number in range(len(row))] for row in words]
    rows = encode_words(tokenizer, words, tags, max_length)
    padder = BertTokenizer(vocab={token: number for number, token in enumerate(VOCAB)}, padding_side=side)
    batches = LabelledBatches(rows, padder, 4, batches_per_step=2)
    kept = 0
    for number in range(len(batches)):
        batch = batches[number]
        assert batch["labels"].shape == batch["word_starts"].shape == batch["input_ids"].shape
        assert torch.equal(batch["word_starts"], batch["labels"] != NONE)
        for place, row in enumerate(batch["row_numbers"].tolist()):
            starts = batch["word_starts"][place]
            # Words one at a time, as they come to the model: those without a token have none.
            pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words[row]]
            spans, at = [], 1
            for tag, piece in zip(tags[row], pieces, strict=True):
                if piece and at < max_length - 1:
                    spans.append((at, tag))
                at += len(piece)
            shift = int((batch["attention_mask"][place] == 0).sum()) if side == "left" else 0
            assert starts.nonzero()[:, 0].tolist() == [shift + first for first, _ in spans]
            assert batch["labels"][place][starts].tolist() == [tag for _, tag in spans]
            kept += len(spans)
    assert kept == sum(map(len, words)) - rows.counts.get("words cut off", 0) - rows.counts.get(
        "words without a token", 0
    )
    steps = [batches[number] for number in range(0, len(batches), 2)]
    assert sum(int(step["num_rows_in_step"]) for step in steps) == kept
    assert sum(int(step["num_labelled_in_step"]) for step in steps) == kept


def test_words_without_tags_still_have_rows(tokenizer: Any) -> None:
    batch = LabelledBatches(encode_words(tokenizer, [["the", "cats"]], [[NONE, 1]]), tokenizer)[0]
    assert batch["word_starts"].tolist() == [[False, True, True, False, False]]
    assert batch["labels"].tolist() == [[NONE, NONE, 1, NONE, NONE]]
    assert (batch["num_rows_in_step"], batch["num_labelled_in_step"]) == (2, 1)


def byte_level(folder: Path) -> Any:
    """A tokenizer such as RoBERTa's, of a few texts."""
    trained = ByteLevelBPETokenizer()
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["the cat sat on the mat"] * 10, vocab_size=290, special_tokens=specials)
    trained.save_model(str(folder))
    return RobertaTokenizer.from_pretrained(folder)


def test_words_in_a_list_are_those_of_a_text(tmp_path: Path) -> None:
    """RoBERTa's tokenizer gives words in a list no blank before them unless it is told to."""
    rows = encode_words(byte_level(tmp_path), [["the", "cat", "sat"]], [[1, 2, 0]])
    tokenizer = byte_level(tmp_path)
    assert rows.input_ids[0].tolist() == tokenizer(" the cat sat")["input_ids"]
    assert tokenizer(["the", "cat"], is_split_into_words=True)["input_ids"] != tokenizer(" the cat")["input_ids"]
    assert rows.word_labels is not None
    assert [label for label in rows.word_labels[0].tolist() if label != NONE] == [1, 2, 0]


def test_pairs_and_questions_of_a_byte_level_tokenizer(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    pairs = encode_texts(tokenizer, ["the cat"], ["on the mat"], max_length=64)
    assert pairs.token_type_ids is None
    assert pairs.input_ids[0].tolist() == tokenizer("the cat", "on the mat")["input_ids"]
    answers = [{"text": ["cat"], "answer_start": [4]}]
    rows = encode_questions(tokenizer, ["who sat"], ["the cat sat on the mat"], answers, max_length=64)
    begin, end = int(rows.targets["start_positions"][0]), int(rows.targets["end_positions"][0])
    assert tokenizer.decode(rows.input_ids[0][begin : end + 1]).strip() == "cat"


PASSAGE = "the cat sat on a mat and then some dog came by to see it ."


@given(
    data=st.data(),
    max_length=st.integers(10, 24),
    stride=st.sampled_from([None, 0, 2, 3]),
    side=st.sampled_from(["left", "right"]),
)
@settings(max_examples=40)
def test_windows_find_the_answer(
    data: st.DataObject, tokenizer: Any, max_length: int, stride: int | None, side: str
) -> None:
    words = PASSAGE.split()
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 3, len(words) - 1)))
    answer = " ".join(words[first : last + 1])
    start = len(" ".join([*words[:first], ""]))
    answers = [{"text": [answer], "answer_start": [start]}, {"text": [], "answer_start": []}, None]
    padder = BertTokenizer(vocab={token: number for number, token in enumerate(VOCAB)}, padding_side=side)
    rows = encode_questions(tokenizer, ["who sat ?"] * 3, [PASSAGE] * 3, answers, max_length, stride)
    assert rows.offsets is not None
    batches = LabelledBatches(rows, padder, 2)
    found = 0
    for number in range(len(batches)):
        batch = batches[number]
        for place, window in enumerate(batch["row_numbers"].tolist()):
            ids = batch["input_ids"][place]
            begin, end = int(batch["start_positions"][place]), int(batch["end_positions"][place])
            row = int(rows.row_numbers[window])
            cls = int((ids == tokenizer.cls_token_id).nonzero()[0, 0])
            if row == 2:
                assert (begin, end) == (NONE, NONE)
            elif row == 1:
                assert (begin, end) == (cls, cls)
            elif begin not in (NONE, cls):
                assert ids[begin : end + 1].tolist() == tokenizer(answer, add_special_tokens=False)["input_ids"]
                found += 1
            else:
                assert begin == (NONE if stride is None else cls)
                places = rows.offsets[window]
                passage = places[places[:, 0] >= 0]
                assert start < passage[0, 0] or start + len(answer) > passage[-1, 1]
    assert all(len(places) == length for places, length in zip(rows.offsets, rows.input_ids.lengths, strict=True))
    if stride is None:
        assert len(rows) == 3
        assert found + rows.counts.get("questions whose answer was cut off, left without label", 0) == 1
        assert rows.counts.get(f"passages cut to fit {max_length} tokens", 0) == (3 if max_length < 22 else 0)
    else:
        covered = np.zeros(len(PASSAGE), bool)
        for window in np.flatnonzero(rows.row_numbers == 1):
            for begin, end in rows.offsets[window]:
                covered[max(begin, 0) : max(end, 0)] = True
        assert all(covered[place] for place, letter in enumerate(PASSAGE) if letter != " ")


def test_long_questions_are_cut_and_counted(tokenizer: Any) -> None:
    rows = encode_questions(tokenizer, ["who " * 50], [PASSAGE], None, max_length=20)
    assert rows.counts["questions cut to 8 tokens"] == 1
    assert rows.input_ids[0].tolist().count(VOCAB.index("who")) == 8
    assert rows.targets == {}
    with pytest.raises(InputError, match="stride of 30"):
        encode_questions(tokenizer, ["who"], [PASSAGE], None, max_length=20, stride=30)


def test_lengths_that_models_have_positions_for(tokenizer: Any) -> None:
    bert, roberta = BertConfig(max_position_embeddings=128), RobertaConfig(max_position_embeddings=514, pad_token_id=1)
    assert longest_input(bert) == 128
    assert longest_input(roberta) == 512
    assert longest_input(roberta, bert, ModernBertConfig()) == 128
    assert longest_input(roberta, tokenizer=tokenizer) == 512
    with pytest.raises(InputError, match="leaves no room for text"):
        encode_texts(tokenizer, ["the"], max_length=2)


@pytest.mark.parametrize("sizes", [{"batch_size": 0}, {"batches_per_step": 0}])
def test_sizes_below_one_are_refused(tokenizer: Any, sizes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1"):
        LabelledBatches(some_rows([1]), tokenizer, **sizes)
    with pytest.raises(InputError, match="no rows"):
        LabelledBatches(some_rows([]), tokenizer)


def real_tokenizer(data_dir: Path) -> Any:
    return BertTokenizer(vocab=str(data_dir / "vocab" / "bert-base-uncased.vocab.txt"))


@pytest.mark.parametrize(("task", "labels"), [("SST-2", 67349), ("MRPC", 3668), ("STS-B", 5749)])
def test_real_rows(data_dir: Path, task: str, labels: int) -> None:
    from distilfast.prepare.columns import find_columns
    from distilfast.prepare.table import read_rows
    from distilfast.prepare.targets import sequence_targets

    rows = read_rows(data_dir / "glue" / task)
    columns = find_columns(rows)
    problem = "regression" if task == "STS-B" else "single_label_classification"
    targets = sequence_targets(rows, columns, problem, {0: "LABEL_0", 1: "LABEL_1"})
    tokenizer = real_tokenizer(data_dir)
    texts = [rows.column(name) for name in columns.texts]
    encoded = encode_texts(tokenizer, *texts, labels=targets.values, max_length=32)
    batches = LabelledBatches(encoded, tokenizer, 32)
    assert batches.num_labelled == labels
    assert encoded.counts["rows cut to 32 tokens"] > 0
    # Rows of like length together: drawn at random, 20 to 45 % of a batch would be padding.
    assert batches.padding < 0.04
    for row in range(0, len(rows), len(rows) // 50):
        expected = tokenizer(*[column[row] for column in texts], truncation=True, max_length=32)
        assert encoded.input_ids[row].tolist() == expected["input_ids"]


@pytest.mark.parametrize("name", ["wnut17.dev.conll", "ewt_ner.train.iob2", "gum_pos.train.tsv"])
def test_real_tags(data_dir: Path, name: str) -> None:
    from distilfast.prepare.columns import find_columns
    from distilfast.prepare.labels import new_classes
    from distilfast.prepare.table import read_rows
    from distilfast.prepare.targets import tag_targets

    rows = read_rows(data_dir / "tagging" / name)
    columns = find_columns(rows)
    id2label = new_classes(tag for tags in rows.column("tags") for tag in tags)
    targets = tag_targets(rows, columns, id2label)
    tokenizer = real_tokenizer(data_dir)
    words = rows.column("tokens")
    encoded = encode_words(tokenizer, words, targets.values, 64)
    batches = LabelledBatches(encoded, tokenizer, 32)
    lost = encoded.counts.get("words cut off", 0) + encoded.counts.get("words without a token", 0)
    assert batches.num_labelled == sum(map(len, words)) - lost
    assert lost < 0.05 * sum(map(len, words))
