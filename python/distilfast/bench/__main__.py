"""`distilfast bench`, `python -m distilfast.bench` tokenize | batches | losses | train, each with its own `--help`."""

from __future__ import annotations

from collections.abc import Sequence

from .._command import Command, choose

BENCHES = {
    command.name.removeprefix("bench "): command
    for command in (
        Command(
            "bench tokenize",
            "Text to token ids: MB/s and tokens/s against tokenizers, transformers and other tokenisers.",
            "bench.tokenize:main",
            ("bench.tokenize:TokenizeBenchArguments",),
        ),
        Command(
            "bench batches",
            "Token ids to masked batches: tokens/s and padding against the usual collator and packers.",
            "bench.batches:main",
            ("bench.batches:Arguments",),
        ),
        Command(
            "bench losses",
            "Loss and gradient: time, bandwidth and memory against eager PyTorch and torch.compile.",
            "bench.losses:main",
            ("bench.losses:LossesBenchArguments",),
        ),
        Command(
            "bench train",
            "The whole training step of each head: tokens/s and memory against the usual way and its best settings.",
            "bench.train:main",
            ("bench.train:TrainBench",),
        ),
    )
}


def start(argv: Sequence[str] | None = None, program: str = "python -m distilfast.bench") -> None:
    """Runs the bench that `argv` names."""
    summaries = {name: command.description for name, command in BENCHES.items()}
    name, rest = choose(summaries, argv, program, "What is measured, on the machine at hand.")
    BENCHES[name].start(rest, f"{program} {name}")


if __name__ == "__main__":
    start()
