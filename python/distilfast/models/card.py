"""The README.md beside an exported model, as the hub reads it: fields in YAML, then recipe, data and numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from .._core import __version__

PIPELINES = {
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
}


# What of a training run's arguments a reader needs to repeat it; the rest is in train_summary.json.
RECIPE = (
    "alpha_ce",
    "alpha_mlm",
    "alpha_cos",
    "alpha_mse",
    "temperature",
    "kl_positions",
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


def model_card(
    model: Any, folder: Path, files: dict[str, str], fields: dict[str, Any], numbers: str | None = None
) -> str:
    """The card of `model`, exported to `folder`.

    files: {file: how it compares with the model}. fields, each optional: title, base_model (the teacher), license (an
    id as apache-2.0), language and dataset. numbers: the tables of an evaluation, as Markdown. The recipe comes from
    `train_summary.json` in `folder`, where there is one. What is not known is said to be missing rather than made up.
    """
    kind = type(model).__name__
    header: dict[str, Any] = {"library_name": "transformers", "tags": ["distillation", "distilfast"]}
    pipeline = next((name for end, name in PIPELINES.items() if kind.endswith(end)), None)
    if pipeline:
        header["pipeline_tag"] = pipeline
    for key in ("license", "language"):
        if fields.get(key):
            header[key] = fields[key]
    dataset = fields.get("dataset")
    if dataset and " " not in dataset:
        header["datasets"] = [dataset]
    summary = _summary(folder / "train_summary.json")
    base = fields.get("base_model") or summary.get("teacher")
    if base:
        header["base_model"] = str(base)
    sections = [
        "---\n" + yaml.safe_dump(header, sort_keys=False, allow_unicode=True) + "---",
        f"# {fields.get('title') or kind}",
        _what(model, kind, base),
        _use(kind, pipeline),
        _recipe(summary),
        "## Data\n\n" + (dataset or "Not stated by whoever exported it."),
        "## Numbers\n\n" + (numbers or "Not evaluated."),
        "## Files\n\n"
        + "\n".join(f"- `{file}`: {comparison}" for file, comparison in files.items())
        + "\n\nEach was reloaded and compared with the model it was written from, on text.",
        "## Licence\n\n" + (fields.get("license") or "Not stated by whoever exported it; ask before you use it."),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    loaded = json.loads(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else {}


def _what(model: Any, kind: str, base: Any) -> str:
    encoder = sum(parameter.numel() for parameter in model.base_model.parameters())
    layers = getattr(model.config, "num_hidden_layers", None)
    text = f"A `{kind}` of {layers} layers and {encoder:,} parameters in the encoder"
    if base:
        text += f", distilled from `{base}`"
    return text + f". Made with distilfast {__version__}."


def _use(kind: str, pipeline: str | None) -> str:
    if pipeline is None:
        loader = f"from transformers import {kind}, AutoTokenizer\n\nmodel = {kind}.from_pretrained(folder)"
        return f"## Use\n\n```python\n{loader}\ntokenizer = AutoTokenizer.from_pretrained(folder)\n```"
    example = {"fill-mask": '"The river had risen in the [MASK]."', "question-answering": "question=..., context=..."}
    call = example.get(pipeline, '"The river had risen in the night."')
    return (
        "## Use\n\n```python\nfrom transformers import pipeline\n\n"
        f'model = pipeline("{pipeline}", model=folder)  # this folder or its hub id\nmodel({call})\n```'
    )


def _recipe(summary: dict[str, Any]) -> str:
    run = summary.get("run", {})
    chosen = {key: run[key] for key in RECIPE if run.get(key) is not None}
    plain = {key: value for key, value in summary.items() if isinstance(value, (str, int, float, bool)) and value != ""}
    plain |= chosen
    if not plain:
        return "## Recipe\n\nNo record of the training run was beside the model."
    return "## Recipe\n\n| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in plain.items())
