"""Fused Triton kernels of the distillation losses. Imports torch, triton and its siblings, never distilfast."""

from __future__ import annotations

from .distillation import distillation_loss_forward
from .hidden import hidden_cosine_forward, hidden_mse_forward
from .launch import empty_gradient
from .linear import linear_distillation_loss_forward

__all__ = [
    "distillation_loss_forward",
    "empty_gradient",
    "hidden_cosine_forward",
    "hidden_mse_forward",
    "linear_distillation_loss_forward",
]
