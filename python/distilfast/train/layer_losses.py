"""Losses on layers before the last: hidden states drawn towards the teacher's, and self-attention relations.

The relation losses are MiniLMv2's (Wang et al. 2021): how the tokens of a sequence relate to one another, query with
query, key with key, value with value, in one layer of each model. The vectors of all attention heads are joined and cut
anew into `relation_heads` of them, so the models may differ in width and in number of heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .. import losses
from .._core import InputError
from ..batches.loader import Batches
from ..heads.objective import HiddenKind
from ..models.families import layers_of
from ..models.narrow import projection_from

BOUNDS = "sequence_bounds"


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
    Where the widths differ, each pair has a learned projection of the student's states to the teacher's width, part of
    this module and trained with the student (no bias, begun by `projection_from`); the student itself does not hold it.

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
                self.projections.append(projection_from(student, widths[1], generator).to(student.device))

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


class RelationLoss(nn.Module):
    """The sum over Q-Q, K-K and V-V of the mean KL(teacher's relations || student's), over heads and tokens.

    The relation of a token to its sequence is softmax(x X^T / sqrt(d)), with d the width of a relation head.
    `student_layer`, `teacher_layer`: counted from 1, None for the last. (MiniLMv2 takes the last of a base-size teacher
    and an upper middle one of a large teacher.) Raises `InputError` for layers that are not there and for a number of
    relation heads that does not divide both widths.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        relation_heads: int | None = None,
        student_layer: int | None = None,
        teacher_layer: int | None = None,
    ) -> None:
        super().__init__()
        self.student_layer = _layer(student, student_layer, "student")
        self.teacher_layer = _layer(teacher, teacher_layer, "teacher")
        self.relation_heads = int(teacher.config.num_attention_heads) if relation_heads is None else relation_heads
        for model, whose in ((student, "student"), (teacher, "teacher")):
            width = int(model.config.hidden_size)
            if self.relation_heads < 1 or width % self.relation_heads:
                raise InputError(
                    f"{self.relation_heads} relation heads do not divide the {whose}'s width of {width}; "
                    "choose a divisor of both widths"
                )

    def forward(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        student_states: Any,
        teacher_states: Any,
        batch: Mapping[str, Any],
        num_rows: float | Tensor,
    ) -> Tensor:
        """`student_states`, `teacher_states`: what `output_hidden_states` gives; `batch` padded or packed; `num_rows`:
        the denominator, the attended tokens of the step. A scalar, differentiable in the student."""
        ours = query_key_value(layers_of(student)[self.student_layer - 1], student_states[self.student_layer - 1])
        with torch.no_grad():
            theirs = query_key_value(layers_of(teacher)[self.teacher_layer - 1], teacher_states[self.teacher_layer - 1])
        total = ours[0].new_zeros((), dtype=torch.promote_types(ours[0].dtype, torch.float32))
        for mine, other in zip(ours, theirs, strict=True):
            for student_rows, teacher_rows, mask in _sequences(mine, other, batch):
                total = total + self._divergence(student_rows, teacher_rows, mask)
        return total / (num_rows * self.relation_heads)

    def _divergence(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The KL summed over heads and tokens; `student`, `teacher` [rows, width, hidden], `mask` [rows, width]."""
        ours, theirs = (self._log_relations(vectors, mask) for vectors in (student, teacher.detach()))
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True)
        if mask is not None:
            divergence = divergence.masked_fill(~(mask[:, None, :, None] & mask[:, None, None, :]), 0.0)
        return divergence.sum()

    def _log_relations(self, vectors: Tensor, mask: Tensor | None) -> Tensor:
        """[rows, width, hidden] -> log relations [rows, heads, width, width], in float32 at least."""
        heads = vectors.view(*vectors.shape[:2], self.relation_heads, -1).transpose(1, 2)
        scores = heads @ heads.transpose(-1, -2) / heads.shape[-1] ** 0.5
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if mask is not None:
            # Finite, so that a row of padding alone gives no NaN; what it gives is set to 0 above.
            scores = scores.masked_fill(~mask[:, None, None, :], torch.finfo(scores.dtype).min)
        return F.log_softmax(scores, dim=-1)


def _sequences(
    student: Tensor, teacher: Tensor, batch: Mapping[str, Any]
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """The padded rows at once, or the sequences of a packed batch one by one."""
    if "attention_mask" in batch:
        yield student, teacher, batch["attention_mask"].bool()
        return
    bounds = batch[BOUNDS] if BOUNDS in batch else sequence_bounds(batch)
    for start, end in pairwise(bounds):
        yield student[:, start:end], teacher[:, start:end], None


def sequence_bounds(batch: Mapping[str, Any]) -> list[int]:
    """Where the sequences of text in a packed batch begin, and where the last one ends.

    Reads the batch: on a GPU that waits for it, which `BoundsOnHost` spares.
    """
    real = int(batch["num_tokens"])
    return sorted({bound for bound in batch["cu_seqlens"].tolist() if bound <= real})


class BoundsOnHost:
    """Packed `batches` with `sequence_bounds` of each beside its tensors, taken while they are on the host."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self.batches_per_step = batches.batches_per_step
        self.set_epoch = batches.set_epoch

    @property
    def state_fingerprint(self) -> str:
        return self.batches.state_fingerprint

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        batch = self.batches[number]
        return {**batch, BOUNDS: sequence_bounds(batch)}


def query_key_value(layer: nn.Module, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's queries, keys and values [rows, width, hidden] of its input; before rotation in ModernBERT."""
    module: Any = layer
    if hasattr(module, "attn"):  # ModernBERT: norm first, one projection for all three
        queries, keys, values = module.attn.Wqkv(module.attn_norm(states)).chunk(3, dim=-1)
        return queries, keys, values
    attention = getattr(module.attention, "self", module.attention)
    names = ("q_lin", "k_lin", "v_lin") if hasattr(attention, "q_lin") else ("query", "key", "value")
    queries, keys, values = (getattr(attention, name)(states) for name in names)
    return queries, keys, values


def _layer(model: PreTrainedModel, layer: int | None, whose: str) -> int:
    depth = len(layers_of(model))
    chosen = depth if layer is None else layer
    if not 1 <= chosen <= depth:
        raise InputError(f"relations of layer {chosen} of the {whose}, which has layers 1 to {depth}")
    return chosen
