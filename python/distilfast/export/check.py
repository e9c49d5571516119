"""An exported form against the model it is of: how far its outputs are from the original's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .._core import InputError


@dataclass(frozen=True)
class Check:
    """One exported form against the original: the largest difference of an output, and what was allowed (None: any).

    relative: the same divided by the largest absolute output of the original. agreement: share of outputs (rows of
    scores over attended positions) whose largest score stands at the same index.
    """

    form: str
    file: str
    bytes: int
    largest_difference: float
    relative: float
    agreement: float
    tolerance: float | None

    def line(self) -> str:
        allowed = "judged by top-1" if self.tolerance is None else f"allowed {self.tolerance:.0e}"
        return (
            f"{self.form}: {self.file}, {self.bytes / 1e6:.1f} MB, largest difference {self.largest_difference:.2e} "
            f"({allowed}), same top-1 on {100 * self.agreement:.2f} % of positions"
        )


def encode(tokenizer: Any, texts: Sequence[str], model: Any) -> dict[str, torch.Tensor]:
    """The padded inputs that the model's forward takes, int64 [texts, width]."""
    longest = min(512, int(getattr(model.config, "max_position_embeddings", 512)))
    inputs = tokenizer(list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    return {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}


def outputs_of(model: Any, encoded: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors among the model's outputs by name, float32."""
    with torch.inference_mode():
        outputs = model(**encoded)
    return {key: value.float() for key, value in outputs.items() if isinstance(value, torch.Tensor)}


def compare(
    form: str,
    file: Path,
    outputs: dict[str, torch.Tensor],
    reference: dict[str, torch.Tensor],
    attended: torch.Tensor,
    tolerance: float | None,
) -> Check:
    """The `Check` of `outputs` against `reference`; padded positions, which nobody reads, are left out."""
    difference = scale = 0.0
    same = rows = 0
    for key, expected in reference.items():
        got = outputs[key]
        if got.shape != expected.shape:
            raise InputError(f"{form}: output {key} has shape {tuple(got.shape)}, the original {tuple(expected.shape)}")
        if expected.shape[:2] == attended.shape:
            got, expected = got[attended], expected[attended]
        # A NaN compares as smaller than everything; counted as infinite it is refused.
        difference = max(difference, float((got - expected).abs().nan_to_num(nan=torch.inf).max()))
        scale = max(scale, float(expected.abs().max()))
        if expected.dim() > 1 and expected.shape[-1] > 1:
            same += int((got.argmax(-1) == expected.argmax(-1)).sum())
            rows += expected[..., 0].numel()
    return Check(
        form=form,
        file=file.name,
        bytes=sum(each.stat().st_size for each in file.parent.glob(file.stem + "*" + file.suffix + "*")),
        largest_difference=difference,
        relative=difference / scale if scale else difference,
        agreement=same / rows if rows else 1.0,
        tolerance=tolerance,
    )


def refuse_past_tolerance(check: Check) -> None:
    if check.tolerance is not None and not check.largest_difference <= check.tolerance:
        raise InputError(
            f"{check.form}: the reloaded model differs from the original by {check.largest_difference:.3g}, more than "
            f"the {check.tolerance:.3g} allowed; nothing is written"
        )
