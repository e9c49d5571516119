"""What the losses of a call are made of beside the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LossTerms(NamedTuple):
    """Rows that count in the terms of the loss, and the weights of the terms: alike for every way of computing it."""

    labels: Tensor | None
    """int64 [N], in [0, V), or -100 in rows without cross-entropy; None: in no row."""
    row_weights: Tensor | None
    """float32 [N], of KL and MSE; None: 1."""
    kl_scale: Tensor
    """One over the denominator of KL and MSE, 0-dim."""
    mlm_scale: Tensor
    """One over the denominator of the cross-entropy, 0-dim."""
    temperature: float
    alphas: Sequence[float]
    """Weights of KL, cross-entropy and MSE in the total."""

    def of_rows(self, picked: slice | Tensor) -> LossTerms:
        """Those of some of the rows."""
        return self._replace(
            labels=None if self.labels is None else self.labels[picked],
            row_weights=None if self.row_weights is None else self.row_weights[picked],
        )

    def reduce(self, kl_rows: Tensor, ce_rows: Tensor, mse_rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Total, KL, cross-entropy and MSE from the weighted values of the rows."""
        kl = self.temperature**2 * self.kl_scale * kl_rows.sum()
        mlm = self.mlm_scale * ce_rows.sum()
        mse = self.kl_scale * mse_rows.sum()
        total = torch.zeros_like(kl)
        for alpha, term in zip(self.alphas, (kl, mlm, mse), strict=True):
            # A term whose alpha is 0 is left out: 0 * inf is NaN.
            if alpha != 0:
                total = total + alpha * term
        return total, kl, mlm, mse
