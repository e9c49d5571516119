"""Valid calls of every command, each made wrong somewhere: flags, values, files, permissions, what stands in the way.

A call must end with exit code 0, or in one line and another exit code; never in a traceback, never without an end.
What it reads stays as it is, a refused call (exit code 2) leaves its folder as it found it, and nobody leaves hidden
folders.

    python tests/faults/mutate_commands.py --count 200 --seed 0 [--accepted] [COMMAND ...]

prints what did not hold, with the call; with `--accepted` also which wrong calls ended well, and what they said: silly
ones among them should have been refused. Each trial is a fork of this process in a folder of its own.
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

from command_calls import LONG, OUT, VALID
from command_material import add_special_files, material
from mutate_rows import ENDINGS, change_rows

NOT_AHEAD = "the distilled student is not ahead"
"""What a demo of one step says when all is done, with exit code 1."""
EMPTY = hashlib.sha256().digest()
SECONDS = 120.0
"""The longest a call of these sizes may take, on a busy machine."""

VALUES = [
    *("", "0", "1", "-1", "2", "7", "0.5", "nan", "inf", "-inf", "1e999", "99999999999999999999", "0x10", "none"),
    *("true", "False", "maybe", "auto", "all", "a b", "a,b", "é", "\udcff", "../..", "..", ".", "~", "/dev/null"),
    *("missing", "missing/deep", "teacher", "student", "vocab.txt", "text.txt", "rows.csv", "tokens", "pipe", "socket"),
    *("empty.txt", "empty", "binary.txt", "loop", "dangling", "x" * 260, "owner/name", "{}", "[1, 2]", "cpu", "cuda:9"),
]


Mutation = Callable[[random.Random, list[str], Path, list[str]], str]


def as_it_is(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    return "as it is"


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


def other_rows(chance: random.Random, argv: list[str], folder: Path, flags: list[str]) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in ENDINGS and _is_read(path, argv, folder))
    return change_rows(chance, chance.choice(files)) if files else another_flag(chance, argv, folder, flags)


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
    other_rows,
    other_rows,
    other_rows,
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


def call(argv: list[str], folder: Path, output: bool = False) -> tuple[int | None, str]:
    """Exit code (None: it did not end) and standard error (with `output` standard output too) of `distilfast argv`, run
    in `folder`."""
    sys.stdout.flush()
    reading, writing = os.pipe()  # no file, which the limit on their size would stop
    child = os.fork()
    if child == 0:
        _become(argv, folder, writing, writing if output else os.open(os.devnull, os.O_WRONLY))
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


def _become(argv: list[str], folder: Path, errors: int, output: int) -> None:
    """The rest of a forked process: the command, with these as standard error and output, then its exit."""
    code = 70
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(errors, 2)
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


def faults(code: int | None, said: str, before: dict[str, Any], after: dict[str, Any], replaced: str) -> Iterator[str]:
    """What an ended call did that it must not; `replaced`: the output that it may replace if it is good."""
    if code is None:
        yield f"did not end within {SECONDS:.0f} s"
    if "Traceback" in said:
        yield "a traceback"
    elif code is not None and code not in (0, 1, 2):
        yield f"exit code {code}"
    if code in (1, 2) and not any(line.startswith("error: ") or ": error: " in line for line in said.splitlines()):
        yield f"exit code {code} without a line that says why"
    lost = [name for name in before if after.get(name) != before[name] and before[name][1] != EMPTY]
    if code == 0 or NOT_AHEAD in said:
        lost = [name for name in lost if name != replaced and not name.startswith(f"{replaced}/")]
    if lost:
        yield f"lost or changed: {', '.join(lost[:3])}"
    new = [name for name in after if name not in before]
    if code == 2 and new:
        yield f"left behind: {', '.join(new[:3])}"
    hidden = [name for name in new if name.endswith(".partial") or "/." in f"/{name}"]
    if hidden and code != 2:
        yield f"hidden and left behind: {', '.join(hidden[:3])}"


def trial(command: str, seed: int, source: Path, folder: Path, accepted: bool = False) -> list[str]:
    """The faults of one mutated call, each a line that names it; `folder` is made and removed. `accepted`: print the
    call where it ended well. A `seed` below 0 is the valid call itself, which must end well."""
    chance = random.Random(f"{command} {seed}")
    mutation = chance.choice(MUTATIONS) if seed >= 0 else as_it_is
    shutil.copytree(source, folder, symlinks=True, ignore=shutil.ignore_patterns("pipe", "socket", "loop", "dangling"))
    add_special_files(folder)
    argv = VALID[command].split()
    words = command.split() if command.startswith("bench") else command.split()[:1]
    if mutation is leave_out_a_flag and command in LONG:
        mutation = another_value
    how = mutation(chance, argv, folder, flags_of(" ".join(words)))
    before = snapshot(folder)
    limit = [argv.pop(0)] if argv[0].startswith("ulimit=") else []
    code, said = call([*limit, *words, *argv], folder, accepted)
    flag = output_flag(argv)
    named = [value for word, value in itertools.pairwise(argv) if word == flag]
    replaced = named[-1] if named and "--overwrite" in argv else ""  # the last of two counts
    found = list(faults(code, said, before, snapshot(folder), replaced))
    if limit and command == "ablate" and call([*words, *argv], folder)[0] == 0:
        # A study that a full disk stopped keeps what it has, and the same call goes on with it.
        found = [fault for fault in found if not fault.startswith("left behind")]
    shutil.rmtree(os.fsencode(folder))
    if accepted and code == 0:
        print(f"accepted: {command} #{seed} ({how!a}): {said[:1200]!a} ... {said[-300:]!a}", flush=True)
    if mutation is as_it_is and code != 0 and NOT_AHEAD not in said:
        found.append(f"refused, exit code {code}")
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    return [f"{command} #{seed} ({how!a}): {fault}: {last[:300]!a}" for fault in found]


def run_trials(commands: list[str], seeds: range, folder: Path, accepted: bool) -> int:
    """Prints every fault of the trials `seeds` of each command, made in `folder`; returns how many there are."""
    source = folder / "material"
    material(source)
    count = 0
    for command in commands:
        for seed in (-1, *seeds):
            for line in trial(command, seed, source, folder / "trial" / "work", accepted):
                count += 1
                print(line, flush=True)
    return count


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
    parser.add_argument("--accepted", action="store_true", help="also print the calls that ended well")
    options = parser.parse_args()
    prepare_process()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(options.seed, options.seed + options.count)
        found = run_trials(options.commands, seeds, Path(folder), options.accepted)
    print(json.dumps({"trials": options.count * len(options.commands), "faults": found}), end=" ")
    print(f"in {time.monotonic() - started:.0f} s")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
