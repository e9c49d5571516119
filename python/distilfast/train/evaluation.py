"""Evaluation while training: the head's metrics of the student, as it stands, on held-out batches.

Nothing is drawn and nothing kept: a run that evaluates takes the same steps, bit for bit, as one that does not.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import EvalPrediction

from .._core import InputError
from ..batches.encode import EncodedRows
from ..batches.sentences import NOTHING_KNOWN, SentenceBatches
from ..batches.tensors import on_device
from ..heads.head import Head, Predictions
from ..heads.hidden_states import HiddenStates
from ..heads.masked_lm import MaskedLM
from ..heads.objective import Objective
from ..heads.positions import counted_positions
from ..metrics.held_out import HeldOutBatches as HeldOutBatches
from ..metrics.held_out import HeldOutScores, evaluate_held_out
from ..metrics.retrieval import MEASURES
from ..metrics.scores import are_ranked
from ..models.families import evaluating
from .arguments import DistillationArguments
from .step import DistillationStep

LOGITS_ALONE = Objective(alpha_cos=0.0)
"""An objective that keeps no hidden states."""

LOWER_IS_BETTER = ("loss", "kl", "mse")


def greater_is_better(metric: str) -> bool:
    """Whether more of a metric of ours is better; a loss, a divergence and a squared error should fall."""
    return not metric.endswith(LOWER_IS_BETTER)


def choose_best_metric(args: DistillationArguments, head: Head, held_out: Any) -> None:
    """Sets which metric chooses the best model, and which way, where `args` do not say.

    Of several held-out sets, by name, the last chooses; "" is the name of the one without."""
    if args.metric_for_best_model is None:
        name, chosen = list(held_out.items())[-1] if isinstance(held_out, dict) and held_out else ("", held_out)
        metric = head.best_metric(args.objective, has_labels(chosen))
        if getattr(chosen, "known", NOTHING_KNOWN).relevant is not None:
            metric = "ndcg@10"
        args.metric_for_best_model = f"{name}_{metric}" if name else metric
    if args.greater_is_better is None:
        args.greater_is_better = greater_is_better(args.metric_for_best_model)


def check_best_metric(metric: str | None, step: DistillationStep, args: DistillationArguments, held_out: Any) -> None:
    """Refuses a `metric` that was asked for to choose the best model and that no evaluation will give, before the first
    one, or where there will be none."""
    if metric is None:
        return
    if held_out is None:
        raise InputError(
            f"--metric_for_best_model {metric} does nothing without an evaluation; give --eval_strategy epoch and "
            "held-out text or rows, or leave it out"
        )
    found = [
        f"{name}_{each}" if name else each
        for name, batches in (held_out if isinstance(held_out, dict) else {"": held_out}).items()
        for each in _measures(step, batches, args.device)
    ]
    if metric.removeprefix("eval_") not in found:
        nearest = difflib.get_close_matches(metric, found, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
        raise InputError(f"--metric_for_best_model {metric}: an evaluation gives {', '.join(found)}{hint}")


def _measures(step: DistillationStep, batches: Any, device: torch.device) -> Iterable[str]:
    """The names of what an evaluation gives, from as few of held-out batches as show it."""
    known = getattr(batches, "known", NOTHING_KNOWN)
    if known.relevant is not None:
        return MEASURES
    whole = known.pair_scores is not None or _grouped(batches)
    return evaluate(step, batches if whole else First(batches), device)


def _grouped(batches: Any) -> bool:
    """Whether rows are compared with each other, which stand in several batches."""
    return getattr(getattr(batches, "rows", None), "groups", None) is not None


class First:
    """The first of some batches alone."""

    def __init__(self, batches: HeldOutBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return min(1, len(self.batches))

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.batches[number]


class Asking:
    """Some batches, before each of which something is asked."""

    def __init__(self, batches: HeldOutBatches, ask: Callable[[], None]) -> None:
        self.batches, self.ask = batches, ask

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        self.ask()
        return self.batches[number]


def evaluate(
    step: DistillationStep,
    batches: HeldOutBatches,
    device: torch.device,
    compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
    remembered: MutableMapping[Any, Any] | None = None,
    ask: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Metrics of the student on `batches`, beside the labels and beside the teachers; models keep their mode.

    masked_lm: `loss` (masked-language-model loss), `accuracy`, and with a teacher (the first of several) `agreement`
    and `kl` at masked positions. hidden_states: `cosine`, mean over tokens, to the teachers. Other heads: what
    `Head.metrics` gives, and where there are labels what `compute_metrics` makes of an `EvalPrediction` of all rows in
    the order of the data (`Head.eval_prediction`). Every rank evaluates all batches. `remembered`: what the teachers
    said of batches before, which do not change; added to. `ask` is called before each batch, and may raise.
    Raises `InputError` for no batches and for predictions that are not finite.
    """
    if len(batches) == 0:
        raise InputError("there is no held-out batch to evaluate on")
    with evaluating(step.student), torch.inference_mode():
        if isinstance(step.head, MaskedLM):
            return masked_lm_metrics(masked_lm_scores(step, Asking(batches, ask), device)["student"])
        if isinstance(step.head, HiddenStates):
            return _hidden_states(step, Asking(batches, ask), device)
        return measured(step.head, predict(step, batches, device, remembered, ask), compute_metrics)


def measured(
    head: Head, predictions: Predictions, compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None
) -> dict[str, float]:
    """The head's metrics and, where there are labels, what `compute_metrics` adds or puts in their place."""
    found = head.metrics(predictions)
    if compute_metrics is not None and predictions.labels is not None:
        found |= compute_metrics(head.eval_prediction(predictions))
    return found


def predict(
    step: DistillationStep,
    batches: HeldOutBatches,
    device: torch.device,
    remembered: MutableMapping[Any, Any] | None = None,
    ask: Callable[[], None] = lambda: None,
    progress: bool = False,
) -> Predictions:
    """What student and teachers say of the rows of all batches: by row number, where batches have those.

    `remembered`: {batches: what the teachers said of them}, for those that are the same at every evaluation. `ask` as
    in `evaluate`. `progress`: with a bar.
    """
    known = None if remembered is None else remembered.get(batches)
    head = step.head
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    labels: list[Tensor] = []
    numbers: list[Tensor] = []
    for number in tqdm(range(len(batches)), desc=type(step.student).__name__, disable=not progress):
        ask()
        batch = on_device(batches[number], device)
        rows = head.rows(batch, LOGITS_ALONE)
        counts = rows.weight != 0
        ours.append(head.outputs(step.student, batch, rows, LOGITS_ALONE).compared[counts].float().cpu())
        if step.teachers and known is None:
            said = [head.outputs(teacher, batch, rows, LOGITS_ALONE).compared.float() for teacher in step.teachers]
            theirs.append(head.mixed(said, step.teacher_weights)[counts].cpu())
        if rows.labels is not None:
            labels.append(rows.labels[counts].cpu())
        if rows.row_numbers is not None:
            numbers.append(rows.row_numbers[counts].cpu())
    data = getattr(batches, "rows", None)
    row_numbers = torch.cat(numbers).numpy() if numbers else None
    order: Any = slice(None) if row_numbers is None else np.argsort(row_numbers, kind="stable")
    if theirs:
        known = head.joined(theirs).numpy()[order]
        if remembered is not None and not getattr(batches, "shuffle", True):
            remembered[batches] = known
    return Predictions(
        head.joined(ours).numpy()[order],
        known,
        torch.cat(labels).numpy()[order] if labels else None,
        None if row_numbers is None else row_numbers[order],
        data if isinstance(data, EncodedRows) else None,
        getattr(batches, "known", NOTHING_KNOWN),
    )


def masked_lm_scores(step: DistillationStep, batches: HeldOutBatches, device: torch.device) -> dict[str, HeldOutScores]:
    """Those of the "student" and, where there is one with such a head, of the first "teacher"."""
    teacher = step.teacher if step.teacher is not None and step.head.fits(step.teacher) else None
    return evaluate_held_out(teacher, {"student": step.student}, batches, device=str(device))


def masked_lm_metrics(scores: HeldOutScores) -> dict[str, float]:
    """`loss` and `accuracy`, and with a teacher `agreement` and `kl`, at masked positions."""
    found = {"loss": scores.mlm_loss, "accuracy": scores.mlm_accuracy}
    if scores.kl is not None and scores.agreement is not None:
        found |= {"agreement": scores.agreement, "kl": scores.kl}
    return found


def _hidden_states(step: DistillationStep, batches: HeldOutBatches, device: torch.device) -> dict[str, float]:
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    for number in range(len(batches)):
        batch = on_device(batches[number], device)
        rows, counted = step.head.rows(batch, LOGITS_ALONE), counted_positions(batch)
        student = step.head.outputs(step.student, batch, rows, LOGITS_ALONE).compared[counted].float()
        for teacher, weight in zip(step.teachers, step.teacher_weights, strict=True):
            target = step.head.outputs(teacher, batch, rows, LOGITS_ALONE).compared[counted].float()
            total += weight * nn.functional.cosine_similarity(student, target, dim=-1).sum(dtype=torch.float64).cpu()
        tokens += int(counted.sum())
    return {"cosine": float(total / tokens)}


def has_labels(held_out: Any) -> bool:
    """Whether held-out batches (or any of several) have a label; of rows in groups, one that ranks them."""
    if isinstance(held_out, dict):
        return any(map(has_labels, held_out.values()))
    if isinstance(held_out, SentenceBatches):
        return held_out.known.pair_scores is not None
    rows = getattr(held_out, "rows", None)
    if isinstance(rows, EncodedRows) and rows.groups is not None:
        return "labels" in rows.targets and are_ranked(rows.targets["labels"], rows.groups)
    return held_out is not None and len(held_out) > 0 and int(held_out[0].get("num_labelled_in_step", 1)) > 0
