"""Multiplies a gradient by a number that lies on the GPU, and leaves it alone where that number is 1."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .launch import current_device, device_scalar

BLOCK = 4096
PROGRAMS = 1024  # so few that they cost next to nothing where there is nothing to do


@triton.jit
def scale_kernel(values, factor, size, steps, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    scale = tl.load(factor)
    if scale != 1.0:
        for step in range(steps):
            at = (tl.program_id(0).to(tl.int64) + step * PROGRAMS) * BLOCK + tl.arange(0, BLOCK)
            scaled = tl.load(values + at, mask=at < size).to(tl.float32) * scale
            tl.store(values + at, scaled.to(values.dtype.element_ty), mask=at < size)


def scale_in_place(gradient: Tensor, factor: Tensor) -> Tensor:
    """`gradient` times `factor`, written over it without the host waiting for `factor`; not read where that is 1.

    `gradient` (bfloat16, float16 or float32) must have all of its storage to itself: what lies between its rows is
    multiplied too. `factor` has one element.
    """
    if gradient.numel() == 0:
        return gradient
    size = sum((length - 1) * stride for length, stride in zip(gradient.shape, gradient.stride(), strict=True)) + 1
    with current_device(gradient):
        scale_kernel[(PROGRAMS,)](
            gradient,
            device_scalar(factor, gradient),
            size,
            -(-size // (PROGRAMS * BLOCK)),
            PROGRAMS=PROGRAMS,
            BLOCK=BLOCK,
            num_warps=8,
        )
    return gradient
