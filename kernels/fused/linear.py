"""K2: the distillation objective from hidden states and vocabulary projections, without the whole logits in memory.

Rows are cut into chunks; a chunk's logits go into a workspace, K1 replaces the student's by their gradient in place,
and matrix products turn that into the gradients of hidden states, weight and bias. Plain PyTorch but for the row
kernel, which is chosen by device or passed in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .launch import device_scalar

Head = tuple[Tensor, Tensor, Tensor | None]  # hidden states [N, H], weight [V, H], bias [V]
RowLoss = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
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
    teacher_weights: Sequence[float],
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
    needs: tuple[bool, bool, bool] = (True, True, True),
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Row values of the objective of `multi_teacher_loss_forward` on projected logits, and gradients of the student.

    The student's logits are `hidden @ weight.T + bias` of its head, the teachers' likewise.

    Args:
        student, teachers: heads (hidden states [N, H], weight [V, H], bias [V] or None); hidden sizes may differ.
        teacher_weights: a number >= 0 for each teacher; they have to sum to 1.
        labels, row_weight, temperature, alpha_*, *_scale: as for `distillation_loss_forward`.
        row_loss: the row kernel, called as `row_loss(student_logits, teacher_logits, teacher_weights, labels,
            row_weight, temperature, alpha_ce, alpha_mlm, alpha_mse, kl_scale, mlm_scale) -> (kl_rows, ce_rows,
            mse_rows, gradient)`. None: K1 on CUDA, the closed form in plain PyTorch elsewhere.
        rows: int64 indices of the rows that have a weight or a label; the others are not projected. None: on CUDA all
            rows are projected, because counting them would make the host wait; elsewhere they are found here.
        chunk_rows: rows of a chunk; None: by the rule of `chunk_rows`.
        workspace_dtype: of the chunk's logits and their gradient; None: float16 on CUDA (logits beyond 65,504 then
            give NaN: ask for float32), at least float32 elsewhere.
        needs: whether the gradients of hidden states, weight and bias are wanted.

    Returns:
        `w KL`, cross-entropy and `w |s - t|^2` of each row, float32 [N], without scales; the gradients of hidden
        states ([N, H], their dtype), weight (float32 [V, H]) and bias (float32 [V]), None where not wanted.

    Raises:
        TypeError, ValueError: for dtypes, shapes and devices that do not go together.
    """
    _check(student, teachers, labels)
    student_hidden, student_weight, student_bias = student
    device = student_hidden.device
    if workspace_dtype is None:
        workspace_dtype = (
            torch.float16 if device.type == "cuda" else torch.promote_types(torch.float32, student_hidden.dtype)
        )
    total, hidden = student_hidden.shape
    columns = student_weight.shape[0]
    values = [torch.zeros(total, dtype=torch.float32, device=device) for _ in range(3)]
    d_hidden = torch.zeros_like(student_hidden) if needs[0] else None
    d_weight = torch.zeros(student_weight.shape, dtype=torch.float32, device=device) if needs[1] else None
    d_bias = torch.zeros(columns, dtype=torch.float32, device=device) if needs[2] and student_bias is not None else None
    if rows is None and device.type != "cuda":
        rows = ((row_weight != 0) | (labels != ignore_index)).nonzero()[:, 0]
    count = total if rows is None else rows.shape[0]
    if count == 0 or columns == 0:
        return *values, d_hidden, d_weight, d_bias

    # Both scales times one factor, so that the largest entries of the gradient are near GAIN: a float16 workspace would
    # flush one over the number of rows times a small probability to zero. The factor is taken out of the small results.
    kl_scale, mlm_scale = device_scalar(kl_scale, student_hidden), device_scalar(mlm_scale, student_hidden)
    largest = torch.maximum(
        kl_scale * max(abs(alpha_ce) * temperature, 32.0 * abs(alpha_mse)), mlm_scale * abs(alpha_mlm)
    ).clamp(min=1e-30)
    factor = GAIN / largest
    sides = [student, *teachers]
    kernel = _RowKernel(row_loss, device, [bias for _, _, bias in sides], workspace_dtype, any(needs))
    with torch.autocast(device.type, enabled=False):
        matrices = [weight.to(workspace_dtype) for _, weight, _ in sides]
        size = chunk_rows or _chunk_rows(count, columns, hidden, matrices[0].element_size(), device, len(sides))
        stride = -(-columns // 64) * 64  # rows that start at whole cache lines, whatever the vocabulary
        workspace = torch.empty((len(sides), min(size, count), stride), dtype=workspace_dtype, device=device)
        for start in range(0, count, size):
            stop = min(start + size, count)
            chunk = slice(start, stop) if rows is None else rows[start:stop]
            inputs = [each[chunk].to(workspace_dtype) for each, _, _ in sides]
            logits = workspace[:, : stop - start, :columns].unbind(0)
            for x, matrix, out in zip(inputs, matrices, logits, strict=True):
                torch.mm(x, matrix.t(), out=out)
            *chunk_values, gradient = kernel(
                logits[0],
                logits[1:],
                teacher_weights,
                labels[chunk],
                row_weight[chunk],
                temperature,
                alpha_ce,
                alpha_mlm,
                alpha_mse,
                kl_scale * factor,
                mlm_scale * factor,
            )
            for value, chunk_value in zip(values, chunk_values, strict=True):
                value[chunk] = chunk_value.to(torch.float32)
            if d_hidden is not None:
                d_hidden[chunk] = (_product(gradient, matrices[0]) / factor).to(d_hidden.dtype)
            if d_weight is not None:
                _add_product(d_weight, gradient.t(), inputs[0], first=start == 0)
            if d_bias is not None:
                d_bias += gradient.sum(0, dtype=torch.float32)
        if d_weight is not None:
            d_weight /= factor
        if d_bias is not None:
            d_bias /= factor
    return *values, d_hidden, d_weight, d_bias


class _RowKernel:
    """The row kernel that was passed in, or that of the device; biases are added by K1 itself or before the others."""

    def __init__(
        self,
        row_loss: RowLoss | None,
        device: torch.device,
        biases: Sequence[Tensor | None],
        dtype: torch.dtype,
        needs_gradient: bool,
    ) -> None:
        self.row_loss = row_loss
        self.needs_gradient = needs_gradient
        self.on_gpu = device.type == "cuda" and row_loss is None
        bias_dtype = torch.float32 if self.on_gpu else dtype
        self.biases = [None if bias is None else bias.to(bias_dtype).contiguous() for bias in biases]

    def __call__(self, student_logits: Tensor, teacher_logits: Sequence[Tensor], *rest: object) -> tuple[Tensor, ...]:
        if self.on_gpu:
            from .several_teachers import multi_teacher_loss_forward

            return multi_teacher_loss_forward(
                student_logits,
                teacher_logits,
                *rest,
                reuse_student=True,
                needs_gradient=self.needs_gradient,
                student_bias=self.biases[0],
                teacher_biases=self.biases[1:],
            )
        for logits, bias in zip((student_logits, *teacher_logits), self.biases, strict=True):
            if bias is not None:
                logits += bias
        return (self.row_loss or plain_row_loss)(student_logits, teacher_logits, *rest)


def plain_row_loss(
    student_logits: Tensor,
    teacher_logits: Sequence[Tensor],
    teacher_weights: Sequence[float],
    labels: Tensor,
    row_weight: Tensor,
    temperature: float,
    alpha_ce: float,
    alpha_mlm: float,
    alpha_mse: float,
    kl_scale: Tensor,
    mlm_scale: Tensor,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The closed form of `multi_teacher_loss_forward` in plain PyTorch, for any device and dtype, double included."""
    dtype = torch.promote_types(torch.float32, student_logits.dtype)
    counted = (row_weight != 0)[:, None]
    s = student_logits.to(dtype)
    sides = [torch.where(counted, each.to(dtype), 0.0) for each in teacher_logits]
    weight = row_weight.to(dtype)[:, None]
    log_p = torch.log_softmax(s / temperature, 1)
    log_q = mixed_log_softmax(sides, teacher_weights, temperature)
    p, q = log_p.exp(), log_q.exp()
    ratio = torch.where(q > 0, log_p - log_q, 0.0)
    terms = torch.where(q > 0, q * (torch.expm1(ratio) - ratio), p)
    kl_rows = torch.where(counted[:, 0], row_weight * terms.sum(1), 0.0)
    gradient = torch.where(counted, alpha_ce * temperature * kl_scale * weight * (p - q), 0.0)
    labelled = labels != ignore_index
    classes = torch.where(labelled, labels, 0)[:, None]
    log_r = torch.log_softmax(s, 1)
    ce_rows = torch.where(labelled, -log_r.gather(1, classes)[:, 0], 0.0)
    of_classes = torch.where(labelled[:, None], alpha_mlm * mlm_scale * log_r.exp(), 0.0)
    of_classes.scatter_add_(1, classes, -(alpha_mlm * mlm_scale * labelled.to(dtype))[:, None])
    gradient = gradient + of_classes
    mse_rows = torch.zeros_like(kl_rows)
    if alpha_mse != 0:
        for t, share in zip(sides, teacher_weights, strict=True):
            apart = torch.where(counted, s - t, 0.0)
            mse_rows = mse_rows + share * row_weight * apart.square().sum(1)
            gradient = gradient + 2 * share * alpha_mse * kl_scale * weight * apart
    return kl_rows, ce_rows, mse_rows, gradient.to(student_logits.dtype)


def mixed_log_softmax(logits: Sequence[Tensor], weights: Sequence[float], temperature: float) -> Tensor:
    """log sum_k w_k softmax(t_k / T), of one teacher or several."""
    parts = [torch.log_softmax(each / temperature, 1) for each in logits]
    if len(parts) == 1:
        return parts[0]
    return torch.stack(
        [part + math.log(share) for part, share in zip(parts, weights, strict=True) if share > 0]
    ).logsumexp(0)


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
        total += torch.mm(left, right).to(total.dtype)


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
