"""The files of a sentence-transformers model beside its encoder, read and written without that library.

What is written has the module paths and keys of its versions 2 to 5, which version 6 reads as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig

from .._core import InputError
from .._files import first_line, write_json
from .head import file_of, modules_of, transformer_subfolder
from .pooling import ACTIVATIONS, POOLINGS, Dense, Normalize, SentenceModules

LENGTHS = "sentence_bert_config.json"
SETTINGS = "config_sentence_transformers.json"
DENSE_WEIGHTS = "model.safetensors"
Role = Literal["text", "query", "document"]
"""What a text is in a search."""
# Keys of a pooling's config.json before version 6, which has one key for all of them.
_MODES = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@dataclass(frozen=True)
class SentenceSettings:
    """What a sentence encoder's users need beside weights: the longest text in tokens (None: the model's positions),
    what stands before queries and documents, and how vectors are compared."""

    max_length: int | None = None
    do_lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    include_prompt: bool = True

    def prompt(self, name: str | None = None) -> str:
        """What stands before a text: the prompt `name`, or the default one; nothing where there is none.

        Raises `InputError` for one that the pooling leaves out."""
        chosen = self.default_prompt_name if name is None else name
        found = "" if chosen is None else self.prompts.get(chosen, "")
        if found and not self.include_prompt:
            raise InputError(
                f"the prompt {chosen!r} ({found!r}) is left out by the pooling (include_prompt false), which is not "
                "computed here; set include_prompt to true in the pooling's config.json, or take the prompt away"
            )
        return found

    def prompt_name(self, role: Role) -> str | None:
        """Which prompt stands before a text in this role: the default one (None), and of a query or document its own
        or none at all, as `encode_query` and `encode_document` have it."""
        if role == "text":
            return None
        names = ("query",) if role == "query" else ("document", "passage", "corpus")
        return next((name for name in names if name in self.prompts), role)


def transformer_folder(name: str) -> str:
    """Where the encoder and tokenizer of `name`, a directory or a Hub id, lie: see `transformer_subfolder`."""
    subfolder = transformer_subfolder(name)
    return str(Path(name) / subfolder) if subfolder else name


def read_sentence_folder(name: str, hidden_size: int, **where: Any) -> tuple[SentenceModules, SentenceSettings] | None:
    """What follows an encoder of `hidden_size`, and its settings, as `name`, a directory or a Hub id, has them; None
    where it holds no modules.json. `where`: the revision.

    Raises `InputError` for modules other than Transformer, Pooling, Dense and Normalize, and files that are not whole.
    """
    listed = modules_of(name, **where)
    if not listed:
        return None
    kinds = [_kind(name, module) for module in listed]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds.count("Pooling") > 1:
        raise InputError(
            f"{name}: its modules.json lists {', '.join(kinds)}; a sentence encoder that can be distilled is a "
            "Transformer, a Pooling, then any of Dense and Normalize"
        )
    paths = [str(module.get("path", "")) for module in listed]
    pooled = _json(name, f"{paths[1]}/config.json", needed=True, **where)
    pooling, include_prompt = _pooling(name, pooled), bool(pooled.get("include_prompt", True))
    width = int(pooled.get("embedding_dimension", pooled.get("word_embedding_dimension", hidden_size)))
    if width != hidden_size:
        raise InputError(f"{name}: its pooling takes {width} numbers a token and the encoder gives {hidden_size}")
    steps: list[nn.Module] = [
        Normalize() if kind == "Normalize" else _dense(name, path, **where)
        for kind, path in zip(kinds[2:], paths[2:], strict=True)
    ]
    modules = SentenceModules(hidden_size, pooling, steps).eval()
    lengths = _json(name, f"{paths[0]}/{LENGTHS}".lstrip("/"), **where) or _json(name, LENGTHS, **where)
    settings = _json(name, SETTINGS, **where)
    longest = lengths.get("max_seq_length")
    if settings.get("truncate_dim") is not None:
        raise InputError(
            f"{name}: the truncate_dim of its {SETTINGS} cuts vectors to {settings['truncate_dim']} numbers, which is "
            "not computed here; take it away there, and train with --dimensions to keep short vectors good"
        )
    return modules, SentenceSettings(
        max_length=None if longest is None else int(longest),
        do_lower_case=bool(lengths.get("do_lower_case", False)),
        prompts=dict(settings.get("prompts") or {}),
        default_prompt_name=settings.get("default_prompt_name"),
        similarity=settings.get("similarity_fn_name"),
        include_prompt=include_prompt,
    )


def keep_activation(name: str, config: PreTrainedConfig, **where: Any) -> None:
    """Notes in `config` what `CrossEncoder` does with a reranker's score, where `name` says it in a file beside it.

    Version 6 writes it there, earlier ones in the configuration, and all read it in the configuration.
    """
    activation = _json(name, SETTINGS, **where).get("activation_fn")
    if activation is not None and not (getattr(config, "sentence_transformers", None) or {}).get("activation_fn"):
        config.sentence_transformers = {"activation_fn": str(activation)}


def refuse_single_texts(config: PreTrainedConfig, texts: Sequence[str], source: str) -> None:
    """Raises `InputError` where a cross-encoder, by its configuration, would read rows of one column of `texts`."""
    says = getattr(config, "sentence_transformers", None) or getattr(
        config, "sbert_ce_default_activation_function", None
    )
    if says and len(texts) == 1:
        raise InputError(
            f"{source}: one column of text ({texts[0]}), and the model is a cross-encoder, which scores pairs; name "
            "two columns with --text_column"
        )


def _kind(name: str, module: Mapping[str, Any]) -> str:
    """The class of a module without its path, which changed from version to version."""
    path = str(module.get("type", ""))
    kind = path.rsplit(".", 1)[-1]
    if not path.startswith("sentence_transformers.") or kind not in ("Transformer", "Pooling", "Dense", "Normalize"):
        raise InputError(
            f"{name}: its module {path or 'without a type'} is not known; known are Transformer, Pooling, Dense and "
            "Normalize of sentence_transformers"
        )
    return kind


def _pooling(name: str, config: Mapping[str, Any]) -> tuple[str, ...]:
    said: Any = config.get("pooling_mode")
    if said is None:
        said = [mode for mode, key in _MODES.items() if config.get(key)] or ["mean"]
    modes = (said,) if isinstance(said, str) else tuple(said)
    for mode in modes:
        if mode not in POOLINGS:
            raise InputError(f"{name}: its pooling {mode!r} cannot be distilled; known are {', '.join(POOLINGS)}")
    return modes


def _dense(name: str, path: str, **where: Any) -> Dense:
    config = _json(name, f"{path}/config.json", needed=True, **where)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if activation not in ACTIVATIONS or config.get("use_residual") or config.get("module_input_name", "s")[0] != "s":
        raise InputError(
            f"{name}: the dense layer in {path} is of a kind that is not known; it has one of the activations "
            f"{', '.join(ACTIVATIONS)}, no residual, and reads the sentence's vector"
        )
    layer = Dense(int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)), activation)
    file = file_of(name, f"{path}/{DENSE_WEIGHTS}", **where)
    if file is None:
        raise InputError(f"{name}: the dense layer in {path} has no {DENSE_WEIGHTS}; only safetensors are read")
    try:
        layer.load_state_dict(safetensors.torch.load_file(file))
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{name}: the weights of the dense layer in {path}: {first_line(error)}") from None
    return layer


def _json(name: str, file: str, needed: bool = False, **where: Any) -> dict[str, Any]:
    """The JSON object in a file of `name`; empty where there is no such file, unless it is `needed`."""
    found = file_of(name, file, **where)
    if found is None:
        if needed:
            raise InputError(f"{name}: there is no {file}, which its modules.json asks for")
        return {}
    try:
        value = json.loads(Path(found).read_text(encoding="utf-8"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise InputError(f"{name}: {file} is no JSON object")
    return value


def write_sentence_folder(folder: str | Path, modules: SentenceModules, settings: SentenceSettings) -> None:
    """Writes what makes of the encoder and tokenizer in `folder` a sentence-transformers model, modules.json last."""
    folder = Path(folder)
    listed = [("Transformer", ""), ("Pooling", "1_Pooling")]
    pooling: dict[str, Any] = {"word_embedding_dimension": modules.hidden_size}
    pooling |= {key: mode in modules.pooling for mode, key in _MODES.items()}
    write_json(folder / "1_Pooling" / "config.json", {**pooling, "include_prompt": settings.include_prompt})
    for number, step in enumerate(modules.steps, 2):
        kind = type(step).__name__
        path = f"{number}_{kind}"
        listed.append((kind, path))
        (folder / path).mkdir(parents=True, exist_ok=True)
        if isinstance(step, Dense):
            linear = step.linear
            write_json(
                folder / path / "config.json",
                {
                    "in_features": linear.in_features,
                    "out_features": linear.out_features,
                    "bias": linear.bias is not None,
                    "activation_function": step.activation_name,
                },
            )
            weights = {key: value.detach().cpu().float().contiguous() for key, value in step.state_dict().items()}
            safetensors.torch.save_file(weights, folder / path / DENSE_WEIGHTS)
    write_json(folder / LENGTHS, {"max_seq_length": settings.max_length, "do_lower_case": settings.do_lower_case})
    write_json(
        folder / SETTINGS,
        {
            "__version__": {"transformers": transformers.__version__, "pytorch": torch.__version__},
            "prompts": dict(settings.prompts),
            "default_prompt_name": settings.default_prompt_name,
            "similarity_fn_name": settings.similarity,
        },
    )
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (kind, path) in enumerate(listed)
        ],
    )
