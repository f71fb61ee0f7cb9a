"""Tables on terminals of several widths."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from tokenlane.config.cli.output import Table, rendered

TABLE = Table(
    ("LANE", "STATE", "ENDPOINT", "LAST ERROR"),
    [("gpu0", "up", "http://gpu-host.example:8000/v1", "-"), ("gpu1", "down", "http://b", "timeout, 9 s ago")],
    {"down": "bold red"},
    splits=True,
)


def lines(table: Table, width: int) -> list[str]:
    """What a terminal of this width shows, without trailing spaces."""
    out = StringIO()
    Console(file=out, width=width).print(rendered(table, width))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_wide_terminal() -> None:
    """Every row takes one line."""
    assert len(lines(TABLE, 80)) == 3


def test_columns_that_do_not_fit() -> None:
    """They follow each row on an indented line, with their headings; empty cells are left out."""
    assert lines(TABLE, 50) == [
        "LANE  STATE  ENDPOINT",
        "gpu0  up     http://gpu-host.example:8000/v1",
        "gpu1  down   http://b",
        "    LAST ERROR timeout, 9 s ago",
    ]


@pytest.mark.parametrize("width", [10, 20, 30, 50, 60, 80])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    """And no name is lost, however narrow the terminal is."""
    shown = lines(TABLE, width)
    assert all(len(line) <= width for line in shown)
    assert all(any(line.startswith(lane) for line in shown) for lane in ("gpu0", "gpu1"))


def test_a_table_that_does_not_split() -> None:
    """Its cells wrap in place."""
    assert lines(replace(TABLE, splits=False), 40)[0].split() == ["LANE", "STATE", "ENDPOINT", "LAST", "ERROR"]
