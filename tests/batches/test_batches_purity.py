"""`batches[i]` is a function of (seed, epoch, i): of nothing else, wherever and in whatever order it is asked for."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from typing import Any

import accelerate.data_loader
import distilfast as df
import pytest
from distilfast.batches.loader import batch_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader

SETUP = """
import hashlib
import numpy as np
import pyarrow as pa
import distilfast as df

class Tokenizer:
    vocab_size, pad_id, mask_id, special_ids, fingerprint = 300, 0, 4, range(5), "small"
    word_starts = np.arange(300) % 4 != 0

def make(layout="padded", threads=1, masking=df.Masking(smoothing=0.7), seed=11, **more):
    generator = np.random.default_rng(3)
    rows = [[2, *generator.integers(5, 300, size=n).tolist(), 3] for n in generator.integers(1, 60, size=400)]
    column = pa.array(rows, pa.list_(pa.uint16()))
    return df.MaskedBatches(column, Tokenizer(), batch_tokens=512, layout=layout, seed=seed, masking=masking,
                            threads=threads, batches_per_step=3, kl_sample_share=0.2, **more)

def digest(batch):
    parts = [np.asarray(value).tobytes() for value in batch.values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()
"""
here: dict[str, Any] = {"__name__": __name__}
exec(SETUP, here)
make, digest = here["make"], here["digest"]
Tokenizer = here["Tokenizer"]

MASKINGS = [
    df.Masking(),
    df.Masking(smoothing=0.7),
    df.Masking(count="bernoulli", compat="distilbert"),
    df.Masking(whole_word=True),
]


def digests(batches: Any) -> list[str]:
    return [digest(batches[index]) for index in range(len(batches))]


@pytest.fixture(scope="module", params=["padded", "packed"])
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def expected(layout: str) -> list[str]:
    batches = make(layout)
    batches.set_epoch(2)
    return digests(batches)


def test_a_fresh_process_makes_the_same_batches(layout, expected):
    code = SETUP + f"b = make({layout!r}, threads=2)\nb.set_epoch(2)\n"
    code += "print(*[digest(b[i]) for i in reversed(range(len(b)))][::-1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    outcome = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert outcome.stdout.split() == expected


@settings(max_examples=20)
@given(st.data(), st.integers(1, 4))
def test_order_of_access_and_threads_change_nothing(layout, expected, data, threads):
    batches = make(layout, threads=threads)
    order = data.draw(st.lists(st.integers(0, len(batches) - 1), max_size=30))
    epochs = data.draw(st.lists(st.integers(0, 3), min_size=len(order), max_size=len(order)))
    for index, epoch in zip(order, epochs, strict=True):
        batches.set_epoch(epoch)
        batch = batches[index]
        if epoch == 2:
            assert digest(batch) == expected[index]


@pytest.mark.parametrize("masking", MASKINGS, ids=["uniform", "weighted", "bernoulli", "words"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_strided_reader_that_keeps_its_batches(layout, masking, stride):
    plain = digests(make(layout, masking=masking))
    ahead = make(layout, masking=masking)
    kept = {index: ahead[index] for index in range(1, len(ahead), stride)}
    # All at once, at the end: no buffer was used again while its batch was still held.
    assert {index: digest(batch) for index, batch in kept.items()} == {index: plain[index] for index in kept}


class Single(BatchSampler):
    """[0], [1], ... from `first` on."""

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers

    def __iter__(self) -> Any:
        return ([number] for number in self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


@pytest.mark.parametrize(("workers", "context"), [(0, None), (2, "fork")])
def test_loader_workers_and_a_resume_see_the_same_batches(layout, expected, workers, context):
    batches = make(layout)
    batches.set_epoch(2)
    batches[0], batches[1]  # so that a thread is running when the workers are forked
    first = len(batches) // 2
    loader = DataLoader(
        batches,
        batch_sampler=Single(list(range(first, len(batches)))),
        collate_fn=lone,
        num_workers=workers,
        multiprocessing_context=context,
    )
    assert [digest(batch) for batch in loader] == expected[first:]


def lone(batches: list[dict[str, Any]]) -> dict[str, Any]:
    return batches[0]


class Both:
    """Batches of both layouts."""

    def __init__(self) -> None:
        self.layouts = [make("padded"), make("packed")]

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        return [batches[index] for batches in self.layouts]


def first_of(batches: list[Any]) -> Any:
    return batches[0]


def test_spawned_loader_workers_see_the_same_batches():
    # One loader for both layouts: a spawned worker takes seconds to import what it needs.
    expected = [digests(make(layout)) for layout in ("padded", "packed")]
    numbers = list(range(min(map(len, expected))))
    loader = DataLoader(
        Both(), batch_sampler=Single(numbers), collate_fn=first_of, num_workers=2, multiprocessing_context="spawn"
    )
    found = [[digest(batch) for batch in pair] for pair in loader]
    assert found == [list(pair) for pair in zip(*(each[: len(numbers)] for each in expected), strict=True)]


def test_a_copy_that_was_sent_to_another_process_is_the_same(layout, expected):
    batches = make(layout)
    batches.set_epoch(2)
    assert digests(pickle.loads(pickle.dumps(batches))) == expected


def test_a_forked_child_makes_them_too(layout, expected):
    batches = make(layout)
    batches.set_epoch(2)
    batches[0], batches[1], batches[2]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        same = digests(batches) == expected
        os.write(writer, b"same" if same else b"other")
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == b"same"
    os.waitpid(child, 0)
    assert digests(batches) == expected


@pytest.mark.parametrize("ranks", [1, 3])
def test_ranks_of_the_trainer_share_the_batches_out(layout, expected, ranks):
    for rank in range(ranks):
        batches = make(layout)
        batches.set_epoch(2)
        # As `Accelerator.prepare` does it for rank `rank`.
        loader = accelerate.data_loader.prepare_data_loader(
            batch_loader(batches, ranks, pin_memory=False), num_processes=ranks, process_index=rank, put_on_device=False
        )
        read = [{key: value for key, value in batch.items() if key != "is_real"} for batch in loader]
        own = expected[rank::ranks]
        assert [digest(batch) for batch in read[: len(own)]] == own


def test_threads_that_read_and_set_epochs_at_the_same_time():
    batches = make()
    possible = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        possible.append(digests(batches))
    wrong: list[int] = []
    stop = threading.Event()

    def read(start: int) -> None:
        for index in [*range(start, len(batches), 2)] * 3:
            if digest(batches[index]) not in [epoch[index] for epoch in possible]:
                wrong.append(index)

    def change() -> None:
        epoch = 0
        while not stop.is_set():
            epoch = (epoch + 1) % 3
            batches.set_epoch(epoch)

    changers = [threading.Thread(target=change) for _ in range(2)]
    readers = [threading.Thread(target=read, args=(start,)) for start in (0, 0, 1)]
    for thread in changers + readers:
        thread.start()
    for thread in readers:
        thread.join(timeout=120)
        assert not thread.is_alive()
    stop.set()
    for thread in changers:
        thread.join()
    assert not wrong


def test_epochs_differ_in_order_company_and_masks(layout):
    batches = make(layout)
    first = [digests(batches)]
    batches.set_epoch(1)
    assert not set(first[0]) & set(digests(batches))


def test_the_fingerprint_changes_with_what_changes_a_batch(layout):
    fingerprint = make(layout).state_fingerprint
    assert make(layout, threads=3).state_fingerprint == fingerprint
    others = [make(layout, masking=df.Masking(prob=0.2)), make(layout, seed=12)]
    others += [make("packed" if layout == "padded" else "padded")]
    assert len({fingerprint, *(other.state_fingerprint for other in others)}) == 4
