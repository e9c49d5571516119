"""Self-attention relations: how the tokens of a sequence relate to one another, query with query, key with key, value
with value, in one layer of each model.

MiniLMv2 (Wang et al. 2021): the vectors of all attention heads are joined and cut anew into `relation_heads` of them,
so the models may differ in width and in number of heads. Any width of the student will do, and any depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from .._core import InputError
from ..batches.loader import Batches
from ..models.families import layers_of

BOUNDS = "sequence_bounds"


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
