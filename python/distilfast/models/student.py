"""The student, cut out of its teacher: fewer layers, perhaps narrower, and everything else that the teacher has.

A BERT that predicts masked words or gives hidden states alone becomes a DistilBERT, as published (`distilbert`). Every
other model, whatever its head and family, becomes one of its own class.
"""

from __future__ import annotations

import copy
import itertools
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from .._core import InputError
from .._files import first_line
from ..vocabulary import Vocabulary
from .build import drop_pooler_as, new_model
from .distilbert import CLASSES as DISTILBERT_CLASSES
from .distilbert import can_be_distilbert, distilbert_config, distilbert_state
from .families import check_family, encoder_of, layers_of, layers_path
from .head import head_of
from .narrow import Widths, dimensions_of, narrow, remember_dimensions
from .vocabulary import keep_words

logger = logging.getLogger(__name__)

StudentType = Literal["auto", "same", "distilbert"]

# Parts outside the layers whose shape depends on how many there are, and which no loss reads: they are drawn anew.
_OF_ALL_LAYERS = ("contact_head.",)  # of ESM: which residues touch, read off all attention maps

# Settings of a configuration with one entry a layer.
_PER_LAYER = ("layer_types", "attention_window")


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
    if not isinstance(layers, Iterable):
        if int(layers) != layers:
            raise InputError(f"layers is {layers!r}; give a number of layers, or their numbers")
        layers = int(layers)
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
    student_type: StudentType = "auto",
    vocabulary: Vocabulary | None = None,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_attention_heads: int | None = None,
    sample: Sequence[Mapping[str, torch.Tensor]] = (),
) -> PreTrainedModel:
    """A student of fewer layers, ready to train (float32, training mode, teacher's device).

    `layers`: how many (spread evenly, see `spread_layers`), which (numbers of the teacher's layers, from 0, rising), or
    None for half as many. `init`: "teacher" copies embeddings, those layers and the head; "random" initialises the same
    architecture from `seed`.

    `student_type`: "same" gives the teacher's own class with its token types, pooler, head, `id2label` and
    `problem_type`, so that a student of all layers computes what the teacher does. "distilbert", for BERT teachers,
    gives the DistilBERT with the same head: no token types (see `distilbert`), no pooler, of a classifier's head the
    output layer alone. "auto" is "distilbert" for a BERT that predicts masked words or has no head, otherwise "same".
    The decoder of masked words is tied to the word embeddings where the teacher's is.

    `vocabulary`: the words that the student has (`distilfast.vocabulary`), None for all of the teacher's.

    `hidden_size`, `intermediate_size`, `num_attention_heads`: of a narrower student, None for the teacher's; what stays
    is chosen on `sample`, batches of text (see `narrow`).

    Raises `InputError` for layer numbers that the teacher does not have, layers that cannot take another's place, and
    models that cannot be cut or made narrower.
    """
    if init not in ("teacher", "random"):
        raise InputError(f"init {init!r} is not known; it is 'teacher' or 'random'")
    if student_type not in ("auto", "same", "distilbert"):
        raise InputError(f"student_type {student_type!r} is not known; it is 'auto', 'same' or 'distilbert'")
    if not isinstance(teacher, PreTrainedModel):
        raise InputError(f"the teacher is a {type(teacher).__name__}, not a model; load it with load_teacher(name)")
    chosen = choose_layers(len(layers_of(teacher)), layers)
    head = head_of(teacher)
    widths = Widths(hidden_size, intermediate_size, num_attention_heads)
    if any(width is not None for width in widths):
        teacher = narrow(teacher, widths, sample)
    if student_type == "auto":
        published = head in ("masked_lm", "hidden_states") and can_be_distilbert(teacher.config)
        student_type = "distilbert" if published else "same"
    dtype = torch.float64 if teacher.dtype == torch.float64 else torch.float32
    if student_type == "distilbert":
        config: PreTrainedConfig = distilbert_config(teacher.config, len(chosen))
        state = distilbert_state(teacher.state_dict(), teacher, chosen)
        student_class = DISTILBERT_CLASSES[head]
    else:
        config = shallower_config(teacher.config, chosen)
        state = _renumbered(teacher.state_dict(), teacher, chosen)
        student_class = type(teacher)
    tied = _is_tied(teacher)
    if tied is not None:
        config.tie_word_embeddings = tied  # what the weights are, whatever the teacher's configuration says
    student = new_model(student_class, config, teacher.device, dtype, seed)
    drop_pooler_as(teacher, student)
    _check_fits(state, student, teacher, chosen)
    if init == "teacher":
        student.load_state_dict(state, strict=False)
    student.train()
    if vocabulary is not None:
        student = keep_words(student, vocabulary.teacher_ids)
    dimensions = dimensions_of(teacher)
    if dimensions is not None and init == "teacher":
        remember_dimensions(student, dimensions)
    return student


def shallower_config(config: PreTrainedConfig, chosen: Sequence[int]) -> PreTrainedConfig:
    """`config` with the chosen layers only. A layer keeps its own attention, sliding or full, wherever it stands."""
    shallower = copy.deepcopy(config)
    depth = int(config.num_hidden_layers)
    shallower.num_hidden_layers = len(chosen)
    for name in _PER_LAYER:
        values = getattr(config, name, None)
        if isinstance(values, (list, tuple)) and len(values) == depth:
            setattr(shallower, name, [values[layer] for layer in chosen])
    every = getattr(config, "global_attn_every_n_layers", None)
    if every is not None:
        # What older versions of transformers read instead of `layer_types`.
        shallower.global_attn_every_n_layers = _period(cast("list[str]", shallower.layer_types), int(every))
    return shallower


def _period(layer_types: Sequence[str], otherwise: int) -> int:
    """n where full attention stands in each n-th layer, from the first, and nowhere else; `otherwise` for no such n."""
    for period in range(1, len(layer_types) + 1):
        if all((kind == "full_attention") == (layer % period == 0) for layer, kind in enumerate(layer_types)):
            return period
    return otherwise


def read_student_config(path: str | Path, **defaults: Any) -> PreTrainedConfig:
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
            f"--student_config {file}: not a model's configuration with a known model_type: {first_line(error)}"
        ) from None


def build_from_config(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A masked-language model of `config`, randomly initialised from `seed`, in float32: what pretraining starts from.

    Raises `InputError` for families that are not supported.
    """
    check_family(config)
    model = new_model(AutoModelForMaskedLM, config, torch.device("cpu"), torch.float32, seed)
    model.train()
    return model


def _is_tied(model: PreTrainedModel) -> bool | None:
    """Whether the decoder's weight is that of the word embeddings; None for a model without a decoder.

    A file can hold a decoder of its own under a configuration that says otherwise, or nothing.
    """
    whole = cast(Any, model)
    decoder, words = whole.get_output_embeddings(), whole.get_input_embeddings()
    return None if decoder is None else decoder.weight is words.weight


def _renumbered(
    state: Mapping[str, torch.Tensor], teacher: PreTrainedModel, chosen: Sequence[int]
) -> dict[str, torch.Tensor]:
    """The teacher's weights with the chosen layers numbered as the student's."""
    encoder = "" if encoder_of(teacher) is teacher else f"{teacher.base_model_prefix}."
    prefix = f"{encoder}{layers_path(teacher)}."
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


def _check_fits(
    state: dict[str, torch.Tensor], student: PreTrainedModel, teacher: PreTrainedModel, chosen: Sequence[int]
) -> None:
    """Refuses layers that lack what the place needs where they come to stand; `state` must fill the whole student but
    for a DistilBERT classifier's own inner layer and parts that are drawn anew, which are taken out of it."""
    needed = student.state_dict()
    shapes = {name: tensor.shape for name, tensor in state.items()}
    layers = f"{layers_path(student)}."
    missing = [
        name
        for name, tensor in needed.items()
        if shapes.get(name) != tensor.shape and not name.startswith("pre_classifier.")
    ]
    anew = [name for name in missing if any(part in name for part in _OF_ALL_LAYERS)]
    if anew:
        logger.warning("the student's %s depends on the number of layers and is drawn anew", anew[0])
        missing = [name for name in missing if name not in anew]
        for name in anew:
            state.pop(name)
    spare = [name for name in shapes if name not in needed and layers in name]
    if missing or spare:
        raise InputError(
            f"layers {list(chosen)} of a model of type {teacher.config.model_type!r} cannot stand in another order: "
            f"{(missing or spare)[0]} belongs to a layer of the teacher that is built otherwise. The first layer must "
            "be 0 where it alone is different"
        )
