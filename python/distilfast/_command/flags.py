"""How a dataclass says what its flags are."""

from __future__ import annotations

from dataclasses import MISSING, field
from typing import Any

REQUIRED = MISSING
"""The default of a flag that must be given."""


def flag(default: Any, text: str, **more: Any) -> Any:
    """The field of a flag: its default (a list is copied for each instance), what `--help` says of it, and `more` of
    what `argparse` knows (`choices`, `metavar`, `action`, `aliases`)."""
    metadata = {"help": text, **more}
    if isinstance(default, list):
        return field(default_factory=lambda: [*default], metadata=metadata)
    return field(default=default, metadata=metadata)
