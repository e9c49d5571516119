"""Valid calls of every command, each made wrong somewhere: flags, values, files, permissions, what stands in the way.

A call must end with exit code 0, or in one line and another exit code; never in a traceback, never without an end.
What it reads stays as it is, a refused call (exit code 2) leaves its folder as it found it, and nobody leaves hidden
folders.

    python tests/faults/mutate_commands.py --count 200 --seed 0 [COMMAND ...]

prints what did not hold, with the call. Each trial is a fork of this process in a folder of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))  # where it runs as a script

from command_material import add_special_files, material

OUT = "out"
SECONDS = 120.0
"""The longest a call of these sizes may take, on a busy machine."""

FEW_STEPS = "--max_steps 2 --save_steps 1 --logging_steps 1 --report_to none --disable_tqdm true --use_cpu true"
ROAD = f"--teacher teacher --max_length 48 --batch_tokens 256 {FEW_STEPS}"
VALID = {
    "prepare": f"--tokenizer vocab.txt --text text.txt --output_dir {OUT} --max_length 48 --disable_tqdm true",
    "train": f"{ROAD} --text text.txt --output_dir {OUT}",
    "train tokens": f"{ROAD} --tokens tokens --layers 1 --output_dir {OUT}",
    "evaluate": f"--teacher teacher --student student --text held_out.txt --speed false --pictures false "
    f"--device cpu --output_dir {OUT}",
    "evaluate rows": f"--teacher classifier --student classifier_2=classifier --validation_file rows.csv --speed false "
    f"--pictures false --device cpu --output_dir {OUT}",
    "export": f"--student student --output_dir {OUT}",
    "ablate": f"--text text.txt --held_out held_out.txt --teacher teacher --steps 1 --seeds 1 --max_length 48 "
    f"--device cpu --output_dir {OUT}",
    "train rows": f"--teacher classifier --train_file rows.csv --max_length 32 --per_device_train_batch_size 8 "
    f"{FEW_STEPS} --output_dir {OUT}",
    "trim": f"--model teacher --vocabulary 70 --text text.txt --output_dir {OUT}",
    "demo": "--text text.txt --vocab_size 90 --hidden_size 64 --layers 2 --teacher_steps 1 --student_steps 1 "
    f"--max_length 32 --batch_tokens 128 --disable_tqdm true --output_dir {OUT}",
    "bench tokenize": f"--vocab vocab.txt --text text.txt --megabytes 0.01 --slow_megabytes 0.01 --runs 1 --json {OUT}",
    "bench batches": f"--rows 200 --batch_tokens 1024 --rounds 1 --seconds 0.01 --plan_rows 200 --json {OUT}",
    "bench losses": "--device cpu --rows 8 --vocabularies 50 --hidden 8 --runs 1 --compile false --threads 1 "
    f"--json {OUT}",
    "bench train": "--size tiny --batch_tokens 512 --max_length 32 --batches 1 --rounds 1 --text text.txt --threads 1 "
    f"--json {OUT}",
}
LONG = ("demo", "bench batches", "bench losses", "bench train", "ablate")
"""Commands that take minutes or more where a flag that makes them short is left out."""
VALUES = [
    *("", "0", "1", "-1", "2", "7", "0.5", "nan", "inf", "-inf", "1e999", "99999999999999999999", "0x10", "none"),
    *("true", "False", "maybe", "auto", "all", "a b", "a,b", "é", "\udcff", "../..", "..", ".", "~", "/dev/null"),
    *("missing", "missing/deep", "teacher", "student", "vocab.txt", "text.txt", "rows.csv", "tokens", "pipe", "socket"),
    *("empty.txt", "empty", "binary.txt", "loop", "dangling", "x" * 260, "owner/name", "{}", "[1, 2]", "cpu", "cuda:9"),
]


Mutation = Callable[[random.Random, list[str], Path, list[str]], str]


def leave_out_a_flag(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    at = chance.choice([place for place, word in enumerate(argv) if word.startswith("--")])
    return f"without {' '.join(_cut(argv, at))}"


def _cut(argv: list[str], at: int) -> list[str]:
    end = next((place for place in range(at + 1, len(argv)) if argv[place].startswith("--")), len(argv))
    cut = argv[at:end]
    del argv[at:end]
    return cut


def another_value(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    at = chance.choice([place for place, word in enumerate(argv) if not word.startswith("--")])
    argv[at] = chance.choice(VALUES)
    return f"{argv[at - 1]} {argv[at]!r}"


def another_flag(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    argv += [chance.choice(flags), chance.choice(VALUES)]
    return f"{argv[-2]} {argv[-1]!r}"


def a_flag_twice(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    at = chance.choice([place for place, word in enumerate(argv) if word.startswith("--")])
    argv += [argv[at], chance.choice(VALUES)]
    return f"{argv[-2]} twice, {argv[-1]!r}"


def a_misspelling(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    at = chance.choice([place for place, word in enumerate(argv) if word.startswith("--")])
    letter = chance.randrange(2, len(argv[at]))
    argv[at] = argv[at][:letter] + chance.choice("xé_=") + argv[at][letter + 1 :]
    return argv[at]


def a_damaged_file(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_read(path, argv, folder))
    if not files:
        return another_value(chance, argv, folder, flags)
    path = chance.choice(files)
    content = path.read_bytes()
    how = chance.choice(["cut", "empty", "gone", "flipped", "folder", "random", "other", "link"])
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: chance.randrange(max(1, len(content)))])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        changed = bytearray(content)
        for _ in range(chance.randint(1, 8)):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
    elif how == "folder":
        path.mkdir()
    elif how == "random":
        path.write_bytes(chance.randbytes(chance.randint(1, 400)))
    elif how == "other":
        other = chance.choice([each for each in files if each != path] or [folder / "binary.txt"])
        path.write_bytes(other.read_bytes())
    elif how == "link":
        path.symlink_to(path.name)
    return f"{path.relative_to(folder)} {how}"


def _is_read(path: Path, argv: list[str], folder: Path) -> bool:
    return any(path == folder / word or folder / word in path.parents for word in argv if not word.startswith("-"))


def something_in_the_way(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    out = argv.index(output_flag(argv)) + 1
    how = chance.choice(
        ["file", "pipe", "full", "input", "holds input", "inside input", "link", "socket", "bytes", "long"]
    )
    if how == "file":
        (folder / OUT).write_text("mine")
    elif how == "pipe":
        os.mkfifo(folder / OUT)
    elif how == "full":
        (folder / OUT).mkdir()
        (folder / OUT / "mine.txt").write_text("mine")
    elif how == "link":
        (folder / OUT).symlink_to(chance.choice(["loop", "empty", "text.txt", "/dev/null"]))
    else:
        argv[out] = {
            "input": chance.choice(["teacher", "student", "text.txt", "classifier", "tokens"]),
            "holds input": chance.choice([".", "..", "teacher/.."]),
            "inside input": chance.choice(["teacher/out", "text.txt/out", "/dev/null", "/proc/out"]),
            "socket": "socket",
            "bytes": "o\udcff[1]*",
            "long": chance.choice(["o" * 255, "o" * 256, "/".join(["o" * 200] * 30)]),
        }[how]
    if chance.random() < 0.5 and "--overwrite" in flags:
        argv += ["--overwrite", "true"]
    return f"output: {how}, {' '.join(map(ascii, argv[out:]))}"


def output_flag(argv: list[str]) -> str:
    """The flag that names what is written: a folder, or the file of a bench."""
    return "--output_dir" if "--output_dir" in argv else "--json"


def a_place_not_to_be_written(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    """Files that may not grow past some bytes: what a full disk does to a write; root may do everything else."""
    argv.insert(0, f"ulimit={chance.choice([0, 100, 1000, 5000, 20000])}")
    return argv[0]


MUTATIONS: list[Mutation] = [
    leave_out_a_flag,
    another_value,
    another_value,
    another_flag,
    another_flag,
    another_flag,
    a_flag_twice,
    a_misspelling,
    a_damaged_file,
    a_damaged_file,
    something_in_the_way,
    something_in_the_way,
    a_place_not_to_be_written,
]


def flags_of(command: str) -> list[str]:
    """Every flag of a command."""
    import importlib

    from distilfast._command import source

    name, _, bench = command.partition(" ")
    module: Any = importlib.import_module(f"distilfast.{name}.__main__")
    described = module.BENCHES[bench] if name == "bench" else module.COMMAND
    stubs = [source.stub(f"distilfast.{reference}") for reference in described.options]
    return sorted({f"--{name}" for each in stubs for name in each.__dataclass_fields__})


def snapshot(folder: Path) -> dict[str, Any]:
    """What is in a folder: {path: mode and content}, links not followed."""
    found: dict[str, Any] = {}
    for root, names, files in os.walk(os.fsencode(folder)):
        for name in (*names, *files):
            path = os.path.join(root, name)
            mode = os.lstat(path).st_mode
            content = None
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                with open(path, "rb") as file:
                    content = hashlib.sha256(file.read()).digest()
            found[os.fsdecode(os.path.relpath(path, os.fsencode(folder)))] = (stat.S_IFMT(mode), content)
    return found


def call(argv: list[str], folder: Path) -> tuple[int | None, str]:
    """Exit code (None: it did not end) and standard error of `distilfast argv`, run in `folder`."""
    sys.stdout.flush()
    reading, writing = os.pipe()  # no file, which the limit on their size would stop
    child = os.fork()
    if child == 0:
        _become(argv, folder, writing)
    os.close(writing)
    said, deadline = b"", time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if select.select([reading], [], [], 1.0)[0]:
            block = os.read(reading, 1 << 16)
            said += block
            if not block:
                break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGKILL else code, said.decode(errors="replace")


def _become(argv: list[str], folder: Path, writing: int) -> None:
    """The rest of a forked process: the command, then its exit."""
    code = 70
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(writing, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", errors="backslashreplace")
        limit = None
        if argv[0].startswith("ulimit="):
            limit, argv = int(argv[0].partition("=")[2]), argv[1:]
        from distilfast.__main__ import main

        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            main(argv)
            code = 0
        except SystemExit as exited:
            code = exited.code if isinstance(exited.code, int) else int(exited.code is not None)
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def faults(code: int | None, said: str, before: dict[str, Any], after: dict[str, Any], output: str) -> Iterator[str]:
    """What an ended call did that it must not; `output` may be replaced, where the call says so and is good."""
    if code is None:
        yield f"did not end within {SECONDS:.0f} s"
    if "Traceback" in said:
        yield "a traceback"
    elif code is not None and code not in (0, 1, 2):
        yield f"exit code {code}"
    if code in (1, 2) and not any(line.startswith("error: ") or ": error: " in line for line in said.splitlines()):
        yield f"exit code {code} without a line that says why"
    lost = [name for name in before if after.get(name) != before[name]]
    if code == 0 or "the distilled student is not ahead" in said:  # of a demo, when all is done
        lost = [name for name in lost if name != output and not name.startswith(f"{output}/")]
    if lost:
        yield f"lost or changed: {', '.join(lost[:3])}"
    new = [name for name in after if name not in before]
    if code == 2 and new:
        yield f"left behind: {', '.join(new[:3])}"
    hidden = [name for name in new if name.endswith(".partial") or "/." in f"/{name}"]
    if hidden and code != 2:
        yield f"hidden and left behind: {', '.join(hidden[:3])}"


def trial(command: str, seed: int, source: Path, folder: Path) -> list[str]:
    """The faults of one mutated call, each a line that names it; `folder` is made and removed."""
    chance = random.Random(f"{command} {seed}")
    shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns("pipe", "socket", "loop", "dangling"))
    add_special_files(folder)
    argv = VALID[command].split()
    words = command.split() if command.startswith("bench") else command.split()[:1]
    mutation = chance.choice(MUTATIONS)
    if mutation is leave_out_a_flag and command in LONG:
        mutation = another_value
    how = mutation(chance, argv, folder, flags_of(" ".join(words)))
    before = snapshot(folder)
    limit = [argv.pop(0)] if argv[0].startswith("ulimit=") else []
    code, said = call([*limit, *words, *argv], folder)
    flag = output_flag(argv)
    named = [value for word, value in itertools.pairwise(argv) if word == flag]
    output = named[-1] if named else ""  # the last of two counts
    found = list(faults(code, said, before, snapshot(folder), output))
    shutil.rmtree(os.fsencode(folder))
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    return [f"{command} #{seed} ({how!a}): {fault}: {last[:300]!a}" for fault in found]


def run_trials(commands: list[str], seeds: range, folder: Path, progress: bool = False) -> list[str]:
    """Every fault of the trials `seeds` of each command, in `folder`."""
    source = folder / "material"
    material(source)
    found: list[str] = []
    for command in commands:
        for seed in seeds:
            faults_here = trial(command, seed, source, folder / "trial" / "work")
            found += faults_here
            if progress:
                for line in faults_here:
                    print(line, flush=True)
    return found


def prepare_process() -> None:
    """Everything heavy imported once, no threads that a fork would lose, no network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    import distilfast.ablate.run
    import distilfast.bench.batches
    import distilfast.bench.losses
    import distilfast.bench.tokenize
    import distilfast.bench.train
    import distilfast.demo.run
    import distilfast.evaluate.run
    import distilfast.export.run
    import distilfast.prepare.run
    import distilfast.train.run
    import distilfast.trim.run  # noqa: F401
    import torch

    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("commands", nargs="*", default=list(VALID))
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="number of the first trial")
    options = parser.parse_args()
    prepare_process()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(options.seed, options.seed + options.count)
        found = run_trials(options.commands, seeds, Path(folder), progress=True)
    print(json.dumps({"trials": options.count * len(options.commands), "faults": len(found)}), end=" ")
    print(f"in {time.monotonic() - started:.0f} s")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
