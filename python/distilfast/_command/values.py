"""What Python hands over for flags: numbers, words and lists as their dataclass declares them, or a sentence."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from os import PathLike
from typing import Any

from .._core import InputError

WANTED = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def fitted(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of fields of the dataclass `kind`, as their types have them: whole floats as integers, arrays as lists,
    one value as a list of one, paths as text. Fields of other types stay as they are.

    Raises `InputError` for what cannot be meant.
    """
    hints = typing.get_type_hints(kind)
    return {name: _fitted(name, value, hints[name]) if name in hints else value for name, value in values.items()}


def _fitted(name: str, value: Any, hint: Any) -> Any:
    of_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    allowed = [each for each in (typing.get_args(hint) if of_union else (hint,)) if each is not type(None)]
    plain = [each for each in WANTED if each in allowed]
    lists = [each for each in allowed if typing.get_origin(each) is list]
    if value is None or len(plain) + len(lists) != len(allowed):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if lists and (not plain or isinstance(value, list | tuple)):
        (of,) = typing.get_args(lists[0])
        if isinstance(value, str | PathLike) or not hasattr(value, "__iter__"):
            value = [value]
        found = [each.tolist() if hasattr(each, "tolist") else each for each in value]
        if of is str:  # words that may be numbers: layers, weights of classes
            found = [str(each) if type(each) in (int, float) else each for each in found]
        return [_fitted(name, each, of) for each in found]
    for each in plain:
        if (same := _as(value, each)) is not None:
            return same
    wanted = " or ".join(WANTED[each] for each in plain)
    raise InputError(f"{name} is {value!r}, a {type(value).__name__}; give {wanted}")


def _as(value: Any, kind: type) -> Any:
    """`value` as a `kind`; None where it is none."""
    if kind is bool:
        return bool(value) if isinstance(value, bool | int) and value in (0, 1) else None
    if kind is str:
        return str(value) if isinstance(value, str | PathLike) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if kind is int:
        return int(value) if value == value // 1 else None
    return value
