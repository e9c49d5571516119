"""Intermediate layers: hidden states of the student drawn towards those of the teacher's layers, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .. import losses
from .._core import InputError
from ..models.families import layers_of

HiddenKind = Literal["cosine", "mse"]


def spread_map(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Each layer of the student with the teacher's layer at the same share of the depth: [(student, teacher)].

    Numbers name outputs: layer i is the output of the i-th layer counted from 1, and the last of the student goes with
    the last of the teacher. TinyBERT's uniform map (Jiao et al. 2020), rounded half up.
    """
    return [
        (layer, (2 * layer * teacher_layers + student_layers) // (2 * student_layers))
        for layer in range(1, student_layers + 1)
    ]


def parse_layer_map(text: str) -> list[tuple[int, int]]:
    """`"1:2,3:6"` as [(1, 2), (3, 6)], student first. Raises `InputError` for anything else."""
    pairs = [re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", part) for part in text.split(",")]
    if not all(pairs):
        raise InputError(
            f"the layer map {text!r} is not of the form 'student:teacher,student:teacher', such as '2:4,4:8,6:12'"
        )
    return [(int(pair[1]), int(pair[2])) for pair in pairs if pair]


class HiddenLayerLoss(nn.Module):
    """Mean over mapped layers of the cosine loss or the mean squared error between hidden states.

    `layer_map`: pairs (student layer, teacher layer), counted from 1; 0 is the embeddings' output. None: `spread_map`.
    Where the widths differ, each pair has a learned projection of the student's states to the teacher's width, part
    of this module and trained with the student (no bias, initialised orthogonal); the student itself does not hold it.

    Raises `InputError` for a layer that either model lacks, and for a layer of the student named twice.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        layer_map: Sequence[tuple[int, int]] | None = None,
        kind: HiddenKind = "cosine",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in ("cosine", "mse"):
            raise InputError(f"the loss of hidden layers is 'cosine' or 'mse', not {kind!r}")
        depths = len(layers_of(student)), len(layers_of(teacher))
        self.layer_map = list(layer_map) if layer_map is not None else spread_map(*depths)
        self.kind: HiddenKind = kind
        _check_map(self.layer_map, depths)
        widths = int(student.config.hidden_size), int(teacher.config.hidden_size)
        self.projections = nn.ModuleList()
        if widths[0] != widths[1]:
            generator = torch.Generator().manual_seed(seed)
            for _ in self.layer_map:
                projection = nn.Linear(*widths, bias=False)
                nn.init.orthogonal_(projection.weight, generator=generator)
                self.projections.append(projection.to(student.device))

    def forward(
        self,
        student_states: Sequence[Tensor],
        teacher_states: Sequence[Tensor],
        mask: Tensor,
        num_rows: float | Tensor,
        impl: str = "auto",
    ) -> Tensor:
        """`student_states`, `teacher_states`: the embeddings' output and that of every layer, [rows, width, hidden]
        each, as `output_hidden_states` gives them; `mask` [rows * width]: the tokens that count; `num_rows`: the
        denominator. A scalar, differentiable in the student's states and the projections."""
        flat = mask.flatten()
        student, teacher = [], []
        for index, (student_layer, teacher_layer) in enumerate(self.layer_map):
            states = student_states[student_layer].flatten(0, -2)
            if self.projections:
                states = self.projections[index](states)
            student.append(states)
            teacher.append(teacher_states[teacher_layer].detach().flatten(0, -2))
        compare = losses.hidden_cosine if self.kind == "cosine" else losses.hidden_mse
        return compare(student, teacher, mask=flat, num_rows=num_rows, impl=impl)


def _check_map(layer_map: list[tuple[int, int]], depths: tuple[int, int]) -> None:
    if not layer_map:
        raise InputError("the layer map is empty; name at least one pair, or leave it out for an even spread")
    for pair in layer_map:
        for layer, depth, whose in zip(pair, depths, ("student", "teacher"), strict=True):
            if not 0 <= layer <= depth:
                raise InputError(
                    f"the layer map names layer {layer} of the {whose}, which has {depth}: layers count from 1 to "
                    f"{depth}, and 0 is the embeddings"
                )
    students = [student for student, _ in layer_map]
    twice = {layer for layer in students if students.count(layer) > 1}
    if twice:
        raise InputError(f"the layer map names layer {min(twice)} of the student twice")
