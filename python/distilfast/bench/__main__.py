"""`python -m distilfast.bench tokenize | batches | losses | train`, each with its own `--help`."""

from __future__ import annotations

import importlib
import sys

from .._command import run

BENCHES = {
    "tokenize": "text to token ids: MB/s and tokens/s against tokenizers, transformers and other tokenisers",
    "batches": "token ids to masked batches: tokens/s and padding against the usual collator and packers",
    "losses": "loss and gradient: time, bandwidth and memory against eager PyTorch and torch.compile",
    "train": "the whole training step: tokens/s and memory against a plain loop and its best settings",
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
        lines = "\n".join(f"  {name:9} {what}" for name, what in BENCHES.items())
        asked_for_help = len(sys.argv) > 1 and sys.argv[1] in ("-h", "--help")
        print(
            f"usage: python -m distilfast.bench NAME [options]\n\n{lines}",
            file=sys.stdout if asked_for_help else sys.stderr,
        )
        raise SystemExit(0 if asked_for_help else 2)
    name = sys.argv.pop(1)
    sys.argv[0] = f"python -m distilfast.bench {name}"
    importlib.import_module(f"distilfast.bench.{name}").main()


if __name__ == "__main__":
    run(main)
