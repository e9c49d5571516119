"""Where the time of a training step goes on a CPU: python docs/study/step_profile.py [THREADS]

BERT-base to 6 layers on 1,024 tokens of made-up text a micro-batch, two micro-batches a step, as `distilfast bench
train` runs it. torch.profiler's own time of every operator, by kind; a product of ours counts whole. Prints a table in
Markdown.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from distilfast import MaskedBatches, Tokenizer, cpu, create_student
from distilfast.bench.masked_lm import OurLoop
from distilfast.cpu import matmul
from distilfast.heads import Objective
from distilfast.losses import linear
from distilfast.models.adaptation import adapt, freeze
from distilfast.train.step import DistillationStep
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import BertConfig, BertForMaskedLM

KINDS = {
    "attention": ("attention", "attend", "bmm", "softmax"),
    "products of linear layers and head": ("product", "mm", "linear"),
    "losses": ("distilfast::", "distilfast_"),
    "layer norms": ("layer_norm",),
    "GELU": ("gelu",),
    "optimiser and clipping": ("adamw", "foreach", "vector_norm", "AdamW"),
    "weights cast to bfloat16, gradients to float32": ("copy_", "to_copy"),
    "adding up, scaling, dropout": ("aten::add", "aten::mul", "aten::sum", "fill", "zero", "aten::div", "aten::sub"),
}


def kind_of(name: str) -> str:
    for kind, words in KINDS.items():
        if any(word in name for word in words):
            return kind
    return "the rest"


def traced(function: Any) -> Any:
    def call(*arguments: Any, **keywords: Any) -> Any:
        with record_function("product"):
            return function(*arguments, **keywords)

    return call


def loop() -> OurLoop:
    torch.manual_seed(0)
    teacher = freeze(BertForMaskedLM(BertConfig()))
    student = create_student(teacher)
    teacher = copy.deepcopy(teacher).to(torch.bfloat16)
    step = DistillationStep(student, teacher, Objective(), compute_dtype=torch.bfloat16)
    adapt(student, teacher, stops_early=step.head.stops_early(step.objective))
    cpu.use(student, teacher)
    draws = np.random.default_rng(0)
    lengths = np.clip(draws.lognormal(4.6, 0.7, 1000), 12, 512).astype(int)
    rows = [[2, *draws.integers(5, 30522, length - 2).tolist(), 3] for length in lengths]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(30517))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vocab.txt"
        file.write_text("\n".join(words) + "\n", encoding="utf-8")
        tokenizer = Tokenizer.from_file(str(file))
    batches = MaskedBatches(pa.array(rows, pa.list_(pa.uint16())), tokenizer, 1024, 512, batches_per_step=2)
    return OurLoop(step, batches, torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True), 2)


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    matmul.multiply = traced(matmul.multiply)
    linear.multiply = traced(linear.multiply)
    step = loop()
    for _ in range(4):
        step.step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        tokens = sum(step.step() for _ in range(4))
    times: dict[str, float] = defaultdict(float)
    for event in found.key_averages():
        times[kind_of(event.key)] += event.self_cpu_time_total
    total = sum(times.values())
    print(
        f"{tokens} tokens, {torch.get_num_threads()} threads, torch {torch.__version__}\n\n| part | share |\n|---|---|"
    )
    for kind, time in sorted(times.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {time / total:.1%} |")


if __name__ == "__main__":
    main()
