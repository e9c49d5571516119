"""`python -m distilfast.bench batches`: token ids to masked batches, against the usual ways, in one run.

Compared on the same rows, in turns, one core each (torch on one thread); time is CPU time of the process:
`MaskedBatches` in its modes, `DataCollatorForLanguageModeling` fed by a length-grouped `DataLoader` (torch and numpy
form, at two batch sizes each) and one vectorised numpy pass. Padding, planning time against `LengthGroupedSampler` and
the memory that planning takes come after. `docs/study/modernbert.py` has ModernBERT's sequence packer in the race.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import transformers

from .._command import flag, parse, require_positive
from .._core import __version__
from ..batches.masked import MaskedBatches, TokenizerLike
from ..batches.settings import Masking
from .measure import restart_peak, status_bytes
from .results import ResultFile

CLS, SEP, MASK, VOCABULARY = 101, 102, 103, 30522
SPECIAL = (0, 100, CLS, SEP, MASK)
TILE = 1_000_000  # rows of which the lengths are drawn; more rows have the same again


@dataclasses.dataclass
class Arguments(ResultFile):
    """What is measured."""

    tokens: str | None = flag(None, "prepared directory to measure on, beside the synthetic lengths")
    rows: int = flag(50_000, "rows of synthetic lengths")
    batch_tokens: int = flag(16384, "token budget of a batch")
    rounds: int = flag(5, "turns of each; the median is shown")
    seconds: float = flag(0.5, "CPU seconds of one turn")
    plan_rows: int = flag(1_000_000, "rows that are planned")


class Vocabulary:
    """The ids of bert-base-uncased, as far as batches need them."""

    vocab_size = VOCABULARY
    pad_id = 0
    mask_id = MASK
    special_ids = SPECIAL
    fingerprint = "bench"
    word_starts = np.arange(VOCABULARY) % 5 != 0


def wikipedia_lengths(number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Log-normal lengths cut at 512, as chunking leaves them."""
    generator = np.random.default_rng(0)
    return np.clip(generator.lognormal(4.6, 0.9, number).astype(np.int64), 12, 512)


def length_grouped(batch_size: int, lengths: list[int]) -> Any:
    return transformers.trainer_pt_utils.LengthGroupedSampler(batch_size, lengths=lengths)


def wikipedia_like(number: int) -> pa.LargeListArray:
    """Rows with the lengths of `wikipedia_lengths` and ids with Zipf frequencies."""
    generator = np.random.default_rng(1)
    lengths = wikipedia_lengths(number)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    share = 1 / np.arange(1, VOCABULARY - 999 + 1)
    ids = generator.choice(np.arange(999, VOCABULARY), p=share / share.sum(), size=offsets[-1]).astype(np.uint16)
    ids[offsets[:-1]], ids[offsets[1:] - 1] = CLS, SEP
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))


@dataclasses.dataclass
class Contestant:
    """`batches()` gives the number of real tokens of each batch it has made, for ever."""

    name: str
    batches: Callable[[], Iterator[int]]
    rates: list[float] = dataclasses.field(default_factory=list)


def ours(name: str, column: Any, tok: Any, arguments: Arguments, **settings: Any) -> tuple[Contestant, MaskedBatches]:
    batches = MaskedBatches(column, tok, batch_tokens=arguments.batch_tokens, **settings)

    def run() -> Iterator[int]:
        for epoch in range(1 << 30):
            batches.set_epoch(epoch)
            for index in range(len(batches)):
                yield int(batches[index]["num_tokens"])

    return Contestant(name, run), batches


def collator(name: str, rows: list[list[int]], tok: Any, batch_size: int, tensors: str) -> Contestant:
    """`DataCollatorForLanguageModeling` behind a length-grouped `DataLoader`."""
    collate = transformers.DataCollatorForLanguageModeling(tok, mlm_probability=0.15, return_tensors=tensors)
    lengths = [len(row) for row in rows]
    features = [{"input_ids": row} for row in rows]

    def run() -> Iterator[int]:
        while True:
            sampler = length_grouped(batch_size, lengths)
            loader: Iterable[Any] = torch.utils.data.DataLoader(
                features,  # type: ignore[arg-type]
                batch_size=batch_size,
                sampler=sampler,
                collate_fn=collate,
            )
            for batch in loader:
                yield int(batch["attention_mask"].sum())

    return Contestant(name, run)


def vectorised_numpy(column: pa.LargeListArray, batch_tokens: int) -> Contestant:
    """Length-sorted batches, masked with whole-array numpy: the best that numpy does."""
    offsets = np.asarray(column.offsets)
    ids = column.values.to_numpy()
    lengths = np.diff(offsets)
    order = np.argsort(lengths, kind="stable")
    generator = np.random.default_rng(0)
    special = np.zeros(VOCABULARY, dtype=bool)
    special[list(SPECIAL)] = True

    def run() -> Iterator[int]:
        while True:
            start = 0
            while start < len(order):
                # The longest row of as many as fit sets the width; two looks are enough for sorted lengths.
                number = max(1, batch_tokens // int(lengths[order[start]]))
                number = max(1, batch_tokens // int(lengths[order[min(start + number, len(order)) - 1]]))
                rows = order[start : start + number]
                start += number
                width = int(lengths[rows[-1]])
                attended = np.arange(width) < lengths[rows][:, None]
                batch = np.zeros((len(rows), width), dtype=np.int64)
                index = offsets[rows][:, None] + np.arange(width)
                batch[attended] = ids[index[attended]]
                draw = generator.random(batch.shape, dtype=np.float32)
                chosen = (draw < 0.15) & attended & ~special[batch]
                labels = np.where(chosen, batch, -100)
                batch[chosen & (draw < 0.12)] = MASK
                randomised = chosen & (draw >= 0.12) & (draw < 0.135)
                batch[randomised] = generator.integers(0, VOCABULARY, int(randomised.sum()))
                tensors = [torch.from_numpy(part) for part in (batch, attended.astype(np.int64), labels)]
                yield int(tensors[1].sum())

    return Contestant("vectorised numpy, length-sorted", run)


def race(contestants: list[Contestant], arguments: Arguments) -> None:
    """Turns of equal CPU time, one after the other."""
    streams = [contestant.batches() for contestant in contestants]
    for stream in streams:
        next(stream)
    for _ in range(arguments.rounds):
        for contestant, stream in zip(contestants, streams, strict=True):
            start, tokens = time.process_time(), 0
            while time.process_time() - start < arguments.seconds:
                tokens += next(stream)
            contestant.rates.append(tokens / (time.process_time() - start) / 1e6)


def measure(name: str, column: Any, arguments: Arguments) -> dict[str, Any]:
    """The race on one set of rows, printed and returned."""
    tok = Vocabulary()
    rows = column.to_pylist()
    hf_tok = hugging_face_tokenizer()
    settings: list[tuple[str, dict[str, Any]]] = [
        ("padded, uniform", {}),
        ("padded, smoothing 0.7", {"masking": Masking(smoothing=0.7)}),
        ("padded, bernoulli", {"masking": Masking(count="bernoulli")}),
        ("padded, whole words", {"masking": Masking(whole_word=True)}),
        ("packed, uniform", {"layout": "packed"}),
        ("packed, smoothing 0.7", {"layout": "packed", "masking": Masking(smoothing=0.7)}),
    ]
    own = [ours(f"distilfast {label}", column, tok, arguments, **more) for label, more in settings]
    contestants = [contestant for contestant, _ in own]
    if isinstance(column, pa.LargeListArray):
        contestants.append(vectorised_numpy(column, arguments.batch_tokens))
    for size in (32, 256):
        for tensors in ("pt", "np"):
            label = f"DataCollatorForLanguageModeling ({tensors}), length-grouped, {size} rows"
            contestants.append(collator(label, rows, hf_tok, size, tensors))
    race(contestants, arguments)
    best = max(statistics.median(item.rates) for item in contestants if item.name.startswith("DataCollator"))
    figures = {item.name: statistics.median(item.rates) for item in contestants}
    padding = {contestant.name: made.padding for contestant, made in own}
    print(f"\n{name}: {len(rows):,} rows, {own[0][1].num_tokens:,} tokens")
    print(f"{'M tokens/s, 1 core':58} {'':>8} {'x best collator':>16} {'padding':>9}")
    for label, rate in figures.items():
        share = f"{padding[label]:9.2%}" if label in padding else ""
        print(f"{label:58} {rate:8.2f} {rate / best:16.1f} {share}")
    return {"rows": len(rows), "tokens": own[0][1].num_tokens, "mtokens_per_second": figures, "padding": padding}


def hugging_face_tokenizer() -> Any:
    """A tokenizer with the special ids of bert-base-uncased, made without a download."""
    names = {0: "[PAD]", 100: "[UNK]", CLS: "[CLS]", SEP: "[SEP]", MASK: "[MASK]"}
    vocabulary = {names.get(number, f"w{number}"): number for number in range(VOCABULARY)}
    return transformers.BertTokenizer(vocab=vocabulary)


def rows_of(number: int, id_: int) -> pa.LargeListArray:
    """`number` rows of the id `id_`, the lengths of the first million again and again."""
    lengths = wikipedia_lengths(min(number, TILE))
    offsets = np.zeros(number + 1, dtype=np.int64)
    for start in range(0, number, TILE):
        part = offsets[start + 1 : start + 1 + TILE]
        np.cumsum(lengths[: len(part)], out=part)
        part += offsets[start]
    ids = np.full(offsets[-1], id_, dtype=np.uint16)
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(ids))


def measure_plan(number: int, tok: TokenizerLike, id_: int) -> dict[str, float]:
    """Seconds of CPU time on one thread, bytes per row beside the rows, batches and padding of both layouts, for rows
    of the id `id_`; printed too."""
    figures: dict[str, float] = {"rows": number}
    if number <= TILE:
        listed = wikipedia_lengths(number).tolist()
        start = time.process_time()
        list(length_grouped(256, listed))
        figures["LengthGroupedSampler, seconds"] = time.process_time() - start
    rows = rows_of(number, id_)
    layouts: tuple[Literal["padded", "packed"], ...] = ("padded", "packed")
    for layout in layouts:
        seconds = []
        # What few rows take is lost in memory that was used before.
        before = restart_peak() if number >= 10 * TILE else None
        for _ in range(3 if number <= 10 * TILE else 1):
            start = time.process_time()
            batches = MaskedBatches(rows, tok, layout=layout, threads=1)
            seconds.append(time.process_time() - start)
        figures[f"{layout}, seconds"] = statistics.median(seconds)
        if before is not None:
            figures[f"{layout}, bytes per row"] = (status_bytes("VmHWM") - before) / number
        figures[f"{layout}, batches"] = len(batches)
        figures[f"{layout}, padding"] = batches.padding
    for label, value in figures.items():
        print(f"plan: {label:36} {value:16,.4f}")
    if "LengthGroupedSampler, seconds" in figures:
        ratio = figures["LengthGroupedSampler, seconds"] / figures["padded, seconds"]
        print(f"plan: padded is {ratio:.0f}x faster than LengthGroupedSampler")
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([Arguments], argv)
    require_positive(arguments, "rows", "batch_tokens", "rounds", "seconds", "plan_rows")
    arguments.refuse_lost_files()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    versions = {"distilfast": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    versions |= {"numpy": np.__version__, "python": platform.python_version(), "machine": platform.machine()}
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    figures: dict[str, Any] = {"versions": versions}
    figures["synthetic"] = measure("synthetic Wikipedia-like lengths", wikipedia_like(arguments.rows), arguments)
    if arguments.tokens is not None:
        from ..prepare.run import load_tokens

        column = load_tokens(arguments.tokens).dataset.data.column("input_ids")
        figures["tokens"] = measure(arguments.tokens, column, arguments)
    figures["plan"] = measure_plan(arguments.plan_rows, Vocabulary(), 999)
    arguments.write(figures)
