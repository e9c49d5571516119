"""What the launchers share: how rows lie in memory, the static table of block sizes, and the arguments' checks.

There is no run-time tuning: outputs may overwrite inputs, which a tuner's repeated launches would corrupt, and the
choice must not differ between runs.
"""

from __future__ import annotations

import contextlib
import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 8  # elements read together: 16 bytes of a 16-bit type
FLOATS = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class RowConfiguration:
    """How one program walks a row: `full_blocks` blocks of `block` lanes, then one of `tail` (0: none)."""

    block: int
    full_blocks: int
    tail: int
    num_warps: int

    def lanes(self, *matrices: Tensor) -> int:
        """Running sums a row: one for each 16-byte access that a thread makes in a block."""
        neighbours = 4 if all(matrix.dtype == torch.float32 for matrix in matrices) else GROUP
        return max(1, (self.block if self.full_blocks else self.tail) // neighbours)


def row_configuration(
    columns: int, headed: bool, block: int | None = None, num_warps: int | None = None
) -> RowConfiguration:
    """The table for rows of `columns` elements; `block` and `num_warps` override it, to measure other choices.

    `headed` rows start inside a group of eight. Sixteen elements a thread: two 16-byte accesses of 16-bit logits are
    under way at once. Wide programs on long rows: few rows are then in hand on the GPU at a time, and the second pass
    still finds them in the L2 cache.
    """
    if block is None:
        block = 4096 if columns >= 8192 else 2048 if columns >= 4096 else 1024
    # Lanes in whole groups: at least `least` and at most `most` of them, depending on where the row starts.
    least, most = (max(0, columns - 14), columns - 1) if headed else (columns // GROUP * GROUP,) * 2
    block = min(block, max(64, power_of_two(most)))
    full_blocks = least // block
    rest = most - full_blocks * block
    tail = max(power_of_two(rest), block // 4, 16) if most >= GROUP and rest > 0 else 0
    return RowConfiguration(block, full_blocks, tail, num_warps or max(1, min(8, block // 512)))


def registers(student: torch.dtype, teacher: torch.dtype, squared_error: bool) -> int:
    """Registers a thread: 80 let three programs of 256 threads share an SM; some forms would spill with so few.

    Rows of float32 are twice as long: two programs already fill as much of the L2 cache. ptxas left to itself settles
    on 64, and spills.
    """
    return 128 if squared_error else 96 if torch.float32 in (student, teacher) else 80


def power_of_two(value: int) -> int:
    return 1 << max(0, value - 1).bit_length()


@dataclass(frozen=True)
class Phase:
    """Where a matrix's rows start within groups of eight elements: row i at (`base` + i * `step`) mod 8."""

    base: int
    step: int

    @staticmethod
    def of(matrix: Tensor) -> Phase:
        base = matrix.data_ptr() // matrix.element_size() % GROUP
        return Phase(base, matrix.stride(0) % GROUP if matrix.shape[0] > 1 else 0)

    @property
    def aligned(self) -> bool:
        return self.base == 0 and self.step == 0


def with_unit_stride(matrix: Tensor) -> Tensor:
    """The matrix itself, or a contiguous copy of one whose columns are not next to each other or whose rows overlap."""
    rows, columns = matrix.shape
    if (matrix.stride(1) == 1 or columns == 1) and (matrix.stride(0) >= columns or rows <= 1):
        return matrix
    return matrix.contiguous()


def empty_gradient(matrix: Tensor) -> Tensor:
    """An uninitialised [N, V] matrix for the gradient, with the row stride of `matrix` where that has unit stride.

    Rows then start in the same place of a 16-byte group as those of `matrix`. Works on fake tensors, for custom ops.
    """
    rows, columns = matrix.shape
    stride = columns
    if rows > 1 and columns > 1 and matrix.stride(1) == 1 and matrix.stride(0) > columns:
        stride = matrix.stride(0)
    return torch.empty_strided((rows, columns), (stride, 1), dtype=matrix.dtype, device=matrix.device)


def temperature_power(temperature: float) -> int:
    """e^s as a power of e^(s / T): T where it is 1, 2, 3 or 4, else 0 for one more exponential."""
    return int(temperature) if temperature in (1.0, 2.0, 3.0, 4.0) else 0


def device_scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """A float32 scalar on the device of `like`, without waiting for the device."""
    if isinstance(value, Tensor):
        return value.to(device=like.device, dtype=torch.float32)
    return torch.full((), float(value), dtype=torch.float32, device=like.device)


def current_device(like: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, so the tensors' device has to be that."""
    return torch.cuda.device(like.device) if like.is_cuda else contextlib.nullcontext()


def check_matrices(student: Tensor, teacher: Tensor, what: str) -> None:
    """Raises TypeError or ValueError unless both are [N, V] of a floating type the kernels read, on one device."""
    for name, matrix in (("student", student), ("teacher", teacher)):
        if matrix.dtype not in FLOATS:
            raise TypeError(f"{name} {what} are {matrix.dtype}: the kernels read bfloat16, float16 and float32")
        if matrix.dim() != 2:
            raise ValueError(f"{name} {what} have shape {tuple(matrix.shape)}: flatten leading dimensions to [N, V]")
    if student.shape != teacher.shape:
        raise ValueError(f"student {what} are {tuple(student.shape)} and the teacher's {tuple(teacher.shape)}")
    if student.device != teacher.device:
        raise ValueError(f"student {what} are on {student.device} and the teacher's on {teacher.device}")
    if student.shape[1] == 0 and student.shape[0] > 0:
        raise ValueError(f"{what} of shape {tuple(student.shape)} have no columns")


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless `temperature` is a positive number."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}: it has to be a positive number")


def row_values(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Space for KL, cross-entropy and squared error of each row, float32 [N]."""
    kl, ce, mse = (torch.empty(matrix.shape[0], dtype=torch.float32, device=matrix.device) for _ in range(3))
    return kl, ce, mse


def check_rows(name: str, values: Tensor, dtype: torch.dtype, matrix: Tensor) -> Tensor:
    """`values`, contiguous, if they are one of `dtype` for each row of `matrix`; else TypeError or ValueError."""
    if values.dtype != dtype:
        raise TypeError(f"{name} is {values.dtype}: it has to be {dtype}")
    if values.shape != matrix.shape[:1]:
        raise ValueError(f"{name} has shape {tuple(values.shape)} for {matrix.shape[0]} rows")
    if values.device != matrix.device:
        raise ValueError(f"{name} is on {values.device} and the rows on {matrix.device}")
    return values.contiguous()
