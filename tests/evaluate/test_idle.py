"""Flags of a part of the evaluation that nobody asked for are refused, and each is of a part."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from distilfast import InputError
from distilfast.evaluate.options import PARTS, EvaluateOptions, refuse_idle

EVERYWHERE = {"teacher", "output_dir", "student", "device", "pictures"}


def options(**given: Any) -> EvaluateOptions:
    return EvaluateOptions(teacher="teacher", output_dir="out", **given)


@pytest.mark.parametrize(
    ("given", "asker"),
    [
        ({"epochs": 2.0}, {"tasks": "sst2"}),
        ({"data_dir": "glue"}, {"tasks": "sst2"}),
        ({"alpha_task": 0.1, "tasks": "sst2"}, {"distil": True}),
        ({"sweep_learning_rates": [1e-3], "tasks": "sst2"}, {"sweep": True}),
        ({"ragged": "skip"}, {"validation_file": ["rows.csv"]}),
        ({"label_column": ["score"]}, {"sts_file": ["pairs.csv"]}),
        ({"mask_seed": 3}, {"tokens": "tokens"}),
        ({"max_lines": 3}, {"sentences": ["text.txt"]}),
        ({"pooling": "mean"}, {"retrieval_dir": ["collection"]}),
        ({"max_dev_rows": 9}, {"tasks": "sst2"}),
        ({"max_length": 32}, {"retrieval_dir": ["collection"]}),
        ({"speed_repeats": 9, "speed": False}, {"speed": True}),
    ],
)
def test_a_flag_without_its_part_is_refused(given: dict[str, Any], asker: dict[str, Any]) -> None:
    (name,) = set(given) - {"tasks", "speed"}
    with pytest.raises(InputError, match=rf"--{name} .* does nothing without .*--{next(iter(asker))}"):
        refuse_idle(options(**given))
    refuse_idle(options(**given | asker))


def test_defaults_are_no_flags_and_a_pooling_is_one_of_those_there_are() -> None:
    refuse_idle(options(text=["text.txt"], seeds=5, controls=True))
    with pytest.raises(InputError, match=r"--pooling 'middle' is none of mean, cls, max"):
        refuse_idle(options(sts_file=["pairs.csv"], pooling="middle"))


def test_every_flag_is_of_a_part_or_of_all() -> None:
    names = [each.name for each in fields(EvaluateOptions)]
    askers, of_parts = ({name for part in PARTS for name in part[place]} for place in (0, 1))
    assert set(names) == askers | of_parts | EVERYWHERE
