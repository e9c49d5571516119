"""Makes Triton's interpreter fit to test with: fused multiply-adds that round once, and calls that cost less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter


def _fma(self: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z rounded once, as the hardware does; the interpreter's own rounds the product too."""
    wide = x.data.astype(np.float64) * y.data.astype(np.float64) + z.data.astype(np.float64)
    return interpreter.TensorHandle(wide.astype(np.float32), z.dtype.scalar)


def _call(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A call of one jitted function by another, without patching the language again: that took half the time."""
    return self.rewrite()(*args, **kwargs)


@contextlib.contextmanager
def faithful_interpreter() -> Iterator[None]:
    # The functions of Triton's own library see the language through another module, which is patched here once.
    library = interpreter._patch_lang(tl.max.fn)
    with (
        mock.patch.object(interpreter.InterpreterBuilder, "create_fma", _fma),
        mock.patch.object(interpreter.InterpretedFunction, "__call__", _call),
        np.errstate(all="ignore"),  # infinities are part of the tests
    ):
        try:
            yield
        finally:
            library.restore()


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN, so that whatever a kernel leaves unwritten shows."""
    empty, empty_strided = torch.empty, torch.empty_strided

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    with (
        mock.patch.object(torch, "empty", lambda *args, **kwargs: poison(empty(*args, **kwargs))),
        mock.patch.object(torch, "empty_strided", lambda *args, **kwargs: poison(empty_strided(*args, **kwargs))),
    ):
        yield
