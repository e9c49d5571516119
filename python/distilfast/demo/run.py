"""`python -m distilfast.demo`: the whole road in minutes, with no download and no GPU.

Makes a teacher out of the English on this machine, distils it to half its layers, trains the same student without the
teacher beside it, and compares the three on held-out text. Each stage does what a command does, and prints it.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._command import REQUIRED, changed, flag, parse
from .._core import InputError
from .._files import refuse_occupied, write_json, write_text
from ..metrics.markdown import number, percent, table
from ..prepare.sources import find_text_files
from ..prepare.text import read_texts
from .text import demo_text

HELD_OUT = 20  # every so many paragraphs, one is held out
NAMES = {"teacher": "teacher", "distilled": "student, distilled", "scratch": "student, from scratch"}


@dataclass
class DemoArguments:
    """Flags of `python -m distilfast.demo`."""

    output_dir: str = flag(REQUIRED, "directory for text, models, table and picture; must not hold anything")
    text: list[str] | None = flag(None, "text files of your own, instead of the docstrings of this Python's packages")
    megabytes: float = flag(4.0, "how much text to collect")
    vocab_size: int = flag(2048, "size of the WordPiece vocabulary")
    hidden_size: int = flag(128, "width of the models, a multiple of 64")
    layers: int = flag(4, "layers of the teacher, an even number; the students have half")
    teacher_steps: int = flag(700, "steps of pretraining the teacher")
    student_steps: int = flag(200, "steps of training each student")
    max_length: int = flag(64, "most tokens of a row")
    batch_tokens: int = flag(1024, "tokens of a batch")
    seed: int = flag(0, "seed of weights, batches and masks")
    overwrite: bool = flag(False, "empty output_dir first")
    disable_tqdm: bool = flag(False, "no progress bars")


def demo(arguments: DemoArguments) -> dict[str, Any]:
    """Runs all stages in `output_dir` and returns what `demo.json` holds: `rows`, `seconds`, `stages`, `picture`.

    Raises `InputError`, with nothing left in `output_dir`, for sizes that make no models, for too little text, and an
    `output_dir` that holds something.
    """
    _check(arguments)
    reads = [] if arguments.text is None else find_text_files(arguments.text)
    folder = refuse_occupied(arguments.output_dir, arguments.overwrite, reads)
    if arguments.text is not None:
        read_texts(arguments.text)  # what is wrong with it is said before anything is removed
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    try:
        return _run_stages(arguments, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # whole or not there
        raise


def _run_stages(arguments: DemoArguments, folder: Path) -> dict[str, Any]:
    started = time.perf_counter()
    stages: dict[str, float] = {}
    for stage in (make_text, make_vocabulary, make_tokens, pretrain_teacher, distil_student, train_from_scratch):
        begun = time.perf_counter()
        stage(arguments, folder)
        stages[stage.__name__] = time.perf_counter() - begun
    begun = time.perf_counter()
    rows = compare(arguments, folder)
    stages["compare"] = time.perf_counter() - begun

    picture = draw(folder)
    result = {"rows": rows, "seconds": time.perf_counter() - started, "stages": stages, "picture": picture}
    write_json(folder / "demo.json", result)
    write_text(folder / "demo.md", report(rows) + "\n")
    return result


def make_text(arguments: DemoArguments, folder: Path) -> None:
    """`train.txt` and `held_out.txt`: paragraphs, one a line."""
    _say("text: docstrings of this Python and its packages" if arguments.text is None else "text: your files")
    if arguments.text is None:
        lines = demo_text(arguments.megabytes)
    else:
        lines = read_texts(arguments.text)
        lines = [" ".join(line.split()) for line in dict.fromkeys(lines)]
    held_out = lines[::HELD_OUT]
    train = [line for index, line in enumerate(lines) if index % HELD_OUT]
    write_text(folder / "train.txt", "\n".join(train) + "\n")
    write_text(folder / "held_out.txt", "\n".join(held_out) + "\n")
    print(f"{sum(map(len, lines)) / 1e6:.1f} MB, {len(lines):,} paragraphs, {len(held_out):,} of them held out")


def make_vocabulary(arguments: DemoArguments, folder: Path) -> None:
    """`vocab.txt`: a WordPiece vocabulary of the training text."""
    from tokenizers import BertWordPieceTokenizer

    _say(f"vocabulary: WordPiece, {arguments.vocab_size:,} tokens")
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train([str(folder / "train.txt")], vocab_size=arguments.vocab_size, show_progress=False)
    tokenizer.save_model(str(folder))


def make_tokens(arguments: DemoArguments, folder: Path) -> None:
    """`tokens/`: the training text prepared."""
    from ..prepare.run import prepare

    flags = {
        "text": folder / "train.txt",
        "tokenizer": folder / "vocab.txt",
        "output_dir": folder / "tokens",
        "max_length": arguments.max_length,
        "disable_tqdm": arguments.disable_tqdm,
    }
    _say_command("tokens", "prepare", flags)
    prepare(
        folder / "tokens",
        folder / "vocab.txt",
        [folder / "train.txt"],
        max_length=arguments.max_length,
        progress=not arguments.disable_tqdm,
    )


def pretrain_teacher(arguments: DemoArguments, folder: Path) -> None:
    """`teacher/`: a ModernBERT of this size, trained on the masked-language-model loss alone.

    With norms before each layer and rotary positions it learns to use the words around a mask within the few hundred
    steps there is time for. A BERT of the same size does not: it knows how often each token occurs, and a student can
    learn no more than that from it.
    """
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    cls, sep = vocabulary.index("[CLS]"), vocabulary.index("[SEP]")
    config = {
        "model_type": "modernbert",
        "vocab_size": len(vocabulary),
        "hidden_size": arguments.hidden_size,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.hidden_size // 64,
        "intermediate_size": 2 * arguments.hidden_size,  # of gate and value each
        "max_position_embeddings": arguments.max_length,
        "initializer_range": 0.05,  # 0.02 is meant for models six times as wide
        "cls_token_id": cls,
        "sep_token_id": sep,
        "bos_token_id": cls,
        "eos_token_id": sep,
    }
    write_json(folder / "teacher.json", config)
    flags = {"student_config": str(folder / "teacher.json"), "output_dir": folder / "teacher"}
    _train("teacher: pretrained on the masked-language-model loss", flags, arguments.teacher_steps, arguments, folder)


def distil_student(arguments: DemoArguments, folder: Path) -> None:
    """`distilled/`: every other layer of the teacher, trained on KL, MLM and cosine."""
    flags = {"teacher": folder / "teacher", "output_dir": folder / "distilled"}
    _train("student: half the teacher's layers, distilled", flags, arguments.student_steps, arguments, folder)


def train_from_scratch(arguments: DemoArguments, folder: Path) -> None:
    """`scratch/`: the same student from random weights, on the MLM loss alone, for the same steps."""
    flags = {"student_config": str(folder / "distilled" / "config.json"), "output_dir": folder / "scratch"}
    _train("for comparison: the same student without a teacher", flags, arguments.student_steps, arguments, folder)


def compare(arguments: DemoArguments, folder: Path) -> list[dict[str, Any]]:
    """The table's rows, one a model: quality on `held_out.txt`, size, latency; also in `evaluation/`."""
    from ..evaluate.options import EvaluateOptions
    from ..evaluate.run import run_evaluation

    options = EvaluateOptions(
        teacher=f"teacher={folder / 'teacher'}",
        student=[f"{name}={folder / name}" for name in NAMES if name != "teacher"],
        output_dir=str(folder / "evaluation"),
        text=[str(folder / "held_out.txt")],
        max_length=arguments.max_length,
        speed_length=arguments.max_length,
        pictures=False,
        device="cpu",
    )
    students = " ".join(f"--student {shlex.quote(student)}" for student in options.student)
    _say("held-out text")
    print(f"$ python -m distilfast.evaluate --teacher {options.teacher} {students} --text {options.text[0]} ...")
    evaluation = run_evaluation(options)
    best = evaluation["held_out"]["held_out"]["models"]["teacher"]["mlm_accuracy"]
    rows = []
    for name in NAMES:
        scores, model = evaluation["held_out"]["held_out"]["models"][name], evaluation["models"][name]
        rows.append(
            {
                "name": name,
                "mlm_loss": scores["mlm_loss"],
                "mlm_accuracy": scores["mlm_accuracy"],
                "kept": scores["mlm_accuracy"] / best if best else 0.0,
                "agreement": scores["agreement"],
                "parameters": model["parameters"],
                "latency_ms": model["speed"]["cpu"]["latency_ms"],
            }
        )
    return rows


def draw(folder: Path) -> str | None:
    """`losses.png` from the logs of the three runs; None where matplotlib is not installed."""
    from ..evaluate.pictures import draw_losses

    logs = {name: json.loads((folder / name / "train_summary.json").read_text())["log"] for name in NAMES}

    def curves(key: str) -> dict[str, list[tuple[int, float]]]:
        found = {NAMES[name]: [(line["step"], line[key]) for line in log if key in line] for name, log in logs.items()}
        return {name: curve for name, curve in found.items() if curve}

    panels = {
        "masked-language-model loss": curves("loss_mlm"),
        "KL to the teacher": curves("loss_ce"),
        "cosine": curves("loss_cos"),
    }
    drawn = draw_losses({title: rows for title, rows in panels.items() if rows}, folder / "losses.png")
    return str(folder / drawn[0]) if drawn else None


def is_ahead(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether the distilled student has the lower loss and the higher accuracy of the two students."""
    distilled, scratch = rows[1], rows[2]
    return bool(distilled["mlm_loss"] < scratch["mlm_loss"] and distilled["mlm_accuracy"] > scratch["mlm_accuracy"])


def report(rows: Sequence[dict[str, Any]]) -> str:
    """The table and what it says, as Markdown."""
    teacher = rows[0]
    header = [
        "model",
        "MLM loss",
        "accuracy",
        "of teacher's",
        "top-1 as teacher",
        "parameters",
        "latency ms",
        "speed-up",
    ]
    cells = [
        [
            NAMES[row["name"]],
            number(row["mlm_loss"], 3),
            percent(row["mlm_accuracy"]),
            percent(row["kept"]),
            percent(row["agreement"]),
            f"{row['parameters']:,}",
            number(row["latency_ms"], 2),
            f"{teacher['latency_ms'] / row['latency_ms']:.2f}",
        ]
        for row in rows
    ]
    distilled, scratch = rows[1], rows[2]
    verdict = (
        f"The distilled student keeps {percent(distilled['kept'])} of the teacher's accuracy at masked tokens, the "
        f"same student without a teacher {percent(scratch['kept'])}."
        if is_ahead(rows)
        else "The distilled student is not ahead of the one without a teacher: these runs are too short to tell."
    )
    return f"{table(header, cells)}\n\n{verdict}"


def main(argv: Sequence[str] | None = None) -> None:
    (arguments,) = parse([DemoArguments], argv)
    from ..models.load import quiet

    quiet()
    result = demo(arguments)
    print(f"\n{report(result['rows'])}\n")
    print(f"{result['seconds']:.0f} s; everything is in {arguments.output_dir}", end="")
    print(f", the curves in {result['picture']}" if result["picture"] else "")
    if not is_ahead(result["rows"]):
        print("error: the distilled student is not ahead of the one from scratch", file=sys.stderr)
        raise SystemExit(1)


def _train(title: str, flags: dict[str, Any], steps: int, arguments: DemoArguments, folder: Path) -> None:
    import torch

    from ..train.run import distil

    shared = {
        "max_steps": steps,
        "learning_rate": 2e-3,  # small models take, and in so few steps need, a larger one than the published 5e-4
        "warmup_steps": 0.1,
        "max_length": arguments.max_length,
        "batch_tokens": arguments.batch_tokens,
        "mlm_mask_prop": 0.2,
        "precision": "fp32",  # for matrices this small, casting costs more than bfloat16 saves
        "logging_steps": max(1, steps // 30),
        "seed": arguments.seed,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": arguments.disable_tqdm,
    }
    # On matrices this small, threads mostly wait for each other as soon as a core has other work.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        values = flags | shared
        _say_command(title, "train", {"tokens": folder / "tokens", **values})
        teacher, output_dir = values.pop("teacher", None), values.pop("output_dir")
        distil(teacher, folder / "tokens", output_dir, **values)
    finally:
        torch.set_num_threads(threads)


def _say_command(title: str, name: str, flags: dict[str, Any]) -> None:
    """Prints what one would type for what is done now."""
    _say(title)
    given = [part for flag, value in flags.items() if value is not False for part in (f"--{flag}", str(value))]
    print("$ " + shlex.join(["python", "-m", f"distilfast.{name}", *given]), flush=True)


def _say(title: str) -> None:
    print(f"\n== {title}", flush=True)


def _check(arguments: DemoArguments) -> None:
    if arguments.text is not None and "megabytes" in changed(arguments):
        raise InputError(
            f"--megabytes {arguments.megabytes:g} does nothing with --text, all of which is read; leave it out"
        )
    if arguments.hidden_size < 64 or arguments.hidden_size % 64:
        raise InputError(f"--hidden_size {arguments.hidden_size}: must be a multiple of 64, the width of a head")
    if arguments.layers < 2 or arguments.layers % 2:
        raise InputError(f"--layers {arguments.layers}: must be even, so that the student can have half")
    for name in ("teacher_steps", "student_steps", "megabytes"):
        if not getattr(arguments, name) > 0:
            raise InputError(f"--{name} {getattr(arguments, name)}: must be above 0")
