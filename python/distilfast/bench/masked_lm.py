"""The training step of masked-language models against the plain loop, first checked to be equal."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import pyarrow as pa
import torch
import transformers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from .. import cpu
from .._core import InputError
from ..batches.masked import MaskedBatches
from ..heads.objective import Objective
from ..metrics.speed import device_name
from ..models.adaptation import adapt, freeze
from ..models.student import create_student
from ..tokenizer import Tokenizer
from ..train.step import DistillationStep
from .measure import Step, loader_seconds, loss_seconds, measure, peak_flops, said_errors
from .plain_loop import PlainLoop, collated_batches, distillation_losses

Layout = Literal["padded", "packed"]


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
        batch = next(self.batches)
        tokens = int(batch["num_tokens"])  # on the host still: reading it from a GPU would wait for the step
        self.module(to_device(batch, self.device))["loss"].backward()
        self.count += 1
        if self.count % self.batches_per_step == 0:
            torch.nn.utils.clip_grad_norm_(self.parameters, 5.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.module.copies is not None:
                self.module.copies.forget()
        return tokens


def endless(batches: MaskedBatches) -> Iterator[dict[str, Any]]:
    """The whole optimiser steps of all epochs, without end."""
    whole = len(batches) - len(batches) % batches.batches_per_step
    for epoch in itertools.count():
        batches.set_epoch(epoch)
        for number in range(whole):
            yield batches[number]


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch on `device`, by way of pinned memory, as a Trainer's loader brings it to a GPU."""

    def moved(value: Tensor) -> Tensor:
        return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)

    return {key: moved(value) if isinstance(value, Tensor) else value for key, value in batch.items()}


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
    """FLOP of matrix products and attentions, a token of text, of the plain loop's step on a padded batch."""
    with FlopCounterMode(display=False) as counter:
        distillation_losses(student, teacher, with_labels(batch)).backward()  # type: ignore[no-untyped-call]
    flops = int(counter.get_total_flops())
    student.zero_grad()
    return flops / int(batch["num_tokens"])


@dataclass
class Contest:
    """The models, the rows and the sizes that all contenders share.

    rows: of token ids of `tokenizer`, one of transformers; at most `max_length` long.
    layout: of our batches.
    """

    config: BertConfig
    rows: Sequence[list[int]]
    tokenizer: Any
    max_length: int
    batch_tokens: int
    batches_per_step: int
    layout: Layout
    device: torch.device

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.teacher = freeze(cast(Any, BertForMaskedLM(self.config)).to(self.device))
        self.student = create_student(self.teacher)
        self.teacher_bf16 = freeze(cast(Any, copy.deepcopy(self.teacher)).to(torch.bfloat16))
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-5, fused=True)
        self.own_tokenizer = Tokenizer.from_transformers(self.tokenizer)

    def our_batches(self, layout: Layout) -> MaskedBatches:
        column = pa.array(self.rows, pa.list_(pa.uint16()))
        batches = MaskedBatches(
            column, self.own_tokenizer, self.batch_tokens, self.max_length, layout=layout,
            batches_per_step=self.batches_per_step,
        )  # fmt: skip
        if len(batches) < self.batches_per_step:
            raise InputError(
                f"the rows make {len(batches)} micro-batches of {self.batch_tokens} tokens, fewer than the "
                f"{self.batches_per_step} of a step; give more text, or a smaller --batch_tokens or --batches_per_step"
            )
        return batches

    def our_loop(self, **objective: Any) -> Step:
        student, teacher = copy.deepcopy(self.student), copy.deepcopy(self.teacher_bf16)
        step = DistillationStep(student, teacher, Objective(**objective), compute_dtype=torch.bfloat16)
        stops_early = step.head.stops_early(step.objective)
        adapt(student, teacher, layout=self.layout, stops_early=stops_early, device=self.device, dtype=torch.bfloat16)
        cpu.use(student, teacher)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-5, fused=True)
        return OurLoop(step, self.our_batches(self.layout), optimizer, self.batches_per_step).step

    def plain_loop(self, grouped: bool, bf16: bool, compiled: bool = False) -> Step:
        # On a GPU random rows are as many as fit the budget when padded: logits of more would not fit its memory.
        rows = self.batch_tokens // max(map(len, self.rows)) if self.device.type == "cuda" else None
        batches = collated_batches(self.rows, self.tokenizer, self.batch_tokens, grouped, number=rows)
        models = self.student.train(), self.teacher
        return PlainLoop(*models, batches, self.optimizer, self.batches_per_step, bf16, compiled).step

    def contenders(self, compiled: bool) -> dict[str, Callable[[], Step]]:
        """What makes each contender ready, by its name."""
        found: dict[str, Callable[[], Step]] = {
            "ours": self.our_loop,
            "ours, masked only": partial(self.our_loop, kl_positions="masked", cos_positions="kl"),
            "plain loop": partial(self.plain_loop, grouped=False, bf16=False),
            "best settings": partial(self.plain_loop, grouped=True, bf16=True),
        }
        if compiled:
            found["best settings, compiled"] = partial(self.plain_loop, grouped=True, bf16=True, compiled=True)
        return found


def run(
    contest: Contest,
    facts: dict[str, Any],
    compiled: bool,
    batches: int,
    rounds: int,
    write: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """The contest's result as JSON values; `write` gets what there is of it after every contender's turn.

    A contender that fails stands there with its "error", and what needs its speed is left out. `facts` stand in it too.
    Raises `AssertionError` where the losses of ours and of the plain loop are not equal.
    """
    device = contest.device
    padded = to_device(contest.our_batches("padded")[0], device)
    ours, theirs = check_equal_losses(contest.student, contest.teacher, padded)
    result = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        **facts,
        "layout": contest.layout,
        "batch_tokens": contest.batch_tokens,
        "loss": {"ours": ours, "plain": theirs},
        "contenders": {},
    }

    def told(measured: dict[str, dict[str, Any]]) -> None:
        result["contenders"] = measured
        result.update(ratios(measured))
        write(result)

    told(measure(contest.contenders(compiled), device, batches, rounds, told))
    speed = result["contenders"]["ours"].get("tokens_per_second")
    if speed is not None:
        with said_errors(result, device):
            flops = plain_step_flops(contest.student, contest.teacher, padded)
            peak = peak_flops(device, torch.bfloat16)
            result |= {"flops_per_token": flops, "peak_flops": peak, "utilization": speed * flops / peak}
            words = int(contest.config.vocab_size)
            losses = loss_seconds(device, contest.batch_tokens, words, torch.bfloat16)
            loader = loader_seconds(contest.our_batches(contest.layout))
            seconds = contest.batch_tokens / speed
            result |= {"loss_share": losses / seconds, "loader_share": loader / seconds}
        write(result)
    return result


def ratios(measured: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How many times as fast ours is as the plain loop and as the fastest of its settings, of those that ran."""
    speeds = {name: each["tokens_per_second"] for name, each in measured.items() if "tokens_per_second" in each}
    best = [speed for name, speed in speeds.items() if name.startswith("best")]
    found = {}
    if "ours" in speeds and "plain loop" in speeds:
        found["ratio_to_plain"] = speeds["ours"] / speeds["plain loop"]
    if "ours" in speeds and best:
        found["ratio_to_best"] = speeds["ours"] / max(best)
    return found


def table(result: dict[str, Any]) -> str:
    """The result for the screen."""
    lines = [
        f"{result['device']}, {result['threads']} threads, torch {result['versions']['torch']}, transformers "
        f"{result['versions']['transformers']}",
        f"size {result['size']}, {result['batch_tokens']} tokens a batch, ours {result['layout']}, rows of "
        f"{result['rows']['mean_length']:.0f} tokens on average, at most {result['rows']['max_length']} "
        f"({result['rows']['source']})",
        f"loss of one batch in float32: ours {result['loss']['ours']:.6f}, plain loop {result['loss']['plain']:.6f}",
        "",
        "| loop | tokens/s | tokens of text a batch | peak memory above the models, MB |",
        "|---|---|---|---|",
    ]
    for name, numbers in result["contenders"].items():
        if "tokens_per_second" not in numbers:
            lines.append(f"| {name} | {numbers.get('error', 'not measured yet')} | | |")
        else:
            sizes = f"{numbers['tokens_per_batch']:.0f} | {numbers['peak_memory_mb']:.0f}"
            lines.append(f"| {name} | {numbers['tokens_per_second']:.0f} | {sizes} |")
    said = []
    if "ratio_to_plain" in result:
        said.append(f"ours is {result['ratio_to_plain']:.2f} times the plain loop")
    if "ratio_to_best" in result:
        said.append(f"ours is {result['ratio_to_best']:.2f} times its best settings")
    if "utilization" in result:
        said.append(
            f"{result['utilization']:.1%} of the {result['peak_flops'] / 1e12:.2f} TFLOP/s that a product of large "
            "bfloat16 matrices reaches"
        )
    if "loss_share" in result:
        said.append(
            f"of a step's time, the losses on ready logits take {result['loss_share']:.2%} and making the batch "
            f"{result['loader_share']:.2%}"
        )
    if "error" in result:
        said.append(f"what else was to be measured failed: {result['error']}")
    return "\n".join([*lines, "", "; ".join(said)])
