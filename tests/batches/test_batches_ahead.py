"""Batches made ahead: who reads with a stride finds them made, and nobody is hurt who does something else meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import accelerate.data_loader
import distilfast as df
import numpy as np
import pyarrow as pa
import pytest
from distilfast.batches.loader import batch_loader

SETUP = """
import numpy as np
import pyarrow as pa
import distilfast as df

class Tokenizer:
    vocab_size, pad_id, mask_id, special_ids, fingerprint = 300, 0, 4, range(5), "small"
    word_starts = np.arange(300) % 4 != 0

def make(layout="padded", prefetch=2, rows=300, **more):
    generator = np.random.default_rng(3)
    rows = [[2, *generator.integers(5, 300, size=n).tolist(), 3] for n in generator.integers(1, 60, size=rows)]
    return df.MaskedBatches(pa.array(rows, pa.list_(pa.uint16())), Tokenizer(), batch_tokens=512, layout=layout,
                            prefetch=prefetch, **more)
"""
here: dict[str, Any] = {"__name__": __name__}
exec(SETUP, here)
make, Tokenizer = here["make"], here["Tokenizer"]


def bits(batch: dict[str, Any]) -> bytes:
    return b"".join(np.asarray(value).tobytes() for value in batch.values())


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_rank_of_the_trainer_finds_its_batches_made(layout, ranks):
    expected = [bits(batch) for batch in make(layout, prefetch=0)]
    for rank in range(ranks):
        batches = make(layout)
        # As `Accelerator.prepare` does it for rank `rank`.
        loader = accelerate.data_loader.prepare_data_loader(
            batch_loader(batches, ranks, pin_memory=False),
            num_processes=ranks,
            process_index=rank,
            put_on_device=False,
        )
        read = 0
        for number, batch in zip(range(rank, len(expected), ranks), loader, strict=False):
            batch.pop("is_real", None)
            assert bits(batch) == expected[number]
            read += 1
        assert read == len(range(rank, len(expected), ranks))
        # The first two show the stride; the batch that stands in for a missing last one is asked for out of step.
        assert batches._ahead.filled_on_demand <= 3
        assert read > 4


def test_memory_is_used_again():
    batches = make(prefetch=2)
    places = set()
    for _ in range(3):
        places |= {batches[index]["input_ids"].data_ptr() for index in range(len(batches))}
    assert len(places) <= 5


def test_threads_that_read_and_set_epochs_at_the_same_time():
    batches = make(prefetch=2)
    possible = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        possible.append([bits(batches[index]) for index in range(len(batches))])
    wrong: list[int] = []
    stop = threading.Event()

    def read(start: int) -> None:
        for index in [*range(start, len(batches), 2)] * 5:
            if bits(batches[index]) not in [epoch[index] for epoch in possible]:
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


@pytest.mark.parametrize("prefetch", [0, 1, 5])
def test_objects_that_are_dropped_while_batches_are_under_way(prefetch):
    expected = [bits(batch) for batch in make(prefetch=0)]
    for _ in range(20):
        batches = make(prefetch=prefetch)
        kept = [batches[0], batches[1], batches[2]]
        del batches
        assert [bits(batch) for batch in kept] == expected[:3]


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)"])
def test_an_interpreter_that_ends_while_batches_are_under_way(end):
    code = SETUP + "b = make(prefetch=8, rows=3000)\nb[0], b[1], b[2]\n" + end
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    outcome = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert (outcome.returncode, outcome.stderr) == (0, "")


def test_more_ranks_than_batches_are_refused():
    batches = make()
    with pytest.raises(df.InputError, match=f"{len(batches) + 1} ranks.*{len(batches)} batches"):
        batch_loader(batches, len(batches) + 1, pin_memory=False)


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("lengths", [[2], [512], [512] * 7, [2] * 5, [511, 512, 2]])
@pytest.mark.parametrize("batch_tokens", [512, 513, 1023, 1024])
def test_rows_and_budgets_at_their_limits(layout, lengths, batch_tokens):
    rows = [[2, *[7] * (length - 2), 3] for length in lengths]
    column = pa.chunked_array([[], rows[:1], [], rows[1:]], type=pa.large_list(pa.uint32()))
    batches = df.MaskedBatches(column, Tokenizer(), batch_tokens=batch_tokens, layout=layout, max_length=512)
    assert sum(int(batch["num_tokens"]) for batch in batches) == sum(lengths)
    for index in (0, len(batches) - 1, -1):
        batch = batches[index]
        assert batch["input_ids"].numel() <= batch_tokens
        if layout == "packed":
            assert int(batch["cu_seqlens"][-1]) == batch_tokens
