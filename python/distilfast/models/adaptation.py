"""What training needs changed in the models that a caller hands in, in one place.

With `cpu.use` this is the only code that changes a given model: neither a constructor nor a step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from .._core import InputError
from ..cpu.dropout import remove_dropout
from .attention import use_packed
from .families import encoder_of
from .last_layer import can_stop_early, let_last_layer_stop
from .padding_mask import use_padding_mask


def adapt(
    student: PreTrainedModel,
    teachers: PreTrainedModel | Sequence[PreTrainedModel] = (),
    *,
    layout: Literal["padded", "packed"] = "padded",
    dropout: bool = True,
    stops_early: bool = False,
    trains_head: bool = True,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Makes `student` ready to be trained beside `teachers`, in place; a second call with the same arguments changes
    nothing more.

    Teachers are frozen, put in evaluation mode and moved to `device` in `dtype`, the one that is computed in (None: as
    they are). The student keeps its dtype and place, which the trainer chooses.

    `layout` "packed": all models attend within the sequences of a packed batch; attention dropout is off then.
    "padded", on a GPU: they share one mask a batch (`padding_mask`).
    `dropout` False: the student computes in training as in evaluation, and its configuration keeps its dropout.
    `stops_early`: the last layer may be computed at the wanted positions alone (`last_layer.encode`), in models that
    can. `trains_head` False: no loss reads the student's logits, so what lies outside its encoder is frozen, and its
    pooler.

    Raises `InputError` where the student is one of its teachers, or a model cannot run packed.
    """
    given = (teachers,) if isinstance(teachers, PreTrainedModel) else tuple(teachers)
    if any(teacher is student for teacher in given):
        raise InputError(
            "the student and a teacher are one and the same model, and a teacher does not change; cut the student with "
            "create_student(teacher), or load the model twice"
        )
    for teacher in given:
        freeze(teacher)
        cast(nn.Module, teacher).to(device=device, dtype=dtype)
    for model in (student, *given):
        if layout == "packed":
            use_packed(model, dtype, device)
        elif (device or model.device).type == "cuda":
            use_padding_mask(model)
        if stops_early and can_stop_early(model):
            let_last_layer_stop(model)
    if not dropout:
        remove_dropout(student)
    if not trains_head:
        freeze_head(student)


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """`model` in evaluation mode with no parameter that asks for a gradient."""
    model.requires_grad_(False)
    model.train(False)
    return model


def freeze_head(student: PreTrainedModel) -> None:
    """Freezes what only a head's losses would train, the pooler with it: data-parallel training waits for every
    gradient that it expects."""
    encoder = {id(value) for name, value in encoder_of(student).named_parameters() if "pooler" not in name}
    for parameter in student.parameters():
        if id(parameter) not in encoder:
            parameter.requires_grad_(False)
