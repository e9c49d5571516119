"""Which head a model has: what its configuration says, or what its weights are called where that says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, cast, get_args

import transformers
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from .._core import InputError
from .families import has_mlm_head

HeadName = Literal["masked_lm", "classification", "tokens", "questions", "hidden_states", "embedding"]
HEAD_NAMES: tuple[HeadName, ...] = get_args(HeadName)
OTHER_NAMES: dict[str, HeadName] = {"mlm": "masked_lm", "encoder": "hidden_states"}

AUTO_CLASSES: dict[HeadName, str] = {
    "masked_lm": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "questions": "AutoModelForQuestionAnswering",
    "hidden_states": "AutoModel",
    "embedding": "AutoModel",
}
_ENDS: dict[str, HeadName] = {
    "ForMaskedLM": "masked_lm",
    "LMHeadModel": "masked_lm",
    "ForPreTraining": "masked_lm",
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "tokens",
    "ForQuestionAnswering": "questions",
    "ForQuestionAnsweringSimple": "questions",
}
# Parts of the names that weights of a head have, for a file whose class is not known.
_WEIGHTS: dict[str, HeadName] = {
    "cls.predictions.": "masked_lm",
    "lm_head.": "masked_lm",
    "vocab_transform.": "masked_lm",
    "generator_predictions.": "masked_lm",
    "qa_outputs.": "questions",
}


def head_called(name: str) -> HeadName:
    """The head of that name. Raises `InputError` for another one, with those there are."""
    found = OTHER_NAMES.get(name, name)
    if found not in HEAD_NAMES:
        raise InputError(f"head {name!r} is not known; it is auto, {', '.join(HEAD_NAMES)}, mlm or encoder")
    return found


def head_of(model: PreTrainedModel) -> HeadName:
    """The head of a loaded model by its class: "hidden_states" for a bare encoder.

    Raises `InputError` for a class with a head that cannot be distilled.
    """
    if has_mlm_head(model):
        return "masked_lm"
    name = type(model).__name__
    head = head_of_class(name)
    if head is None and model.base_model is not model:
        raise InputError(f"{name} has a head that cannot be distilled; {_fitting()}")
    return "hidden_states" if head is None or head == "masked_lm" else head


def head_of_checkpoint(name: str, config: PreTrainedConfig, subfolder: str = "", **where: Any) -> HeadName:
    """The head that the checkpoint `name`, a directory or a Hub id, holds: by the class that its configuration names.

    A folder of sentence-transformers holds an "embedding". Where the class is none of transformers', or none is named,
    the names of the weights decide. `subfolder`: where in it the weights lie; `where`: the revision. Raises
    `InputError` for a head that cannot be distilled, and one that cannot be told.
    """
    classes = config.architectures or []
    known = [each for each in classes if hasattr(transformers, each)]
    head = head_of_class(known[0]) if known else None
    if known and head is None:
        if known[0] not in _bare_encoders(config):
            raise InputError(
                f"{name}: its class {known[0]} has a head that cannot be distilled; {_fitting()}. Its encoder alone "
                "can be (--head hidden_states)"
            )
        head = "hidden_states"
    if not known:
        head = _head_of_weights(name, classes, subfolder=subfolder, **where)
    if head in ("masked_lm", "hidden_states") and is_sentence_encoder(name, **where):
        return "embedding"
    assert head is not None
    return head


def is_sentence_encoder(name: str, **where: Any) -> bool:
    """Whether `name` holds the modules.json of a sentence-transformers model that gives dense vectors."""
    kinds = [str(module.get("type")) for module in modules_of(name, **where)]
    return any(kind.endswith(".Pooling") for kind in kinds) and not any("Splade" in kind for kind in kinds)


def modules_of(name: str, **where: Any) -> list[dict[str, Any]]:
    """What the modules.json of sentence-transformers in `name` lists: {"type": class, "path": subfolder} each; empty
    where there is none. Raises `InputError` for a file of another form."""
    file = file_of(name, "modules.json", **where)
    if file is None:
        return []
    try:
        modules = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError:
        modules = None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise InputError(f"{name}: its modules.json is no list of modules, as sentence-transformers writes it")
    return modules


def transformer_subfolder(name: str, **where: Any) -> str:
    """Where in `name`, a directory of sentence-transformers, its transformer and tokenizer lie: "" for the directory
    itself, which comes first, or 0_Transformer in old ones. Of a Hub id always ""."""
    folder = Path(name)
    if not folder.is_dir() or (folder / "config.json").is_file():
        return ""
    modules = modules_of(name, **where)
    return str(modules[0].get("path", "")) if modules else ""


def head_of_class(name: str) -> HeadName | None:
    """The head of the class called `name`, by the end of its name; None for a bare encoder and for other heads."""
    return next((head for end, head in _ENDS.items() if name.endswith(end)), None)


def _bare_encoders(config: PreTrainedConfig) -> tuple[str, ...]:
    names = cast(Any, MODEL_MAPPING_NAMES).get(config.model_type, ())
    return (names,) if isinstance(names, str) else tuple(names)


def _head_of_weights(name: str, classes: list[str], **where: Any) -> HeadName:
    says = f"names the class {classes[0]}, which transformers does not have" if classes else "names no class"
    weights = names_of_weights(name, **where)
    for part, head in _WEIGHTS.items():
        if any(weight.startswith(part) for weight in weights):
            return head
    if any(weight.startswith(("classifier.", "score.", "pre_classifier.")) for weight in weights):
        raise InputError(
            f"{name}: its config.json {says}, and the weights of its classifier do not say whether they are of texts "
            "or of tokens; pass --head classification or --head tokens"
        )
    return "hidden_states"


def names_of_weights(name: str, **where: Any) -> list[str]:
    """The names in the safetensors files of `name`, in one file or in shards; none where there are no such files."""
    index = file_of(name, SAFE_WEIGHTS_INDEX_NAME, **where)
    if index is not None:
        return list(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"])
    file = file_of(name, SAFE_WEIGHTS_NAME, **where)
    if file is None:
        return []
    try:
        with safe_open(file, framework="pt") as weights:
            return list(weights.keys())
    except SafetensorError as error:
        raise InputError(f"{name}: {SAFE_WEIGHTS_NAME} is not whole: {error}; get the file again") from None


def file_of(name: str, file: str, **where: Any) -> str | None:
    """Where `file` of `name`, a directory or a Hub id, lies on this machine; None where there is no such file."""
    try:
        found = cached_file(
            name,
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
            **where,
        )
    except OSError:
        return None
    return found


def _fitting() -> str:
    return "a teacher is a " + ", ".join(
        f"*{end}" for end in _ENDS if not end.endswith(("LMHeadModel", "ForPreTraining", "Simple"))
    )
