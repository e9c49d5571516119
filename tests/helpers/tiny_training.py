"""A teacher, a student and batches so small that whole runs take a second, for the tests of training."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from distilfast import create_student
from distilfast.train.arguments import DistillationArguments
from distilfast.train.trainer import CheckpointError, DistillationTrainer
from transformers import TrainerCallback

VOCABULARY = 53
WIDTH = 12
ROWS = 3


class TinyBatches:
    """Random sequences, `rows` to a batch: a pure function of (epoch, number), as the batches of `MaskedBatches` are.

    A sequence depends on the epoch and its own number alone, so the same ones can be cut into other batches.
    """

    def __init__(self, count: int = 6, batches_per_step: int = 2, layout: str = "padded", rows: int = ROWS) -> None:
        self.count = count
        self.batches_per_step = batches_per_step
        self.layout = layout
        self.rows = rows
        self.epoch = 0
        self.requested: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return self.count

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def state_fingerprint(self) -> str:
        return f"{self.count}-{self.batches_per_step}-{self.layout}-{self.rows}"

    def sequences(self, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Corrupted ids and labels of each sequence of one batch."""
        found = []
        for sequence in range(number * self.rows, (number + 1) * self.rows):
            generator = torch.Generator().manual_seed(1000 * self.epoch + sequence)
            length = int(torch.randint(4, WIDTH + 1, (), generator=generator))
            ids = torch.randint(5, VOCABULARY, (length,), generator=generator)
            masked = torch.randperm(length - 2, generator=generator)[: max(1, length // 4)] + 1
            labels = torch.full_like(ids, -100)
            labels[masked] = ids[masked]
            ids[masked] = 4
            found.append((ids, labels))
        return found

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.requested.append((self.epoch, number))
        first = number - number % self.batches_per_step
        step = [
            pair
            for each in range(first, min(first + self.batches_per_step, self.count))
            for pair in self.sequences(each)
        ]
        ids, labels = zip(*self.sequences(number), strict=True)
        flat = (self.packed if self.layout == "packed" else self.padded)(list(ids))
        starts = flat.pop("starts")
        found = [
            (start + int(place), int(row[place]))
            for start, row in zip(starts, labels, strict=True)
            for place in (row != -100).nonzero()
        ]
        found += [(0, -100)] * (self.rows * WIDTH // 4 + 2 - len(found))
        positions, values = (torch.tensor(column) for column in zip(*found, strict=True))
        return {
            **flat,
            "mlm_positions": positions,
            "mlm_labels": values,
            "num_tokens": torch.tensor(sum(map(len, ids))),
            "num_attended_in_step": torch.tensor(sum(len(row) for row, _ in step)),
            "num_masked_in_step": torch.tensor(sum(int((row != -100).sum()) for _, row in step)),
        }

    def padded(self, ids: list[torch.Tensor]) -> dict[str, Any]:
        rows = torch.zeros(len(ids), WIDTH, dtype=torch.long)
        attention_mask = torch.zeros_like(rows)
        for row, sequence in enumerate(ids):
            rows[row, : len(sequence)] = sequence
            attention_mask[row, : len(sequence)] = 1
        starts = [row * WIDTH for row in range(len(ids))]
        return {"input_ids": rows, "attention_mask": attention_mask, "starts": starts}

    def packed(self, ids: list[torch.Tensor]) -> dict[str, Any]:
        tail = self.rows * WIDTH + 2 - sum(map(len, ids))
        lengths = [*map(len, ids), tail]
        ends = torch.tensor(lengths).cumsum(0).tolist()
        return {
            "input_ids": torch.cat([*ids, torch.zeros(tail, dtype=torch.long)])[None],
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "cu_seqlens": torch.tensor([0, *ends], dtype=torch.int32),
            "max_seqlen": max(lengths),
            "starts": [0, *ends[: len(ids) - 1]],
        }


def teacher(dropout: float = 0.1, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=8 * ROWS * WIDTH + 2,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return transformers.BertForMaskedLM(config).eval()


def arguments(output_dir: str | Path, **changes: Any) -> DistillationArguments:
    defaults: dict[str, Any] = {
        "output_dir": str(output_dir),
        "num_train_epochs": 2,
        "logging_steps": 2,
        "save_steps": 2,
        "save_total_limit": None,
        "learning_rate": 1e-2,
        "batches_per_step": 2,
        "precision": "fp32",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return DistillationArguments(**{**defaults, **changes})


def trainer(
    output_dir: str | Path,
    layout: str = "padded",
    count: int = 7,
    dropout: float = 0.1,
    rows: int = ROWS,
    held_out: TinyBatches | None = None,
    **changes: Any,
) -> DistillationTrainer:
    args = arguments(output_dir, **changes)
    model = teacher(dropout)
    assert args.batches_per_step is not None
    return DistillationTrainer(
        create_student(model, 1),
        model,
        args,
        TinyBatches(count, args.batches_per_step, layout, rows),
        callbacks=[Quiet()],
        eval_dataset=held_out,
    )


class Quiet(TrainerCallback):
    """Nothing; its presence shows that callbacks pass through."""


class KillAt(TrainerCallback):
    """Sends this process a signal at the begin (or in the midst) of an optimiser step."""

    def __init__(self, step: int, number: int, within: bool = False) -> None:
        self.step, self.number, self.within = step, number, within

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not self.within and state.global_step == self.step:
            os.kill(os.getpid(), self.number)

    def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.within and state.global_step == self.step:
            os.kill(os.getpid(), self.number)


class KillingBatches(TinyBatches):
    """Held-out batches; asked for batch `at` this process gets Ctrl-C, where it is one of those that do."""

    def __init__(self, at: int, kills: bool) -> None:
        super().__init__(count=2 * at)
        self.at, self.kills = at, kills

    def __getitem__(self, number: int) -> dict[str, Any]:
        if self.kills and number == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        assert number <= self.at + 1, "the evaluation went on"
        return super().__getitem__(number)


class AtCall(TrainerCallback):
    """Counts Python's function calls while it trains and, if asked to, kills this process at one of them: any moment.

    `saves` are the (first, last) calls of each writing of a checkpoint.
    """

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at = kill_at
        self.calls = 0
        self.saves: list[list[int]] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        sys.setprofile(self.count)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        sys.setprofile(None)

    def count(self, frame: Any, event: str, argument: Any) -> None:
        saving = frame.f_code is DistillationTrainer._save_checkpoint.__code__
        if event == "call":
            self.calls += 1
            if self.calls == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if saving:
                self.saves.append([self.calls, self.calls])
        elif event == "return" and saving:
            self.saves[-1][1] = self.calls


class FillDisk(TrainerCallback):
    """From an optimiser step on no file can grow past so many bytes: what a full disk does to a write."""

    def __init__(self, step: int, most_bytes: int) -> None:
        self.step, self.most_bytes = step, most_bytes

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.most_bytes, resource.RLIM_INFINITY))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def curve(run: DistillationTrainer) -> list[dict[str, float]]:
    """The lines of the log without what depends on the clock."""
    timed = ("tokens_per_second", "train_runtime", "train_samples_per_second")
    return [
        {name: value for name, value in entry.items() if name not in timed}
        for entry in run.state.log_history
        if "loss" in entry
    ]


def rank_main(output_dir: str, options: dict[str, Any], environment: dict[str, str]) -> None:
    """One rank of a run in a process of its own; leaves weights and log in result.json."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    options = dict(options)
    kill = options.pop("kill", None)
    resume = options.pop("resume", None)
    most_bytes = options.pop("most_bytes", None)
    kill_after = options.pop("kill_after", None)
    count_calls = options.pop("count_calls", False)
    if (evaluating := options.pop("kill_evaluating", None)) is not None:
        options["held_out"] = KillingBatches(
            evaluating["batch"], int(os.environ.get("RANK", "0")) in evaluating["ranks"]
        )
    at_call = AtCall(options.pop("kill_at_call", {}).get(os.environ.get("RANK", "0")))
    run = trainer(output_dir, **options)
    rank = run.args.process_index
    if kill is not None and rank in kill.get("ranks", (rank,)):
        run.add_callback(KillAt(kill["step"], getattr(signal, kill["signal"]), kill.get("within", False)))
    if count_calls or at_call.kill_at is not None:
        run.add_callback(at_call)
    if most_bytes is not None:
        run.add_callback(FillDisk(*most_bytes))
    if kill_after is not None:
        # From outside, so that it strikes anywhere, not only between two calls of Python.
        subprocess.Popen(["sh", "-c", f"sleep {kill_after}; kill -9 {os.getpid()}"])
    began = time.monotonic()
    try:
        run.train(resume_from_checkpoint=resume)
    except CheckpointError as error:
        (Path(output_dir) / "error.txt").write_text(str(error))
        raise SystemExit(1) from None
    if run.interrupted:
        raise SystemExit(143)
    result = {
        "weights": {name: value.tolist() for name, value in weights(run.student).items()},
        "curve": curve(run),
        "requested": run.train_dataset.requested,
        "calls": at_call.calls,
        "saves": at_call.saves,
        "seconds": time.monotonic() - began,
    }
    (Path(output_dir) / f"result-{rank}.json").write_text(json.dumps(result))


def run_ranks(output_dir: Path, ranks: int = 1, gpu: bool = False, **options: Any) -> list[int | None]:
    """Trains in `ranks` fresh processes that talk over gloo; their exit codes (a signal's number negated). On the CPU,
    or with `gpu` on the GPU that is there."""
    # The server imports torch and this module's imports once; each process is a fork of it that has not used them yet.
    context = multiprocessing.get_context("forkserver")
    heavy = ["distilfast.train.trainer", "transformers.models.bert.modeling_bert"]
    context.set_forkserver_preload([*heavy, "transformers.models.distilbert.modeling_distilbert", "tensorboard"])
    common = {"OMP_NUM_THREADS": "1"} if gpu else {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    if ranks > 1:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    processes = []
    for rank in range(ranks):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
        processes.append(context.Process(target=rank_main, args=(str(output_dir), options, {**common, **own})))
        processes[-1].start()
    deadline = time.monotonic() + 120
    while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
        if any(process.exitcode not in (None, 0, 143) for process in processes):
            # As torchrun does: the others wait for one that is gone.
            time.sleep(0.2)
            break
    codes = []
    for process in processes:
        if process.is_alive():
            process.kill()
        process.join()
        codes.append(process.exitcode)
    return codes


def result(output_dir: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output_dir / f"result-{rank}.json").read_text())
    return found
