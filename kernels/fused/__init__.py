"""Fused Triton kernels of the distillation losses. Imports torch, triton and its siblings, never distilfast."""
