"""Prints the output of verbs: rich tables on a terminal, aligned text elsewhere, and JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import typer
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from tokenlane.config.cli.failure import discard_output
from tokenlane.config.cli.plain_text import json_text, one_line, running_text

SEVERITY_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
"""The rich style of each severity."""

_GAP = "  "


@dataclass(frozen=True)
class Table:
    """Rows of cells under headings.

    `styles` has the rich style for cells with certain texts. `splits`: if the terminal is too narrow, the last columns
    follow each row on an indented line; without it, the cells wrap.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    styles: Mapping[str, str]
    splits: bool = False


def console(*, stderr: bool = False) -> Console:
    """Return a rich console that prints without any style if NO_COLOR is set; rich alone would keep bold and dim."""
    plain = Console(stderr=stderr, highlight=False, color_system=None)
    return plain if plain.no_color else Console(stderr=stderr, highlight=False)


def show(*parts: str | Table) -> None:
    """Print texts and tables, separated by empty lines."""
    terminal = console() if sys.stdout.isatty() else None
    for number, part in enumerate(parts):
        if number:
            typer.echo()
        if isinstance(part, str):
            typer.echo("\n".join(one_line(line) for line in part.splitlines()))
        elif terminal is None:
            typer.echo(_aligned(part))
        else:
            terminal.print(rendered(part, terminal.width))


def show_json(document: Mapping[str, object]) -> None:
    """Print a document as JSON."""
    typer.echo(json_text(document, indent=2))


def note(text: str, *, err: bool = False) -> None:
    """Print progress of a long-running verb. If printing fails, as on a closed terminal, the verb continues."""
    try:
        typer.echo(running_text(text), err=err)
    except OSError:
        discard_output((sys.stderr if err else sys.stdout).fileno())


def _aligned(table: Table) -> str:
    cells = [[one_line(cell) for cell in row] for row in (table.headings, *table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.headings))]
    lines = (_GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def rendered(table: Table, width: int) -> RenderableType:
    """Return the table for a terminal with so many columns."""
    widths = [max(map(cell_len, map(one_line, column))) for column in zip(table.headings, *table.rows, strict=True)]
    fitting = sum(end <= width for end in accumulate(widths, lambda end, more: end + len(_GAP) + more))
    if not table.splits or fitting == len(widths):
        return _rich(table)
    return Group(*_split(table, widths[: max(1, fitting)]))


def _split(table: Table, widths: Sequence[int]) -> Iterator[RenderableType]:
    """The lines of a table in which only the columns with these widths stand side by side."""
    yield Text(_GAP.join(map(str.ljust, table.headings, widths)), style="bold")
    for row in table.rows:
        cells = [_cell(table, cell) for cell in row[: len(widths)]]
        for cell, width in zip(cells, widths, strict=True):
            cell.pad_right(width - cell.cell_len)
        yield Text(_GAP).join(cells)
        rest = zip(table.headings[len(widths) :], row[len(widths) :], strict=True)
        details = [
            Text.assemble((f"{heading} ", "bold"), _cell(table, cell)) for heading, cell in rest if cell.strip("-")
        ]
        if details:
            yield Padding(Text(_GAP).join(details), (0, 0, 0, 4))


def _cell(table: Table, cell: str) -> Text:
    return Text(one_line(cell), style=table.styles.get(cell, ""))  # not markup: names of models may contain brackets


def _rich(table: Table) -> RichTable:
    rich_table = RichTable(box=None, pad_edge=False, header_style="bold")
    for heading in table.headings:
        rich_table.add_column(heading, overflow="fold")
    for row in table.rows:
        rich_table.add_row(*(_cell(table, cell) for cell in row))
    return rich_table
