"""`python -m distilfast.bench train`: the training step against a plain loop over the same models, as it is and tuned;
with `--head`, our trainer against the usual one.

First the losses of one batch are computed both ways and must be equal. Then the contenders take turns, and the median
tokens of text per second of each, the peak of its memory and the ratios are printed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import BertConfig, BertTokenizer

from .._command import changed, flag, parse, refuse_unread, require_positive
from .._core import InputError
from .._files import write_text
from ..models.bf16 import bf16_is_fast
from ..models.load import quiet
from ..prepare.text import read_texts
from ..tokenizer import Tokenizer
from . import masked_lm
from .results import ResultFile

SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "small": {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536, "num_hidden_layers": 6},
    "tiny": {
        "hidden_size": 64,
        "num_attention_heads": 2,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "vocab_size": 1000,
    },
}


OF_HEADS = {
    "masked_lm": ("batch_tokens", "batches", "batches_per_step", "compile", "layout"),
    "classification": ("per_device_train_batch_size", "rows"),
    "tokens": ("per_device_train_batch_size", "rows"),
    "embedding": ("batch_tokens", "rows"),
}
"""Flags that the contests of some heads alone read."""


@dataclass
class TrainBench(ResultFile):
    """What to measure."""

    head: Literal["masked_lm", "classification", "tokens", "embedding"] = flag(
        "masked_lm",
        "What is distilled; classification and tokens against transformers.Trainer, embedding against "
        "SentenceTransformerTrainer.",
    )
    size: Literal["base", "small", "tiny"] = flag(
        "base", "Teacher of 12x768 (base), 6x384 or 2x64; the student has half the layers."
    )
    batch_tokens: int | None = flag(None, "Tokens of a micro-batch. Default: 2048 on a CPU, 32768 on a GPU.")
    per_device_train_batch_size: int = flag(32, "Rows of a batch, for --head classification and tokens.")
    rows: int = flag(512, "Rows of an epoch, for heads other than masked_lm.")
    max_length: int | None = flag(None, "Longest row, in tokens. Default: 512, for heads other than masked_lm 128.")
    batches: int = flag(4, "Micro-batches that a contender trains on before the next.")
    rounds: int = flag(3, "Turns of each contender; the median counts.")
    batches_per_step: int = flag(4, "Micro-batches of an optimiser step.")
    compile: bool = flag(False, "Let the plain loop compile its models too, and count it if that is faster.")
    threads: int | None = flag(None, "Threads of torch on a CPU. Default: torch's own.")
    text: str | None = flag(
        None, "A text file whose lines are the rows. Default: WikiText-2 in DISTILFAST_DATA, or made up."
    )
    layout: Literal["auto", "padded", "packed"] = flag(
        "auto", "Of our batches, for masked_lm. Default: packed on a GPU, padded on a CPU, as in training."
    )
    markdown: str | None = flag(None, "a file to write the printed table to")

    def tokens_of_a_batch(self, device: torch.device) -> int:
        return self.batch_tokens or (32768 if device.type == "cuda" else 2048)


def texts_of(arguments: TrainBench, config: BertConfig) -> tuple[Any, list[str], str]:
    """A tokenizer of transformers, texts, and where they are from: the lines of a file, or words drawn at random."""
    data, text, for_masks = os.environ.get("DISTILFAST_DATA"), arguments.text, arguments.head == "masked_lm"
    if text is None and data and config.vocab_size == 30522:
        text = str(Path(data) / "wikitext-2" / "wiki.train.tokens")
    texts = [] if text is None else lines_of(text, 6000 if for_masks else arguments.rows)
    words = words_of(texts, config.vocab_size)
    if text is None:
        generator = np.random.default_rng(0)
        number, least = (3000, 10) if for_masks else (arguments.rows, 4)
        # Lengths as WikiText's paragraphs have them: mean and spread of their logarithms.
        lengths = np.clip(generator.lognormal(4.6, 0.7, number), least, longest(arguments) - 2).astype(int)
        texts = [" ".join(words[word] for word in generator.integers(5, len(words), length)) for length in lengths]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    return tokenizer, texts, "made up" if text is None else Path(text).name


def longest(arguments: TrainBench) -> int:
    return arguments.max_length or (512 if arguments.head == "masked_lm" else 128)


def lines_of(text: str, most: int) -> list[str]:
    """The first lines of a file that are longer than a heading."""
    lines = [line for line in read_texts([text]) if len(line) > 40][:most]
    if not lines:
        raise InputError(f"--text {text}: no line has more than 40 characters, so there is no row to train on")
    return lines


def words_of(lines: Sequence[str], size: int) -> list[str]:
    """A BERT vocabulary of `size`: the published one where DISTILFAST_DATA has it and it is that large, otherwise the
    most frequent words of `lines`, and made-up ones behind them."""
    data = os.environ.get("DISTILFAST_DATA")
    if lines and data and size == 30522:
        return (Path(data) / "vocab" / "bert-base-uncased.vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    counts = Counter(word for line in lines for word in re.findall(r"\w+|[^\w\s]", line.lower()))
    words = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(word for word, _ in counts.most_common())])
    return list(words | dict.fromkeys(f"w{number}" for number in range(size)))[:size]


def bench_masked_lm(arguments: TrainBench, device: torch.device) -> dict[str, Any]:
    """The training step of masked-language models against the plain loop; the result as JSON values."""
    layout: masked_lm.Layout = "packed" if device.type == "cuda" else "padded"
    config = BertConfig(**SIZES[arguments.size])
    tokenizer, texts, source = texts_of(arguments, config)
    ids = Tokenizer.from_transformers(tokenizer).encode_batch(texts, max_length=longest(arguments))
    rows = [row for row in ids.to_pylist() if len(row) >= 12]
    contest = masked_lm.Contest(
        config,
        rows,
        tokenizer,
        longest(arguments),
        arguments.tokens_of_a_batch(device),
        arguments.batches_per_step,
        layout if arguments.layout == "auto" else arguments.layout,
        device,
    )
    of_rows = {"source": source, "mean_length": sum(map(len, rows)) / len(rows), "max_length": longest(arguments)}

    def write(result: dict[str, Any]) -> None:
        save(arguments, result, masked_lm.table(result))

    facts = {"size": arguments.size, "rows": of_rows}
    return masked_lm.run(contest, facts, arguments.compile, arguments.batches, arguments.rounds, write)


def bench_trainers(arguments: TrainBench, device: torch.device) -> dict[str, Any]:
    """Our trainer against the usual one, for heads other than masked_lm; the result as JSON values."""
    from . import rows, sentences, trainers

    config = BertConfig(**SIZES[arguments.size])
    tokenizer, texts, source = texts_of(arguments, config)
    longest_row, bf16 = longest(arguments), bf16_is_fast(device)
    if arguments.head == "embedding":
        batch_tokens = arguments.tokens_of_a_batch(device)
        contest = sentences.contest(config, tokenizer, texts, batch_tokens, longest_row, bf16)
    else:
        size = arguments.per_device_train_batch_size
        contest = rows.contest(arguments.head, config, tokenizer, texts, size, longest_row, bf16)
    facts = {"head": arguments.head, "size": arguments.size, "rows": len(texts), "source": source, **contest.facts}
    return trainers.run(contest._replace(facts=facts), device, arguments.rounds)


def save(arguments: TrainBench, result: dict[str, Any], table: str) -> None:
    arguments.write(result)
    if arguments.markdown:
        write_text(arguments.markdown, table + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([TrainBench], argv)
    require_positive(arguments, "batch_tokens", "max_length", "batches", "rounds", "batches_per_step", "threads")
    arguments.refuse_lost_files(arguments.markdown)
    foreign = {name for names in OF_HEADS.values() for name in names}.difference(OF_HEADS[arguments.head])
    refuse_unread(changed(arguments), dict.fromkeys(foreign, f"with --head {arguments.head}; leave it out"))
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.head == "masked_lm":
        print(masked_lm.table(bench_masked_lm(arguments, device)))
    else:
        from .trainers import table as table_of_trainers

        quiet()  # a model is loaded and saved at every turn
        result = bench_trainers(arguments, device)
        print(table_of_trainers(result))
        save(arguments, result, table_of_trainers(result))
