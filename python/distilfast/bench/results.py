"""The file that a bench writes its figures to, beside what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._command import flag
from .._core import InputError
from .._files import refuse_no_file, write_json


@dataclass
class ResultFile:
    """Flags of every bench."""

    json: str | None = flag(None, "a file to write the figures to, as JSON")
    overwrite: bool = flag(False, "replace a file that holds something already")

    def refuse_lost_files(self, *others: str | None) -> None:
        """Raises `InputError`, before anything is measured, where nothing may be written to the file (or to `others`,
        which the bench writes too), or it holds something and `overwrite` was not given."""
        if self.overwrite and not any((self.json, *others)):
            raise InputError("--overwrite does nothing where no file is written; name one with --json, or leave it out")
        for path in (self.json, *others):
            if path:
                refuse_no_file(path, self.overwrite)

    def write(self, figures: dict[str, Any]) -> None:
        """Writes the figures, where a file was named."""
        if self.json:
            write_json(self.json, figures)
