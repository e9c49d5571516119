"""`python -m distilfast.bench tokenize`: text to token ids against the tokenisers that are installed beside us."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .._core import InputError
from ..command import parse, run
from ..files import write_json
from ..tokenizer import Tokenizer

Rows = list[str]


@dataclass
class TokenizeBenchArguments:
    """Flags of `bench tokenize`."""

    vocab: str | None = field(
        default=None,
        metadata={"help": "a BERT tokenizer.json or vocab.txt; else the uncased one in DISTILFAST_DATA"},
    )
    text: str | None = field(
        default=None,
        metadata={
            "help": "a text file; a line is a document, ended by '. ' a sentence; else Wikipedia in DISTILFAST_DATA"
        },
    )
    megabytes: float = field(default=16.0, metadata={"help": "how much of the text to use, in MB of UTF-8"})
    slow_megabytes: float = field(default=1.0, metadata={"help": "how much of it the slower ones are given"})
    runs: int = field(default=5, metadata={"help": "runs of each, in turn; the median counts"})
    clock: str = field(
        default="wall", metadata={"help": "'wall', or 'cpu' for one thread on a machine with other work"}
    )
    json: str = field(default="", metadata={"help": "a file to write the figures to, as JSON"})


@dataclass
class Contender:
    """A tokeniser under test: `encode(rows, threads)`, `ids(rows)` as lists, and `forget` to empty its cache."""

    name: str
    encode: Callable[[Rows, int], Any]
    ids: Callable[[Rows], list[list[int]]]
    forget: Callable[[], object] | None = None
    slow: bool = False


def contenders(vocab: Path) -> tuple[Contender, list[Contender]]:
    """Ours, and what is installed beside it; `tokenizers`, whose ids are the measure, is the first of those."""
    import pyarrow as pa
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    holder = {"tok": Tokenizer.from_file(vocab)}
    json_text = holder["tok"].to_json()

    def forget() -> None:
        holder["tok"] = Tokenizer(json_text)

    ours = Contender(
        "distilfast",
        lambda rows, threads: holder["tok"].encode_batch(rows, threads=threads),
        lambda rows: holder["tok"].encode_batch(rows).to_pylist(),
        forget,
    )
    arrow_rows: dict[int, pa.Array] = {}

    def from_arrow(rows: Rows, threads: int) -> object:
        if id(rows) not in arrow_rows:
            arrow_rows[id(rows)] = pa.array(rows)
        return holder["tok"].encode_batch(arrow_rows[id(rows)], threads=threads)

    arrow = Contender("distilfast, from Arrow", from_arrow, ours.ids, forget)
    library = tokenizers.Tokenizer.from_str(json_text)
    fast: Any = PreTrainedTokenizerFast
    wrapped = fast(tokenizer_object=tokenizers.Tokenizer.from_str(json_text))

    def encode_library(rows: Rows, threads: int) -> None:
        for start in range(0, len(rows), 1000):
            library.encode_batch_fast(rows[start : start + 1000])

    def encode_wrapped(rows: Rows, threads: int) -> None:
        for start in range(0, len(rows), 1000):
            wrapped(rows[start : start + 1000])

    others = [
        Contender(
            f"tokenizers {tokenizers.__version__} encode_batch_fast",
            encode_library,
            lambda rows: [encoding.ids for encoding in library.encode_batch_fast(rows)],
            slow=True,
        ),
        Contender(
            f"transformers {importlib.metadata.version('transformers')} call",
            encode_wrapped,
            lambda rows: wrapped(rows)["input_ids"],
            slow=True,
        ),
        arrow,
    ]
    if (nanotoken := _module("nanotoken")) is not None:
        nano = nanotoken.Tokenizer.from_json(json_text)
        others.append(
            Contender(
                f"nanotoken {importlib.metadata.version('nanotoken')} encode_batch",
                lambda rows, threads: nano.encode_batch(rows, parallel=threads > 1),
                lambda rows: [list(map(int, row)) for row in nano.encode_batch_list(rows)],
                nano.clear_cache,
            )
        )
    if (tokie := _module("tokie")) is not None:
        other = tokie.Tokenizer.from_json(str(_as_file(json_text)))
        others.append(
            Contender(
                f"tokie {importlib.metadata.version('tokie')} encode_batch",
                lambda rows, threads: other.encode_batch(rows),
                lambda rows: [list(encoding.ids) for encoding in other.encode_batch(rows)],
            )
        )
    return ours, others


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def _as_file(json_text: str) -> Path:
    """A temporary file that holds `json_text`; left to the system to clear away."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".json", delete=False, encoding="utf-8") as file:
        file.write(json_text)
    return Path(file.name)


@contextmanager
def cores(count: int) -> Iterator[None]:
    """Holds this process to `count` cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def megabytes(rows: Rows) -> float:
    return sum(len(row.encode()) for row in rows) / 1e6


def head(rows: Rows, limit: float) -> Rows:
    """The first rows, up to `limit` MB."""
    total, count = 0.0, 0
    while count < len(rows) and total < limit:
        total += len(rows[count].encode()) / 1e6
        count += 1
    return rows[:count]


def measure(
    all_of_them: list[Contender], rows: Rows, arguments: TokenizeBenchArguments, threads: int
) -> dict[str, Any]:
    """MB/s of each, with an empty cache and with a full one: medians of runs in turn."""
    clock = time.process_time if arguments.clock == "cpu" and threads == 1 else time.perf_counter
    few = head(rows, arguments.slow_megabytes)
    rates: dict[str, dict[str, list[float]]] = {one.name: {"cold": [], "warm": []} for one in all_of_them}
    with cores(threads):
        for one in all_of_them:
            one.encode(few if one.slow else rows, threads)  # what is made once: pools of threads, Arrow columns
        for _ in range(arguments.runs):
            for one in all_of_them:
                given = few if one.slow else rows
                size = megabytes(given)
                for state in ("cold", "warm"):
                    if state == "cold":
                        if one.forget is None:
                            continue
                        one.forget()
                    start = clock()
                    one.encode(given, threads)
                    rates[one.name][state].append(size / (clock() - start))
    return {
        name: {state: statistics.median(values) for state, values in states.items() if values}
        for name, states in rates.items()
    }


def differences(measure_of_all: Contender, others: list[Contender], rows: Rows) -> dict[str, int]:
    """On how many rows each differs from the first."""
    expected = measure_of_all.ids(rows)
    counts = {}
    for one in others:
        counts[one.name] = sum(found != wanted for found, wanted in zip(one.ids(rows), expected, strict=True))
    return counts


def main() -> None:
    run(_bench)


def _input(flag: str, given: str | None, usual: str) -> Path:
    """The file that was given, or the usual one of the folder that DISTILFAST_DATA names."""
    folder = os.environ.get("DISTILFAST_DATA")
    if given is None and not folder:
        raise InputError(f"{flag} names no file, and DISTILFAST_DATA, which would have {usual}, is not set")
    path = Path(given) if given is not None else Path(folder or "") / usual
    if not path.is_file():
        raise InputError(f"{flag} {path}: there is no such file")
    return path


def _bench() -> None:
    (arguments,) = parse([TokenizeBenchArguments], __doc__ or "", prog="python -m distilfast.bench tokenize")
    if arguments.clock not in ("wall", "cpu"):
        raise InputError(f"--clock {arguments.clock!r} is neither 'wall' nor 'cpu'")
    # Set before a thread pool of the others starts; each call still names the number of its threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    vocab = _input("--vocab", arguments.vocab, "vocab/bert-base-uncased.tokenizer.json")
    with _input("--text", arguments.text, "enwiki2015/articles.txt").open(encoding="utf-8", errors="replace") as file:
        text = file.read(int(arguments.megabytes * 1e6))
    ours, others = contenders(vocab)
    sets = {
        "documents": [line for line in text.split("\n") if line.strip()],
        "sentences": [sentence for sentence in re.split(r"(?<=\. )|\n", text) if sentence.strip()],
    }
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    report: dict[str, Any] = {"arguments": asdict(arguments), "machine": platform.processor() or platform.machine()}
    for name, rows in sets.items():
        few = head(rows, arguments.slow_megabytes)
        found = differences(others[0], [ours, *others[1:]], few)
        report[name] = {"rows": len(rows), "MB": megabytes(rows), "compared_rows": len(few), "differing_rows": found}
        mean = 1e6 * megabytes(rows) / len(rows)
        print(f"\n{name}: {len(rows):,} of {mean:.0f} bytes on average; ids compared on {len(few):,}")
        for threads in sorted({1, count}):
            rates = measure([ours, *others], rows, arguments, threads)
            report[name][f"{threads} threads, MB/s"] = rates
            print(f"{threads} thread(s): {'':28} cold MB/s  warm MB/s  ours is   differing rows")
            for contender, states in rates.items():
                ratio = rates[ours.name]["warm"] / states["warm"]
                cold = f"{states['cold']:10.1f}" if "cold" in states else f"{'-':>10}"
                print(f"  {contender:40} {cold} {states['warm']:10.1f} {ratio:8.1f}x {found.get(contender, 0):10}")
    if arguments.json:
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
