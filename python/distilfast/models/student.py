"""The teacher, loaded and frozen; and the student, cut out of the teacher.

A BERT teacher gives a DistilBERT student (Sanh et al., "DistilBERT, a distilled version of BERT", 2019): the same
width, every other layer, no token types, no pooler. Any other family gives the teacher's own class with fewer layers.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as hf_logging

from .._core import InputError
from .adaptation import freeze
from .families import FAMILIES, encoder_of, family_of, has_mlm_head, layers_of

logger = logging.getLogger(__name__)

Head = Literal["auto", "mlm", "encoder", "classification"]


def load_teacher(
    name_or_path: str | Path,
    head: Head = "auto",
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A frozen model in evaluation mode, from a directory or the Hub; weights are read from safetensors only.

    `head`: "mlm" for a masked-language model, "encoder" for hidden states alone, "classification" for a fine-tuned
    classifier, "auto" for the one that the checkpoint holds. Raises `InputError` where there is no such model, no
    safetensors file, an unsupported family, or a head that the checkpoint lacks.
    """
    name = str(name_or_path)
    looks_like_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_like_path and not Path(name).is_dir():
        raise InputError(f"teacher {name}: there is no such directory")
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **common)
    except (OSError, ValueError) as error:
        raise InputError(f"teacher {name}: not a model that can be loaded: {_first_line(error)}") from None
    family_of(config)
    weights: dict[str, Any] = {**common, "config": config, "dtype": dtype, "use_safetensors": True}
    if attn_implementation is not None:
        weights["attn_implementation"] = attn_implementation
    if head == "auto":
        head = _head_of_checkpoint(config)
        fall_back = head == "mlm"
    else:
        fall_back = False
    model, missing = _load(head, name, weights)
    if fall_back and missing:
        # The architecture promised a head that the file does not hold (a discriminator, a bare encoder's re-save).
        head = "encoder"
        model, missing = _load(head, name, weights)
    if missing:
        raise InputError(
            f"teacher {name}: the checkpoint lacks {len(missing)} of the weights that a model with head {head!r} needs "
            f"({', '.join(sorted(missing)[:3])}); a teacher without a masked-language-model head can be distilled with "
            "the hidden-state losses alone (--alpha_ce 0)"
        )
    return freeze(model)


def load_student(name_or_path: str | Path, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model to train on, in float32 and training mode; errors as those of `load_teacher`."""
    model = load_teacher(name_or_path, trust_remote_code=trust_remote_code)
    model.requires_grad_(True)
    model.train()
    return model


def _head_of_checkpoint(config: PreTrainedConfig) -> Head:
    """What the configuration says that the checkpoint holds."""
    architecture = (config.architectures or [""])[0]
    if architecture.endswith("ForSequenceClassification"):
        return "classification"
    if architecture.endswith(("ForMaskedLM", "ForPreTraining", "LMHeadModel")):
        return "mlm"
    return "encoder"


def _load(head: Head, name: str, weights: dict[str, Any]) -> tuple[PreTrainedModel, set[str]]:
    """The model with `head`, and the weights (the unused pooler aside) that the checkpoint has nothing for."""
    auto: Any = {"mlm": AutoModelForMaskedLM, "classification": AutoModelForSequenceClassification}.get(head, AutoModel)
    # Chatty about every unused weight otherwise; what matters is returned and judged here.
    quiet = logging.getLogger("transformers")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    showing = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model, info = auto.from_pretrained(name, output_loading_info=True, **weights)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"teacher {name}: weights cannot be read from safetensors: {_first_line(error)}") from None
    finally:
        quiet.setLevel(level)
        if showing:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
    missing = {key for key in info["missing_keys"] if ".pooler." not in f".{key}" and "position_ids" not in key}
    return model, missing


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def spread_layers(teacher_layers: int, student_layers: int) -> list[int]:
    """`student_layers` layer numbers spread evenly over the teacher's, with the first and the last.

    Layer i of the student is layer round(i * (L - 1) / (l - 1)) of the teacher's L: `[0, 2, 4, 7, 9, 11]` for 6 of 12,
    the published choice. A student of one layer gets the first.
    """
    if student_layers == 1:
        return [0]
    # Rounded half up in integers, so that no platform's floating point decides.
    steps = student_layers - 1
    return [(2 * i * (teacher_layers - 1) + steps) // (2 * steps) for i in range(student_layers)]


def choose_layers(teacher_layers: int, layers: int | Sequence[int] | None = None) -> list[int]:
    """The teacher's layer numbers, counted from 0, that the student takes; `layers` as in `create_student`.

    Raises `InputError` for more layers than the teacher has, numbers out of range, repeated or out of order.
    """
    if layers is None:
        layers = max(1, teacher_layers // 2)
    if isinstance(layers, int):
        if not 1 <= layers <= teacher_layers:
            raise InputError(
                f"a student of {layers} layers cannot be cut out of a teacher of {teacher_layers}; "
                f"ask for 1 to {teacher_layers} layers"
            )
        return spread_layers(teacher_layers, layers)
    chosen = [int(layer) for layer in layers]
    if not chosen:
        raise InputError("no layer numbers were given; name at least one, or leave the choice to the default")
    if len(chosen) > teacher_layers:
        raise InputError(
            f"{len(chosen)} layers were asked for, but the teacher has {teacher_layers}; a student cannot be deeper"
        )
    outside = [layer for layer in chosen if not 0 <= layer < teacher_layers]
    if outside:
        raise InputError(
            f"layer number {outside[0]} is out of range: the teacher's layers are numbered 0 to {teacher_layers - 1}"
        )
    if any(later <= earlier for earlier, later in itertools.pairwise(chosen)):
        raise InputError(f"layer numbers {chosen} must rise: each layer of the student is a later one of the teacher")
    return chosen


def create_student(
    teacher: PreTrainedModel,
    layers: int | Sequence[int] | None = None,
    init: Literal["teacher", "random"] = "teacher",
    seed: int = 0,
) -> PreTrainedModel:
    """A student of fewer layers and the teacher's width, ready to train (float32, training mode, teacher's device).

    `layers`: how many (spread evenly, see `spread_layers`), which (numbers of the teacher's layers, from 0, rising), or
    None for half as many. `init`: "teacher" copies embeddings, those layers and the head; "random" initialises the same
    architecture from `seed`.

    A BERT teacher gives `DistilBertForMaskedLM` (`DistilBertModel` for a teacher without a masked-language-model head,
    `DistilBertForSequenceClassification` for a classifier). DistilBERT has no token types: the row of type 0, which is
    what the teacher adds to single sentences, is folded into the position embeddings. The head's transform and layer
    norm are copied, and the decoder stays tied to the word embeddings where the teacher's is. Of a classifier's head
    only the output layer comes over. Every other family gives the teacher's class with fewer layers.

    Raises `InputError` for layer numbers that the teacher does not have and for families that are not supported.
    """
    if init not in ("teacher", "random"):
        raise InputError(f"init {init!r} is not known; it is 'teacher' or 'random'")
    family_of(teacher)
    chosen = choose_layers(len(layers_of(teacher)), layers)
    if teacher.config.model_type == "bert":
        config: PreTrainedConfig = distilbert_config(teacher.config, len(chosen))
    else:
        config = _shallower_config(teacher.config, chosen)
    dtype = torch.float64 if teacher.dtype == torch.float64 else torch.float32
    student = _build(_student_class(teacher), config, teacher.device, dtype, seed)
    if init == "teacher":
        state = teacher.state_dict()
        if teacher.config.model_type == "bert":
            state = _bert_to_distilbert(state, teacher, chosen)
        else:
            state = _renumbered(state, teacher, chosen)
        _copy(state, student)
    student.train()
    return student


def read_config(path: str | Path, **defaults: Any) -> PreTrainedConfig:
    """The configuration in a JSON file, or in the config.json of a directory; `defaults` where the file is silent.

    Raises `InputError` where there is no such file, or none that says its `model_type` and can be built.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return AutoConfig.for_model(**{**defaults, **values})
    except FileNotFoundError:
        raise InputError(f"--student_config {file}: there is no such file") from None
    except (OSError, ValueError, TypeError, StrictDataclassError) as error:
        raise InputError(
            f"--student_config {file}: not a model's configuration with a known model_type: {_first_line(error)}"
        ) from None


def build_from_config(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A masked-language model of `config`, randomly initialised from `seed`, in float32: what pretraining starts from.

    Raises `InputError` for families that are not supported.
    """
    family_of(config)
    model = _build(AutoModelForMaskedLM, config, torch.device("cpu"), torch.float32, seed)
    model.train()
    return model


def distilbert_config(config: PreTrainedConfig, layers: int) -> DistilBertConfig:
    """The DistilBERT configuration of `layers` layers and otherwise the sizes of a BERT `config`."""
    if config.is_decoder or getattr(config, "position_embedding_type", "absolute") != "absolute":
        raise InputError(
            "this BERT is a decoder or has relative positions; DistilBERT has neither, so it cannot be cut"
        )
    if config.layer_norm_eps != 1e-12:
        logger.warning(
            "the teacher's layer norms add %g to the variance, DistilBERT's always 1e-12", config.layer_norm_eps
        )
    labels: dict[str, Any] = {"id2label": config.id2label, "label2id": config.label2id} if config.id2label else {}
    return DistilBertConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        n_layers=layers,
        n_heads=config.num_attention_heads,
        dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        activation=config.hidden_act,
        initializer_range=config.initializer_range,
        pad_token_id=config.pad_token_id,
        tie_word_embeddings=config.tie_word_embeddings,
        problem_type=config.problem_type,
        **labels,
    )


def _shallower_config(config: PreTrainedConfig, chosen: list[int]) -> PreTrainedConfig:
    """`config` with the chosen layers only."""
    shallower = copy.deepcopy(config)
    shallower.num_hidden_layers = len(chosen)
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        if chosen[0] != 0:
            raise InputError(
                f"the first layer must be 0, not {chosen[0]}: in {config.model_type} it alone has no norm before "
                "attention, so another one cannot take its place"
            )
        # A layer keeps its own attention, sliding or full, wherever it comes to stand.
        shallower.layer_types = [layer_types[layer] for layer in chosen]
    return shallower


def _student_class(teacher: PreTrainedModel) -> Any:
    if teacher.config.model_type == "bert":
        if has_mlm_head(teacher):
            return DistilBertForMaskedLM
        if type(teacher).__name__.endswith("ForSequenceClassification"):
            return DistilBertForSequenceClassification
        return DistilBertModel
    return type(teacher)


def _build(
    model_class: Any, config: PreTrainedConfig, device: torch.device, dtype: torch.dtype, seed: int
) -> PreTrainedModel:
    """A model of `config` with weights drawn from `seed`, leaving torch's own generators as they were."""
    config = copy.deepcopy(config)
    config.dtype = dtype
    on = torch.device("meta") if device.type == "meta" else torch.device("cpu")
    if hasattr(model_class, "from_config"):
        make = model_class.from_config
    elif "add_pooling_layer" in inspect.signature(model_class).parameters:
        # No loss trains a pooler, and a parameter that gets no gradient stalls data-parallel training.
        def make(config: PreTrainedConfig) -> Any:
            return model_class(config, add_pooling_layer=False)
    else:
        make = model_class
    with torch.random.fork_rng(devices=[]), on:
        torch.manual_seed(seed)
        model = make(config)
    return cast(PreTrainedModel, model.to(device=device, dtype=dtype))


def _bert_to_distilbert(
    state: dict[str, torch.Tensor], teacher: PreTrainedModel, chosen: list[int]
) -> dict[str, torch.Tensor]:
    """The teacher's weights under the names that DistilBERT has for them."""
    encoder = "" if encoder_of(teacher) is teacher else "bert."
    student = "" if encoder == "" else "distilbert."
    embeddings = f"{encoder}embeddings."
    cut = {
        f"{student}embeddings.word_embeddings.weight": state[f"{embeddings}word_embeddings.weight"],
        f"{student}embeddings.position_embeddings.weight": state[f"{embeddings}position_embeddings.weight"]
        + state[f"{embeddings}token_type_embeddings.weight"][0],
        f"{student}embeddings.LayerNorm.weight": state[f"{embeddings}LayerNorm.weight"],
        f"{student}embeddings.LayerNorm.bias": state[f"{embeddings}LayerNorm.bias"],
    }
    parts = {
        "attention.self.query": "attention.q_lin",
        "attention.self.key": "attention.k_lin",
        "attention.self.value": "attention.v_lin",
        "attention.output.dense": "attention.out_lin",
        "attention.output.LayerNorm": "sa_layer_norm",
        "intermediate.dense": "ffn.lin1",
        "output.dense": "ffn.lin2",
        "output.LayerNorm": "output_layer_norm",
    }
    for position, layer in enumerate(chosen):
        for bert_name, distilbert_name in parts.items():
            for kind in ("weight", "bias"):
                cut[f"{student}transformer.layer.{position}.{distilbert_name}.{kind}"] = state[
                    f"{encoder}encoder.layer.{layer}.{bert_name}.{kind}"
                ]
    head = {
        "vocab_transform.weight": "cls.predictions.transform.dense.weight",
        "vocab_transform.bias": "cls.predictions.transform.dense.bias",
        "vocab_layer_norm.weight": "cls.predictions.transform.LayerNorm.weight",
        "vocab_layer_norm.bias": "cls.predictions.transform.LayerNorm.bias",
        "vocab_projector.weight": "cls.predictions.decoder.weight",
        "vocab_projector.bias": "cls.predictions.decoder.bias",
        "classifier.weight": "classifier.weight",
        "classifier.bias": "classifier.bias",
    }
    cut.update({new: state[old] for new, old in head.items() if old in state})
    return cut


def _renumbered(state: dict[str, torch.Tensor], teacher: PreTrainedModel, chosen: list[int]) -> dict[str, torch.Tensor]:
    """The teacher's weights with the chosen layers numbered as the student's."""
    encoder = "" if encoder_of(teacher) is teacher else f"{teacher.base_model_prefix}."
    prefix = f"{encoder}{FAMILIES[teacher.config.model_type].layers}."
    positions = {str(layer): str(position) for position, layer in enumerate(chosen)}
    cut = {}
    for name, tensor in state.items():
        if not name.startswith(prefix):
            cut[name] = tensor
            continue
        layer, _, rest = name.removeprefix(prefix).partition(".")
        if layer in positions:
            cut[f"{prefix}{positions[layer]}.{rest}"] = tensor
    return cut


def _copy(state: dict[str, torch.Tensor], student: PreTrainedModel) -> None:
    """Copies `state` into the student; every weight but a classifier's own inner layer must have come over."""
    missing, _ = student.load_state_dict(state, strict=False)
    left = [key for key in missing if not key.startswith("pre_classifier.")]
    assert not left, f"the teacher has nothing for {left}"
