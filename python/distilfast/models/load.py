"""The one loader of models: from a directory or the Hub, out of safetensors, with the head that is wanted or none.

What is missing, does not fit or is not finite is named in one line; no model is filled up with random weights unless a
new head was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel

from .._core import InputError
from .._files import first_line, is_path
from ..prepare.labels import GENERIC
from .adaptation import freeze
from .classes import class_order, label_names, put_into_order
from .families import check_family, check_head
from .head import AUTO_CLASSES, HeadName, head_called, head_of_checkpoint, head_of_class, transformer_subfolder
from .sentence_folder import keep_activation

# Raised by `from_pretrained` for what is wrong with a file.
_LOADING = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)

# What a model gives back is asked for where it is called. With False nothing has a name.
_ANSWERS = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}

logger = logging.getLogger(__name__)


def load_teacher(
    name_or_path: str | Path,
    head: str = "auto",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """A frozen model in evaluation mode, from a directory or the Hub.

    `head`: "masked_lm", "classification", "tokens", "questions", "hidden_states" or "embedding" (these two load the
    encoder alone); "auto": the one that the checkpoint holds. Raises `InputError` where there is no such model, no
    safetensors file, a family that cannot be distilled, another head than the one wanted, or a weight that is not
    finite.
    """
    model: PreTrainedModel = load_model(
        name_or_path, head, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
    )
    check_family(model.config)
    bad = next((name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())), None)
    if bad is not None:
        raise InputError(f"{name_or_path}: its weight {bad} holds numbers that are not finite; get the file again")
    if type(model).__name__.endswith("ForMaskedLM"):
        check_head(model)
    return freeze(model)


def load_student(
    name_or_path: str | Path,
    trust_remote_code: bool = False,
    head: str = "auto",
    like: PreTrainedModel | None = None,
    seed: int = 0,
) -> PreTrainedModel:
    """A model to train on, in float32 and training mode; errors as those of `load_teacher`.

    `like`, a teacher with the same `head`: what the checkpoint lacks of that head is drawn from `seed`, which is
    logged, and classes, their names and the kind of problem are the teacher's. A head for the same classes in another
    order is put into the teacher's; one for other classes is drawn anew.
    """
    changes: dict[str, Any] = {}
    if like is not None and getattr(like.config, "id2label", None):
        changes = {key: getattr(like.config, key) for key in ("id2label", "label2id", "problem_type")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = load_model(
            name_or_path, head, new_head=like is not None, trust_remote_code=trust_remote_code, **changes
        )
        if changes and head_in(str(name_or_path)) == head:
            own = load_config(existing(name_or_path), trust_remote_code=trust_remote_code)
            _fit_classes(str(name_or_path), model, own)
    check_family(model.config)
    model.requires_grad_(True)
    model.train()
    return model


def load_model(
    name_or_path: str | Path,
    head: str = "auto",
    *,
    new_head: bool = False,
    dtype: torch.dtype | str = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **changes: Any,
) -> Any:
    """The model in `name_or_path`, a directory or a Hub id, in evaluation mode.

    `head` as in `load_teacher`. `new_head`: weights of the head that are not in the files, or of other shapes, are
    drawn anew, and the log says so; otherwise they are refused, and so is a checkpoint of another head. `changes`: of
    its configuration, as `num_labels`. Weights are read from safetensors only; code from the Hub is run only with
    `trust_remote_code`. Raises `InputError` for all that cannot be loaded.
    """
    name = existing(name_or_path)
    where: dict[str, Any] = {"revision": revision}
    subfolder = transformer_subfolder(name, **where)
    common = {**where, "trust_remote_code": trust_remote_code, "subfolder": subfolder}
    config = load_config(name, **common, **changes)
    _refuse_parts(name, config, subfolder)
    if getattr(config, "chunk_size_feed_forward", 0):
        config.chunk_size_feed_forward = 0  # the same in pieces, for widths that they divide alone
    wanted = head_of_checkpoint(name, config, subfolder, **where) if head == "auto" else head_called(head)
    if head != "auto" and not new_head:
        _refuse_other_head(name, config, wanted)
    options = {**common, "config": config, "dtype": dtype}
    model, missing, mismatched = _read(name, wanted, options)
    if new_head and head_of_class((config.architectures or [""])[0]) not in (None, wanted):
        missing |= _draw_head(model)  # another head's weights can have the same names
    in_encoder = f"{model.base_model_prefix}."
    if head == "auto" and wanted == "masked_lm" and missing and not any(key.startswith(in_encoder) for key in missing):
        # The class promised a head that the file does not hold: a discriminator, or a bare encoder saved anew.
        logger.warning("%s holds no masked-language-model head; its encoder alone is taken", name)
        model, missing, mismatched = _read(name, "hidden_states", options)
        wanted = "hidden_states"
    _judge(name, model, wanted, missing, mismatched, new_head)
    embeddings = getattr(model.base_model, "embeddings", None)
    if getattr(embeddings, "padding_idx", 0) is None:
        raise InputError(
            f"{name}: the pad_token_id of its config.json is null, from which a model of type {config.model_type} "
            "counts positions; write there what it was trained with"
        )
    if wanted in ("classification", "tokens"):
        _check_classes(name, model.config)
    if wanted == "classification":
        keep_activation(name, model.config, **where)
    for setting, value in _ANSWERS.items():  # of a user of it, in some old files
        setattr(model.config, setting, value)
    return model.eval()


def head_in(name: str) -> HeadName | None:
    """The head that the configuration of `name`, a directory or a Hub id, names; None for an encoder, and where its
    class is not transformers' own."""
    classes = load_config(existing(name)).architectures or [""]
    return head_of_class(classes[0])


def load_config(name: str, **options: Any) -> PreTrainedConfig:
    """The configuration in `name`, a directory or a Hub id. Raises `InputError` where there is none that is whole."""
    try:
        return cast(PreTrainedConfig, transformers.AutoConfig.from_pretrained(name, **options))
    except _LOADING as error:
        if isinstance(error, OSError) and not is_path(name):
            raise InputError(
                f"{name}: there is no such folder, and no model of that id can be had from the Hub: {first_line(error)}"
            ) from None
        raise InputError(f"{name} does not load as a model: {first_line(error)}") from None


def existing(name_or_path: str | Path, flag: str = "") -> str:
    """`name_or_path`, given with `flag`, as transformers takes it: a directory that may hold a model, or a Hub id.

    Raises `InputError` for a path (see `is_path`) that is not there, is a file, or holds no model.
    """
    _refuse_no_name(name_or_path, str, PathLike)
    folder, given = Path(name_or_path).expanduser(), f"{flag} {name_or_path}".lstrip()
    if not is_path(name_or_path) and not folder.exists():
        return str(name_or_path)
    if folder.is_file():
        raise InputError(f"{given}: is a file; give the directory of a model, or its id on the Hub")
    if not folder.is_dir():
        raise InputError(f"{given}: there is no such directory")
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise InputError(
            f"{given} holds an adapter (adapter_config.json) and not its model: put it into the model's weights once, "
            "with PEFT's merge_and_unload(), and save the result"
        )
    if not any((folder / file).is_file() for file in ("config.json", "modules.json")):
        raise InputError(f"{given} holds no model: there is no config.json in it")
    return str(folder)


def _refuse_no_name(model: Any, *kinds: type) -> None:
    if not isinstance(model, kinds):
        raise InputError(f"a {type(model).__name__} is no name of a model; give a directory, or an id on the Hub")


def _refuse_parts(name: str, config: PreTrainedConfig, subfolder: str) -> None:
    """Refuses what is not all of a model in floating point."""
    if (Path(name) / subfolder / "adapter_config.json").is_file():
        raise InputError(
            f"{name} holds an adapter (adapter_config.json), without which its model is another: put it into the "
            "weights once, with PEFT's merge_and_unload(), and save the result"
        )
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method", "?") if isinstance(quantised, dict) else type(quantised).__name__
        raise InputError(
            f"{name} has quantised weights ({method}), which can neither be trained nor cut; give the model in "
            "floating point that it was made from"
        )


def _read(name: str, head: HeadName, options: dict[str, Any]) -> tuple[Any, set[str], dict[str, str]]:
    """The model with `head`, the names of the weights that the files lack, and of those in other shapes with both."""
    auto = getattr(transformers, AUTO_CLASSES[head])
    try:
        with _quietly():
            model, loaded = auto.from_pretrained(
                name, output_loading_info=True, use_safetensors=True, ignore_mismatched_sizes=True, **options
            )
    except _LOADING as error:
        line = first_line(error)
        if any(Path(name).glob("pytorch_model*.bin")) and not any(Path(name).glob("*.safetensors")):
            raise InputError(
                f"{name} has its weights in pytorch_model.bin, a pickle, and only safetensors are read: convert it "
                f"once with transformers.{AUTO_CLASSES[head]}.from_pretrained({name!r}).save_pretrained(...)"
            ) from None
        raise InputError(f"{name} does not load as a model from safetensors: {line}") from None
    missing = {key for key in loaded["missing_keys"] if "position_ids" not in key}
    mismatched = {str(key): f"{tuple(found)} for {tuple(needed)}" for key, found, needed in loaded["mismatched_keys"]}
    if head in ("hidden_states", "embedding"):
        poolers = {key for key in missing if ".pooler." in f".{key}"}
        if poolers:
            model.pooler = None  # of random weights otherwise; nothing reads it
            missing -= poolers
    return model, missing, mismatched


def _refuse_other_head(name: str, config: PreTrainedConfig, wanted: HeadName) -> None:
    """A head of another kind can have weights of the same names: a tagger's classifier is not one of texts."""
    if wanted in ("hidden_states", "embedding"):
        return
    known = [each for each in config.architectures or [] if hasattr(transformers, each)]
    holds = head_of_class(known[0]) if known else wanted
    if holds != wanted:
        says = "has no head" if holds is None else f"has the head {holds}"
        raise InputError(
            f"{name} is a {known[0]}, which {says}; {wanted} needs a model fine-tuned for it "
            f"(a *{AUTO_CLASSES[wanted].removeprefix('AutoModel')})"
        )


def _draw_head(model: PreTrainedModel) -> set[str]:
    """Draws all weights outside the encoder anew; returns their names."""
    drawn = set()
    for name, module in model.named_children():
        if module is not model.base_model:
            for key, weight in module.named_parameters(name):
                weight._is_hf_initialized = False  # type: ignore[attr-defined]
                drawn.add(key)
            module.apply(model._init_weights)
    return drawn


def _fit_classes(name: str, model: PreTrainedModel, own: PreTrainedConfig) -> None:
    """Makes the head of the classes of `own` one of the classes of the model's configuration: by their names, where
    both have such."""
    here, wanted = label_names(own), label_names(model.config)
    generic = any(all(map(GENERIC.fullmatch, names)) for names in (here, wanted))
    if here == wanted or generic or len(here) != len(wanted):  # a head of another size was drawn anew
        return
    said = f"{name} has the classes {', '.join(here)} and its teacher {', '.join(wanted)}"
    try:
        order, _ = class_order(wanted, here, name)
    except InputError:
        _draw_head(model)
        logger.warning("%s: its head is drawn anew", said)
        return
    if order != sorted(order):
        put_into_order(model, order, model.config)
        logger.warning("%s: its head is put into that order", said)


def _judge(
    name: str, model: PreTrainedModel, head: HeadName, missing: set[str], mismatched: dict[str, str], new_head: bool
) -> None:
    """Refuses weights that the files lack or have in other shapes, unless they are of a head that may be new."""
    encoder = f"{model.base_model_prefix}."
    absent = sorted(missing | set(mismatched))
    of_head = [key for key in absent if not key.startswith(encoder) or ".pooler." in f".{key}"]
    if new_head and model.base_model is not model and absent == of_head:
        if absent:
            logger.warning("%s gets a new %s head: %s are drawn anew", name, head, ", ".join(absent))
        return
    if mismatched:
        key = sorted(mismatched)[0]
        raise InputError(
            f"{name}: {len(mismatched)} of its weights do not have the shapes of its config.json, the first {key} with "
            f"{mismatched[key]}; config.json and weights are of different models"
        )
    if missing:
        alone = " Its encoder can be distilled by hidden states alone (--head hidden_states)"
        raise InputError(
            f"{name} lacks {len(missing)} weights of {type(model).__name__}, the first {sorted(missing)[0]}; its "
            f"numbers would be those of random weights.{alone if of_head == absent else ''}"
        )


def _check_classes(name: str, config: Any) -> None:
    """Refuses an `id2label` that does not name the outputs of the head; `label2id` becomes its reverse: `pipeline`
    reads the first alone."""
    names = {int(number): str(label) for number, label in config.id2label.items()}
    if sorted(names) != list(range(len(names))):
        raise InputError(
            f"{name}: the id2label of its config.json has the numbers {', '.join(map(str, sorted(names)))}, where the "
            f"{len(names)} outputs of the head are numbered from 0; mend it"
        )
    inverse = {label: number for number, label in names.items()}
    given = {str(label): int(number) for label, number in (config.label2id or {}).items()}
    if any(inverse.get(label, number) != number for label, number in given.items()):
        logger.warning("%s: its label2id contradicts its id2label; the latter is taken, as pipelines do", name)
    config.label2id = inverse


def split_name(argument: str) -> tuple[str, str]:
    """("name", "path") of "name=path"; without a name, the last part of the path is it."""
    name, equals, path = argument.partition("=")
    if not equals:
        name, path = Path(argument).name or argument, argument
    if not name or not path or "/" in name:
        raise InputError(f"{argument!r} names no model: give a directory, a hub id, or name=directory")
    return name, path


def named_models(arguments: list[str]) -> dict[str, str]:
    """Names and paths of models; raises `InputError` where two share a name."""
    models: dict[str, str] = {}
    for argument in arguments:
        _refuse_no_name(argument, str)
        name, path = split_name(argument)
        if name in models:
            raise InputError(f"two models are called {name!r}: {models[name]} and {path}; name one, as in other={path}")
        models[name] = path
    return models


def quiet() -> None:
    """Keeps transformers' warnings and loading bars out of a command's output; errors still show."""
    logging = cast("Any", transformers.utils.logging)
    logging.set_verbosity_error()
    logging.disable_progress_bar()


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what transformers says about every unused weight: what matters is returned and judged."""
    chatty, bars = logging.getLogger("transformers"), cast("Any", transformers.utils.logging)
    level, showing = chatty.level, bars.is_progress_bar_enabled()
    chatty.setLevel(logging.CRITICAL)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        chatty.setLevel(level)
        if showing:
            bars.enable_progress_bar()
