"""`tokenizers` 1.x in a process of its own, since `transformers` needs 0.2x in this one.

pip install --no-deps --target FOLDER tokenizers==1.0.0rc3
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from .._core import InputError
from .cores import available_cores, hold_to


class OtherProcess:
    """A process that tokenises with what `folder` holds and says how long it took."""

    def __init__(self, folder: str, json_path: Path) -> None:
        """Raises `InputError` where `folder` has no `tokenizers` 1.x."""
        paths = [folder, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(json_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
        self._known: list[Any] = []
        try:
            self.version: str = self._ask(("version",))
        except EOFError:
            raise InputError(f"--tokenizers_1 {folder}: the tokenizers there cannot be imported") from None
        if self.version.startswith("0."):
            self._process.kill()
            raise InputError(
                f"--tokenizers_1 {folder} holds no tokenizers 1.x (found {self.version}); fill it with "
                "pip install --no-deps --target FOLDER tokenizers==1.0.0rc3"
            )

    def encode(self, rows: list[str], threads: int) -> tuple[float, float]:
        """Encodes `rows` on as many cores; seconds by the wall clock and of the processor, without sending the rows."""
        seconds: tuple[float, float] = self._ask(("encode", self._number(rows), threads))
        return seconds

    def ids(self, rows: list[str]) -> list[list[int]]:
        found: list[list[int]] = self._ask(("ids", self._number(rows)))
        return found

    def _number(self, rows: list[str]) -> int:
        """The number by which the process knows `rows`; they are sent the first time."""
        for number, known in enumerate(self._known):
            if known is rows:
                return number
        self._ask(("rows", rows))
        self._known.append(rows)
        return len(self._known) - 1

    def _ask(self, message: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None
        return pickle.load(self._process.stdout)

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self._process.kill()
            self._process.wait()


def serve(json_path: str, source: BinaryIO, sink: BinaryIO) -> None:
    """What the other process does: answers messages until there are no more."""
    import tokenizers

    library: Any = tokenizers.Tokenizer.from_file(json_path)
    known: list[list[str]] = []
    cores = available_cores()

    def answer(kind: str, *rest: Any) -> Any:
        if kind == "version":
            return tokenizers.__version__
        if kind == "rows":
            known.append(rest[0])
            return None
        if kind == "ids":
            return [encoding.ids for encoding in library.encode_batch(known[rest[0]])]
        rows, threads = known[rest[0]], rest[1]
        hold_to(cores[:threads])
        wall, processor = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), 1000):
            library.encode_batch(rows[start : start + 1000])
        return time.perf_counter() - wall, time.process_time() - processor

    while True:
        try:
            message = pickle.load(source)
        except EOFError:
            return
        pickle.dump(answer(*message), sink)
        sink.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)
