"""`python -m distilfast.bench train`: the training step against a plain loop over the same models, as it is and tuned;
with `--head`, our trainer against the usual one.

First the losses of one batch are computed both ways and must be equal. Then the contenders take turns, and the median
tokens of text per second of each, the peak of its memory and the ratios are printed.
"""

from __future__ import annotations

import copy
import itertools
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import torch
import transformers
from tokenizers import Tokenizer as HFTokenizer
from tokenizers.models import WordPiece
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from .. import cpu
from .._command import parse, require_positive
from .._core import InputError
from ..batches.masked import MaskedBatches
from ..heads.objective import Objective
from ..metrics.speed import device_name
from ..models.adaptation import adapt, freeze
from ..models.bf16 import bf16_is_fast
from ..models.load import quiet
from ..models.student import create_student
from ..prepare.text import read_texts
from ..tokenizer import Tokenizer
from ..train.step import DistillationStep
from .measure import count_flops, loader_seconds, loss_seconds, measure, peak_flops
from .plain_loop import PlainLoop, collated_batches, distillation_losses
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


@dataclass
class TrainBench(ResultFile):
    """What to measure."""

    head: Literal["masked_lm", "classification", "tokens", "embedding"] = field(
        default="masked_lm",
        metadata={
            "help": "What is distilled; classification and tokens against transformers.Trainer, embedding against "
            "SentenceTransformerTrainer."
        },
    )
    size: Literal["base", "small", "tiny"] = field(
        default="base", metadata={"help": "Teacher of 12x768 (base), 6x384 or 2x64; the student has half the layers."}
    )
    batch_tokens: int | None = field(
        default=None, metadata={"help": "Tokens of a micro-batch. Default: 2048 on a CPU, 32768 on a GPU."}
    )
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Rows of a batch, for --head classification and tokens."}
    )
    rows: int = field(default=512, metadata={"help": "Rows of an epoch, for heads other than masked_lm."})
    max_length: int | None = field(
        default=None, metadata={"help": "Longest row, in tokens. Default: 512, for heads other than masked_lm 128."}
    )
    batches: int = field(default=4, metadata={"help": "Micro-batches that a contender trains on before the next."})
    rounds: int = field(default=3, metadata={"help": "Turns of each contender; the median counts."})
    batches_per_step: int = field(default=4, metadata={"help": "Micro-batches of an optimiser step."})
    compile: bool = field(
        default=False, metadata={"help": "Let the plain loop compile its models too, and count it if that is faster."}
    )
    threads: int | None = field(default=None, metadata={"help": "Threads of torch on a CPU. Default: torch's own."})
    text: str | None = field(
        default=None,
        metadata={"help": "A text file whose lines are the rows. Default: WikiText-2 in DISTILFAST_DATA, or made up."},
    )


class OurLoop:
    """`DistillationStep` on `MaskedBatches`, as `DistillationTrainer` runs it."""

    def __init__(
        self, step: DistillationStep, batches: MaskedBatches, optimizer: torch.optim.Optimizer, batches_per_step: int
    ) -> None:
        self.module = step.train()
        if step.copies is not None:
            step.copies.kept = step.copies.adds_up = True
        self.batches = endless(batches)
        self.optimizer = optimizer
        self.batches_per_step = batches_per_step
        self.device = step.student.device
        self.parameters = list(step.student.parameters())
        self.count = 0

    def step(self) -> int:
        batch = to_device(next(self.batches), self.device)
        self.module(batch)["loss"].backward()
        self.count += 1
        if self.count % self.batches_per_step == 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.module.copies is not None:
                self.module.copies.forget()
        return int(batch["num_tokens"])


def endless(batches: MaskedBatches) -> Iterator[dict[str, Any]]:
    """The whole optimiser steps of all epochs, without end."""
    whole = len(batches) - len(batches) % batches.batches_per_step
    for epoch in itertools.count():
        batches.set_epoch(epoch)
        for number in range(whole):
            yield batches[number]


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value for key, value in batch.items()
    }


def check_equal_losses(
    student: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Any]
) -> tuple[float, float]:
    """The loss of one padded batch in float32 without dropout, ours and the plain loop's, once they are equal.

    Raises `AssertionError` where they differ by more than 1e-4 of their value, or the gradients of the first and last
    layer's weights by more than 1e-3 of their norm.
    """
    student = copy.deepcopy(student).eval()  # type: ignore[no-untyped-call]
    watched = [parameter for parameter in student.parameters() if parameter.ndim == 2]
    watched = [watched[0], watched[-1]]
    values, gradients = [], []
    plain = with_labels(batch)
    alone = {
        **batch,
        "num_attended_in_step": batch["num_tokens"],
        "num_masked_in_step": (batch["mlm_labels"] >= 0).sum(),
    }
    ours = cast(Any, DistillationStep(student, teacher))
    for compute in (
        lambda: ours(alone)["loss"],
        lambda: distillation_losses(student, teacher, plain),
    ):
        student.zero_grad()
        loss = compute()
        loss.backward()
        values.append(loss.item())
        gradients.append([cast(Tensor, parameter.grad).clone() for parameter in watched])
    mine, others = values
    assert abs(mine - others) <= 1e-4 * abs(others), f"losses differ: ours {mine}, the plain loop's {others}"
    for gradient, other in zip(*gradients, strict=True):
        assert (gradient - other).norm() <= 1e-3 * other.norm(), "gradients differ"
    return mine, others


def with_labels(batch: dict[str, Any]) -> dict[str, Any]:
    """The batch with `labels` [rows, width] as `transformers` has them: -100 where nothing is masked."""
    labels = torch.full((batch["input_ids"].numel(),), -100, device=batch["input_ids"].device)
    used = batch["mlm_labels"] >= 0
    labels[batch["mlm_positions"][used]] = batch["mlm_labels"][used]
    return {**batch, "labels": labels.view_as(batch["input_ids"])}


def plain_step_flops(student: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, Any]) -> float:
    """FLOP a token of text of the plain loop's forward and backward pass over a padded batch, padding computed too."""

    def compute() -> None:
        distillation_losses(student, teacher, with_labels(batch)).backward()  # type: ignore[no-untyped-call]

    flops = count_flops(compute)
    student.zero_grad()
    return flops / int(batch["num_tokens"])


def rows_of_text(arguments: TrainBench, vocabulary: Path, vocab_size: int) -> tuple[list[list[int]], str]:
    """Rows of token ids and where they are from; the vocabulary they are of is written to the file `vocabulary`."""
    data = os.environ.get("DISTILFAST_DATA")
    text = arguments.text
    if text is None and data and vocab_size == 30522:
        text = str(Path(data) / "wikitext-2" / "wiki.train.tokens")
    lines = [] if text is None else lines_of(text, 6000)
    vocabulary.write_text("\n".join(words_of(lines, vocab_size)) + "\n", encoding="utf-8")
    if text is None:
        generator = np.random.default_rng(0)
        # Lengths as WikiText's paragraphs have them: mean and spread of their logarithms.
        lengths = np.clip(generator.lognormal(4.6, 0.7, 3000), 12, longest(arguments)).astype(int)
        return [[2, *generator.integers(5, vocab_size, n - 2).tolist(), 3] for n in lengths], "made up"
    tokens = Tokenizer.from_file(str(vocabulary)).encode_batch(lines, max_length=longest(arguments))
    return [row for row in tokens.to_pylist() if len(row) >= 12], Path(text).name


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


def bench_trainers(arguments: TrainBench) -> dict[str, Any]:
    """Our trainer against the usual one, for heads other than masked_lm; the result as JSON values."""
    from . import rows, sentences, trainers

    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, data = BertConfig(**SIZES[arguments.size]), os.environ.get("DISTILFAST_DATA")
    text = arguments.text
    if text is None and data and config.vocab_size == 30522:
        text = str(Path(data) / "wikitext-2" / "wiki.train.tokens")
    texts = [] if text is None else lines_of(text, arguments.rows)
    words = words_of(texts, config.vocab_size)
    tokenizer: Any = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    if text is None:
        generator = np.random.default_rng(0)
        lengths = np.clip(generator.lognormal(4.6, 0.7, arguments.rows), 4, longest(arguments) - 2).astype(int)
        texts = [" ".join(words[word] for word in generator.integers(5, len(words), length)) for length in lengths]
    bf16 = bf16_is_fast(device)
    if arguments.head == "embedding":
        batch_tokens = arguments.batch_tokens or (32768 if device.type == "cuda" else 2048)
        contest = sentences.contest(config, tokenizer, texts, batch_tokens, longest(arguments), bf16)
    else:
        size = arguments.per_device_train_batch_size
        contest = rows.contest(arguments.head, config, tokenizer, texts, size, longest(arguments), bf16)
    source = "made up" if text is None else Path(text).name
    facts = {"head": arguments.head, "size": arguments.size, "rows": len(texts), "source": source, **contest.facts}
    return trainers.run(contest._replace(facts=facts), device, arguments.rounds)


def bench(arguments: TrainBench) -> dict[str, Any]:
    """Runs the contest and gives its result as JSON values."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    batch_tokens = arguments.batch_tokens or (32768 if device.type == "cuda" else 2048)
    config = BertConfig(**SIZES[arguments.size])
    torch.manual_seed(0)
    teacher = freeze(cast(Any, BertForMaskedLM(config)).to(device))
    student = create_student(teacher)
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = Path(folder) / "vocab.txt"
        rows, source = rows_of_text(arguments, vocabulary, config.vocab_size)
        tokenizer = Tokenizer.from_file(str(vocabulary))
        collator_tokenizer = _transformers_tokenizer(vocabulary)
    steps = arguments.batches_per_step

    def our_batches(layout: Literal["padded", "packed"]) -> MaskedBatches:
        column = pa.array(rows, pa.list_(pa.uint16()))
        return MaskedBatches(column, tokenizer, batch_tokens, longest(arguments), layout=layout, batches_per_step=steps)

    padded = our_batches("padded")
    ours, theirs = check_equal_losses(student, teacher, to_device(padded[0], device))

    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
    teacher_bf16 = freeze(cast(Any, copy.deepcopy(teacher)).to(torch.bfloat16))
    layout: Literal["padded", "packed"] = "packed" if device.type == "cuda" else "padded"

    def our_loop(**objective: Any) -> Callable[[], int]:
        own_student, own_teacher = copy.deepcopy(student), copy.deepcopy(teacher_bf16)
        step = DistillationStep(own_student, own_teacher, Objective(**objective), compute_dtype=torch.bfloat16)
        adapt(own_student, own_teacher, layout=layout, stops_early=step.head.stops_early(step.objective))
        cpu.use(own_student, own_teacher)
        own_optimizer = torch.optim.AdamW(own_student.parameters(), lr=1e-5, fused=True)
        return OurLoop(step, our_batches(layout), own_optimizer, steps).step

    def plain_loop(grouped: bool, bf16: bool, compiled: bool = False) -> Callable[[], int]:
        batches = collated_batches(rows, collator_tokenizer, batch_tokens, grouped)
        return PlainLoop(student.train(), teacher, batches, optimizer, steps, bf16, compiled).step

    contenders = {
        "ours": our_loop(),
        "ours, masked only": our_loop(kl_positions="masked", cos_positions="kl"),
        "plain loop": plain_loop(grouped=False, bf16=False),
        "best settings": plain_loop(grouped=True, bf16=True),
    }
    if arguments.compile:
        contenders["best settings, compiled"] = plain_loop(grouped=True, bf16=True, compiled=True)
    measured = measure(contenders, device, arguments.batches, arguments.rounds)
    best = max(speed["tokens_per_second"] for name, speed in measured.items() if name.startswith("best"))
    speed = measured["ours"]["tokens_per_second"]
    mean_length = sum(map(len, rows)) / len(rows)
    flops = plain_step_flops(student, teacher, to_device(padded[0], device))
    peak = peak_flops(device, torch.bfloat16)
    kernel = loss_seconds(device, batch_tokens, int(config.vocab_size), torch.bfloat16)
    loader = loader_seconds(our_batches(layout))
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "size": arguments.size,
        "rows": {"source": source, "mean_length": mean_length, "max_length": longest(arguments)},
        "batch_tokens": batch_tokens,
        "loss": {"ours": ours, "plain": theirs},
        "contenders": measured,
        "ratio_to_plain": speed / measured["plain loop"]["tokens_per_second"],
        "ratio_to_best": speed / best,
        "flops_per_token": flops,
        "peak_flops": peak,
        "utilization": speed * flops / peak,
        "loss_share": kernel / (batch_tokens / speed),
        "loader_share": loader / (batch_tokens / speed),
    }


def _transformers_tokenizer(vocabulary: Path) -> PreTrainedTokenizerFast:
    """What `DataCollatorForLanguageModeling` needs: the special tokens and their ids."""
    words = vocabulary.read_text(encoding="utf-8").splitlines()
    engine = HFTokenizer(WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=engine, **{f"{name}_token": token for name, token in names.items()}
    )


def table(result: dict[str, Any]) -> str:
    """The result for the screen."""
    lines = [
        f"{result['device']}, {result['threads']} threads, torch {result['versions']['torch']}, transformers "
        f"{result['versions']['transformers']}",
        f"size {result['size']}, {result['batch_tokens']} tokens a batch, rows of {result['rows']['mean_length']:.0f} "
        f"tokens on average, at most {result['rows']['max_length']} ({result['rows']['source']})",
        f"loss of one batch in float32: ours {result['loss']['ours']:.6f}, plain loop {result['loss']['plain']:.6f}",
        "",
        "| loop | tokens/s | peak memory above the models, MB |",
        "|---|---|---|",
    ]
    for name, numbers in result["contenders"].items():
        lines.append(f"| {name} | {numbers['tokens_per_second']:.0f} | {numbers['peak_memory_mb']:.0f} |")
    lines += [
        "",
        f"ours is {result['ratio_to_plain']:.2f} times the plain loop, {result['ratio_to_best']:.2f} times its best "
        "settings; "
        f"{result['utilization']:.1%} of the {result['peak_flops'] / 1e12:.2f} TFLOP/s that a product of large "
        "bfloat16 matrices reaches; "
        f"of a step's time, the losses on ready logits take {result['loss_share']:.2%} and making the batch "
        f"{result['loader_share']:.2%}",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([TrainBench], argv)
    require_positive(arguments, "batch_tokens", "max_length", "batches", "rounds", "batches_per_step", "threads")
    arguments.refuse_lost_files()
    if arguments.head == "masked_lm":
        result = bench(arguments)
        print(table(result))
    else:
        from .trainers import table as table_of_trainers

        quiet()  # a model is loaded and saved at every turn
        result = bench_trainers(arguments)
        print(table_of_trainers(result))
    arguments.write(result)
