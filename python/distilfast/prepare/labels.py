"""Labels as a file has them, and the teacher's classes: matched by name, never by order."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._core import InputError
from .records import listed

logger = logging.getLogger(__name__)

GENERIC = re.compile(r"LABEL_(\d+)")
"""What `transformers` calls a class that has no name."""

NOT_SCORED = "-100"
"""The label that `transformers` gives to what no loss and no measure is to count."""

ANSWERS = {"false": 0, "true": 1, "0": 0, "1": 1}
"""How files write no and yes."""

POLES = (("false", "true"), ("no", "yes"), ("negative", "positive"), ("neg", "pos"), ("0", "1"))
"""Names of two classes of which the first can only be no, and the second yes."""


@dataclass(frozen=True)
class LabelMapping:
    """{label as spelled in the file: class of the teacher}, how they were matched, and what a reader must know."""

    ids: Mapping[str, int]
    names: Mapping[int, str]
    """The teacher's `id2label`."""
    how: str
    """"names", "true and false", "class numbers" or "numbers in the names"."""
    note: str

    @property
    def summary(self) -> dict[str, Any]:
        """For `train_summary.json`: {"matched by": how, "classes": {label in the file: class name}}."""
        return {"matched by": self.how, "classes": {label: self.names[number] for label, number in self.ids.items()}}


def spelled(label: Any) -> str:
    """A label's one spelling: 1, 1.0 and "1" are "1"; words stay as they are, blanks round them apart."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).strip()


def is_missing(label: Any) -> bool:
    """Whether a row has no label: null, NaN or nothing but blanks between two commas."""
    if isinstance(label, str):
        return not label.strip()
    return label is None or (isinstance(label, float) and math.isnan(label))


def is_not_scored(label: Any, names: Iterable[str] = ()) -> bool:
    """Whether a label is -100, by which `transformers` marks what is not to count, and no class of that name."""
    return not is_missing(label) and spelled(label) == NOT_SCORED and NOT_SCORED not in names


def match_labels(
    file_labels: Iterable[Any], id2label: Mapping[int, str], class_names: Sequence[str] | None = None
) -> LabelMapping:
    """The teacher's class of every label.

    file_labels: the different labels of a file; missing ones and -100 do not count. All are matched in one way, the
    first of these that fits all:

    - by name, as spelled, then case, blanks, `_` and `-` apart;
    - true, false, 1 and 0 as the two classes where these are called so, or no and yes, or negative and positive;
    - integers where every class name has one number in it and they are just those ("4 stars");
    - integers as class numbers: said where the classes have names of their own; names by their places in
      `class_names`, those of a `datasets.ClassLabel`, where the teacher's classes have none and are as many.

    Raises `InputError` with both lists where none fits all labels, where some are names and all could be numbers, and
    where 0 and 1 are other classes by their numbers than by what they mean; and for classes without a name or of one
    name, blanks at its ends apart.
    """
    names = {int(number): str(name).strip() for number, name in id2label.items()}
    if "" in names.values():
        raise InputError(
            "the teacher has a class whose name is empty, which no label can say; mend the id2label in its config.json"
        )
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"the teacher has two classes called {twice!r}, so labels cannot be told apart by name; mend the id2label "
            "in its config.json"
        )
    labels = _different(file_labels, names.values())
    generic = all(GENERIC.fullmatch(name) for name in names.values())
    if class_names is not None and generic and len(class_names) == len(names) and set(labels) <= set(class_names):
        places = {label: class_names.index(label) for label in labels}
        said = _said(places, names)
        note = f"the teacher's classes have no names; labels taken by their numbers in the data set: {said}"
        return LabelMapping(places, names, "class numbers", note)
    by_name = _by_name(labels, names)
    if by_name is not None and len(by_name) == len(labels):
        plain = all(_plain(label) == _plain(names[number]) for label, number in by_name.items())
        exact = all(label == names[number] for label, number in by_name.items())
        how = "name" + ("" if exact else ", case and punctuation apart" if plain else " (LABEL_1 for class 1)")
        return LabelMapping(by_name, names, "names", f"labels matched to classes by {how}: {_said(by_name, names)}")
    meant = _by_meaning(labels, names)
    numbers = _as_numbers(labels, words=generic and len(names) == 2)
    if meant is not None and numbers is None:
        return LabelMapping(meant, names, "true and false", f"labels taken for yes and no: {_said(meant, names)}")
    if meant is not None and numbers != meant:
        raise InputError(
            f"the labels {listed(labels)} could be the numbers of the teacher's classes "
            f"{listed(names[number] for number in sorted(names))} or the answers no and yes, which are not the same; "
            "rename the file's labels to the teacher's classes"
        )
    inside = None if generic else _by_number_in_name(labels, names)
    if inside is not None:
        note = f"labels matched to classes by the numbers in their names: {_said(inside, names)}"
        return LabelMapping(inside, names, "numbers in the names", note)
    in_range = numbers is not None and all(number in names for number in numbers.values())
    if numbers is not None and in_range and not by_name and (generic or _numbered_names(names) is None):
        guess = "" if generic or meant else " (the teacher's classes have names; check that they stand in this order)"
        note = f"labels taken for class numbers{guess}: {_said(numbers, names)}"
        return LabelMapping(numbers, names, "class numbers", note)
    missing = [label for label in labels if label not in (by_name or {})]
    hint = "rename the file's labels to the teacher's classes"
    if numbers is not None and 0 not in numbers.values() and max(numbers.values()) == len(names):
        hint = "class numbers begin at 0"
    elif generic:
        hint = "the teacher's classes have no names: set id2label in its config.json, or number the labels from 0"
    raise InputError(
        f"the labels {listed(missing)} are none of the teacher's classes; the file has {listed(labels)}, the teacher "
        f"{listed(names[number] for number in sorted(names))}; {hint}"
    )


def new_classes(labels: Iterable[Any], class_names: Sequence[str] | None = None) -> dict[int, str]:
    """`id2label` for a model that has no head yet: `class_names`, or the labels, numbers by value and words by letters.

    Raises `InputError` for fewer than two; the log says where case alone tells two apart.
    """
    names = list(class_names or _different(labels))
    spellings: dict[str, str] = {}
    for name in names:
        if (other := spellings.setdefault(name.casefold(), name)) != name:
            logger.warning("the labels %r and %r differ in case alone, and become two classes", other, name)
    if len(names) < 2:
        raise InputError(f"the labels are {listed(names)}; a classifier needs at least two different ones")
    return dict(enumerate(names))


def _different(labels: Iterable[Any], names: Iterable[str] = ()) -> list[str]:
    """The different labels that stand for a class, in order."""
    known = set(names)
    found = {spelled(label) for label in labels if not is_missing(label) and not is_not_scored(label, known)}
    return sorted(found, key=_order)


def _order(label: str) -> tuple[int, float, str]:
    try:
        number = float(label)
    except ValueError:
        return (1, 0.0, label)
    return (0, number, label) if math.isfinite(number) else (1, 0.0, label)


def _said(ids: Mapping[str, int], names: Mapping[int, str], most: int = 12) -> str:
    parts = [f"{label} -> {names[number]}" for label, number in list(ids.items())[:most]]
    return ", ".join(parts) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def _by_name(labels: Sequence[str], names: Mapping[int, str]) -> dict[str, int] | None:
    """Those of the labels that are names; the spelling first, then what is left of it without case and punctuation."""
    exact = {name: number for number, name in names.items()}
    plain: dict[str, list[int]] = {}
    for number, name in names.items():
        plain.setdefault(_plain(name), []).append(number)
    found: dict[str, int] = {}
    for label in labels:
        if label in exact:
            found[label] = exact[label]
        elif len(numbers := plain.get(_plain(label), [])) == 1:
            found[label] = numbers[0]
        elif (match := GENERIC.fullmatch(label)) and int(match.group(1)) in names:
            found[label] = int(match.group(1))
    return found or None


def _plain(name: str) -> str:
    # The prefix of a tag is its own word: B-LOC and BLOC are two.
    return re.sub(r"[\s_-]+", " ", name.casefold()).strip()


def _by_meaning(labels: Sequence[str], names: Mapping[int, str]) -> dict[str, int] | None:
    """True, false, 1 and 0 as the two classes that can only be no and yes; None for other labels and classes."""
    classes = {_plain(name): number for number, name in names.items()}
    pair = next((pair for pair in POLES if len(names) == 2 and set(pair) == set(classes)), None)
    if pair is None or not labels or not all(label.lower() in ANSWERS for label in labels):
        return None
    return {label: classes[pair[ANSWERS[label.lower()]]] for label in labels}


def _as_numbers(labels: Sequence[str], words: bool = False) -> dict[str, int] | None:
    """The labels as integers where all are; `words`: "true" and "false" are 1 and 0."""
    meaning = {"true": 1, "false": 0} if words else {}
    numbers = {}
    for label in labels:
        if label.lower() in meaning:
            numbers[label] = meaning[label.lower()]
        elif re.fullmatch(r"\d+(\.0+)?", label):
            numbers[label] = int(float(label))
        else:
            return None
    return numbers


def _numbered_names(names: Mapping[int, str]) -> dict[int, int] | None:
    """{number in a name: its class}, where every name has one and no two the same."""
    found = {number: re.findall(r"\d+", name) for number, name in names.items()}
    if any(len(numbers) != 1 for numbers in found.values()):
        return None
    inside = {int(numbers[0]): number for number, numbers in found.items()}
    return inside if len(inside) == len(names) else None


def _by_number_in_name(labels: Sequence[str], names: Mapping[int, str]) -> dict[str, int] | None:
    inside, numbers = _numbered_names(names), _as_numbers(labels)
    if inside is None or numbers is None or not all(number in inside for number in numbers.values()):
        return None
    return {label: inside[number] for label, number in numbers.items()}
