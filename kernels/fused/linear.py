"""K2: the distillation objective from hidden states and vocabulary projections, without the whole logits in memory.

Rows are cut into chunks; a chunk's logits go into a workspace, a row kernel replaces the student's by their gradient in
place, and matrix products turn that into the gradients of hidden states, weight and bias. Plain PyTorch but for the row
kernel, which is K1 or passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .launch import device_scalar

Head = tuple[Tensor, Tensor, Tensor | None]  # hidden states [N, H], weight [V, H], bias [V]
RowLoss = Callable[[Tensor, Sequence[Tensor], Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
WORKSPACE_BYTES = 700_000_000  # all sides' logits of one chunk
TILE_ROWS, TILE_COLUMNS = 128, 256  # of the matrix product that gives the hidden states' gradient
GAIN = 256.0  # the largest gradient entries in the workspace: float16 keeps 2^-32 of it


def chunk_rows(rows: int, columns: int, hidden: int, bytes_each: int, processors: int, sides: int = 2) -> int:
    """Rows of a chunk: the most that the workspace holds and whose product with the weight fills whole waves of tiles.

    `sides` are the student and its teachers. `processors` is the number of streaming multiprocessors; a last wave that
    leaves them idle costs as much as a full one. With `processors` 1 (no GPU) only the workspace bounds the chunk.
    """
    most = max(1, WORKSPACE_BYTES // (sides * columns * bytes_each))
    if rows <= most:
        return max(1, rows)
    if most < TILE_ROWS or processors <= 1:
        return most
    across = -(-hidden // TILE_COLUMNS)
    best, best_use = TILE_ROWS, 0.0
    for count in range(1, most // TILE_ROWS + 1):
        waves = -(-count * across // processors)
        use = count * across / (waves * processors)
        if use >= best_use:
            best, best_use = count * TILE_ROWS, use
    return best


def linear_distillation_loss_forward(
    student: Head,
    teachers: Sequence[Head],
    labels: Tensor,
    row_weight: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    kl_scale: Tensor | float,
    mlm_scale: Tensor | float,
    *,
    row_loss: RowLoss | None = None,
    rows: Tensor | None = None,
    chunk_rows: int | None = None,
    workspace_dtype: torch.dtype | None = None,
    gradient_dtype: torch.dtype | None = None,
    needs: tuple[bool, bool, bool] = (True, True, True),
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Row values of the objective of `distillation_loss_forward` on projected logits, and gradients of the student.

    The student's logits are `hidden @ weight.T + bias` of its head, a teacher's likewise.

    Args:
        student, teachers: heads (hidden states [N, H], weight [V, H], bias [V] or None); hidden sizes may differ. One
            teacher, or as many as `row_loss` takes.
        labels, row_weight, temperature, alpha_*, *_scale: as for `distillation_loss_forward`.
        row_loss: `row_loss(student_logits, teacher_logits, labels, row_weight, kl_scale, mlm_scale) -> (kl_rows,
            ce_rows, mse_rows)` for a chunk's logits [n, V], biases included; writes the gradient of the objective over
            the student's. None: K1.
        rows: int64 indices of the rows that are projected, all that have a weight or a label among them. None: on CUDA
            all rows, because counting them would make the host wait; elsewhere they are found here.
        chunk_rows: rows of a chunk; None: by the rule of `chunk_rows`.
        workspace_dtype: of the chunk's logits and their gradient; None: float16 on CUDA (logits beyond 65,504 then
            give NaN: ask for float32), at least float32 elsewhere.
        gradient_dtype: of the three gradients; None: that of what each is the gradient of.
        needs: whether the gradients of hidden states, weight and bias are wanted.

    Returns:
        `w KL`, cross-entropy and `w |s - t|^2` of each row, float32 [N], without scales; the gradients of hidden
        states, weight and bias, summed over rows in float32, None where not wanted.

    Raises:
        TypeError, ValueError: for dtypes, shapes and devices that do not go together.
    """
    _check(student, teachers, labels)
    if row_loss is None:
        if len(teachers) != 1:
            raise ValueError(f"{len(teachers)} teachers: K1 takes one, so several need a `row_loss` that mixes them")
        row_loss = _k1(temperature, (alpha_ce, alpha_mlm, alpha_mse), any(needs), ignore_index)
    features, weight, bias = student
    device = features.device
    if workspace_dtype is None:
        workspace_dtype = torch.float16 if device.type == "cuda" else torch.promote_types(torch.float32, features.dtype)
    total, hidden = features.shape
    columns = weight.shape[0]
    if rows is None and device.type != "cuda":
        rows = ((row_weight != 0) | (labels != ignore_index)).nonzero()[:, 0]
    count = total if rows is None else rows.shape[0]
    new = torch.zeros if rows is not None or count == 0 else torch.empty
    values = [new(total, dtype=torch.float32, device=device) for _ in range(3)]
    d_hidden = new(features.shape, dtype=gradient_dtype or features.dtype, device=device) if needs[0] else None
    if count == 0 or columns == 0:
        d_weight = torch.zeros_like(weight, dtype=gradient_dtype) if needs[1] else None
        d_bias = torch.zeros_like(bias, dtype=gradient_dtype) if needs[2] and bias is not None else None
        return values[0], values[1], values[2], d_hidden, d_weight, d_bias

    # Both scales times one factor, so that the largest entries of the gradient are near GAIN: a float16 workspace would
    # flush one over the number of rows times a small probability to zero. The factor is taken out of the small results.
    kl_scale, mlm_scale = device_scalar(kl_scale, features), device_scalar(mlm_scale, features)
    largest = torch.maximum(
        kl_scale * row_weight.amax() * max(abs(alpha_ce) * temperature, 32.0 * abs(alpha_mse)),
        mlm_scale * abs(alpha_mlm),
    ).clamp(min=1e-30)
    factor = GAIN / largest
    kl_scale, mlm_scale = kl_scale * factor, mlm_scale * factor
    # Rows that start at whole cache lines, whatever the vocabulary: weights and biases are padded with zeros, so that
    # the products see no odd size, write all of the workspace with the bias, and the padding's gradient stays 0.
    stride = -(-columns // 64) * 64
    sides = [student, *teachers]
    with torch.autocast(device.type, enabled=False):
        matrices = [_padded(matrix, stride, workspace_dtype) for _, matrix, _ in sides]
        biases = [None if each is None else _padded(each, stride, workspace_dtype) for _, _, each in sides]
        size = chunk_rows or _chunk_rows(count, stride, hidden, workspace_dtype.itemsize, device, len(sides))
        workspace = torch.empty((len(sides), min(size, count), stride), dtype=workspace_dtype, device=device)
        sum_weight = torch.empty((stride, hidden), dtype=torch.float32, device=device) if needs[1] else None
        sum_bias = torch.zeros(columns, dtype=torch.float32, device=device) if needs[2] and bias is not None else None
        for start in range(0, count, size):
            stop = min(start + size, count)
            chunk = slice(start, stop) if rows is None else rows[start:stop]
            inputs = [each[chunk].to(workspace_dtype) for each, _, _ in sides]
            # What stands in a row that does not count would reach the weight's gradient: 0 times NaN is NaN.
            counted = (row_weight[chunk] != 0) | (labels[chunk] != ignore_index)
            inputs[0] = torch.where(counted[:, None], inputs[0], 0.0)
            spaces = workspace[:, : stop - start].unbind(0)
            for x, matrix, addend, out in zip(inputs, matrices, biases, spaces, strict=True):
                if addend is None:
                    torch.mm(x, matrix.t(), out=out)
                else:
                    torch.addmm(addend, x, matrix.t(), out=out)
            logits = [space[:, :columns] for space in spaces]
            row_values = row_loss(logits[0], logits[1:], labels[chunk], row_weight[chunk], kl_scale, mlm_scale)
            for value, chunk_value in zip(values, row_values, strict=True):
                value[chunk] = chunk_value.to(torch.float32)
            gradient = spaces[0]
            if d_hidden is not None:
                product = _product(gradient, matrices[0])
                if rows is None:
                    torch.div(product, factor, out=d_hidden[start:stop])
                else:
                    d_hidden[chunk] = _quotient(product, factor, d_hidden.dtype)
            if sum_weight is not None:
                _add_product(sum_weight, gradient.t(), inputs[0], first=start == 0)
            if sum_bias is not None:
                sum_bias += logits[0].sum(0, dtype=torch.float32)
        d_weight = (
            None if sum_weight is None else _quotient(sum_weight[:columns], factor, gradient_dtype or weight.dtype)
        )
        d_bias = None if sum_bias is None or bias is None else _quotient(sum_bias, factor, gradient_dtype or bias.dtype)
    return values[0], values[1], values[2], d_hidden, d_weight, d_bias


def _k1(temperature: float, alphas: tuple[float, float, float], needs_gradient: bool, ignore_index: int) -> RowLoss:
    """K1 for one teacher, its gradient over the student's logits."""
    from .distillation import distillation_loss_forward

    def row_loss(
        student_logits: Tensor,
        teacher_logits: Sequence[Tensor],
        labels: Tensor,
        row_weight: Tensor,
        kl_scale: Tensor,
        mlm_scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kl, ce, mse, _ = distillation_loss_forward(
            student_logits, teacher_logits[0], labels, row_weight, temperature, *alphas, kl_scale, mlm_scale,
            reuse_student=True, needs_gradient=needs_gradient, ignore_index=ignore_index,
        )  # fmt: skip
        return kl, ce, mse

    return row_loss


def _padded(parameter: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """The parameter in `dtype` with zeros up to `size` rows."""
    if len(parameter) == size:
        return parameter.to(dtype)
    padded = torch.empty((size, *parameter.shape[1:]), dtype=dtype, device=parameter.device)
    padded[: len(parameter)] = parameter
    padded[len(parameter) :] = 0
    return padded


def _chunk_rows(rows: int, columns: int, hidden: int, bytes_each: int, device: torch.device, sides: int) -> int:
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
    return chunk_rows(rows, columns, hidden, bytes_each, processors, sides)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right in float32 (float64 for float64), accumulated and returned so."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(left, right, out_dtype=torch.float32)
    dtype = torch.promote_types(torch.float32, left.dtype)
    return torch.mm(left.to(dtype), right.to(dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor, first: bool) -> None:
    """total (float32) += left @ right, accumulated in float32; `first`: total = left @ right."""
    if left.is_cuda and left.dtype in (torch.float16, torch.bfloat16):
        if first:
            torch.mm(left, right, out_dtype=torch.float32, out=total)
        else:
            torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    elif left.dtype == torch.float32:
        total.addmm_(left, right, beta=0.0 if first else 1.0)
    else:
        product = torch.mm(left, right).to(total.dtype)
        total.copy_(product if first else total + product)


def _quotient(values: Tensor, divisor: Tensor, dtype: torch.dtype) -> Tensor:
    """values / divisor, rounded to `dtype` in the same pass."""
    return torch.div(values, divisor, out=torch.empty(values.shape, dtype=dtype, device=values.device))


def _check(student: Head, teachers: Sequence[Head], labels: Tensor) -> None:
    hidden, weight, _ = student
    if hidden.dim() != 2 or any(each[0].dim() != 2 or len(each[0]) != len(hidden) for each in teachers):
        shapes = [tuple(each[0].shape) for each in (student, *teachers)]
        raise ValueError(f"hidden states have shapes {shapes}: all have to be [N, H] of the same N")
    if labels.shape != hidden.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)} for {hidden.shape[0]} rows")
    for each in teachers:
        if weight.shape[0] != each[1].shape[0]:
            raise ValueError(
                f"the student's vocabulary has {weight.shape[0]} entries, the teacher's {each[1].shape[0]}"
            )
    for name, (x, matrix, bias) in [("student", student), *(("teacher", each) for each in teachers)]:
        if not (x.is_floating_point() and matrix.is_floating_point()):
            raise TypeError(f"{name}: hidden states are {x.dtype}, weight {matrix.dtype}; both have to be floats")
        if matrix.dim() != 2 or matrix.shape[1] != x.shape[1]:
            raise ValueError(f"{name}: weight {tuple(matrix.shape)} does not project hidden {tuple(x.shape)}")
        if bias is not None and bias.shape != matrix.shape[:1]:
            raise ValueError(f"{name}: bias {tuple(bias.shape)} does not fit weight {tuple(matrix.shape)}")
        if x.device != matrix.device or x.device != hidden.device:
            raise ValueError(f"{name}: hidden states are on {x.device} and the weight on {matrix.device}")
