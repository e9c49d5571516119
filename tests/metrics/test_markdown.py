"""Numbers and tables of reports."""

from __future__ import annotations

from distilfast.metrics.markdown import number, percent, table


def test_numbers_as_reports_write_them() -> None:
    assert number(1234.56) == "1,234.6"
    assert number(None) == "-"
    assert number(-0.0004, 3) == "0.000"
    assert number(-0.0006, 3) == "-0.001"
    assert percent(0.987) == "98.7 %"
    assert percent(None) == "-"


def test_a_name_divides_no_cell() -> None:
    lines = table(["model", "score"], [["s|x", "1.0"], ["two\nlines", "2.0"]]).splitlines()
    assert lines[2:] == [r"| s\|x      |   1.0 |", "| two lines |   2.0 |"]


def test_columns_line_up() -> None:
    lines = table(["model", "score"], [["teacher", "1.0"], ["a", "100.25"]]).splitlines()
    assert lines[1] == "| ------- | -----: |"
    assert lines[3] == "| a       | 100.25 |"
