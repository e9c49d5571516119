"""Numbers and tables as every report of the package writes them."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its first column to the left and the others to the right, aligned as text too; bars and line
    ends within a cell divide nothing."""
    cells = [[" ".join(cell.splitlines()).replace("|", r"\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    sides = [str.ljust] + [str.rjust] * (len(header) - 1)
    lines = [
        "| " + " | ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = [("-" * width) if i == 0 else ("-" * (width - 1) + ":") for i, width in enumerate(widths)]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def number(value: float | None, digits: int = 1) -> str:
    """`value` with so many digits after the point, never "-0.0"; a dash where there is none."""
    if value is None:
        return "-"
    written = f"{value:,.{digits}f}"
    return written.removeprefix("-") if not written.strip("-0.,") else written


def percent(value: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 in per cent; a dash where there is none."""
    return "-" if value is None else f"{number(100 * value, digits)} %"
