"""`python -m distilfast.ablate`: which part of the method earns the quality, on your text and at your budget.

The full loss, and the same without its KL, its cosine, its masked-LM part, and from random initialisation; each with
the same steps, the same batches in the same order and the same seeds. With --controls also what the teacher's layers
are worth without its losses.
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from transformers import BertConfig

from .._command import REQUIRED, changed, flag, given, idle, parse, refuse_idle, refuse_unread
from .._core import InputError
from .._files import may_be_folder, refuse_occupied, write_json, write_text
from ..evaluate.cells import claim, model_fingerprint
from ..evaluate.options import EvaluateOptions
from ..evaluate.published import ABLATION
from ..evaluate.scores import parse_tasks, task_report
from ..evaluate.texts import text_scores
from ..metrics.held_out import pick_device
from ..models.load import existing, load_teacher, quiet
from ..prepare.directory import load_tokens
from ..prepare.run import prepare
from ..prepare.text import read_texts
from ..train.arguments import DistillationArguments
from ..train.inputs import KINDS, LOSSES
from ..train.output import SUMMARY
from ..train.run import cut_student, distil
from .report import METRICS, ablation_markdown, draw_deltas

FULL = "full"
# Options of `distil` that make each variant; they win over all others.
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "no_kl": {"alpha_ce": 0.0},
    "no_cosine": {"alpha_cos": 0.0},
    "no_mlm": {"alpha_mlm": 0.0},
    "random_init": {"init": "random"},
}
# With --controls: the student cut from the teacher and trained on the masked-LM loss alone, and the cut as it is.
CUT = "cut"
CONTROLS: dict[str, dict[str, Any]] = {"mlm_only": {"alpha_ce": 0.0, "alpha_cos": 0.0}, CUT: {}}
OURS = ("teacher", "text", "tokens", "output_dir", "seed", "data_seed", "max_steps", "overwrite", "init", "config")
TEACHER = "teacher"


@dataclass
class AblateOptions:
    """Flags of `python -m distilfast.ablate`."""

    output_dir: str = flag(REQUIRED, "Where students, ablate.md, ablate.json go; what is finished is kept.")
    held_out: list[str] = flag(REQUIRED, "Text files to judge on, UTF-8; none of the text trained on.")
    text: list[str] = flag([], "Text to train on: files as prepare takes them.")
    tokens: str | None = flag(None, "Instead of --text: a directory of python -m distilfast.prepare.")
    teacher: str | None = flag(None, "Teacher: a directory or hub id. Without one, a small BERT is pretrained first.")
    tokenizer: str | None = flag(None, "vocab.txt or tokenizer.json for --text without --teacher.")
    teacher_layers: int = flag(4, "Layers of the teacher that is pretrained.")
    teacher_hidden: int = flag(128, "Its hidden size, a multiple of 64.")
    teacher_steps: int = flag(1000, "Its steps.")
    steps: int = flag(500, "Steps of every student.")
    seeds: int = flag(3, "Seeds, each with its own order of batches and random weights.")
    controls: bool = flag(
        False, "Also: cut from the teacher and trained on the masked-LM loss alone; cut and not trained."
    )
    train_flags: str = flag("", 'Flags for every run of python -m distilfast.train, as "--batch_tokens 4096".')
    max_length: int = flag(512, "Longest example in tokens, in training and held out.")
    max_lines: int | None = flag(None, "Use this many held-out lines at most.")
    tasks: str | None = flag(None, "Also judge on tasks, comma-separated, as the published study did on GLUE.")
    data_dir: str | None = flag(None, "Folder with the task folders; without it, the hub.")
    task_seeds: int = flag(1, "Fine-tuning seeds of each student and task.")
    task_learning_rate: float | None = flag(None, "Of fine-tuning; else the published.")
    task_epochs: float | None = flag(None, "Of fine-tuning; else 3.")
    max_train_rows: int | None = flag(None, "Fine-tune on this many rows at most.")
    max_dev_rows: int | None = flag(None, "Score tasks on this many rows at most.")
    task_bf16: bool = flag(False, "Fine-tune in bfloat16.")
    device: str = flag("auto", "Where quality is evaluated: auto, cpu, cuda, cuda:1.")
    pictures: bool = flag(True, "Draw ablation.png.")


OF_TASKS = (
    *("data_dir", "task_seeds", "task_learning_rate", "task_epochs"),
    *("max_train_rows", "max_dev_rows", "task_bf16"),
)
OF_TEACHER = ("teacher_layers", "teacher_hidden", "teacher_steps")


@dataclass(frozen=True)
class Run:
    """One student. variant: a key of `VARIANTS` or `CONTROLS`."""

    variant: str
    seed: int

    @property
    def name(self) -> str:
        """Its name in folder and report; what is cut and not trained is the same for every seed."""
        return CUT if self.variant == CUT else f"{self.variant}-seed{self.seed}"


def run_ablation(options: AblateOptions) -> dict[str, Any]:
    """The whole study as JSON-ready values; writes `ablate.json`, `ablate.md` and `ablation.png`."""
    was_there = may_be_folder(options.output_dir)
    flags, settings = _check(options)
    folder = Path(options.output_dir)
    reads = [*options.held_out, *options.text, options.tokens, options.teacher, options.tokenizer]
    for made in ("students", *([] if options.teacher else [TEACHER])):
        refuse_occupied(folder / made, True, reads)
    try:
        tokens = prepared_tokens(options, folder)
    except Exception:
        if not was_there:  # a refusal leaves nothing
            (folder / "tokens.lock").unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
        raise
    teacher = options.teacher or str(pretrained_teacher(options, folder, tokens, settings))
    variants = [*VARIANTS, *(CONTROLS if options.controls else ())]
    named = {run.name: run for seed in range(options.seeds) for variant in variants for run in [Run(variant, seed)]}
    runs = list(named.values())
    conditions = {
        "teacher": model_fingerprint(teacher),
        "tokens": json.loads((Path(tokens) / "tokens.json").read_text(encoding="utf-8")).get("files"),
        "steps": options.steps,
        "max_length": options.max_length,
        "train_flags": flags,
    }
    finished = [run for run in runs if train(run, options, folder, teacher, tokens, settings, conditions)]
    if len(finished) < len(runs):
        raise InputError(
            f"{len(runs) - len(finished)} students are being trained by other processes; run this again when they end"
        )
    paths = {TEACHER: teacher} | {name: str(_student(folder, run)) for name, run in named.items()}
    judged = judge(paths, options, folder)
    report = {
        "format": 1,
        "steps": options.steps,
        "seeds": options.seeds,
        "teacher": teacher,
        "train_flags": flags,
        **judged,
        "runs": {variant: [run.name for run in runs if run.variant == variant] for variant in variants},
        "deltas": deltas(judged["scores"], options.seeds, variants),
        "published": ABLATION,
    }
    report["pictures"] = draw_deltas(report, folder / "ablation.png") if options.pictures else []
    write_json(folder / "ablate.json", report)
    write_text(folder / "ablate.md", ablation_markdown(report))
    return report


def _check(options: AblateOptions) -> tuple[list[str], dict[str, Any]]:
    """The flags for training and their values, once all flags are known to make sense."""
    if bool(options.text) == (options.tokens is not None):
        raise InputError("give the text to train on, either raw with --text or prepared with --tokens, and not both")
    if options.text and options.teacher is None and options.tokenizer is None:
        raise InputError("--text without --teacher needs --tokenizer, a vocab.txt or tokenizer.json")
    named = changed(options)
    refuse_idle(named, ((("tasks",), OF_TASKS), (("text",), ("tokenizer",))), partial(getattr, options))
    if options.teacher is not None:
        refuse_unread(named, dict.fromkeys(OF_TEACHER, "with --teacher, which is there; leave it out"))
        existing(options.teacher)
        load_teacher(options.teacher, "masked_lm")  # what is wrong with it is said before anything is written
    read_texts(options.held_out, options.max_lines)
    for name in ("steps", "seeds", "teacher_layers", "teacher_hidden", "teacher_steps", "task_seeds"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} is {getattr(options, name)}; at least 1 is needed")
    if options.teacher is None and options.teacher_hidden % 64:
        raise InputError(
            f"--teacher_hidden is {options.teacher_hidden}; it must be a multiple of 64, the width of a head"
        )
    if options.tasks is not None:
        parse_tasks(options.tasks)
    try:
        flags = shlex.split(options.train_flags)
    except ValueError as error:
        raise InputError(f"--train_flags {options.train_flags!r}: {error}") from None
    for word in flags:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_")
        if word.startswith("--") and name in OURS:
            raise InputError(f"--train_flags: {word} is set by the study itself; leave it out")
    return flags, given(KINDS, flags)


def prepared_tokens(options: AblateOptions, folder: Path) -> str:
    """The prepared directory; from --text it is made once, inside `folder`."""
    if options.tokens is not None:
        load_tokens(options.tokens)
        return options.tokens
    made = folder / "tokens"
    with claim(made, wait=True):
        if not made.is_dir():
            tokenizer = options.tokenizer or options.teacher
            assert tokenizer is not None
            prepare(made, tokenizer, options.text, max_length=options.max_length, progress=False)
    load_tokens(made)
    return str(made)


def pretrained_teacher(options: AblateOptions, folder: Path, tokens: str, settings: Mapping[str, Any]) -> Path:
    """A small BERT, pretrained on the same text with the masked-LM loss; made once, inside `folder`."""
    made = folder / TEACHER
    with claim(made, wait=True):
        if not (made / SUMMARY).is_file():
            tokenizer = load_tokens(tokens).tokenizer
            config = BertConfig(
                vocab_size=tokenizer.vocab_size,
                pad_token_id=tokenizer.pad_id,
                hidden_size=options.teacher_hidden,
                num_hidden_layers=options.teacher_layers,
                num_attention_heads=options.teacher_hidden // 64,
                intermediate_size=4 * options.teacher_hidden,
                max_position_embeddings=max(512, options.max_length),
                architectures=["BertForMaskedLM"],
            )
            write_text(folder / "teacher_config.json", config.to_json_string())
            values = _common(options, settings) | {"max_steps": options.teacher_steps, "seed": 0}
            losses = {"alpha_ce": 0.0, "alpha_cos": 0.0, "alpha_mlm": 1.0}
            config_file = str(folder / "teacher_config.json")
            distil(None, tokens, made, student_config=config_file, **_without_idle(values | losses))
    return made


def _common(options: AblateOptions, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What every run is told: `settings`, over the length, over what keeps it quiet."""
    quiet_run = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "overwrite": True}
    return {**quiet_run, "max_length": options.max_length, **settings}


def _without_idle(values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` without those that only losses read which have no weight: a variant leaves out some."""
    weights = {each.name: each.default for each in fields(DistillationArguments)} | dict(values)
    unread = idle(LOSSES, weights.get)
    return {name: value for name, value in values.items() if name not in unread}


def _student(folder: Path, run: Run) -> Path:
    return folder / "students" / run.name


def train(
    run: Run,
    options: AblateOptions,
    folder: Path,
    teacher: str,
    tokens: str,
    settings: Mapping[str, Any],
    conditions: Mapping[str, Any],
) -> bool:
    """Trains the student unless it is finished; False where another process is at it.

    Raises `InputError`, naming the difference, where a finished one was made under other conditions.
    """
    output = _student(folder, run)
    kept = output / "ablation.json"
    with claim(output) as claimed:
        if kept.is_file():
            found = json.loads(kept.read_text(encoding="utf-8"))
            different = [key for key in conditions if found.get(key) != conditions[key]]
            if different:
                said = ", ".join(f"{key} {found.get(key)} where {conditions[key]} is asked for" for key in different)
                raise InputError(f"{output} was made with other settings: {said}; use another --output_dir")
            return True
        if not claimed:
            return False
        values = _common(options, settings) | {"max_steps": options.steps, "seed": run.seed}
        values = _without_idle(values | (VARIANTS | CONTROLS)[run.variant])
        if run.variant == CUT:
            cut_student(teacher, tokens, output, **values)
        else:
            print(f"{run.name}: {options.steps} steps", flush=True)
            distil(teacher, tokens, output, **values)
        write_json(kept, conditions)
    return True


def judge(paths: Mapping[str, str], options: AblateOptions, folder: Path) -> dict[str, Any]:
    """{"held_out": facts, "scores": {name: {metric: value}}} of the teacher and every student."""
    evaluation = EvaluateOptions(
        teacher=TEACHER,
        output_dir=str(folder),
        max_length=options.max_length,
        device=options.device,
        controls=False,
        tasks=options.tasks,
        data_dir=options.data_dir,
        seeds=options.task_seeds,
        learning_rate=options.task_learning_rate,
        epochs=options.task_epochs,
        max_train_rows=options.max_train_rows,
        max_dev_rows=options.max_dev_rows,
        bf16=options.task_bf16,
    )
    lines = read_texts(options.held_out, options.max_lines)
    held_out = text_scores(paths, TEACHER, evaluation, {"held_out": lines})["held_out"]
    models = held_out.pop("models")
    scores: dict[str, dict[str, float]] = {
        name: {
            "mlm_loss": found["mlm_loss"],
            "mlm_accuracy": 100 * found["mlm_accuracy"],
            "agreement": 100 * found["agreement"],
            "kl": found["kl"],
        }
        for name, found in models.items()
    }
    judged: dict[str, Any] = {"held_out": held_out, "scores": scores}
    if options.tasks is not None:
        found, missing = task_report(paths, evaluation, folder, pick_device(options.device))
        if missing:
            raise InputError(f"{len(missing)} task cells are run by other processes; run the same again when they end")
        for name in scores:
            medians = [task["rows"][name]["median"] for task in found["tasks"].values()]
            scores[name]["tasks"] = statistics.fmean(medians)
        judged["tasks"] = found["tasks"]
    return judged


def deltas(
    scores: Mapping[str, Mapping[str, float]], seeds: int, variants: Sequence[str] = tuple(VARIANTS)
) -> dict[str, dict[str, list[float]]]:
    """{variant: {metric: its value less that of the full loss with the same seed, for each seed}}."""
    return {
        variant: {
            metric: [scores[Run(variant, i).name][metric] - scores[Run(FULL, i).name][metric] for i in range(seeds)]
            for metric in METRICS
            if metric in scores[Run(FULL, 0).name]
        }
        for variant in variants
        if variant != FULL
    }


def main(argv: Sequence[str] | None = None) -> None:
    (options,) = parse([AblateOptions], argv)
    quiet()
    print(ablation_markdown(run_ablation(options)))
