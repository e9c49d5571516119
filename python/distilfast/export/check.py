"""What an exported form says against what the model said: the inputs, the outputs, and a judgement fit for the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from .._core import InputError
from ..batches.encode import check_length
from ..metrics.scores import correlation
from ..models.families import longest_row, model_input_names
from ..models.head import head_of_class
from ..tokenizer import tokenize

# Sentences of several lengths, so that padding is in the comparison too.
SENTENCES = (
    "The river had risen in the night and carried the small bridge away.",
    "She asked for two tickets to the coast, one of them for a child.",
    "In 1869 the railway joined the two shores of the continent for the first time, and mail that had taken a month "
    "arrived within a week.",
    "Why?",
    "Prices fell by 3.5 percent, said the bank, although nobody at the market had noticed.",
    "A café on the corner sells coffee, tea and yesterday's newspapers.",
    "Nothing in this film works, and the ending is worse.",
    "A warm and funny story that children and their parents will love.",
    "The committee meets on Tuesdays in the town hall.",
    "Anna Schmidt moved from Berlin to Lisbon to work for the port.",
    "How far is it from the station to the old harbour?",
    "Rain is expected in the north, with strong winds along the coast.",
)
MOST_TOKENS = 512
"""The longest row of the comparison, where the model has positions for more."""
MASK_EVERY = 7
"""Of the tokens of a text for a masked-language model, how many there are to one mask."""

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Check:
    """One exported form against the original: the largest difference of an output, and what was allowed (None: any).

    relative: the same divided by the largest absolute output of the original. agreement: how far the form does what the
    head is for as the original does, 1 where it does the same; `measured` says which number that is.
    """

    form: str
    file: str
    bytes: int
    largest_difference: float
    relative: float
    agreement: float
    tolerance: float | None
    measured: str = "same top-1"

    def line(self) -> str:
        """What was found, in one line."""
        allowed = "judged by what the head is for" if self.tolerance is None else f"allowed {self.tolerance:.0e}"
        return (
            f"{self.form}: {self.file}, {self.bytes / 1e6:.1f} MB, largest difference {self.largest_difference:.2e} "
            f"({allowed}), {self.measured}: {100 * self.agreement:.2f} %"
        )


def _head_of(model: Any) -> str:
    """What the model is for: "masked_lm", "classification", "tokens" or "questions"; "hidden_states" of the rest."""
    return head_of_class(type(model).__name__) or "hidden_states"


def _longest(model: Any, tokenizer: Any) -> int:
    """The most tokens of a row in the comparison."""
    return min(MOST_TOKENS, longest_row(model) or MOST_TOKENS, int(tokenizer.model_max_length))


def texts_for(tokenizer: Any, texts: Sequence[str] | None) -> list[str]:
    """`texts`, or `SENTENCES`; where the vocabulary knows less than half of those, rows of its own tokens.

    Raises `InputError` where `texts` is empty.
    """
    if texts is not None:
        if not texts:
            raise InputError("no text to compare the export on: give at least one line")
        return list(texts)
    ids = [each for row in tokenize(tokenizer, list(SENTENCES), add_special_tokens=False)["input_ids"] for each in row]
    if tokenizer.unk_token_id is None or sum(each == tokenizer.unk_token_id for each in ids) <= len(ids) / 2:
        return list(SENTENCES)
    generator = np.random.default_rng(0)
    known = [each for each in range(len(tokenizer)) if each not in tokenizer.all_special_ids]
    return [tokenizer.decode(generator.choice(known, size)) for size in (12, 3, 40, 1, 7, 20, 5, 15, 9, 30)]


def encode(tokenizer: Any, texts: Sequence[str], model: Any) -> list[Batch]:
    """What the model's forward takes for `texts` alone, for pairs of them, and for one long row; int64 [rows, width].

    A masked-language model gets every seventh token masked. Padding is in the first two, and batches of several widths
    are there so that a length frozen in a file shows.
    """
    names, longest = model_input_names(model), _longest(model, tokenizer)
    check_length(tokenizer, longest, pairs=True)
    options: dict[str, Any] = {"truncation": True, "max_length": longest, "padding": True, "return_tensors": "pt"}
    second = [*texts[1:], texts[0]]
    long = " ".join([*texts, *texts])
    encoded = [
        tokenize(tokenizer, list(texts), **options),
        tokenize(tokenizer, list(texts), second, **options),
        tokenize(tokenizer, [long], **options),
    ]
    batches = [{name: each[name] for name in names if name in each} for each in encoded]
    if _head_of(model) == "masked_lm" and tokenizer.mask_token_id is not None:
        special = torch.tensor(tokenizer.all_special_ids)
        for batch in batches:
            ids = batch["input_ids"]
            ordinary = ~torch.isin(ids, special)
            ids[ordinary & (ordinary.cumsum(1) % MASK_EVERY == 1)] = tokenizer.mask_token_id
    return batches


def outputs_of(model: Any, batches: Sequence[Batch]) -> list[Batch]:
    """The tensors among the model's outputs by name, float32, batch by batch."""
    found = []
    for batch in batches:
        with torch.inference_mode():
            outputs = model(**batch, return_dict=True)
        found.append({key: value.float() for key, value in outputs.items() if isinstance(value, torch.Tensor)})
    return found


def compare(
    form: str,
    file: Path,
    outputs: Sequence[Batch],
    reference: Sequence[Batch],
    batches: Sequence[Batch],
    model: Any,
    tokenizer: Any,
    tolerance: float | None,
) -> Check:
    """The `Check` of `outputs` against `reference`; padded positions, which nobody reads, are left out."""
    difference = scale = 0.0
    for got_outputs, expected_outputs, batch in zip(outputs, reference, batches, strict=True):
        attended = batch["attention_mask"].bool()
        for key, expected in expected_outputs.items():
            got = got_outputs[key]
            if got.shape != expected.shape:
                raise InputError(
                    f"{form}: output {key} has shape {tuple(got.shape)}, the original {tuple(expected.shape)}"
                )
            if expected.dim() == 3 or key in ("start_logits", "end_logits"):
                got, expected = got[attended], expected[attended]
            # A NaN compares as smaller than everything; counted as infinite it is refused.
            difference = max(difference, float((got - expected).abs().nan_to_num(nan=torch.inf).max()))
            scale = max(scale, float(expected.abs().max()))
    agreement, measured = judge(outputs, reference, batches, model, tokenizer)
    return Check(
        form=form,
        file=file.name,
        bytes=sum(each.stat().st_size for each in file.parent.glob(file.stem + "*" + file.suffix + "*")),
        largest_difference=difference,
        relative=difference / scale if scale else difference,
        agreement=agreement,
        tolerance=tolerance,
        measured=measured,
    )


def judge(
    outputs: Sequence[Batch], reference: Sequence[Batch], batches: Sequence[Batch], model: Any, tokenizer: Any
) -> tuple[float, str]:
    """How far `outputs` do what the head is for as `reference` does, and the name of that number.

    masked_lm: share of masks with the same best token; classification: share of texts of the same class (of several
    labels: of the same decision at 0.5), and for one score the rank correlation; tokens: share of tokens of the same
    class; questions: share of the same best starts and ends; encoders: correlation of the similarities between texts,
    of the pooled vectors (the pooled output of a sentence encoder, otherwise the mean).
    """
    head = _head_of(model)
    if head == "classification":
        ours, theirs = (torch.cat([batch["logits"] for batch in each]) for each in (outputs, reference))
        if theirs.shape[-1] == 1:
            return _correlation(stats.spearmanr, ours[:, 0], theirs[:, 0]), "rank correlation of scores"
        if getattr(model.config, "problem_type", None) == "regression":
            return _correlation(stats.pearsonr, ours.flatten(), theirs.flatten()), "correlation of scores"
        if getattr(model.config, "problem_type", None) == "multi_label_classification":
            return float(((ours > 0) == (theirs > 0)).float().mean()), "same decision on labels"
        return float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()), "same class on texts"
    if head == "hidden_states":
        ours, theirs = (
            torch.cat([_pooled(batch, inputs) for batch, inputs in zip(each, batches, strict=True)])
            for each in (outputs, reference)
        )
        return _correlation(
            stats.pearsonr, _similarities(ours), _similarities(theirs)
        ), "correlation of similarities between texts"
    same: list[torch.Tensor] = []
    for got, expected, batch in zip(outputs, reference, batches, strict=True):
        attended = batch["attention_mask"].bool()
        if head == "questions":
            for key in ("start_logits", "end_logits"):
                ours, theirs = (each[key].masked_fill(~attended, -torch.inf) for each in (got, expected))
                same.append(ours.argmax(-1) == theirs.argmax(-1))
            continue
        masked = batch["input_ids"] == tokenizer.mask_token_id if head == "masked_lm" else attended
        same.append((got["logits"].argmax(-1) == expected["logits"].argmax(-1))[masked if masked.any() else attended])
    measured = {"masked_lm": "same top-1 on masks", "tokens": "same class on tokens", "questions": "same answer ends"}
    return float(torch.cat(same).float().mean()), measured[head]


def _pooled(outputs: Batch, batch: Batch) -> torch.Tensor:
    if "sentence_embedding" in outputs:
        return outputs["sentence_embedding"]
    weights = batch["attention_mask"][..., None].float()
    return (outputs["last_hidden_state"] * weights).sum(1) / weights.sum(1)


def _similarities(vectors: torch.Tensor) -> torch.Tensor:
    """The cosines of all pairs of different rows."""
    cosines = torch.nn.functional.normalize(vectors, dim=-1)
    cosines = cosines @ cosines.T
    above = torch.triu_indices(len(cosines), len(cosines), offset=1)
    return cosines[above[0], above[1]]


def _correlation(function: Callable[..., Any], ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """`function` of scipy.stats; 1 where both are the same, 0 where one does not vary and the other is different."""
    same = torch.equal(ours, theirs)
    return 1.0 if same else correlation(function, ours.double().numpy(), theirs.double().numpy())


def refuse_past_tolerance(check: Check) -> None:
    """Raises `InputError` where the form differs by more than was allowed."""
    if check.tolerance is not None and not check.largest_difference <= check.tolerance:
        raise InputError(
            f"{check.form}: the reloaded model differs from the original by {check.largest_difference:.3g}, more than "
            f"the {check.tolerance:.3g} allowed; nothing is written"
        )
