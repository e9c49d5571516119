"""K3: cosine and squared error of [N, H] hidden states of several layers, row values and gradients in one launch.

A program takes several rows of one layer at once and holds them in registers between the sums and the gradient, so that
every element is read once. Rows wider than a program holds are read twice. The layers' addresses are arguments of the
launch, so that nothing is copied to the GPU for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import (
    GROUP,
    check_matrices,
    check_rows,
    current_device,
    device_scalar,
    power_of_two,
    with_unit_stride,
)

SQUARE_EPSILON = tl.constexpr(1e-12)  # torch.nn.CosineEmbeddingLoss adds this to each squared norm
WIDEST = 4096  # columns a program keeps in registers
MOST_LAYERS = 64  # of one launch: the addresses and strides of more would not fit into its arguments


@triton.jit
def of_layer(values, layer, COUNT: tl.constexpr):
    """Element number `layer` of a tuple of pointers or integers."""
    value = values[0]
    for index in tl.static_range(1, COUNT):
        value = tl.where(layer == index, values[index], value)
    return value


@triton.jit
def load_tile(matrix, rows, stride, start, H: tl.constexpr, SIZE: tl.constexpr, weights):
    """[R, SIZE] elements in float32; 0 outside of the matrix and in rows of weight 0, which may hold anything."""
    columns = start + tl.arange(0, SIZE)
    inside = (weights != 0.0)[:, None] & (columns < H)[None, :]
    offsets = (rows * stride)[:, None] + columns[None, :]
    return tl.load(matrix + offsets, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_tile(matrix, values, rows, stride, start, N, H: tl.constexpr, SIZE: tl.constexpr):
    columns = start + tl.arange(0, SIZE)
    inside = (rows < N)[:, None] & (columns < H)[None, :]
    offsets = (rows * stride)[:, None] + columns[None, :]
    tl.store(matrix + offsets, values.to(matrix.dtype.element_ty), mask=inside)


@triton.jit
def hidden_kernel(
    students,  # a tuple of [N, H], one for each layer
    teachers,  # a tuple of [N, H]
    gradients,  # [layers, N, H]
    weights,  # float32 [N]
    scale,  # float32 []
    values_out,  # float32 [layers, N]
    N,
    student_strides,  # a tuple
    teacher_strides,  # a tuple
    COUNT: tl.constexpr,  # layers
    H: tl.constexpr,
    ROWS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCKS: tl.constexpr,
    COSINE: tl.constexpr,  # otherwise the squared error
    STORE: tl.constexpr,
    UNIT: tl.constexpr,  # elements that the strides count: 8 if they can, for rows that start on 16-byte groups
):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    layer = tl.program_id(1).to(tl.int64)
    student = of_layer(students, layer, COUNT)
    teacher = of_layer(teachers, layer, COUNT)
    student_stride = of_layer(student_strides, layer, COUNT) * UNIT
    teacher_stride = of_layer(teacher_strides, layer, COUNT) * UNIT
    gradient = gradients + layer * N * H
    values_out += layer * N
    row_weights = tl.load(weights + rows, mask=rows < N, other=0.0)
    row_scale = row_weights * tl.load(scale)
    # One block: it stays in registers throughout. More: each pass reads them again.
    s = load_tile(student, rows, student_stride, 0, H, SIZE, row_weights)
    t = load_tile(teacher, rows, teacher_stride, 0, H, SIZE, row_weights)
    if COSINE:
        student_squares = tl.zeros([ROWS], tl.float32)
        teacher_squares = tl.zeros([ROWS], tl.float32)
        excess = tl.zeros([ROWS], tl.float32)
        for index in range(BLOCKS):
            if BLOCKS > 1:
                s = load_tile(student, rows, student_stride, index * SIZE, H, SIZE, row_weights)
                t = load_tile(teacher, rows, teacher_stride, index * SIZE, H, SIZE, row_weights)
            student_squares += tl.sum(s * s, 1)
            teacher_squares += tl.sum(t * t, 1)
            excess += tl.sum((t - s) * (t + s), 1)  # |t|^2 - |s|^2, exact to the last digits where they are close
        student_length = tl.sqrt_rn(student_squares + SQUARE_EPSILON)
        teacher_length = tl.sqrt_rn(teacher_squares + SQUARE_EPSILON)
        # With a = s / |s| and e = (s - t) / |t|: s / |s| - t / |t| = e + shift a. Where t is much the shorter, that
        # would cancel, and e = -t / |t| does.
        far = teacher_length < 0.5 * student_length
        shift = tl.where(far, 1.0, excess / (teacher_length * (student_length + teacher_length)))
        # What epsilon takes from the squares of the two unit vectors.
        student_shortfall = SQUARE_EPSILON / student_length / student_length
        teacher_shortfall = SQUARE_EPSILON / teacher_length / teacher_length
        apart = tl.zeros([ROWS], tl.float32)
        along = tl.where(far, 0.0, SQUARE_EPSILON / student_length / teacher_length)
        for index in range(BLOCKS):
            if BLOCKS > 1:
                s = load_tile(student, rows, student_stride, index * SIZE, H, SIZE, row_weights)
                t = load_tile(teacher, rows, teacher_stride, index * SIZE, H, SIZE, row_weights)
            unit = s / student_length[:, None]
            error = tl.where(far[:, None], -t, s - t) / teacher_length[:, None]
            difference = error + shift[:, None] * unit
            apart += tl.sum(difference * difference, 1)
            along += tl.sum(error * unit, 1)
        losses = 0.5 * (apart + student_shortfall + teacher_shortfall)
        factor = row_scale / student_length
    else:
        losses = tl.zeros([ROWS], tl.float32)
        for index in range(BLOCKS):
            if BLOCKS > 1:
                s = load_tile(student, rows, student_stride, index * SIZE, H, SIZE, row_weights)
                t = load_tile(teacher, rows, teacher_stride, index * SIZE, H, SIZE, row_weights)
            losses += tl.sum((s - t) * (s - t), 1)
        factor = 2.0 * row_scale
    tl.store(values_out + rows, row_weights * losses, mask=rows < N)
    if STORE:
        for index in range(BLOCKS):
            if BLOCKS > 1:
                s = load_tile(student, rows, student_stride, index * SIZE, H, SIZE, row_weights)
                t = load_tile(teacher, rows, teacher_stride, index * SIZE, H, SIZE, row_weights)
            if COSINE:
                # cos a - t / |t|: what of e is left at right angles to s.
                error = tl.where(far[:, None], -t, s - t) / teacher_length[:, None]
                block = error - along[:, None] * (s / student_length[:, None])
            else:
                block = s - t
            store_tile(gradient, factor[:, None] * block, rows, H, index * SIZE, N, H, SIZE)


def hidden_cosine_forward(
    student_hidden: Sequence[Tensor],
    teacher_hidden: Sequence[Tensor],
    row_weight: Tensor,
    scale: Tensor | float,
    *,
    needs_gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """One minus the cosine of each row of pairs of [N, H] matrices, and its gradient, in one launch for all layers.

    `cos = <s, t> / sqrt((|s|^2 + 1e-12) (|t|^2 + 1e-12))`, as `torch.nn.CosineEmbeddingLoss` has it: a zero vector
    gives 1 and a finite gradient.

    Args:
        student_hidden, teacher_hidden: equally many [N, H] matrices, a pair for each layer, all of one shape; the
            students' of one dtype and the teachers' of one, each bfloat16, float16 or float32. Any strides. More than
            64 layers take a launch for each 64.
        row_weight: float32 [N]; a row of weight 0 is not read, its value and gradient are 0.
        scale: one over the denominator, float32 [] on the device (or a float).
        needs_gradient: False leaves the gradient out (None is returned).

    Returns:
        `w (1 - cos)`, float32 [layers, N], without the scale; and the gradient of `scale sum(w (1 - cos))` with respect
        to the students' rows, [layers, N, H] of their dtype.

    Raises:
        TypeError, ValueError: for dtypes, shapes and devices that do not go together.
    """
    return _hidden_forward(student_hidden, teacher_hidden, row_weight, scale, True, needs_gradient)


def hidden_mse_forward(
    student_hidden: Sequence[Tensor],
    teacher_hidden: Sequence[Tensor],
    row_weight: Tensor,
    scale: Tensor | float,
    *,
    needs_gradient: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Squared distance of each row of pairs of [N, H] matrices, and its gradient, in one launch for all layers.

    Arguments and errors as for `hidden_cosine_forward`; returns `w |s - t|^2`, float32 [layers, N], and the gradient of
    `scale sum(w |s - t|^2)`. The mean over elements is had with a scale of 1 / (rows H).
    """
    return _hidden_forward(student_hidden, teacher_hidden, row_weight, scale, False, needs_gradient)


def tile(columns: int) -> tuple[int, int, int]:
    """Rows and columns that a program holds, and its warps, for rows of `columns` elements."""
    size = min(WIDEST, max(16, power_of_two(columns)))
    rows = max(1, 4096 // size) if size >= 1024 else 4
    return rows, size, max(1, min(8, rows * size // 512))


def _hidden_forward(
    student_hidden: Sequence[Tensor],
    teacher_hidden: Sequence[Tensor],
    row_weight: Tensor,
    scale: Tensor | float,
    cosine: bool,
    needs_gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    if not student_hidden or len(student_hidden) != len(teacher_hidden):
        raise ValueError(f"{len(student_hidden)} student layers and {len(teacher_hidden)} teacher layers: give pairs")
    for student, teacher in zip(student_hidden, teacher_hidden, strict=True):
        check_matrices(student, teacher, "hidden states")
        for each, first in ((student, student_hidden[0]), (teacher, teacher_hidden[0])):
            if each.dtype != first.dtype or each.shape != first.shape or each.device != first.device:
                raise ValueError(
                    f"layers of one call have to be alike, but one is {tuple(first.shape)} {first.dtype} and another "
                    f"{tuple(each.shape)} {each.dtype}"
                )
    like = student_hidden[0]
    row_weight = check_rows("row_weight", row_weight, torch.float32, like)
    scale = device_scalar(scale, like)
    students, teachers = ([with_unit_stride(each) for each in side] for side in (student_hidden, teacher_hidden))
    layers, (rows, columns) = len(students), like.shape
    values = torch.empty((layers, rows), dtype=torch.float32, device=like.device)
    gradient = torch.empty((layers, rows, columns), dtype=like.dtype, device=like.device) if needs_gradient else None
    if rows == 0:
        return values, gradient
    rows_each, size, num_warps = tile(columns)
    unit = GROUP if all(each.stride(0) % GROUP == 0 for each in (*students, *teachers)) else 1
    for start in range(0, layers, MOST_LAYERS):
        chunk = slice(start, min(start + MOST_LAYERS, layers))
        count = chunk.stop - start
        with current_device(like):
            hidden_kernel[(-(-rows // rows_each), count)](
                tuple(students[chunk]),
                tuple(teachers[chunk]),
                like if gradient is None else gradient[chunk],
                row_weight,
                scale,
                values[chunk],
                rows,
                tuple(each.stride(0) // unit for each in students[chunk]),
                tuple(each.stride(0) // unit for each in teachers[chunk]),
                COUNT=count,
                H=columns,
                ROWS=rows_each,
                SIZE=size,
                BLOCKS=-(-columns // size),
                COSINE=cosine,
                STORE=needs_gradient,
                UNIT=unit,
                num_warps=num_warps,
            )
    return values, gradient
