"""The README.md beside an exported model, as the Hub reads it: fields in YAML, then recipe, data and numbers."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, try_to_load_from_cache

from .._core import InputError, __version__
from ..tokenizer import tokenize

PIPELINES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
}
"""Endings of class names, and what the Hub calls their task; without one of them it is feature-extraction."""

CARD_SUMMARIES = ("train_summary.json", "task_summary.json")
"""Records of training that a model's folder may hold."""

# What of a training run's arguments a reader needs to repeat it; the rest is in train_summary.json, which names the
# losses itself.
LOSSES = ("alpha_ce", "alpha_mlm", "alpha_task", "alpha_cos", "alpha_mse", "temperature", "kl_positions")
RECIPE = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "batches_per_step",
    "adam_beta1",
    "adam_beta2",
    "weight_decay",
    "max_grad_norm",
    "seed",
)
# Fields of a summary that say where something lay.
_PLACES = re.compile(
    r"(^|_)(dir|directory|path|file|files|folder|text|tokens|teacher|teachers|tokenizer|student|config)$"
)
_HUB_ID = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]{0,95}")


def hub_id(name: Any) -> str | None:
    """`name` if it is known to be the id of a model on the Hub: written as one, nothing here is called so, and files of
    it were loaded from there."""
    if not isinstance(name, str) or not _HUB_ID.fullmatch(name) or os.path.lexists(name):
        return None
    found = try_to_load_from_cache(name, "config.json")
    return name if isinstance(found, str) else None


def without_paths(value: Any, key: str = "") -> Any:
    """`value`, of JSON, with every path of this machine in it cut to its last part.

    A path is what is written as one, what is there under that name, and what stands in a field that names a place
    (`output_dir`, `teacher`, ...) and is no id on the Hub.
    """
    if isinstance(value, dict):
        return {name: without_paths(each, str(name)) for name, each in value.items()}
    if isinstance(value, list):
        return [without_paths(each, key) for each in value]
    if not isinstance(value, str) or "\n" in value:
        return value
    written = value.startswith(("/", "~", "./", "../", "file:")) or re.match(r"[A-Za-z]:[\\/]|\\\\", value)
    place = "/" in value and (os.path.lexists(value) or (_PLACES.search(key) and hub_id(value) is None))
    return re.split(r"[\\/]", value.rstrip("\\/"))[-1] if written or place else value


def model_card(
    model: Any,
    tokenizer: Any,
    folder: Path,
    files: Mapping[str, str],
    fields: Mapping[str, Any],
    numbers: str | None = None,
    sentence: bool = False,
) -> str:
    """The card of `model`, exported to `folder`.

    files: {name: what was found when it was compared}, of an export. fields, each optional: title, base_model (the
    teacher's id on the Hub), teacher (what training was told, named where it is such an id), license (an id as
    apache-2.0), language, dataset, example (a text). numbers: tables, in Markdown; else what the records of training
    say. sentence: whether it is a sentence encoder. The recipe comes from the `CARD_SUMMARIES` in `folder`. What is not
    known is said to be missing rather than made up, and no path of this machine is in it.
    Raises `InputError` for a `base_model` that is a path.
    """
    kind = type(model).__name__
    pipeline = next((name for end, name in PIPELINES.items() if kind.endswith(end)), None)
    summary = _summaries(folder)
    base = _base_model(fields.get("base_model"), fields.get("teacher"))
    dataset = fields.get("dataset")
    header = ModelCardData(
        library_name="sentence-transformers" if sentence else "transformers",
        tags=["distillation", "distilfast", *(["sentence-transformers"] if sentence else [])],
        pipeline_tag=pipeline or ("sentence-similarity" if sentence else "feature-extraction"),
        license=fields.get("license"),
        language=fields.get("language"),
        datasets=[dataset] if dataset and _HUB_ID.fullmatch(dataset) and not os.path.lexists(dataset) else None,
        base_model=base,
    )
    sections = [
        f"---\n{header.to_yaml().strip()}\n---",
        f"# {fields.get('title') or kind}",
        _what(model, kind, base),
        "## Use\n\n```python\n" + _example(kind, pipeline, tokenizer, fields.get("example"), sentence) + "\n```",
        _recipe(summary),
        "## Data\n\n" + (without_paths(dataset) if dataset else "Not stated."),
        "## Numbers\n\n" + (numbers or _scores(summary)),
    ]
    if files:
        sections.append(
            "## Files\n\n"
            + "\n".join(f"- `{name}`: {found}" for name, found in files.items())
            + "\n\nEach was reloaded and compared on text with the model it was written from, `model.int8.onnx` with "
            "`model.onnx`."
        )
    sections.append("## Licence\n\n" + (fields.get("license") or "Not stated; ask before you use it."))
    return "\n\n".join(sections) + "\n"


def _base_model(given: str | None, teacher: Any) -> str | None:
    if given is None:
        teacher = teacher.get("path") if isinstance(teacher, dict) else teacher
        return hub_id(teacher[0] if isinstance(teacher, list) and len(teacher) == 1 else teacher)
    if os.path.lexists(given) or not _HUB_ID.fullmatch(given):
        raise InputError(f"--base_model {given}: is a path on this machine, or no id on the Hub such as owner/name")
    return given


def _summaries(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in CARD_SUMMARIES:
        if (folder / name).is_file():
            loaded = json.loads((folder / name).read_text(encoding="utf-8"))
            found |= without_paths(loaded) if isinstance(loaded, dict) else {}
    return found


def _what(model: Any, kind: str, base: Any) -> str:
    encoder = sum(parameter.numel() for parameter in model.base_model.parameters())
    layers = getattr(model.config, "num_hidden_layers", None)
    text = f"A `{kind}` of {layers} layers and {encoder:,} parameters in the encoder"
    if base:
        text += f", distilled from `{base}`"
    return text + f". Made with distilfast {__version__}."


def _words_for(tokenizer: Any, sentence: str = "The river had risen in the night.") -> str:
    """`sentence`, or words of the tokenizer's own where it does not know half of it."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    ids = [] if unknown is None else tokenize(tokenizer, sentence, add_special_tokens=False)["input_ids"]
    if ids.count(unknown) <= len(ids) / 2:
        return sentence
    words = (number for number in range(len(tokenizer)) if number not in tokenizer.all_special_ids)
    return str(tokenizer.decode(list(itertools.islice(words, 8))))


def _example(kind: str, pipeline: str | None, tokenizer: Any, text: str | None, sentence: bool) -> str:
    """Lines that run as they stand, in the model's folder."""
    place = '"."  # this folder, or its id on the Hub'
    text = text or _words_for(tokenizer)
    if sentence:
        return (
            f"from sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer({place[:3]})"
            f"{place[3:]}\nvectors = model.encode([{text!r}])"
        )
    if pipeline in (None, "question-answering"):
        auto = "AutoModel" if pipeline is None else "AutoModelForQuestionAnswering"
        lines = [
            "import torch",
            f"from transformers import {auto}, AutoTokenizer",
            "",
            f"folder = {place}",
            f"model, tokenizer = {auto}.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)",
        ]
        if pipeline is None:
            lines += [f"inputs = tokenizer({text!r}, return_tensors='pt')"]
            lines += ["vectors = model(**inputs).last_hidden_state  # one for each token"]
        else:
            lines += [
                f"inputs = tokenizer('What is said?', {text!r}, return_tensors='pt')",
                "outputs = model(**inputs)",
                "start, end = outputs.start_logits.argmax(), outputs.end_logits.argmax()",
                "answer = tokenizer.decode(inputs['input_ids'][0, start : end + 1])",
            ]
        return "\n".join(line for line in lines if line != "import torch")
    if pipeline == "fill-mask":
        first = text.split()
        mask = getattr(tokenizer, "mask_token", None) or "[MASK]"
        text = " ".join([*first[:-1], mask]) if len(first) > 1 else f"{text} {mask}"
    return (
        f'from transformers import pipeline\n\nmodel = pipeline("{pipeline}", model={place[:3]}){place[3:]}\n'
        f"model({text!r})"
    )


def _recipe(summary: Mapping[str, Any]) -> str:
    run = dict(summary.get("run") or {})
    wanted = RECIPE if "alpha_ce" in summary else (*LOSSES, *RECIPE)
    found = {**summary, **{key: run[key] for key in wanted if run.get(key) is not None}}
    metric, best = found.pop("metric_for_best_model", None), found.pop("best_metric", None)
    step = found.pop("best_step", None)
    if metric is not None and best is not None:
        found["best evaluation"] = f"{metric} {best:.6g}" + (f" at step {step}" if step is not None else "")
    plain = {
        key: f"{value:.6g}" if isinstance(value, float) and len(repr(value)) > 8 else value
        for key, value in found.items()
        if isinstance(value, (str, int, float, bool)) and value != "" and not (key.startswith("alpha_") and not value)
    }
    if not plain:
        return "## Recipe\n\nNo record of the training run was beside the model."
    return "## Recipe\n\n| | |\n|---|---|\n" + "\n".join(f"| {key} | {_cell(value)} |" for key, value in plain.items())


def _cell(value: Any) -> str:
    """In a table, where a bar would begin the next cell."""
    return str(value).replace("|", r"\|")


def _scores(summary: Mapping[str, Any]) -> str:
    """What a record of training says about teacher and student, and of what was not to be forgotten."""
    return "\n\n".join([_quality(summary), *([_guard(summary["guard"])] if summary.get("guard") else [])])


def _guard(found: Mapping[str, Any]) -> str:
    """What the student was before and after training on the text trained on and on text that it should not forget."""
    rows = ["| | start | student | teacher |", "|---|---:|---:|---:|"]
    for kind, title in (("trained_on", "text trained on"), ("guard", "another text")):
        of_kind = found[kind]
        for metric in ("accuracy", found["metric"]):
            if metric in of_kind["student"]:
                values = [of_kind.get(who, {}).get(metric) for who in ("start", "student", "teacher")]
                said = " | ".join("-" if value is None else f"{value:.4f}" for value in values)
                rows.append(f"| {title}, {metric} | {said} |")
    forgot = "\n\nThe student forgot some of the other text: it is worse at it than before training."
    return "\n".join(rows) + (forgot if found["forgot"] else "")


def _quality(summary: Mapping[str, Any]) -> str:
    """The scores, where the student was evaluated."""
    scored = {who: summary[who].get("score") for who in ("teacher", "student") if isinstance(summary.get(who), dict)}
    rows = [f"| {who} | {value:.1f} |" for who, value in scored.items() if isinstance(value, (int, float))]
    if rows:
        task = f" on {summary['task']}" if summary.get("task") else ""
        return f"| score{task} | |\n|---|---|\n" + "\n".join(rows)
    if summary.get("report"):
        return _report(summary["report"])
    if summary.get("evaluations"):
        last = summary["evaluations"][-1]
        values = {name: value for name, value in last.items() if name.startswith("eval_") and name != "eval_runtime"}
        rows = [f"| {name.removeprefix('eval_').replace('_', ' ')} | {value:.4f} |" for name, value in values.items()]
        return f"| on held-out text, at step {last['step']} | |\n|---|---:|\n" + "\n".join(rows)
    return "Not evaluated."


def _report(report: Mapping[str, Any]) -> str:
    """The scores on held-out rows, each under its name; what is compared with the teacher is the student's alone."""
    quality = report.get("quality") or {}
    models = {"student": {"metrics": report["metrics"]}, **quality.get("models", {})}
    titles = report.get("titles", {})
    names = [name for name in ("teacher", "student") if name in models]
    lines = [f"| on {report['rows']:,} held-out rows | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for metric in {**models["student"]["metrics"], **report["metrics"]}:
        values = [models[name]["metrics"].get(metric) for name in names]
        values[-1] = report["metrics"].get(metric) if values[-1] is None else values[-1]
        said = ["-" if value is None else f"{value:.4f}" for value in values]
        lines.append(f"| {_cell(titles.get(metric, metric.replace('_', ' ')))} | {' | '.join(said)} |")
    kept = models["student"].get("kept", {})
    shares = [f"{each['text']} of its {titles.get(metric, metric.replace('_', ' '))}" for metric, each in kept.items()]
    of_teacher = f"\n\nKept of the teacher: {', '.join(shares)} (in brackets the 95 % interval)." if shares else ""
    return "\n".join(lines) + of_teacher
