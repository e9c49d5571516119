"""What is masked, and what becomes of it, against the definitions, by chi-square tests.

Every test has a fixed seed, so it fails always or never; `ALARM` is the chance that a right implementation had been
given a seed that fails.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy import stats

ALARM = 1e-4
VOCABULARY = 40
SPECIAL = (0, 1, 2, 3, 4)
CLS, SEP, MASK = 2, 3, 4


@dataclasses.dataclass
class SmallTokenizer:
    vocab_size: int = VOCABULARY
    pad_id: int = 0
    mask_id: int = MASK
    special_ids: tuple[int, ...] = SPECIAL
    fingerprint: str = "small"
    word_starts: np.ndarray = dataclasses.field(default_factory=lambda: np.arange(VOCABULARY) % 3 != 0)


TOK = SmallTokenizer()


def rows(number: int, length: int, seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    share = 1 / np.arange(1, VOCABULARY - len(SPECIAL) + 1)
    ids = generator.choice(np.arange(len(SPECIAL), VOCABULARY), p=share / share.sum(), size=(number, length - 2))
    return [[CLS, *row, SEP] for row in ids.tolist()]


def batches_of(data: list[list[int]], **arguments: Any) -> df.MaskedBatches:
    masking = df.Masking(**arguments)
    return df.MaskedBatches(pa.array(data, pa.list_(pa.uint16())), TOK, masking=masking, batch_tokens=2048, seed=5)


def masked(batches: df.MaskedBatches, epochs: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(batch number over all epochs, original id, id given) of every masked position."""
    parts = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        for index in range(len(batches)):
            batch = batches[index]
            used = batch["mlm_labels"] >= 0
            given = batch["input_ids"].view(-1)[batch["mlm_positions"][used]]
            number = torch.full_like(given, epoch * len(batches) + index)
            parts.append(torch.stack([number, batch["mlm_labels"][used], given]).numpy())
    number, original, given = np.concatenate(parts, axis=1)
    return number, original, given


def assert_drawn_from(observed: np.ndarray, expected: np.ndarray) -> None:
    """A chi-square test of counts against expected counts."""
    assert expected.min() >= 5, "too few draws for a chi-square test"
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > ALARM


@pytest.mark.parametrize("compat", [None, "distilbert"])
def test_masked_kept_and_random_in_their_shares(compat):
    _, original, given = masked(batches_of(rows(400, 64), compat=compat), 12)
    allowed = np.arange(VOCABULARY) if compat else np.arange(len(SPECIAL), VOCABULARY)
    # The chance of each id given the original one: mask, keep, random.
    observed, expected = np.zeros(VOCABULARY), np.zeros(VOCABULARY)
    replaced = given != original
    np.add.at(observed, given[replaced], 1)
    for identity, count in zip(*np.unique(original, return_counts=True), strict=True):
        chance = np.zeros(VOCABULARY)
        chance[allowed] += 0.1 / len(allowed)
        chance[MASK] += 0.8
        chance[identity] = 0
        expected += count * chance
    possible = expected > 0
    assert observed[~possible].sum() == 0
    assert_drawn_from(observed[possible], expected[possible])
    assert not np.isin(original, SPECIAL).any()
    kept = 0.1 + np.isin(original, allowed).mean() * 0.1 / len(allowed)
    assert stats.binomtest(int((~replaced).sum()), len(original), kept).pvalue > ALARM


def test_positions_are_uniform_and_independent_of_the_replacement():
    data = rows(64, 32)
    batches = df.MaskedBatches(pa.array(data, pa.list_(pa.uint16())), TOK, batch_tokens=2048, seed=9)
    counts = np.zeros(32)
    kinds = np.zeros((30, 2))
    for epoch in range(150):
        batches.set_epoch(epoch)
        batch = batches[0]
        used = batch["mlm_labels"] >= 0
        columns = (batch["mlm_positions"][used] % 32).numpy()
        np.add.at(counts, columns, 1)
        became = (batch["input_ids"].view(-1)[batch["mlm_positions"][used]] == MASK).numpy().astype(int)
        np.add.at(kinds, (columns - 1, became), 1)
    assert counts[0] == counts[31] == 0
    assert_drawn_from(counts[1:31], np.full(30, counts.sum() / 30))
    assert stats.chi2_contingency(kinds).pvalue > ALARM


def sampled_inclusion(weights: np.ndarray, wanted: int, draws: int) -> np.ndarray:
    """How often each position is among `wanted` drawn one after the other without replacement: the definition."""
    generator = np.random.default_rng(1)
    hits = np.zeros(len(weights))
    for _ in range(draws):
        hits[generator.choice(len(weights), size=wanted, replace=False, p=weights / weights.sum())] += 1
    return hits


@pytest.mark.parametrize("smoothing", [0.7, 2.0])
def test_weighted_positions_follow_successive_draws(smoothing):
    data = rows(4, 24, seed=2)
    flat = np.array(data).ravel()
    counts = np.bincount(flat, minlength=VOCABULARY)
    weights = np.maximum(counts, 1.0) ** -smoothing
    weights[list(SPECIAL)] = 0
    draws = 3000
    batches = batches_of(data, smoothing=smoothing)
    assert len(batches) == 1
    ours = np.zeros(VOCABULARY)
    for epoch in range(draws):
        batches.set_epoch(epoch)
        labels = batches[0]["mlm_labels"].numpy()
        np.add.at(ours, labels, 1)
    theirs = np.zeros(VOCABULARY)
    np.add.at(theirs, flat, sampled_inclusion(weights[flat], math.ceil(0.15 * len(flat)), draws))
    used = (ours + theirs) >= 10
    assert stats.chi2_contingency(np.stack([ours, theirs])[:, used]).pvalue > ALARM


def test_given_counts_are_the_weights():
    data = [[CLS, 5, 6, SEP]] * 64
    counts = np.ones(VOCABULARY, dtype=np.int64)
    counts[5] = 10**9
    masking = df.Masking(prob=0.25, smoothing=1.0)
    column = pa.array(data, pa.list_(pa.int32()))
    batches = df.MaskedBatches(column, TOK, masking=masking, batch_tokens=256, token_counts=counts)
    assert set(batches[0]["mlm_labels"].tolist()) == {6}


def test_single_draws_have_the_distribution_of_the_collator_of_transformers():
    data = rows(100, 34, seed=4)
    batches = batches_of(data, count="bernoulli", compat="distilbert")
    epochs = 40
    number, original, _ = masked(batches, epochs)
    maskable = np.bincount(np.array(data).ravel(), minlength=VOCABULARY)[len(SPECIAL) :] * epochs
    hits = np.bincount(original, minlength=VOCABULARY)[len(SPECIAL) :]
    expected = maskable * 0.15
    chi_square = ((hits - expected) ** 2 / (expected * 0.85)).sum()
    assert stats.chi2.sf(chi_square, len(expected)) > ALARM
    # The number in each batch is binomial: its squared standard score summed over batches is chi-square distributed,
    # neither too large (positions together) nor too small (a fixed number).
    sizes = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        sizes += [int(np.isin(originals(batches[index]), SPECIAL, invert=True).sum()) for index in range(len(batches))]
    size = np.array(sizes)
    spread = ((np.bincount(number, minlength=len(size)) - 0.15 * size) ** 2 / (0.1275 * size)).sum()
    assert min(stats.chi2.sf(spread, len(size)), stats.chi2.cdf(spread, len(size))) > ALARM / 2


def originals(batch: dict[str, Any]) -> np.ndarray:
    """The ids of a batch before masking."""
    ids = batch["input_ids"].clone().view(-1)
    known = batch["mlm_labels"] >= 0
    ids[batch["mlm_positions"][known]] = batch["mlm_labels"][known]
    return ids.numpy()


@pytest.mark.parametrize("arguments", [{}, {"whole_word": True}, {"count": "bernoulli"}])
@pytest.mark.parametrize("prob", [0.02, 0.5, 0.97])
def test_pairs_of_positions_are_masked_as_often_as_the_definition_says(arguments, prob):
    # Eight one-piece words: every set of positions of one size is as likely, so every pair of them is.
    data = [[CLS, *range(5, 13), SEP]]
    tok = SmallTokenizer(word_starts=np.ones(VOCABULARY, dtype=bool))
    column = pa.array(data, pa.list_(pa.uint16()))
    batches = df.MaskedBatches(column, tok, masking=df.Masking(prob=prob, **arguments), batch_tokens=10, seed=3)
    epochs = 4000
    sets = np.zeros((epochs, 8))
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        batch = batches[0]
        sets[epoch, (batch["mlm_positions"][batch["mlm_labels"] >= 0] - 1).numpy()] = 1
    # Bits 0 to 7 of a number name the set; sets that are as likely have the same size.
    names = (sets @ 2 ** np.arange(8)).astype(int)
    sizes = np.array([bin(name).count("1") for name in range(256)])
    counts = np.bincount(names, minlength=256)
    if arguments.get("count") == "bernoulli":
        # A capacity of 10 elements is never reached by 8 words.
        expected = epochs * prob**sizes * (1 - prob) ** (8 - sizes)
    else:
        wanted = min(math.ceil(prob * 10), 8)
        assert counts[sizes != wanted].sum() == 0
        expected = np.where(sizes == wanted, epochs / math.comb(8, wanted), 0)
    likely = expected >= 5
    observed, expected = [np.append(part[likely], part[~likely].sum()) for part in (counts, expected)]
    if expected[-1] < 5:
        assert observed[-1] <= 25
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) > 1:
        assert_drawn_from(observed, expected)


def test_words_are_taken_in_random_order_while_they_fit():
    # Words of 1, 2 and 3 pieces and three to mask: by the definition, over all orders of the words.
    starts = np.zeros(VOCABULARY, dtype=bool)
    starts[[5, 6, 8, 11]] = True
    tok = SmallTokenizer(word_starts=starts)
    data = [[CLS, 5, 6, 7, 8, 9, 10, 11, SEP]]
    words = [(1,), (2, 3), (4, 5, 6), (7,)]
    expected: dict[tuple[int, ...], float] = {}
    orders = list(itertools.permutations(words))
    for order in orders:
        chosen: list[int] = []
        for word in order:
            if len(chosen) + len(word) <= 3:
                chosen += word
        key = tuple(sorted(chosen))
        expected[key] = expected.get(key, 0) + 1 / len(orders)
    masking = df.Masking(prob=0.3, whole_word=True)
    column = pa.array(data, pa.list_(pa.uint16()))
    batches = df.MaskedBatches(column, tok, masking=masking, batch_tokens=16, seed=8)
    observed = dict.fromkeys(expected, 0)
    for epoch in range(3000):
        batches.set_epoch(epoch)
        batch = batches[0]
        observed[tuple(batch["mlm_positions"][batch["mlm_labels"] >= 0].tolist())] += 1
    assert_drawn_from(np.array(list(observed.values())), 3000 * np.array(list(expected.values())))


def words_of(row: list[int]) -> list[tuple[int, ...]]:
    """Positions of the words of a row, from the definition."""
    words: list[list[int]] = []
    open_word = False
    for position, identity in enumerate(row):
        if identity in SPECIAL:
            open_word = False
        elif open_word and not TOK.word_starts[identity]:
            words[-1].append(position)
        else:
            words.append([position])
            open_word = True
    return [tuple(word) for word in words]


@pytest.mark.parametrize("arguments", [{}, {"smoothing": 0.7}, {"count": "bernoulli"}])
def test_words_are_masked_whole(arguments):
    data = rows(60, 40, seed=8)
    batches = batches_of(data, whole_word=True, **arguments)
    hits = np.zeros((2, 4))
    for epoch in range(40):
        batches.set_epoch(epoch)
        for index in range(len(batches)):
            batch = batches[index]
            known = batch["mlm_labels"] >= 0
            original = originals(batch)
            chosen = set(batch["mlm_positions"][known].tolist())
            width = batch["input_ids"].shape[1]
            for start, row in enumerate(original.reshape(-1, width).tolist()):
                for word in words_of(row):
                    inside = [start * width + position in chosen for position in word]
                    assert all(inside) or not any(inside)
                    hits[int(inside[0]), min(len(word), 4) - 1] += 1
            if arguments.get("count") != "bernoulli":
                wanted = math.ceil(0.15 * int(batch["num_tokens"]))
                assert wanted - 1 <= len(chosen) <= wanted
            assert len(chosen) == int(batch["num_masked_in_step"])
    if "smoothing" not in arguments:
        # Long words are as likely as short ones, but for the last that must fit.
        assert stats.chi2_contingency(hits).pvalue > ALARM


def test_a_batch_with_too_few_positions_masks_what_there_is():
    data = [[CLS, SEP], [CLS, 9, SEP], [CLS, SEP]]
    for arguments in ({"prob": 1.0}, {"prob": 1.0, "smoothing": 0.7}, {"prob": 0.9, "whole_word": True}):
        batch = batches_of(data, **arguments)
        labels = [int(label) for index in range(len(batch)) for label in batch[index]["mlm_labels"] if label >= 0]
        assert labels == [9]
        assert sum(int(batch[index]["num_masked_in_step"]) for index in range(len(batch))) == 1


def test_an_exact_share_of_everything():
    data = rows(100, 20)
    batches = batches_of(data, prob=1.0, mask=0.0, keep=1.0, random=0.0)
    for index in range(len(batches)):
        batch = batches[index]
        masked_positions = batch["mlm_positions"][batch["mlm_labels"] >= 0]
        assert len(masked_positions) == int(batch["num_tokens"]) - 2 * batch["input_ids"].shape[0]
        assert torch.equal(batch["input_ids"].view(-1)[masked_positions], batch["mlm_labels"][: len(masked_positions)])
