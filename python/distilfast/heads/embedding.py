"""Sentence encoders: the vector of a text, and how alike the texts of a batch are.

Cosine and squared distance of pooled vectors as Reimers and Gurevych, "Making monolingual sentence embeddings
multilingual", 2020; similarities within the batch as Fang et al., "SEED: Self-supervised distillation for visual
representation", 2021; prefixes as Kusupati et al., "Matryoshka representation learning", 2022.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather as gather_with_gradients
from transformers import PreTrainedModel

from .._core import InputError
from ..metrics.retrieval import search_means
from ..metrics.vectors import pair_similarities, sts_metrics, vector_metrics
from ..models.last_layer import encode
from ..models.pooling import SentenceModules
from ..models.sentence_folder import SentenceSettings, write_sentence_folder
from .head import Head, Outputs, Predictions, Rows
from .objective import Objective

OUTSIDE = -1e4  # a similarity of what is not compared: far below any cosine over a temperature
SHIFTS = 10
"""Each held-out text is paired with so many others when similarities are compared with the teacher's."""


class Embedding(Head):
    """Rows are texts of a `SentenceBatches`; `Outputs.compared` are their vectors [rows, width].

    `modules`: what makes vectors of the student's states; it is trained with the student. `settings`: what is saved
    beside it. `teachers`: each teacher with what follows it. `vectors`: the width of the teachers' vectors where these
    come with the batch (`teacher_vectors`) and no teacher runs. `concatenated`: several teachers are one, whose vector
    is theirs side by side (`mixed`).

    Against the teacher, alpha_embedding: 1 - cos(s, t) + |s - t|^2 / |t|^2, the mean over rows; where the student's
    vectors have another width, and for every teacher but the first (whose space is the student's), of a learned linear
    projection of them, which is not saved. With `dimensions`, the mean over prefixes of so many numbers, and the whole
    vector. alpha_similarity: KL of the softmax over all other texts of the micro-batch, on all ranks, of cos /
    `similarity_temperature`, the teacher's against the student's, the mean over rows; with `dimensions`, of the
    student's prefixes against the teacher's whole vectors.
    """

    name = "embedding"
    title = "pooled vector of a text"
    soft_alphas: ClassVar[tuple[str, ...]] = ("alpha_embedding", "alpha_similarity")
    hard_alpha = None
    takes_rows = False

    def __init__(
        self,
        modules: SentenceModules,
        settings: SentenceSettings,
        teachers: Sequence[tuple[PreTrainedModel, SentenceModules]] = (),
        vectors: int | None = None,
        seed: int = 0,
        concatenated: bool = False,
    ) -> None:
        super().__init__()
        self.sentence = modules.requires_grad_(True)
        self.settings = settings
        self.teachers = tuple((model, parts.requires_grad_(False)) for model, parts in teachers)
        self.vectors = vectors
        self.concatenated = concatenated
        widths = [parts.width for _, parts in self.teachers] if vectors is None else [vectors]
        widths = [sum(widths)] if concatenated else widths
        generator = torch.Generator().manual_seed(seed)
        self.projections = nn.ModuleList()
        for number, width in enumerate(widths):
            projection: nn.Module = nn.Identity()
            if number > 0 or width != modules.width:
                projection = nn.Linear(modules.width, width, bias=False)
                nn.init.orthogonal_(projection.weight, generator=generator)
            self.projections.append(projection)

    def fits(self, model: PreTrainedModel) -> bool:
        return True

    def best_metric(self, objective: Objective, has_labels: bool) -> str:
        return "spearman" if has_labels else "teacher_spearman"

    def rows(self, batch: Mapping[str, Any], objective: Objective) -> Rows:
        if "cu_seqlens" in batch:
            bounds = batch["cu_seqlens"]
            weight = (bounds[:-1] < batch["num_tokens"]) & (bounds[1:] > bounds[:-1])
        else:
            weight = torch.ones(len(batch["input_ids"]), dtype=torch.bool, device=batch["input_ids"].device)
        if "is_real" in batch:
            weight = weight & batch["is_real"]
        count = batch["num_rows_in_step"]
        return Rows(weight, batch.get("teacher_vectors"), count, count, row_numbers=batch.get("row_numbers"))

    def outputs(self, model: PreTrainedModel, batch: Mapping[str, Any], rows: Rows, objective: Objective) -> Outputs:
        modules, seen = self.sentence, batch
        for number, (teacher, parts) in enumerate(self.teachers):
            if model is teacher:
                modules, seen = parts.to(model.device), _seen_by(number, batch)
        encoded = encode(model, seen, layers=objective.inner_states)
        assert encoded.every is not None
        vectors = modules(encoded.every.view(*seen["input_ids"].shape, -1), seen)
        return Outputs(model, vectors, encoded.every, encoded.layers)

    def losses(
        self, rows: Rows, student: Outputs, targets: Sequence[Outputs], mixture: Sequence[float], objective: Objective
    ) -> tuple[Tensor, dict[str, Tensor]]:
        said = [target.compared for target in targets]
        if self.vectors is not None:
            assert rows.labels is not None
            said, mixture = [rows.labels], [1.0]
        parts = self.soft_loss(rows, student.compared, said, mixture, objective)
        total = sum((alpha * value for alpha, value in parts.values()), start=student.compared.new_zeros(()))
        return total, {name: value.detach() for name, (_, value) in parts.items()}

    def soft_loss(
        self, rows: Rows, student: Tensor, teachers: Sequence[Tensor], mixture: Sequence[float], objective: Objective
    ) -> dict[str, tuple[float, Tensor]]:
        found: dict[str, tuple[float, Tensor]] = {}
        if self.concatenated:
            teachers, mixture = [self.mixed(teachers, mixture)], [1.0]
        width = student.shape[1]
        widths = [*dict.fromkeys([width, *(objective.dimensions or ())])]
        weight = rows.weight.to(student.dtype)
        kinds = {
            "loss_embedding": (objective.alpha_embedding, self._distances),
            "loss_similarity": (objective.alpha_similarity, self._divergences),
        }
        for name, (alpha, compare) in kinds.items():
            if alpha != 0:
                values = [
                    share * compare(number, student, target.to(student.dtype), prefix, rows.weight, objective)
                    for number, (target, share) in enumerate(zip(teachers, mixture, strict=True))
                    for prefix in widths
                ]
                total = torch.stack(values).sum(0) / len(widths)
                found[name] = (alpha, torch.where(rows.weight, total, 0).mul(weight).sum() / rows.num_rows)
        return found

    def _distances(
        self, number: int, student: Tensor, teacher: Tensor, prefix: int, _: Tensor, objective: Objective
    ) -> Tensor:
        """[rows]: how far the first `prefix` numbers of the student's vectors are from the teacher's."""
        projection = self.projections[number]
        if isinstance(projection, nn.Linear):
            student = F.linear(student[:, :prefix], projection.weight[:, :prefix].to(student.dtype))
            if self.sentence.normalizes:
                student = F.normalize(student, dim=-1)
        elif prefix < student.shape[1]:
            student, teacher = student[:, :prefix], teacher[:, :prefix]
            if self.sentence.normalizes:
                student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
        length = teacher.square().sum(-1).clamp(min=1e-12)
        squared = (student - teacher).square().sum(-1) / length
        return 1 - F.cosine_similarity(student, teacher, dim=-1) + squared

    def _divergences(
        self, number: int, student: Tensor, teacher: Tensor, prefix: int, weight: Tensor, objective: Objective
    ) -> Tensor:
        """[rows]: the KL of the similarities to the other rows that count, of all ranks; 0 where there is no other."""
        rows = [_log_similarities(each, weight, objective) for each in (student[:, :prefix], teacher)]
        return (rows[1].exp() * (rows[1] - rows[0])).sum(-1)

    def teacher_needed(self, objective: Objective) -> bool:
        return self.vectors is None and super().teacher_needed(objective)

    def mixed(self, teachers: Sequence[Tensor], mixture: Sequence[float]) -> Tensor:
        """Vectors whose cosines are the weighted means of the teachers' cosines."""
        if len(teachers) == 1:
            return teachers[0]
        units = [F.normalize(each, dim=-1) * share**0.5 for each, share in zip(teachers, mixture, strict=True)]
        return torch.cat(units, dim=-1)

    def metrics(self, predictions: Predictions) -> dict[str, float]:
        """`vector_metrics`, and `teacher_spearman`: the rank correlation of the cosines of held-out texts, each with
        the `SHIFTS` that follow it, with the teacher's. Of pairs that people have scored `sts_metrics`; of a search
        `retrieval_scores`, the means over queries, and `kept_ndcg@10`, the share of the teacher's nDCG."""
        student, teacher, labels = predictions.student, predictions.teacher, predictions.labels
        teacher = labels if teacher is None else teacher
        known = predictions.known
        if known.pair_scores is not None:  # `predict` has put the rows in the order of their numbers
            similarities = [
                None if each is None else pair_similarities(*np.split(each, 2)) for each in (student, teacher)
            ]
            assert similarities[0] is not None
            return sts_metrics(similarities[0], known.pair_scores, similarities[1])
        if known.relevant is not None:
            found = search_means(student, known.relevant, self.settings.similarity)
            if teacher is not None:
                best = search_means(teacher, known.relevant, self.settings.similarity)
                found["kept_ndcg@10"] = found["ndcg@10"] / best["ndcg@10"] if best["ndcg@10"] else math.nan
            return found
        assert teacher is not None
        pairs = [np.roll(np.arange(len(student)), -shift) for shift in range(1, min(SHIFTS, len(student) - 1) + 1)]
        found = vector_metrics(student, teacher)
        if pairs:
            cosines = [
                np.concatenate([pair_similarities(each, each[other]) for other in pairs]) for each in (student, teacher)
            ]
            found |= sts_metrics(cosines[0], teacher_similarities=cosines[1])
        return found

    def save(self, folder: Path) -> None:
        """Writes what makes of the student in `folder` a sentence-transformers model."""
        write_sentence_folder(folder, self.sentence, self.settings)

    def check(self, student: PreTrainedModel, teachers: Sequence[PreTrainedModel], objective: Objective) -> None:
        if self.vectors is not None and (objective.alpha_cos != 0 or objective.inner_states):
            raise InputError(
                "alpha_cos, alpha_hidden and alpha_rel compare hidden states, and of the teacher there are only "
                "vectors; set them to 0"
            )
        if self.vectors is None and [id(each) for each in teachers] != [id(each) for each, _ in self.teachers]:
            raise InputError("the head was made for other teachers than those that are given; make it for these")
        super().check(student, teachers, objective)
        if not self.reads_student(objective) and any(True for _ in self.sentence.parameters()):
            raise InputError(
                "alpha_embedding and alpha_similarity are 0, so the dense layer behind the student's pooling would "
                "learn nothing; give one of them a weight"
            )
        wrong = [each for each in objective.dimensions or () if not 0 < each <= self.sentence.width]
        if wrong:
            raise InputError(f"--dimensions {wrong[0]}: the student's vectors have {self.sentence.width} numbers")
        for parameter in self.projections.parameters():
            parameter.requires_grad_(objective.alpha_embedding != 0)

    def check_teacher(self, student: PreTrainedModel, teacher: PreTrainedModel, objective: Objective) -> None:
        if objective.alpha_cos != 0 or objective.inner_states:
            super().check_teacher(student, teacher, objective)


def _seen_by(teacher: int, batch: Mapping[str, Any]) -> Mapping[str, Any]:
    """The batch as the teacher's own tokenizer has it, or as it is where it has none."""
    prefix = f"teacher_{teacher}_"
    own = {name.removeprefix(prefix): value for name, value in batch.items() if name.startswith(prefix)}
    return own or batch


def _log_similarities(vectors: Tensor, weight: Tensor, objective: Objective) -> Tensor:
    """[rows, rows of all ranks]: for each row the log of the softmax of its cosines to all others that count."""
    units = F.normalize(vectors, dim=-1)
    others, counts, own = _of_all_ranks(units, weight != 0)
    similarities = units @ others.T / objective.similarity_temperature
    numbers = torch.arange(len(units), device=units.device)
    itself = torch.zeros(len(units), len(others), dtype=torch.bool, device=units.device)
    itself[numbers, own + numbers] = True
    return F.log_softmax(similarities.masked_fill(~counts[None, :] | itself, OUTSIDE), dim=-1)


def _of_all_ranks(units: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, int]:
    """The vectors of this micro-step's rows on all ranks, with gradients to where they are from, which of them count,
    and where this rank's begin. Of one rank, its own."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return units, counts, 0
    rank, ranks = dist.get_rank(), dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64, device=units.device) for _ in range(ranks)]
    dist.all_gather(sizes, torch.tensor([len(units)], device=units.device))
    most = int(torch.cat(sizes).max())
    spare = most - len(units)
    padded = F.pad(units, (0, 0, 0, spare))
    real = F.pad(counts, (0, spare)).to(torch.int64)
    reals = [torch.zeros_like(real) for _ in range(ranks)]
    dist.all_gather(reals, real)
    if units.requires_grad:
        gathered = list(gather_with_gradients(padded))  # type: ignore[no-untyped-call]
    else:
        gathered = [torch.zeros_like(padded) for _ in range(ranks)]
        dist.all_gather(gathered, padded)
    return torch.cat(gathered), torch.cat(reals).bool(), rank * most
