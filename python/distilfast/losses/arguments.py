"""What the losses check about their arguments, and how they bring them to rows.

Nothing here waits for the GPU: whatever depends on values that live there (a label outside the vocabulary) is left to
the kernels. `TypeError` for a wrong type, `InputError` (a `ValueError`) for a wrong value, with both values.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._core import InputError
from .definitions import IGNORED

IMPLEMENTATIONS = ("auto", "fused", "eager")


class LinearHead(NamedTuple):
    """A vocabulary projection and what it is applied to: its logits are features @ weight.T + bias."""

    features: Tensor
    """[N, H], hidden states."""
    weight: Tensor
    """[V, H], as in `torch.nn.Linear`."""
    bias: Tensor | None
    """[V]."""


def check_impl(impl: str) -> None:
    """Raises `InputError` for an implementation that is none of `IMPLEMENTATIONS`."""
    if impl not in IMPLEMENTATIONS:
        raise InputError(f"impl={impl!r}: is none of {', '.join(map(repr, IMPLEMENTATIONS))}")


def check_number(name: str, value: Any) -> float:
    """`value` as a float; `TypeError` for what is no real number, `InputError` for what is not finite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not a {type(value).__name__}")
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{name}={value}: must be finite")
    return number


def check_temperature(temperature: Any) -> float:
    """The temperature as a float, above 0."""
    number = check_number("temperature", temperature)
    if number <= 0:
        raise InputError(f"temperature={temperature}: must be above 0")
    return number


def check_floating(name: str, values: object) -> Tensor:
    """`values` as a real floating tensor of at least one dimension."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not a {type(values).__name__}")
    if not values.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, not {values.dtype}")
    if values.dim() == 0 or values.shape[-1] == 0:
        raise InputError(f"{name} of shape {tuple(values.shape)} has an empty or no last dimension")
    return values


def check_teacher(name: str, values: object) -> Tensor:
    """As `check_floating`, and refused when it requires grad: the losses have a gradient for the student alone."""
    values = check_floating(name, values)
    if values.requires_grad:
        raise InputError(
            f"{name} requires grad, but the losses have no gradient for the teacher: run it under torch.no_grad() or "
            "pass its detached output"
        )
    return values


def check_same(name: str, values: Tensor, other_name: str, other: Tensor) -> None:
    """Equal devices and shapes of a student's and a teacher's values."""
    check_device(name, values, other_name, other)
    if values.shape[-1] != other.shape[-1]:
        raise InputError(
            f"{name} has {values.shape[-1]} columns but {other_name} has {other.shape[-1]}: they must describe the "
            "same vocabulary or width (slice off padded columns)"
        )
    if values.shape != other.shape:
        raise InputError(
            f"{name} has shape {tuple(values.shape)} but {other_name} has {tuple(other.shape)}: they must be equal"
        )


def check_device(name: str, values: Tensor, other_name: str, other: Tensor) -> None:
    """Raises `InputError` for tensors on two devices."""
    if values.device != other.device:
        raise InputError(f"{name} is on {values.device} but {other_name} is on {other.device}: move one of them")


def check_teachers(
    name: str, teachers: Tensor | Sequence[Tensor], weights: Sequence[float] | None
) -> tuple[list[Tensor], list[float]]:
    """One teacher's values or several's as a list, and their shares (`mixture_of`)."""
    if isinstance(teachers, Tensor):
        several, names = [teachers], [name]
    else:
        several = list(teachers)
        names = [f"{name}[{index}]" for index in range(len(several))]
        if not several:
            raise InputError(f"{name} is an empty sequence: give one tensor for each teacher")
    for each_name, each in zip(names, several, strict=True):
        check_teacher(each_name, each)
    return several, mixture_of(weights, len(several))


def mixture_of(teacher_weights: Sequence[float] | None, teachers: int) -> list[float]:
    """The teachers' shares, which sum to 1, from weights above 0; None: equal ones."""
    if teacher_weights is None:
        return [1 / teachers for _ in range(teachers)]
    parts = [check_number("teacher_weights", weight) for weight in teacher_weights]
    if len(parts) != teachers:
        raise InputError(f"teacher_weights has {len(parts)} entries for {teachers} teachers: give one for each")
    if parts and min(parts) <= 0:
        raise InputError(f"teacher_weights={parts}: each must be above 0 (leave out a teacher that does not count)")
    return [part / sum(parts) for part in parts]


def label_rows(labels: Any, name: str, values: Tensor, vocabulary: int) -> Tensor:
    """`labels` as int64 [N]; where they can be read without waiting, each is in [0, vocabulary) or -100."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor, not a {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must hold integers, not {labels.dtype}")
    if labels.shape != values.shape[:-1]:
        raise InputError(
            f"labels has shape {tuple(labels.shape)} but {name} has {tuple(values.shape)}: labels needs one entry for "
            "each row"
        )
    check_device(name, values, "labels", labels)
    rows = labels.reshape(-1).long()
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and type(rows) is Tensor:
        check_label_range(rows, vocabulary)
    return rows


def check_label_range(labels: Tensor, vocabulary: int) -> None:
    """Raises for the first of `labels` (int64 [N], on the CPU) outside [0, vocabulary) other than -100."""
    wrong = ((labels < 0) | (labels >= vocabulary)) & (labels != IGNORED)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0, 0])
        raise InputError(
            f"label {int(labels[row])} in row {row} is outside [0, {vocabulary}); rows without a label have {IGNORED}"
        )


def weight_rows(mask: Any, name: str, values: Tensor) -> Tensor | None:
    """`mask` as float32 row weights [N] (float64 beside float64 values), or None for all rows."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise TypeError(f"mask must be a torch.Tensor, not a {type(mask).__name__}")
    if mask.is_complex():
        raise TypeError(f"mask must hold bools or real row weights, not {mask.dtype}")
    if mask.requires_grad:
        raise InputError("mask requires grad, but the losses have no gradient for row weights: pass mask.detach()")
    if mask.shape != values.shape[:-1]:
        raise InputError(
            f"mask has shape {tuple(mask.shape)} but {name} has {tuple(values.shape)}: it needs one entry a row"
        )
    check_device(name, values, "mask", mask)
    return mask.reshape(-1).to(torch.float64 if values.dtype == torch.float64 else torch.float32)


def row_scale(name: str, num_rows: Any, counted: Tensor | int, values: Tensor) -> Tensor:
    """1 / denominator as a 0-dim tensor beside `values`, 0 when there is no row.

    The denominator is `num_rows` if given, else the number of counted rows (`counted`: their number, or a bool [N]).
    """
    dtype = torch.float64 if values.dtype == torch.float64 else torch.float32
    if num_rows is None:
        if isinstance(counted, int):
            return torch.full((), 1 / counted if counted else 0.0, dtype=dtype, device=values.device)
        rows = counted.sum().to(dtype)
    elif isinstance(num_rows, Tensor):
        if num_rows.numel() != 1:
            raise InputError(f"{name} has shape {tuple(num_rows.shape)}: it must be one number")
        if num_rows.requires_grad:
            raise InputError(f"{name} requires grad, but the losses have no gradient for it: pass {name}.detach()")
        rows = num_rows.reshape(()).to(device=values.device, dtype=dtype)
    else:
        number = check_number(name, num_rows)
        if number < 0:
            raise InputError(f"{name}={num_rows}: must be at least 0")
        return torch.full((), 1 / number if number else 0.0, dtype=dtype, device=values.device)
    return torch.where(rows > 0, 1 / rows, 0.0)


def check_linear_head(side: str, head: LinearHead) -> LinearHead:
    """The head of the student or the teacher (`side`), features [..., H] still, if its parts fit together."""
    features, weight, bias = head
    check = check_teacher if side == "teacher" else check_floating
    check(f"{side}_hidden", features)
    check(f"{side}_weight", weight)
    check_device(f"{side}_hidden", features, f"{side}_weight", weight)
    if weight.dim() != 2 or weight.shape[1] != features.shape[-1]:
        raise InputError(
            f"{side}_weight has shape {tuple(weight.shape)} but {side}_hidden has {tuple(features.shape)}: it must "
            "be [vocabulary, hidden size]"
        )
    if bias is None:
        return head
    check(f"{side}_bias", bias)
    check_device(f"{side}_hidden", features, f"{side}_bias", bias)
    if bias.shape != weight.shape[:1]:
        raise InputError(
            f"{side}_bias has shape {tuple(bias.shape)} but {side}_weight has {tuple(weight.shape)}: it must have "
            "one entry for each row of the weight"
        )
    return head


def teacher_heads(
    features: Tensor | Sequence[Tensor],
    weight: Tensor | Sequence[Tensor],
    bias: Tensor | Sequence[Tensor | None] | None,
    teacher_weights: Sequence[float] | None,
) -> tuple[list[LinearHead], list[float]]:
    """One teacher's head or several teachers', and their shares (`mixture_of`)."""
    several, mixture = check_teachers("teacher_hidden", features, teacher_weights)
    weights = [weight] if isinstance(weight, Tensor) else list(weight)
    biases = [None] * len(several) if bias is None else [bias] if isinstance(bias, Tensor) else list(bias)
    if not len(several) == len(weights) == len(biases):
        raise InputError(
            f"teacher_hidden has {len(several)} entries, teacher_weight {len(weights)} and teacher_bias "
            f"{len(biases)}: give one of each for each teacher"
        )
    return [
        check_linear_head("teacher", LinearHead(*parts)) for parts in zip(several, weights, biases, strict=True)
    ], mixture


def check_heads_agree(student: LinearHead, teacher: LinearHead) -> None:
    """Both sides project equally many rows on the same vocabulary, on one device."""
    check_device("student_hidden", student.features, "teacher_hidden", teacher.features)
    if student.features.shape[:-1] != teacher.features.shape[:-1]:
        raise InputError(
            f"student_hidden has shape {tuple(student.features.shape)} but teacher_hidden has "
            f"{tuple(teacher.features.shape)}: all but the last dimension must be equal"
        )
    if student.weight.shape[0] != teacher.weight.shape[0]:
        raise InputError(
            f"student_weight has {student.weight.shape[0]} rows but teacher_weight has {teacher.weight.shape[0]}: they "
            "must describe the same vocabulary (slice off padded rows)"
        )


def hidden_layers(
    student_hidden: Tensor | Sequence[Tensor], teacher_hidden: Tensor | Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of the student's and the teacher's hidden states, one for each layer, checked."""
    students = [student_hidden] if isinstance(student_hidden, Tensor) else list(student_hidden)
    teachers = [teacher_hidden] if isinstance(teacher_hidden, Tensor) else list(teacher_hidden)
    if len(students) != len(teachers) or not students:
        raise InputError(
            f"student_hidden has {len(students)} layers but teacher_hidden has {len(teachers)}: give equally many, at "
            "least one"
        )
    for student, teacher in zip(students, teachers, strict=True):
        check_floating("student_hidden", student)
        check_teacher("teacher_hidden", teacher)
        check_same("student_hidden", student, "teacher_hidden", teacher)
    return list(zip(students, teachers, strict=True))
