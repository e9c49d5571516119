"""`python -m distilfast.bench tokenize`: text to token ids against the tokenisers that are installed beside us."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .._command import flag, parse, require_positive
from .._core import InputError
from ..metrics.speed import device_name
from .contenders import Contender, Rows, contenders
from .results import ResultFile


@dataclass
class TokenizeBenchArguments(ResultFile):
    """Flags of `bench tokenize`."""

    vocab: str | None = flag(None, "a BERT tokenizer.json or vocab.txt; else the uncased one in DISTILFAST_DATA")
    text: str | None = flag(
        None, "a text file; a line is a document, ended by '. ' a sentence; else Wikipedia in DISTILFAST_DATA"
    )
    multilingual: str | None = flag(None, "a text file, or a folder of them, in many scripts; else DISTILFAST_DATA's")
    multilingual_vocab: str | None = flag(None, "the vocabulary for it; else the multilingual one in DISTILFAST_DATA")
    megabytes: float = flag(16.0, "how much of the text to use, in MB of UTF-8")
    slow_megabytes: float = flag(1.0, "how much of it the slower ones are given")
    runs: int = flag(5, "runs of each, in turn; the median counts")
    clock: str = flag("wall", "'wall', or 'cpu' for one thread on a machine with other work")


def core_numbers() -> list[int]:
    """The cores of this thread; numbers from 0 on where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def hold_to(cores: Iterable[int]) -> None:
    """Holds every thread of this process, those of pools that run already too, to `cores`, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        return
    for task in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(task), cores)


@contextmanager
def held_to(count: int) -> Iterator[None]:
    """Holds this process to the first `count` of its cores."""
    before = core_numbers()
    hold_to(before[:count])
    try:
        yield
    finally:
        hold_to(before)


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
) -> dict[str, dict[str, float]]:
    """MB/s of each, with an empty cache and with a full one: medians of runs in turn."""
    few = head(rows, arguments.slow_megabytes)
    rates: dict[str, dict[str, list[float]]] = {one.name: {"cold": [], "warm": []} for one in all_of_them}
    with held_to(threads):
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
                    rates[one.name][state].append(size / seconds(one, given, threads, arguments.clock))
    return {
        name: {state: statistics.median(values) for state, values in states.items() if values}
        for name, states in rates.items()
    }


def seconds(one: Contender, rows: Rows, threads: int, clock: str) -> float:
    """How long it takes `one` to encode `rows`."""
    now = time.process_time if clock == "cpu" and threads == 1 else time.perf_counter
    start = now()
    one.encode(rows, threads)
    return now() - start


def scaling(all_of_them: list[Contender], rows: Rows, runs: int, threads: int) -> dict[str, float]:
    """How many times as fast each is with `threads` threads as with one: medians of runs in turn, by the wall clock."""
    taken: dict[tuple[str, int], list[float]] = {}
    for _ in range(2 * runs):
        for one in all_of_them:
            for count in (1, threads):
                taken.setdefault((one.name, count), []).append(seconds(one, rows, count, "wall"))
    medians = {key: statistics.median(values) for key, values in taken.items()}
    return {one.name: medians[one.name, 1] / medians[one.name, threads] for one in all_of_them}


def differences(measure_of_all: Contender, others: list[Contender], rows: Rows) -> dict[str, int]:
    """On how many rows each differs from the first."""
    expected = measure_of_all.ids(rows)
    counts = {}
    for one in others:
        counts[one.name] = sum(found != wanted for found, wanted in zip(one.ids(rows), expected, strict=True))
    return counts


def compare(
    ours: Contender, others: list[Contender], rows: Rows, arguments: TokenizeBenchArguments, name: str
) -> dict[str, Any]:
    """Measures all of them on `rows`, prints the tables, and returns the figures."""
    few = head(rows, arguments.slow_megabytes)
    found = differences(others[0], [ours, *others[1:]], few)
    tokens_per_megabyte = sum(map(len, ours.ids(few))) / megabytes(few)
    report: dict[str, Any] = {"rows": len(rows), "MB": megabytes(rows), "tokens per MB": tokens_per_megabyte}
    report |= {"compared_rows": len(few), "differing_rows": found}
    mean = 1e6 * megabytes(rows) / len(rows)
    report["instructions"] = ours.instructions
    level = f"distilfast with {ours.instructions or 'the tokenizers crate'}"
    print(f"\n{name}: {len(rows):,} of {mean:.0f} bytes on average; {level}; ids compared on {len(few):,}")
    count = len(core_numbers())
    for threads in sorted({1, count}):
        rates = measure([ours, *others], rows, arguments, threads)
        report[f"{threads} threads, MB/s"] = rates
        print(f"{threads} thread(s): {'':27} cold MB/s  warm MB/s  Mtokens/s  ours is  differing rows")
        for contender, states in rates.items():
            ratio = rates[ours.name]["warm"] / states["warm"]
            cold = f"{states['cold']:10.1f}" if "cold" in states else f"{'-':>10}"
            tokens = states["warm"] * tokens_per_megabyte / 1e6
            print(
                f"  {contender:39} {cold} {states['warm']:10.1f} {tokens:10.2f} {ratio:7.1f}x"
                f" {found.get(contender, 0):15}"
            )
    if count > 1:
        native = [one for one in (ours, *others) if one.name.startswith(ours.name)]
        report["scaling"] = scaling(native, rows, arguments.runs, count)
        for contender, times in report["scaling"].items():
            print(f"  {contender:39} {count} threads are {times:.2f}x one")
    return report


def _input(flag: str, given: str | None, usual: str) -> Path:
    """The file or folder that was given, or the usual one of the folder that DISTILFAST_DATA names."""
    folder = os.environ.get("DISTILFAST_DATA")
    if given is None and not folder:
        raise InputError(f"{flag} names no file, and DISTILFAST_DATA, which would have {usual}, is not set")
    path = Path(given) if given is not None else Path(folder or "") / usual
    if not path.exists():
        raise InputError(f"{flag} {path}: there is no such file")
    return path


def _text(path: Path, limit: float) -> str:
    """The first `limit` MB of a file, or about as much of each file of a folder as makes `limit` MB together."""
    paths = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    if not paths:
        raise InputError(f"{path} holds no .txt files")
    text = "\n".join(one.read_bytes()[: int(limit * 1e6 / len(paths))].decode(errors="replace") for one in paths)
    if not text.strip():
        raise InputError(f"{path} holds no text")
    return text


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([TokenizeBenchArguments], argv)
    require_positive(arguments, "megabytes", "slow_megabytes", "runs")
    arguments.refuse_lost_files()
    if arguments.clock not in ("wall", "cpu"):
        raise InputError(f"--clock {arguments.clock!r} is neither 'wall' nor 'cpu'")
    # Set before a thread pool of the others starts; each call still names the number of its threads.
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    vocab = _input("--vocab", arguments.vocab, "vocab/bert-base-uncased.tokenizer.json")
    text = _text(_input("--text", arguments.text, "enwiki2015/articles.txt"), arguments.megabytes)
    sets = {
        "documents": [line for line in text.split("\n") if line.strip()],
        "sentences": [sentence for sentence in re.split(r"(?<=\. )|\n", text) if sentence.strip()],
    }
    report: dict[str, Any] = {"arguments": asdict(arguments), "machine": device_name()}
    ours, others = contenders(vocab)
    for name, rows in sets.items():
        report[name] = compare(ours, others, rows, arguments, name)
    if os.environ.get("DISTILFAST_DATA") or arguments.multilingual is not None:
        usual = "vocab/bert-base-multilingual-cased.vocab.txt"
        vocab = _input("--multilingual_vocab", arguments.multilingual_vocab, usual)
        text = _text(_input("--multilingual", arguments.multilingual, "multilingual"), arguments.megabytes)
        ours, others = contenders(vocab)
        rows = [line for line in text.split("\n") if line.strip()]
        report["multilingual"] = compare(ours, others, rows, arguments, "multilingual, mixed scripts")
    arguments.write(report)
